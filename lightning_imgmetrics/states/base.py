"""What every state can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class State(Protocol):
    """A summary with an algebra: `merge` is associative and commutative, and `empty()` is its identity.

    `rows` is (n, w) float64: what one batch adds. A *table* is itself a tensor of rows (k, v) and k may differ between
    ranks; any other state has a fixed shape. A *keyed* state recognizes a sample by its key and counts it once.
    """

    table: bool
    keyed: bool

    def empty(self) -> Tensor: ...

    def of(self, rows: Tensor) -> Tensor: ...

    def add(self, state: Tensor, rows: Tensor) -> Tensor:
        """merge([state, of(rows)]), in place where that is faster; the returned tensor is the new state."""
        return self.merge([state, self.of(rows)])

    def merge(self, parts: Sequence[Tensor]) -> Tensor: ...
