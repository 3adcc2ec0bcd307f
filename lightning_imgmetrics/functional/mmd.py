"""Maximum mean discrepancy (Gretton et al. 2012): polynomial for KID, Gaussian for CMMD; blocks, never n x n.

Kernels and sums are float64; the products of float16 and float32 features are float32, without TF32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.special import gammainc
from torch import Tensor

from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import NotEnoughSamples
from lightning_imgmetrics.functional.distances import blocks, mean_row, product_dtype

STRIP = 256  # rows of a product within a subset: small, so that little of a symmetric half is done twice


def polynomial_mmd(x: Tensor, y: Tensor, *, degree: int = 3, gamma: float | None = None, coef: float = 1.0) -> Tensor:
    """Unbiased MMD² of x (n, d) and y (m, d), n, m >= 2 -> scalar float64, which may be negative.

    Kernel (gamma xᵀy + coef)^degree, gamma 1/d by default: KID of all samples (Bińkowski et al. 2018).
    """
    d = bind_shapes(x=(x, "n d"), y=(y, "m d"))["d"]
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise NotEnoughSamples("MMD", min(n, m), 2, "the unbiased estimate is a mean over pairs")
    gamma = 1 / d if gamma is None else gamma
    with full_precision(x.device):
        # Features lie around a mean much longer than their spread: only the products of what is left are float32.
        center = (mean_row(x) + mean_row(y)) / 2
        (x, a), (y, b) = (_centered(z, center) for z in (x, y))

        def kernel(left: Tensor, right: Tensor, left_shift: Tensor, right_shift: Tensor) -> Tensor:
            products = (left @ right.mT).double().add_(left_shift[:, None]).add_(right_shift)
            return products.mul_(gamma).add_(coef).pow_(degree)

        total = _symmetric_sum(x, a, kernel) / (n * (n - 1)) + _symmetric_sum(y, b, kernel) / (m * (m - 1))
        for i in blocks(n):
            for j in blocks(m):
                total -= kernel(x[i], y[j], a[i], b[j]).sum() * (2 / (n * m))
        return total


def _centered(x: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """x' = x - center (n, d) and shifts (n,): xᵀy = x'ᵀy' + shift of x + shift of y, for the x' that is returned."""
    dtype = product_dtype(x, x)
    rest = torch.empty(x.shape, dtype=dtype, device=x.device)
    for block in blocks(len(x)):
        rest[block] = (x[block].double() - center).to(dtype)
    shifts = [rest[block].double() @ center for block in blocks(len(x))]
    return rest, torch.cat(shifts) + center @ center / 2


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
    """`polynomial_mmd` of each pair of subsets, rows (s, m) of x (n, d) and of y -> (s,) float64.

    `share` = (rank, world size): every world-size-th subset is computed, the others are 0.
    """
    bind_shapes(x=(x, "n d"), y=(y, "l d"), x_subsets=(x_subsets, "s m"), y_subsets=(y_subsets, "s k"))
    result = torch.zeros(len(x_subsets), dtype=torch.float64, device=x.device)
    for s in range(share[0], len(x_subsets), share[1]):
        rows, columns = x_subsets[s].to(x.device), y_subsets[s].to(x.device)
        result[s] = polynomial_mmd(x[rows], y[columns], degree=degree, gamma=gamma, coef=coef)
    return result


def random_subsets(n: int, size: int, count: int, seed: int) -> Tensor:
    """`count` subsets of range(n) -> (count, size) int64 on the CPU, without replacement, the same on every rank."""
    if size > n:
        raise NotEnoughSamples("a subset", n, size, "it is drawn without replacement")
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randperm(n, generator=generator)[:size] for _ in range(count)]
    return torch.stack(draws) if draws else torch.zeros(0, size, dtype=torch.int64)


def gaussian_mmd(x: Tensor, y: Tensor, *, sigma: float = 10.0, share: tuple[int, int] = (0, 1)) -> Tensor:
    """Biased MMD² (diagonals kept) of x (n, d) and y (m, d) under exp(-|x - y|² / 2 sigma²) -> scalar float64.

    CMMD is 1000 times this, of unit vectors (Jayasumana et al. 2024). Means of 1 - kernel are added, not of the
    kernel, which is near 1 where the result is near 0. `share` = (rank, world size) gives the part of a rank; parts
    are multiples of one power of two, so their sum has the same bits in any order.
    """
    bind_shapes(x=(x, "n d"), y=(y, "m d"))
    if min(len(x), len(y)) < 1:
        raise NotEnoughSamples("MMD", min(len(x), len(y)), 1, "a mean over no sample is undefined")
    with full_precision(x.device):
        center, reach = _center_and_reach(x, y)
        most = -math.expm1(-2 * (reach / sigma) ** 2)  # of 1 - kernel, as no two rows are further apart than 2 reach
        unit = 2.0 ** (math.frexp(4 * most)[1] - 53)
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

    With a = 1 / sigma², the kernel of unit vectors is e^-a (1 + a xᵀy + (a xᵀy)² / 2 + ...). What is left out is
    between 0 and `gaussian_mmd_truncation`.
    """
    bind_shapes(mean1=(mean1, "d"), second1=(second1, "d d"), mean2=(mean2, "d"), second2=(second2, "d d"))
    a = 1 / sigma**2
    first = (mean1.double() - mean2.double()).square().sum()
    second = (second1.double() - second2.double()).square().sum()
    return math.exp(-a) * (a * first + a**2 / 2 * second)


def gaussian_mmd_truncation(sigma: float = 10.0) -> float:
    """Largest possible excess of the MMD² of unit vectors over `gaussian_mmd_of_moments`: 6.6e-7 at sigma 10.

    The difference of two mean tensors of unit vectors has squared norm at most 4, in every order from the third on.
    """
    return 4 * float(gammainc(3, 1 / sigma**2))


def _symmetric_sum(x: Tensor, shift: Tensor, kernel: Callable[..., Tensor]) -> Tensor:
    """Sum of a symmetric kernel over all ordered pairs of different rows, from the pairs above the diagonal."""
    total = x.new_zeros((), dtype=torch.float64)
    size = STRIP if len(x) <= 16 * STRIP else 4 * STRIP
    for i in blocks(len(x), size=size):
        for j in blocks(len(x), size=4 * size):
            if j.stop > i.start:
                columns = slice(max(i.start, j.start), j.stop)
                found = kernel(x[i], x[columns], shift[i], shift[columns])
                total += 2 * (found.triu(1) if j.start <= i.start else found).sum()
    return total


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


def _center_and_reach(x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """A common mean (d,), which no distance depends on, and the largest distance of a row from it."""
    center = ((mean_row(x) + mean_row(y)) / 2).to(product_dtype(x, y))
    squares = [(z[i].double() - center).square_().sum(1).max() for z in (x, y) for i in blocks(len(z))]
    return center, float(torch.stack(squares).max()) ** 0.5
