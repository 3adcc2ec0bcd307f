"""Maximum mean discrepancy (Gretton et al. 2012): polynomial for KID, Gaussian for CMMD; in blocks, never n x n.

Kernels and sums are float64; products of float16 and float32 features are float32, without TF32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from scipy.special import gammainc
from torch import Tensor

from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import NotEnoughSamples
from lightning_imgmetrics.functional.distances import blocks, mean_row, product_dtype

STRIP = 256  # rows of a product within a subset: small, so that little of the symmetric half is computed twice


def polynomial_mmd(x: Tensor, y: Tensor, *, degree: int = 3, gamma: float | None = None, coef: float = 1.0) -> Tensor:
    """Unbiased MMD² of x (n, d) and y (m, d), n, m >= 2 -> scalar float64, which may be negative.

    Kernel (gamma xᵀy + coef)^degree, gamma 1/d by default: KID of all samples (Bińkowski et al. 2018).

    >>> polynomial_mmd(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0]]))
    tensor(-3.5000, dtype=torch.float64)
    """
    bind_shapes(x=(x, "n d"), y=(y, "m d"))
    subsets = [torch.arange(len(z))[None] for z in (x, y)]
    return subset_polynomial_mmd(x, y, *subsets, degree=degree, gamma=gamma, coef=coef)[0]


def subset_polynomial_mmd(
    x: Tensor,
    y: Tensor,
    x_subsets: Tensor,
    y_subsets: Tensor,
    *,
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
    share: tuple[int, int] = (0, 1),
) -> Tensor:
    """`polynomial_mmd` of each pair of subsets, given as rows (s, m) of x (n, d) and of y -> (s,) float64.

    `share` = (rank, world size): every world-size-th subset is computed, the others are 0.

    >>> x, subsets = torch.tensor([[0.0], [1.0]]), random_subsets(2, size=2, count=3, seed=0)
    >>> subset_polynomial_mmd(x, x, subsets, subsets)
    tensor([-3.5000, -3.5000, -3.5000], dtype=torch.float64)
    """
    d = bind_shapes(x=(x, "n d"), y=(y, "l d"), x_subsets=(x_subsets, "s m"), y_subsets=(y_subsets, "s k"))["d"]
    smallest = min(x_subsets.shape[1], y_subsets.shape[1])
    if smallest < 2:
        raise NotEnoughSamples("MMD", smallest, 2, "the unbiased estimate is a mean over pairs")
    gamma = 1 / d if gamma is None else gamma
    result = torch.zeros(len(x_subsets), dtype=torch.float64, device=x.device)
    with full_precision(x.device):
        # The mean of features is much longer than their spread: only products of the centered rows are float32.
        center = ((mean_row(x) + mean_row(y)) / 2).to(product_dtype(x, y))
        shifts = [gamma * _shifts(z, center) + coef / 2 for z in (x, y)]
        for s in range(share[0], len(x_subsets), share[1]):
            sides = []
            for z, shift, subsets in ((x, shifts[0], x_subsets), (y, shifts[1], y_subsets)):
                rows = subsets[s].to(x.device)
                sides.append((z[rows].to(center.dtype) - center, shift[rows]))
            result[s] = _unbiased(sides[0], sides[1], gamma, degree)
    return result


def _shifts(x: Tensor, center: Tensor) -> Tensor:
    """(n,) float64 with xᵀy = (x - center)ᵀ(y - center) + shift of x + shift of y."""
    center64 = center.double()
    parts = [(x[block].to(center.dtype) - center).double() @ center64 for block in blocks(len(x))]
    return torch.cat(parts) + center64 @ center64 / 2


def _unbiased(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor], gamma: float, degree: int) -> Tensor:
    """MMD² without the diagonals; a side is its centered rows (n, d) and their shifts (n,), in units of the kernel."""

    def block(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], i: slice, j: slice) -> Tensor:
        base = left[1][i, None] + right[1][j]
        return base.add_(left[0][i] @ right[0][j].mT, alpha=gamma).pow_(degree)

    n, m = len(x[0]), len(y[0])
    within_x, within_y = (_symmetric_sum(len(z[0]), partial(block, z, z)) for z in (x, y))
    between = torch.stack([block(x, y, i, j).sum() for i in blocks(n) for j in blocks(m)]).sum()
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - between * (2 / (n * m))


def random_subsets(n: int, size: int, count: int, seed: int) -> Tensor:
    """`count` subsets of range(n) -> (count, size) int64 on the CPU, without replacement, the same on every rank.

    >>> random_subsets(3, size=3, count=1, seed=0).sort().values
    tensor([[0, 1, 2]])
    """
    if size > n:
        raise NotEnoughSamples("a subset", n, size, "it is drawn without replacement")
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randperm(n, generator=generator)[:size] for _ in range(count)]
    return torch.stack(draws) if draws else torch.zeros(0, size, dtype=torch.int64)


def gaussian_mmd(x: Tensor, y: Tensor, *, sigma: float = 10.0, share: tuple[int, int] = (0, 1)) -> Tensor:
    """Biased MMD² (diagonals included) of x (n, d) and y (m, d) under exp(-|x - y|² / 2 sigma²) -> scalar float64.

    CMMD is 1000 times this, of unit vectors (Jayasumana et al. 2024). Computed from means of 1 - kernel, as the kernel
    is near 1 where the result is near 0. `share` = (rank, world size) gives the part of one rank; parts are multiples
    of one power of two, so their sum has the same bits in any order.

    >>> gaussian_mmd(torch.tensor([[0.0]]), torch.tensor([[3.0]]), sigma=1.0).round(decimals=4)
    tensor(1.9778, dtype=torch.float64)
    """
    bind_shapes(x=(x, "n d"), y=(y, "m d"))
    if min(len(x), len(y)) < 1:
        raise NotEnoughSamples("MMD", min(len(x), len(y)), 1, "a mean over no sample is undefined")
    with full_precision(x.device):
        center, radius = _center_and_radius(x, y)
        largest = -math.expm1(-2 * (radius / sigma) ** 2)  # 1 - kernel at 2 radius, the largest possible distance
        unit = 2.0 ** (math.frexp(4 * largest)[1] - 53)
        total = x.new_zeros((), dtype=torch.float64)
        for a, b, weight, i, j in _gaussian_grid(x, y)[share[0] :: share[1]]:
            squared = _squared_distances(a[i].to(center.dtype) - center, b[j].to(center.dtype) - center)
            if a is b and i == j:
                squared.fill_diagonal_(0)
            part = squared.mul_(-0.5 / sigma**2).expm1_().sum() * (-weight / unit)
            total += part.round() * unit
        return total


def gaussian_mmd_of_moments(
    mean1: Tensor, second1: Tensor, mean2: Tensor, second2: Tensor, *, sigma: float = 10.0
) -> Tensor:
    """`gaussian_mmd` of unit vectors to second order, from E[x] (d,) and E[x xᵀ] (d, d) -> scalar float64 >= 0.

    With a = 1 / sigma², the kernel of unit vectors is e^-a (1 + a xᵀy + (a xᵀy)² / 2 + ...). The truncation error is
    between 0 and `gaussian_mmd_truncation`.

    >>> x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    >>> gaussian_mmd_of_moments(x, x.outer(x), y, y.outer(y))  # 2 - 2 exp(-0.01)
    tensor(0.0199, dtype=torch.float64)
    """
    bind_shapes(mean1=(mean1, "d"), second1=(second1, "d d"), mean2=(mean2, "d"), second2=(second2, "d d"))
    a = 1 / sigma**2
    first = (mean1.double() - mean2.double()).square().sum()
    second = (second1.double() - second2.double()).square().sum()
    return math.exp(-a) * (a * first + a**2 / 2 * second)


def gaussian_mmd_truncation(sigma: float = 10.0) -> float:
    """Largest possible excess of the MMD² of unit vectors over `gaussian_mmd_of_moments`: 6.6e-7 at sigma 10.

    The difference of two mean tensors of unit vectors has squared norm at most 4, in every order from the third on.

    >>> f"{gaussian_mmd_truncation():.1e}"
    '6.6e-07'
    """
    return 4 * float(gammainc(3, 1 / sigma**2))


def _symmetric_sum(n: int, block: Callable[[slice, slice], Tensor]) -> Tensor:
    """Sum of a symmetric kernel over all ordered pairs of n different rows, from the pairs above the diagonal."""
    size = STRIP if n <= 16 * STRIP else 4 * STRIP
    sums = []
    for i in blocks(n, size=size):
        for j in blocks(n, size=4 * size):
            if j.stop > i.start:
                part = block(i, slice(max(i.start, j.start), j.stop))
                sums.append(2 * (part.triu(1) if j.start <= i.start else part).sum())
    return torch.stack(sums).sum()


def _gaussian_grid(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor, float, slice, slice]]:
    """The blocks of the three kernel matrices with their weights in the mean of 1 - kernel."""
    grid = [(x, y, 2 / (len(x) * len(y)), i, j) for i in blocks(len(x)) for j in blocks(len(y))]
    for z in (x, y):
        above = ((i, j) for i in blocks(len(z)) for j in blocks(len(z)) if j.start >= i.start)
        grid += [(z, z, -(1 if i == j else 2) / len(z) ** 2, i, j) for i, j in above]
    return grid


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    norm_x, norm_y = (z.double().square().sum(1) for z in (x, y))
    return (x @ y.mT).double().mul_(-2).add_(norm_x[:, None]).add_(norm_y).clamp_(min=0)


def _center_and_radius(x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """A common mean (d,), which no distance depends on, and the largest distance of a row from it."""
    center = ((mean_row(x) + mean_row(y)) / 2).to(product_dtype(x, y))
    squares = [(z[i].double() - center).square_().sum(1).max() for z in (x, y) for i in blocks(len(z))]
    return center, float(torch.stack(squares).max()) ** 0.5
