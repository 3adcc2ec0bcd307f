"""Count, mean and scatter of a stream of vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_imgmetrics.states.base import State

_BUCKET = 1 << 19  # float64 numbers a collective moves at once, 4 MiB


@dataclass(frozen=True)
class Moments(State):
    """Count, mean (d,) and scatter sum (x - mean)(x - mean)ᵀ (d, d), packed in one float64 tensor (1 + d + d*d,).

    `merge` is Chan, Golub & LeVeque 1979 for k parts: S = sum S_k + sum n_k (m_k - m)(m_k - m)ᵀ.
    """

    d: int
    table = False
    keyed = False

    def empty(self) -> Tensor:
        return torch.zeros(1 + self.d + self.d**2, dtype=torch.float64)

    def of(self, rows: Tensor) -> Tensor:
        return self.add(self.empty().to(rows.device), rows)

    def add(self, state: Tensor, rows: Tensor) -> Tensor:
        """Chan's correction of the means rides along as one extra row, so a batch costs one in-place product."""
        n = len(rows)
        if n == 0:
            return state
        state = state.clone() if state.is_inference() else state
        rows = rows.double()
        count, mean, scatter = self.unpack(state)
        batch_mean = rows.mean(0)
        gap = batch_mean - mean
        total = count + n
        centred = torch.cat([rows - batch_mean, (gap * (count * n / total).sqrt())[None]])
        scatter.addmm_(centred.mT, centred)
        mean += gap * (n / total)
        count += n
        return state

    def merge(self, parts: Sequence[Tensor]) -> Tensor:
        count, mean, scatter = self.unpack(parts if isinstance(parts, Tensor) else torch.stack(list(parts)))
        total = count.sum()
        centre = (count / total.clamp(min=1)) @ mean
        gap = mean - centre
        return torch.cat([total[None], centre, (scatter.sum(0) + (gap.mT * count) @ gap).flatten()])

    def unpack(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of (..., 1 + d + d*d) as count (...), mean (..., d), scatter (..., d, d)."""
        count, mean, scatter = state.split([1, self.d, self.d**2], -1)
        return count.squeeze(-1), mean, scatter.unflatten(-1, (self.d, self.d))

    def cov(self, state: Tensor) -> Tensor:
        """Sample covariance (d, d), ddof 1."""
        count, _, scatter = self.unpack(state)
        return scatter / (count - 1)


def reduce_moments(states: Sequence[tuple[Moments, Tensor]], sum_: Callable[[Tensor], None]) -> None:
    """Merge each state over ranks, in place; `sum_` sums a tensor over ranks in place.

    Two rounds whatever the number of states and ranks: all counts and means, then each scatter re-centred on the
    common mean. It is symmetric, so only strips from the diagonal to the right travel, a bucket at a time; nothing
    larger than a bucket is held beside the states.
    """
    parts = [(moments, *moments.unpack(state)) for moments, state in states]
    header = torch.cat([torch.cat([count[None], count * mean]) for _, count, mean, _ in parts])
    sum_(header)
    strips: list[tuple[Tensor, Tensor, int]] = []
    for (moments, count, mean, scatter), total in zip(parts, header.split([1 + m.d for m, _ in states]), strict=True):
        centre = total[1:] / total[0].clamp(min=1)
        gap = mean - centre
        scatter.addr_(gap * count, gap)
        count.copy_(total[0])
        mean.copy_(centre)
        rows = max(1, _BUCKET // moments.d)
        strips += [(scatter[i : i + rows, i:], scatter[i:, i : i + rows], rows) for i in range(0, moments.d, rows)]
    for bucket in _buckets(strips):
        flat = torch.cat([strip.flatten() for strip, _, _ in bucket])
        sum_(flat)
        summed = flat.split([strip.numel() for strip, _, _ in bucket])
        for (strip, mirror, rows), values in zip(bucket, summed, strict=True):
            strip.copy_(values.view_as(strip))
            mirror[rows:].copy_(strip[:, rows:].mT)


def _buckets(strips: list[tuple[Tensor, Tensor, int]]) -> list[list[tuple[Tensor, Tensor, int]]]:
    buckets: list[list[tuple[Tensor, Tensor, int]]] = []
    room = 0
    for strip in strips:
        size = strip[0].numel()
        if size > room:
            buckets.append([])
            room = _BUCKET
        buckets[-1].append(strip)
        room -= size
    return buckets
