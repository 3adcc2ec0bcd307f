"""Nearest neighbors under a measure: shortlists from float32 bounds, order by exact keys."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import NotEnoughSamples
from lightning_imgmetrics.functional.distances import Measure, blocks

SPARE = 5  # candidates on a shortlist beyond k, which exact keys then order


def search(
    measure: Measure, k: int, *, own: Tensor | None = None, mirror: bool = False, share: tuple[int, int] = (0, 1)
) -> tuple[Tensor, Tensor]:
    """The k smallest exact keys (n, k) float64 of each row and their columns (n, k), ties by the smaller column.

    `own` (n,): a column that is excluded for the row. `mirror`: the measure is symmetric, so that half of the products
    are enough. NotEnoughSamples for fewer than k columns.
    """
    n, m = measure.shape
    if m < k + (own is not None):
        raise NotEnoughSamples("`points`", m, k + (own is not None), f"each row has {k} nearest neighbors")
    with full_precision(measure.device):
        keys = torch.zeros(n, k, dtype=torch.float64, device=measure.device)
        columns = torch.zeros(n, k, dtype=torch.int64, device=measure.device)
        low, shortlist = _shortlist(measure, min(k + SPARE, m), own, mirror and share[1] == 1, share)
        for block in blocks(n, share):
            rows = torch.arange(block.start, block.stop, device=measure.device)
            keys[block], columns[block], limit = _rank(measure, rows, low[block], shortlist[block], k)
            undecided = rows[low[block, -1] <= limit] if low.shape[1] < m else rows[:0]
            if len(undecided):
                keys[undecided], columns[undecided] = _rank_all(
                    measure, undecided, limit[undecided - block.start], k, own
                )
    return keys, columns


def _shortlist(
    measure: Measure, width: int, own: Tensor | None, mirror: bool, share: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The `width` smallest lower bounds of each row, ascending, and their columns."""
    n, m = measure.shape
    low = torch.full((n, width), math.inf, device=measure.device)
    shortlist = torch.zeros(n, width, dtype=torch.int64, device=measure.device)
    for i in blocks(n, share):
        left = measure.left(i)
        for j in blocks(m):
            if mirror and j.start < i.start:
                continue
            bounds = _exclude(measure.lower(left, j), None if own is None else own[i], j)
            for rows, start, part in ((i, j.start, bounds), (j, i.start, bounds.mT))[: 1 + (mirror and i != j)]:
                value, column = part.topk(min(width, part.shape[1]), largest=False)
                low[rows], order = torch.cat([low[rows], value], 1).topk(width, largest=False)
                shortlist[rows] = torch.cat([shortlist[rows], column + start], 1).gather(1, order)
    return low, shortlist


def _rank(measure: Measure, rows: Tensor, low: Tensor, shortlist: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Exact order of a shortlist; also the bound (r,) above which a key is certainly not among the k smallest."""
    each = rows[:, None].expand_as(shortlist)
    limit = (low.double() + measure.gap(each, shortlist)).kthvalue(k, 1).values
    candidates = low <= limit[:, None]
    keys = torch.full_like(low, math.inf, dtype=torch.float64)
    keys[candidates] = measure.exact(each[candidates], shortlist[candidates])
    columns, order = shortlist.sort(1)
    keys, nearest = keys.gather(1, order).sort(dim=1, stable=True)
    return keys[:, :k], columns.gather(1, nearest[:, :k]), limit


def _rank_all(measure: Measure, rows: Tensor, limit: Tensor, k: int, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `_rank`, over all columns, for rows with more neighbors within rounding than the shortlist holds."""
    keys = torch.full((len(rows), k), math.inf, dtype=torch.float64, device=measure.device)
    columns = torch.zeros(len(rows), k, dtype=torch.int64, device=measure.device)
    left = measure.left(rows)
    for j in blocks(measure.shape[1]):
        low = _exclude(measure.lower(left, j), None if own is None else own[rows], j)
        i, column = (low <= limit[:, None]).nonzero(as_tuple=True)
        exact = torch.full_like(low, math.inf, dtype=torch.float64)
        exact[i, column] = measure.exact(rows[i], column + j.start)
        block = torch.arange(j.start, j.stop, device=measure.device).expand(len(rows), -1)
        keys, order = torch.cat([keys, exact], 1).sort(dim=1, stable=True)
        keys, columns = keys[:, :k], torch.cat([columns, block], 1).gather(1, order[:, :k])
    return keys, columns


def _exclude(low: Tensor, own: Tensor | None, columns: slice) -> Tensor:
    if own is not None:
        rows = ((own >= columns.start) & (own < columns.stop)).nonzero()[:, 0]
        low[rows, own[rows] - columns.start] = math.inf
    return low
