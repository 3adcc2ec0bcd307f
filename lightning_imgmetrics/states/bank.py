"""Feature vectors themselves, all or a bounded sample of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_imgmetrics.states.base import State
from lightning_imgmetrics.states.hash import uniform_hash


@dataclass(frozen=True)
class Bank(State):
    """Feature vectors in the order of their hashed ids, each id once; the `size` first of that order, or all (None).

    By this order a bounded bank is a uniform sample that depends on the ids alone (bottom-k sketch, Cohen & Kaplan
    2007). Table (k, p + d) of `dtype` in host memory: the id in the bits of the p leading columns, then the vector;
    8 + d * itemsize bytes per sample (2048 features: 8.2 KB as float32, 4.1 KB as float16). Samples without an id have
    a negative one and are all different.
    """

    d: int
    size: int | None = None
    dtype: torch.dtype = torch.float32
    table = True
    keyed = True
    host = True
    kind = "features"

    def __str__(self) -> str:
        number = "all" if self.size is None else self.size
        return f"{number} features ({str(self.dtype).split('.')[-1]}, d = {self.d})"

    @property
    def _pad(self) -> int:
        return 8 // self.dtype.itemsize

    def empty(self) -> Tensor:
        return torch.zeros(0, self._pad + self.d, dtype=self.dtype)

    def rows(self, vectors: Tensor, ids: Tensor) -> Tensor:
        return torch.cat([ids[:, None].view(self.dtype).to(vectors.device), vectors.to(self.dtype)], 1)

    def of(self, rows: Tensor) -> Tensor:
        return self.merge([rows])

    def merge(self, parts: Sequence[Tensor]) -> Tensor:
        ids = torch.cat([self.ids(part) for part in parts])
        order = uniform_hash(ids).argsort(stable=True)
        ordered = ids[order]
        fresh = torch.ones_like(ids, dtype=torch.bool)
        fresh[1:] = (ordered[1:] != ordered[:-1]) | (ordered[1:] < 0)
        order = order[fresh][: self.size]
        if len(parts) == 1 and torch.equal(order, torch.arange(len(ids))):
            return parts[0]
        # Copied part by part: concatenating first would hold everything a third time.
        position = torch.full_like(ids, -1)
        position[order] = torch.arange(len(order))
        merged = torch.empty(len(order), self._pad + self.d, dtype=self.dtype)
        for part, target in zip(parts, position.split([len(part) for part in parts]), strict=True):
            selected = target >= 0
            merged[target[selected]] = part if selected.all() else part[selected]
        return merged

    def ids(self, state: Tensor) -> Tensor:
        """Sample ids (k,) int64, negative for a sample without one."""
        bits = state[:, : self._pad].clone(memory_format=torch.contiguous_format)  # even for one row, or none
        return bits.view(torch.int64)[:, 0]

    def count(self, state: Tensor) -> int:
        """The number of samples."""
        return len(state)

    def of_bank(self, bank: Bank, features: Tensor) -> Tensor | None:
        """The state of a smaller or narrower bank; None where the other holds too few samples, or too coarsely."""
        enough = bank.size is None or (self.size is not None and self.size <= bank.size)
        if not enough or bank.d != self.d or bank.dtype.itemsize < self.dtype.itemsize:
            return None
        return self.of(self.rows(bank.features(features), bank.ids(features)))

    def features(self, state: Tensor) -> Tensor:
        """The vectors (k, d), a view."""
        return state[:, self._pad :]
