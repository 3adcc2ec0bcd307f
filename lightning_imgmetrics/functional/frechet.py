"""Fréchet distance between Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes


def frechet_distance(
    mean1: Tensor,
    cov1: Tensor | None,
    mean2: Tensor,
    cov2: Tensor | None,
    *,
    factor1: Tensor | None = None,
    factor2: Tensor | None = None,
    rank: int | None = None,
) -> Tensor:
    """Squared 2-Wasserstein distance between two Gaussians.

    mean (d,), cov (d, d) symmetric positive semidefinite, float64 -> scalar >= 0, in squared feature units.
    A side may be given by a factor (r, d) with factorᵀ factor = cov in place of its covariance: a reference whose
    factor is kept costs no factorization, and n < d samples cost an n x n problem (`row_factor`). `rank` bounds the
    rank of the product: with n samples a covariance has rank n - 1, the eigenvalues beyond are rounding noise.
    Source: Dowson & Landau 1982; as FID: Heusel et al. 2017.
    """
    bind_shapes(mean1=(mean1, "d"), mean2=(mean2, "d"))
    if factor1 is None and factor2 is not None:
        return frechet_distance(mean2, cov2, mean1, cov1, factor1=factor2, rank=rank)
    if factor1 is None:
        bind_shapes(mean1=(mean1, "d"), cov1=(cov1, "d d"))
        factor1 = psd_factor(cov1)
    if factor2 is None:
        bind_shapes(mean2=(mean2, "d"), cov2=(cov2, "d d"))
        gram = factor1 @ cov2 @ factor1.mT
        trace2 = cov2.trace()
    else:
        bind_shapes(factor1=(factor1, "r1 d"), factor2=(factor2, "r2 d"))
        overlap = factor1 @ factor2.mT
        gram = overlap @ overlap.mT if len(factor1) <= len(factor2) else overlap.mT @ overlap
        trace2 = factor2.square().sum()
    # tr (C1 C2)^1/2 is the sum of the roots of the eigenvalues of F1 C2 F1ᵀ, which is symmetric: no complex root.
    values = torch.linalg.eigvalsh((gram + gram.mT) / 2).clamp(min=0)
    values = values[-rank:] if rank is not None and rank < len(values) else values
    distance = (mean1 - mean2).square().sum() + factor1.square().sum() + trace2 - 2 * values.sqrt().sum()
    return distance.clamp(min=0)


def psd_factor(cov: Tensor) -> Tensor:
    """F (r, d) with Fᵀ F = cov (d, d): Cholesky, or the eigenvectors above rounding noise when cov is singular."""
    noise = cov.shape[-1] * torch.finfo(cov.dtype).eps  # relative size of an eigenvalue that rounding makes of 0
    lower, failed = torch.linalg.cholesky_ex(cov)
    if not failed and lower.diagonal().min() > noise**0.5 * lower.diagonal().max():
        return lower.mT
    values, vectors = torch.linalg.eigh(cov)
    kept = values > values[-1].clamp(min=0) * noise
    return (vectors[:, kept] * values[kept].sqrt()).mT


def row_factor(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and factor (n, d) of the sample covariance (ddof 1) of `features` (n, d), n >= 2, in float64."""
    bind_shapes(features=(features, "n d"))
    features = features.double()
    mean = features.mean(0)
    return mean, (features - mean) / (len(features) - 1) ** 0.5
