"""The protocol of all states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class State(Protocol):
    """A summary with an algebra: `merge` is associative and commutative, and `empty()` is its identity.

    A batch of vectors (n, w) with sample ids (n,) becomes `rows`, which `of` summarizes. A *table* is itself a tensor
    of rows, whose number may differ between ranks; any other state has a fixed shape. A *keyed* state identifies a
    sample by its key and counts it once. A *host* state stays in host memory, whatever the device of its metric.
    """

    table: bool
    keyed: bool
    host: bool = False

    def empty(self) -> Tensor: ...

    def rows(self, vectors: Tensor, ids: Tensor) -> Tensor:
        """Vectors (n, w) and their ids (n,) int64, negative for a sample without one -> rows."""
        return vectors

    def of(self, rows: Tensor) -> Tensor: ...

    def add(self, state: Tensor, rows: Tensor) -> Tensor:
        """merge([state, of(rows)]), in place where that is faster; the returned tensor is the new state."""
        return self.merge([state, self.of(rows)])

    def merge(self, parts: Sequence[Tensor]) -> Tensor: ...
