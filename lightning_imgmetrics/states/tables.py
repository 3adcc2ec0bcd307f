"""States that are tables: a bounded sample of vectors, all scores, one summary per group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_imgmetrics.states.base import State
from lightning_imgmetrics.states.hash import uniform_hash


@dataclass(frozen=True)
class Reservoir(State):
    """Uniform sample without replacement of `size` vectors: the rows with the smallest keys (bottom-k sketch).

    Rows are (key, vector of d). With `uniform_hash` of the sample id as key, the sample is the same at any batch
    size, order and world size, and a repeated sample counts once; rows with a NaN key are all different samples.
    Table (k <= size, 1 + d), sorted by key; `size=None` keeps every sample. Source: Cohen & Kaplan 2007.
    """

    size: int | None
    d: int
    table = True
    keyed = True

    def empty(self) -> Tensor:
        return torch.zeros(0, 1 + self.d, dtype=torch.float64)

    def rows(self, vectors: Tensor, ids: Tensor) -> Tensor:
        keys = ids.double().where(ids >= 0, torch.nan)
        return torch.cat([keys[:, None].to(vectors.device), vectors.double()], 1)

    def of(self, rows: Tensor) -> Tensor:
        return self.merge([rows])

    def merge(self, parts: Sequence[Tensor]) -> Tensor:
        rows = torch.cat([part.double() for part in parts])
        rows = rows[rows[:, 0].argsort(stable=True)]
        keys = rows[:, 0]
        return rows[torch.cat([torch.ones_like(keys[:1], dtype=torch.bool), keys[1:] != keys[:-1]])][: self.size]


@dataclass(frozen=True)
class Samples(Reservoir):
    """One score per sample: rows (id, score) sorted by id, each id once; 16 bytes per sample."""

    size: int | None = None
    d: int = 1


@dataclass(frozen=True)
class Groups(State):
    """Count, spread and mean of vectors per group, for the `size` groups with the smallest keys.

    Rows are (group key, vector of d). Table (k <= size, 3 + d): key, count n, spread sum |x - mean|^2, mean (d,);
    8 (3 + d) bytes per group. The selection depends on the keys alone, so every group in the table is complete.
    """

    size: int
    d: int
    table = True
    keyed = False

    def empty(self) -> Tensor:
        return torch.zeros(0, 3 + self.d, dtype=torch.float64)

    def of(self, rows: Tensor) -> Tensor:
        one = torch.ones(len(rows), 1, dtype=torch.float64, device=rows.device)
        return self.merge([torch.cat([rows[:, :1].double(), one, 0 * one, rows[:, 1:].double()], 1)])

    def merge(self, parts: Sequence[Tensor]) -> Tensor:
        rows = torch.cat(list(parts))
        keys, group = rows[:, 0].unique(return_inverse=True)
        count, spread, mean = self.unpack(rows)
        total = count.new_zeros(len(keys)).index_add_(0, group, count)
        center = mean.new_zeros(len(keys), self.d).index_add_(0, group, mean * count[:, None]) / total[:, None]
        spread = spread + count * (mean - center[group]).square().sum(1)
        spread = spread.new_zeros(len(keys)).index_add_(0, group, spread)
        return torch.cat([keys[:, None], total[:, None], spread[:, None], center], 1)[: self.size]

    def unpack(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """count (k,), spread (k,), mean (k, d)."""
        return state[:, 1], state[:, 2], state[:, 3:]


@dataclass(frozen=True)
class Splits(Groups):
    """`Groups` whose key is derived from the hashed id: `size` random parts of a stream of vectors."""

    def rows(self, vectors: Tensor, ids: Tensor) -> Tensor:
        part = (uniform_hash(ids, seed=2) * self.size).floor()
        return torch.cat([part[:, None].to(vectors), vectors], 1)


@dataclass(frozen=True)
class Log(State):
    """All rows (k, *shape) of one dtype, in the order in which they came, in host memory; none is dropped."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    table = True
    keyed = True
    host = True

    def empty(self) -> Tensor:
        return torch.zeros(0, *self.shape, dtype=self.dtype)

    def rows(self, vectors: Tensor, ids: Tensor) -> Tensor:
        return vectors.to(self.dtype)

    def of(self, rows: Tensor) -> Tensor:
        return rows

    def merge(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))
