"""What every state can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class State(Protocol):
    """A summary with an algebra: `merge` is associative and commutative, and `empty()` is its identity.

    `rows` is what one batch adds, made by `rows` from vectors (n, w) and sample ids (n,). A *table* is itself a tensor
    of rows and their number may differ between ranks; any other state has a fixed shape. A *keyed* state recognizes a
    sample by its key and counts it once. A *host* state stays in host memory, whatever the device of its metric.
    """

    table: bool
    keyed: bool
    host: bool = False

    def empty(self) -> Tensor: ...

    def rows(self, vectors: Tensor, ids: Tensor) -> Tensor:
        """Vectors (n, w) with their ids (n,) int64, negative where a sample has none -> rows."""
        return vectors

    def of(self, rows: Tensor) -> Tensor: ...

    def add(self, state: Tensor, rows: Tensor) -> Tensor:
        """merge([state, of(rows)]), in place where that is faster; the returned tensor is the new state."""
        return self.merge([state, self.of(rows)])

    def merge(self, parts: Sequence[Tensor]) -> Tensor: ...
