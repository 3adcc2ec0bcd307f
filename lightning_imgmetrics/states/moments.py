"""Count, mean and scatter of a stream of vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_imgmetrics.states.bank import Bank
from lightning_imgmetrics.states.base import State
from lightning_imgmetrics.states.hash import uniform_hash

UNKNOWN = 2.0**53  # the count of a population of which only mean and covariance are available
_BUCKET = 1 << 19  # float64 numbers that one collective moves, 4 MiB


@dataclass(frozen=True)
class Moments(State):
    """Count, mean (d,) and scatter sum (x - mean)(x - mean)ᵀ (d, d), packed in one float64 tensor (1 + d + d*d,).

    `merge` is Chan, Golub & LeVeque 1979 for k parts: S = sum S_k + sum n_k (m_k - m)(m_k - m)ᵀ.
    """

    d: int
    table = False
    keyed = False
    kind = "moments"

    def __str__(self) -> str:
        return f"moments (d = {self.d})"

    def empty(self) -> Tensor:
        return torch.zeros(1 + self.d + self.d**2, dtype=torch.float64)

    def of(self, rows: Tensor) -> Tensor:
        return self.add(self.empty().to(rows.device), rows)

    def add(self, state: Tensor, rows: Tensor) -> Tensor:
        """As in the protocol. Chan's correction of the means is one extra row: a batch costs one product, in place."""
        n = len(rows)
        if n == 0:
            return state
        state = _writable(state)
        rows = rows.double()
        count, mean, scatter = self.unpack(state)
        batch_mean = rows.mean(0)
        gap = batch_mean - mean
        total = count + n
        centered = torch.cat([rows - batch_mean, (gap * (count * n / total).sqrt())[None]])
        scatter.addmm_(centered.mT, centered)
        mean += gap * (n / total)
        count += n
        return state

    def merge(self, parts: Sequence[Tensor] | Tensor) -> Tensor:
        count = torch.stack([part[0] for part in parts])
        mean = torch.stack([part[1 : 1 + self.d] for part in parts])
        merged = torch.empty_like(parts[0])
        total, center, scatter = self.unpack(merged)
        total.copy_(count.sum())
        center.copy_((count / total.clamp(min=1)) @ mean)
        gap = mean - center
        torch.mm(gap.mT * count, gap, out=scatter)
        for part in parts:  # one by one: stacking the scatters would double their memory
            scatter += self.unpack(part)[2]
        return merged

    def unpack(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of (..., 1 + d + d*d) as count (...), mean (..., d), scatter (..., d, d)."""
        count, mean, scatter = state.split([1, self.d, self.d**2], -1)
        return count.squeeze(-1), mean, scatter.unflatten(-1, (self.d, self.d))

    def cov(self, state: Tensor) -> Tensor:
        """Sample covariance (d, d), ddof 1."""
        count, _, scatter = self.unpack(state)
        return scatter / (count - 1)

    def pack(self, count: float, mean: Tensor, cov: Tensor) -> Tensor:
        """The state of `count` >= 2 samples with this mean (d,) and sample covariance (d, d)."""
        return torch.cat([mean.new_tensor([count]), mean, (cov * (count - 1)).flatten()]).double()

    def count(self, state: Tensor) -> int:
        """The number of samples."""
        return int(state[0])

    def of_bank(self, bank: Bank, features: Tensor) -> Tensor | None:
        """The state of all samples of a bank; None where it holds some of them only, or too coarsely."""
        if bank.size is not None or bank.dtype.itemsize < 4 or bank.d != self.d:
            return None
        state = self.empty()
        for part in bank.features(features).split(4096):
            state = self.add(state, part)
        return state

    def split(self, state: Tensor) -> list[tuple[Moments, Tensor]]:
        """The parts of a state that `reduce_moments` merges over ranks."""
        return [(self, state)]


@dataclass(frozen=True)
class GroupedMoments(State):
    """`Moments` of `groups` random parts of a stream, (groups, 1 + d + d*d): for intervals and extrapolation.

    The hashed id of a sample determines its part. Rows are (part, vector of d); 8 d^2 bytes per part.
    """

    d: int
    groups: int
    table = False
    keyed = False

    @property
    def moments(self) -> Moments:
        return Moments(self.d)

    def empty(self) -> Tensor:
        return self.moments.empty().repeat(self.groups, 1)

    def rows(self, vectors: Tensor, ids: Tensor) -> Tensor:
        part = (uniform_hash(ids, seed=1) * self.groups).long()
        return torch.cat([part[:, None].to(vectors), vectors], 1)

    def of(self, rows: Tensor) -> Tensor:
        return self.add(self.empty().to(rows.device), rows)

    def add(self, state: Tensor, rows: Tensor) -> Tensor:
        state = _writable(state)
        parts = rows[:, 0].long().cpu()
        for part in parts.unique().tolist():
            self.moments.add(state[part], rows[(parts == part).to(rows.device), 1:])
        return state

    def merge(self, parts: Sequence[Tensor]) -> Tensor:
        merged = torch.empty_like(parts[0])
        for group in range(self.groups):
            merged[group] = self.moments.merge([part[group] for part in parts])
        return merged

    def total(self, state: Tensor) -> Tensor:
        """The moments of the whole stream."""
        return self.moments.merge(state)

    def leave_out(self, state: Tensor) -> Iterator[Tensor]:
        """The moments of the stream without each part in turn."""
        whole = self.total(state)
        count, mean, scatter = self.moments.unpack(whole)
        for part in state:
            n, part_mean, part_scatter = self.moments.unpack(part)
            rest = count - n
            gap = part_mean - mean
            rest_mean = mean - gap * (n / rest)
            rest_scatter = scatter - part_scatter - torch.outer(gap, gap) * (n * count / rest)
            yield torch.cat([rest[None], rest_mean, rest_scatter.flatten()])

    def split(self, state: Tensor) -> list[tuple[Moments, Tensor]]:
        return [(self.moments, part) for part in state]


def _writable(state: Tensor) -> Tensor:
    """The state, or a copy of it if it was made in inference mode and could be changed in that mode alone."""
    return state.clone() if state.is_inference() and not torch.is_inference_mode_enabled() else state


def reduce_moments(states: Sequence[tuple[Moments, Tensor]], sum_: Callable[[Tensor], None]) -> None:
    """Merge each state over ranks, in place; `sum_` sums a tensor over ranks in place.

    Two rounds for any number of states and ranks: all counts and means, then each scatter about the common mean. It is
    symmetric, so only strips from the diagonal to the right are sent, a bucket at a time; no more than a bucket is held
    in addition to the states.
    """
    parts = [(moments, *moments.unpack(state)) for moments, state in states]
    header = torch.cat([torch.cat([count[None], count * mean]) for _, count, mean, _ in parts])
    sum_(header)
    strips: list[tuple[Tensor, Tensor, int]] = []
    for (moments, count, mean, scatter), total in zip(parts, header.split([1 + m.d for m, _ in states]), strict=True):
        center = total[1:] / total[0].clamp(min=1)
        gap = mean - center
        scatter.addr_(gap * count, gap)
        count.copy_(total[0])
        mean.copy_(center)
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
