"""Exact comparisons of distances at the speed of float32 matrix products.

A measure bounds a block of keys (distances, cosines) from below by one float32 product, with a margin that rounding
cannot exceed (Higham 2002, section 3.1). Comparisons within the margin are recomputed from the float64 rows, in an
order of summation that does not depend on block, rank or device. So ties, duplicates and copies are decided exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import NonFiniteFeatures

BLOCK = 1024  # rows and columns of a product: 4 MB of float32 keys
UNIT = 2.0**-24  # unit roundoff of float32
TINY = 2.0**-110  # bound on the loss by underflow, for rows scaled to at most 1
Left = tuple[Tensor, Tensor]


def blocks(n: int, share: tuple[int, int] = (0, 1), size: int = BLOCK) -> Iterator[slice]:
    """The slices of n rows that belong to `share` = (rank, world size): a fixed grid, dealt out round-robin."""
    for start in range(share[0] * size, n, share[1] * size):
        yield slice(start, min(start + size, n))


def product_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    """float64 if either matrix is, else float32."""
    return torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32


def mean_row(x: Tensor) -> Tensor:
    """float64 mean (d,) of x (n, d), block by block; NonFiniteFeatures for NaN and infinity."""
    total = sum((x[block].double().sum(0) for block in blocks(len(x))), x.new_zeros(x.shape[1], dtype=torch.float64))
    if not total.isfinite().all():
        raise NonFiniteFeatures(f"features must be finite, got NaN or infinity among {len(x)} rows")
    return total / max(len(x), 1)


class Measure(Protocol):
    """Keys between the rows of two matrices; a smaller key is nearer."""

    shape: tuple[int, int]
    device: torch.device

    def left(self, rows: slice | Tensor) -> Left: ...  # prepared rows (r, d) and their squared norms (r, 1)
    def lower(self, left: Left, columns: slice) -> Tensor: ...  # float32 lower bounds (r, c)
    def gap(self, rows: Tensor, columns: Tensor) -> Tensor: ...  # float64: bound + gap is an upper bound
    def exact(self, rows: Tensor, columns: Tensor) -> Tensor: ...  # float64, increasing in the bounded key


class Euclidean:
    """Squared distances of x (n, d) and y (m, d), bounded; `exact` gives distances.

    `radius` (m,) > 0 divides the distances to y; `spread` (d,) > 0 divides the features.
    """

    def __init__(self, x: Tensor, y: Tensor, *, radius: Tensor | None = None, spread: Tensor | None = None):
        bind_shapes(x=(x, "n d"), y=(y, "m d"))
        self.x, self.y, self.shape, self.device = x, y, (len(x), len(y)), x.device
        self.dtype = product_dtype(x, y)
        self.radius, self.spread = radius, None if spread is None else 1 / spread.double()
        self.center = ((mean_row(x) + (mean_row(x) if y is x else mean_row(y))) / 2).to(self.dtype)
        self.margin = (x.shape[1] + 24) * UNIT  # of the squared norms: product, norms, sums and rounded rows
        self.scale: float | Tensor = 1.0
        (norm_x, top_x), (norm_y, top_y) = self._norms(x), self._norms(y)
        unit = 2.0 ** min(-math.frexp(max(top_x, top_y))[1], 500)  # a power of two: exact
        self.unit, self.scale = unit, unit if spread is None else (unit / spread).to(self.dtype)
        self.norm_x, self.norm_y = norm_x * unit**2, norm_y * unit**2
        self.weight = None if radius is None else radius.double().square().reciprocal()
        self._keys: tuple[Tensor, Tensor] | None = None

    def left(self, rows: slice | Tensor) -> Left:
        return self._rows(self.x[rows]).mul_(-2), self.norm_x[rows, None]

    def lower(self, left: Left, columns: slice) -> Tensor:
        low = self._squared(left, columns, 1 - self.margin)
        return low if self.weight is None else low.mul_(self.weight[columns].float())

    def gap(self, rows: Tensor, columns: Tensor) -> Tensor:
        gap = 2 * (self.margin * (self.norm_x[rows] + self.norm_y[columns]) + TINY)
        return gap if self.weight is None else gap * self.weight[columns]

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        if len(rows) <= 1 << 16:
            distance = self._direct(rows, columns).sqrt()
        else:  # many comparisons within the margin mean duplicates: equal pairs of rows are computed once
            pairs, inverse = self._pair_keys(rows, columns).unique(return_inverse=True)
            first = torch.empty_like(pairs).scatter_(0, inverse, torch.arange(len(rows), device=rows.device))
            distance = self._direct(rows[first], columns[first]).sqrt()[inverse]
        return distance if self.radius is None else distance / self.radius.double()[columns]

    def squared(self, left: Left, rows: Tensor, columns: slice) -> Tensor:
        """Squared distances (r, c) of the rows in `left`, float64 by float32 product; close pairs are exact."""
        product = self._squared(left, columns, 1.0).clamp_(min=0)
        norms = left[1].float() + self.norm_y[columns].float()
        i, j = (product <= 0.01 * norms).nonzero(as_tuple=True)  # where cancellation would cost digits
        result = product.double().div_(self.unit**2)
        result[i, j] = self.exact(rows[i], j + columns.start).square()
        return result

    def _squared(self, left: Left, columns: slice, factor: float) -> Tensor:
        product = left[0] @ self._rows(self.y[columns]).mT
        return product.add_((left[1] * factor - TINY).float()).add_((self.norm_y[columns] * factor).float())

    def _rows(self, x: Tensor) -> Tensor:
        return (x.to(self.dtype) - self.center).mul_(self.scale).float()

    def _norms(self, x: Tensor) -> tuple[Tensor, float]:
        """Squared norms (n,) float64 of the centered rows, and their largest absolute entry."""
        norms, top = x.new_zeros(len(x), dtype=torch.float64), 0.0
        for block in blocks(len(x)):
            rows = x[block].double() - self.center
            rows = rows if self.spread is None else rows.mul_(self.spread)
            top = max(top, *(abs(float(end)) for end in rows.aminmax()))
            norms[block] = rows.square_().sum(1)
        return norms, top

    def _direct(self, rows: Tensor, columns: Tensor) -> Tensor:
        result = self.norm_x.new_empty(len(rows))
        for part in blocks(len(rows), size=max(1, (1 << 18) // self.x.shape[1])):
            difference = self.x[rows[part]].double().sub_(self.y[columns[part]])
            difference = difference if self.spread is None else difference.mul_(self.spread)
            result[part] = ordered_sum(difference.square_())
        return result

    def _pair_keys(self, rows: Tensor, columns: Tensor) -> Tensor:
        if self._keys is None:
            self._keys = _row_hash(self.x), _row_hash(self.y)
        return self._keys[0][rows] * 0x2545F4914F6CDD1D + self._keys[1][columns]


class Cosine:
    """-|cos| of x (n, d) and y (m, d), bounded; rows of zero norm give 0."""

    def __init__(self, x: Tensor, y: Tensor):
        bind_shapes(x=(x, "n d"), y=(y, "m d"))
        self.x, self.y, self.shape, self.device = x, y, (len(x), len(y)), x.device
        self.scale_x, self.scale_y = _inverse_norms(x), _inverse_norms(y)
        self.margin = (x.shape[1] + 24) * UNIT

    def left(self, rows: slice | Tensor) -> Left:
        scale = self.scale_x[rows, None]
        return (self.x[rows].double() * scale).float(), scale

    def lower(self, left: Left, columns: slice) -> Tensor:
        right = (self.y[columns].double() * self.scale_y[columns, None]).float()
        return (left[0] @ right.mT).abs_().add_(self.margin).neg_()

    def gap(self, rows: Tensor, columns: Tensor) -> Tensor:
        return torch.full(columns.shape, 2 * self.margin, dtype=torch.float64, device=self.device)

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        result = self.scale_x.new_empty(len(rows))
        for part in blocks(len(rows), size=max(1, (1 << 18) // self.x.shape[1])):
            i, j = rows[part], columns[part]
            x = self.x[i].double().mul_(self.scale_x[i, None])
            result[part] = -ordered_sum(x.mul_(self.y[j].double().mul_(self.scale_y[j, None]))).abs()
        return result


def ordered_sum(x: Tensor) -> Tensor:
    """Sum over the last axis, which is overwritten, in one order for every shape and device: pairwise by halves."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x[..., :half] += x[..., -half:]
        x = x[..., : x.shape[-1] - half]
    return x.squeeze(-1)


def _inverse_norms(x: Tensor) -> Tensor:
    """1 / norm (n,) float64 of each row, 0 for a row of zeros."""
    result = x.new_zeros(len(x), dtype=torch.float64)
    for block in blocks(len(x), size=256):
        result[block] = ordered_sum(x[block].double().square_()).rsqrt()
    if result.isnan().any():
        raise NonFiniteFeatures(f"features must be finite, got NaN among {len(x)} rows")
    return result.masked_fill_(result.isinf(), 0)


def _row_hash(x: Tensor) -> Tensor:
    """64-bit hashes (n,) of the bits of each row; equal rows have equal hashes, others with probability 2^-64."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-(2**63), 2**63 - 1, (x.shape[1],), generator=generator).to(x.device)
    return torch.cat([(x[block].contiguous().view(bits) * weight).sum(1) for block in blocks(len(x))])
