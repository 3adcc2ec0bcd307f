"""Fréchet distance between Gaussians, their squared 2-Wasserstein distance (Dowson & Landau 1982; Heusel et al. 2017).

A factor of a covariance is F (r, d) with Fᵀ F = cov. tr (C1 C2)^1/2 is the sum of the square roots of the eigenvalues
of F1 C2 F1ᵀ, which is symmetric: no complex square root, and one factorization serves every comparison.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """Fréchet distance from means (d,) and symmetric positive semidefinite covariances (d, d).

    -> scalar >= 0, in squared feature units. ShapeError unless the shapes agree.

    >>> frechet_distance(torch.zeros(2), torch.eye(2), torch.ones(2), 4 * torch.eye(2)).round(decimals=4)
    tensor(4.)
    """
    bind_shapes(mean1=(mean1, "d"), cov1=(cov1, "d d"), mean2=(mean2, "d"), cov2=(cov2, "d d"))
    return frechet_to_factor(mean1, psd_factor(cov1), mean2, cov2)


def frechet_to_factor(
    mean1: Tensor, factor1: Tensor, mean2: Tensor, cov2: Tensor, *, rank: int | None = None
) -> Tensor:
    """`frechet_distance` to a side given by its factor (r, d), such as a fixed reference: costs one eigvalsh.

    `rank` bounds the rank of either covariance, n - 1 for n samples: eigenvalues beyond it are rounding noise.

    >>> factor = psd_factor(torch.eye(2))
    >>> frechet_to_factor(torch.zeros(2), factor, torch.ones(2), 4 * torch.eye(2)).round(decimals=4)
    tensor(4.)
    """
    bind_shapes(mean1=(mean1, "d"), factor1=(factor1, "r d"), mean2=(mean2, "d"), cov2=(cov2, "d d"))
    trace1, trace2 = factor1.square().sum(), cov2.trace()
    unit1, unit2 = _unit(trace1), _unit(trace2)
    gram = _congruence(*_in_units((factor1, unit1), (cov2, unit2**2)))
    return _distance(mean1, trace1, mean2, trace2, gram, rank, unit1 * unit2)


def frechet_of_factors(
    mean1: Tensor, factor1: Tensor, mean2: Tensor, factor2: Tensor, *, rank: int | None = None
) -> Tensor:
    """`frechet_distance` from two factors (r1, d), (r2, d): an eigenproblem of size min(r1, r2), for n < d samples.

    >>> factor = psd_factor(torch.eye(2))
    >>> frechet_of_factors(torch.zeros(2), factor, torch.ones(2), 2 * factor).round(decimals=4)
    tensor(4.)
    """
    bind_shapes(mean1=(mean1, "d"), factor1=(factor1, "r1 d"), mean2=(mean2, "d"), factor2=(factor2, "r2 d"))
    trace1, trace2 = factor1.square().sum(), factor2.square().sum()
    unit1, unit2 = _unit(trace1), _unit(trace2)
    factor1, factor2 = _in_units((factor1, unit1), (factor2, unit2))
    overlap = factor1 @ factor2.mT
    gram = overlap @ overlap.mT if len(factor1) <= len(factor2) else overlap.mT @ overlap
    return _distance(mean1, trace1, mean2, trace2, gram, rank, unit1 * unit2)


def psd_factor(cov: Tensor, *, rank: int | None = None) -> Tensor:
    """F (r, d) with Fᵀ F = cov (d, d): by Cholesky; of a singular cov, without eigenvalues that are rounding noise.

    `rank` bounds the rank of cov, n - 1 for n samples: pivoted Cholesky then stops after so many steps.

    >>> psd_factor(torch.tensor([[4.0, 0.0], [0.0, 9.0]]))
    tensor([[2., 0.],
            [0., 3.]])
    """
    d = cov.shape[-1]
    noise = d * torch.finfo(cov.dtype).eps  # relative size that rounding gives to a zero eigenvalue
    rank = d if rank is None else min(rank, d)
    if rank == d:
        lower, failed = torch.linalg.cholesky_ex(cov)
        if not failed and lower.diagonal().min() > noise**0.5 * lower.diagonal().max():
            return lower.mT
    if rank < d // 2 and cov.dtype == torch.float64:
        return _pivoted_cholesky(cov, rank, noise)
    values, vectors = torch.linalg.eigh(cov)
    positive = values > values[-1].clamp(min=0) * noise
    return (vectors[:, positive] * values[positive].sqrt()).mT


def _pivoted_cholesky(cov: Tensor, rank: int, noise: float) -> Tensor:
    """Pivoted Cholesky, which stops at the rank."""
    tolerance = noise * float(cov.diagonal().max())
    upper, pivots, numerical_rank, _ = scipy.linalg.lapack.dpstrf(cov.cpu().numpy(), tol=tolerance)
    rank = min(rank, int(numerical_rank))
    factor = np.zeros((rank, len(cov)))
    factor[:, pivots - 1] = np.triu(upper)[:rank]
    return torch.from_numpy(factor).to(cov.device)


def row_factor(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and factor (n, d) of the sample covariance (ddof 1) of `features` (n, d), n >= 2, in float64.

    >>> mean, factor = row_factor(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    >>> mean, (factor.mT @ factor).round(decimals=4)
    (tensor([1., 2.], dtype=torch.float64), tensor([[2., 2.],
            [2., 2.]], dtype=torch.float64))
    """
    bind_shapes(features=(features, "n d"))
    features = features.double()
    mean = features.mean(0)
    return mean, (features - mean) / (len(features) - 1) ** 0.5


def _unit(trace: Tensor) -> float:
    """A power of 2 near the square root of a trace for which products of covariances would leave float64; else 1."""
    exponent = math.frexp(float(trace))[1]
    return 1.0 if abs(exponent) < 200 else 2.0 ** (max(exponent, -1000) // 2)


def _in_units(*pairs: tuple[Tensor, float]) -> tuple[Tensor, ...]:
    """Each tensor divided by its unit, a power of 2, so exactly."""
    return tuple(x if unit == 1 else x / unit for x, unit in pairs)


def _distance(
    mean1: Tensor, trace1: Tensor, mean2: Tensor, trace2: Tensor, gram: Tensor, rank: int | None, unit: float
) -> Tensor:
    """`gram` has the eigenvalues of C1 C2 in units of `unit`^2."""
    rank = min(len(mean1), len(gram), len(mean1) if rank is None else rank)
    if gram.device.type == "cpu":
        values = torch.from_numpy(scipy.linalg.eigh(gram.numpy(), eigvals_only=True, driver="evr", check_finite=False))
    else:
        values = torch.linalg.eigvalsh(gram)
    values = values.clamp(min=0)[len(gram) - rank :]
    return ((mean1 - mean2).square().sum() + trace1 + trace2 - 2 * unit * values.sqrt().sum()).clamp(min=0)


def _congruence(factor: Tensor, cov: Tensor) -> Tensor:
    """Lower triangle of factor cov factorᵀ; for a triangular factor LAPACK does it in a quarter of the work."""
    square = len(factor) == len(cov) and cov.device.type == "cpu" and cov.dtype == torch.float64
    if not square or factor.tril(-1).any():
        return factor @ cov @ factor.mT
    a, lower = (np.asfortranarray(x.numpy()) for x in (cov, factor.mT))
    return torch.from_numpy(scipy.linalg.lapack.dsygst(a, lower, itype=2, lower=1)[0])
