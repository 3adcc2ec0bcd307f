"""Where mathematics gives the number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.functional.frechet import (
    frechet_distance,
    frechet_of_factors,
    frechet_to_factor,
    psd_factor,
    row_factor,
)
from lightning_imgmetrics.functional.intervals import mean_interval
from lightning_imgmetrics.functional.perceptual import lpips_distance, perceptual_embedding


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gaussian(d: int, seed: int, rank: int | None = None) -> tuple[Tensor, Tensor]:
    root = randn(rank or 2 * d, d, seed=seed)
    return randn(d, seed=seed + 100), root.T @ root / len(root)


def close(found: Tensor | float, expected: float, rel: float = 1e-9, scale: float = 1.0) -> None:
    assert float(found) == pytest.approx(float(expected), rel=rel, abs=1e-10 * scale)


@pytest.mark.parametrize("rank", [1, 3, 8, 20])
def test_equal_gaussians_are_at_distance_zero(rank: int) -> None:
    """Up to the root of the rounding of the eigenvalues, where the covariance has few of them."""
    mean, cov = gaussian(8, 1, rank)
    distance = frechet_distance(mean, cov, mean, cov)
    assert 0 <= distance < 1e-6 * cov.trace()


def test_same_covariance_leaves_the_means() -> None:
    (mean1, cov), (mean2, _) = gaussian(6, 1), gaussian(6, 2)
    close(frechet_distance(mean1, cov, mean2, cov), (mean1 - mean2).square().sum())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)), min_size=1, max_size=6))
def test_diagonal_covariances(stds: list[tuple[float, float]]) -> None:
    """sum (s1 - s2)^2, zero standard deviations included."""
    s1, s2 = torch.tensor(stds, dtype=torch.float64).T
    zero = torch.zeros_like(s1)
    found = frechet_distance(zero, s1.square().diag(), zero, s2.square().diag())
    scale = max(float(s1.square().sum() + s2.square().sum()), 1e-300)
    assert float(found) == pytest.approx(float((s1 - s2).square().sum()), rel=1e-9, abs=1e-7 * scale)


@pytest.mark.parametrize("size", [1e-103, 3e-75, 1.0, 4e70])
def test_a_distance_has_the_square_of_the_unit_of_its_features(size: float) -> None:
    """Also where the products of covariances would leave the range of float64."""
    (mean1, cov1), (mean2, cov2) = gaussian(6, 1), gaussian(6, 2)
    factors = [psd_factor(cov) for cov in (cov1, cov2)]
    expected = frechet_distance(mean1, cov1, mean2, cov2)
    found = frechet_distance(mean1 * size, cov1 * size**2, mean2 * size, cov2 * size**2)
    of_factors = frechet_of_factors(mean1 * size, factors[0] * size, mean2 * size, factors[1] * size)
    for x in (found, of_factors):
        assert float(x / size**2) == pytest.approx(float(expected), rel=1e-9)


def test_one_dimension() -> None:
    found = frechet_distance(
        *(torch.tensor(x, dtype=torch.float64) for x in ([1.0], [[4.0]], [3.0], [[9.0]])),
    )
    close(found, (1 - 3) ** 2 + (2 - 3) ** 2)


def test_commuting_covariances() -> None:
    """With common eigenvectors the distance is that of the eigenvalues' roots."""
    q = torch.linalg.qr(randn(7, 7))[0]
    v1, v2 = randn(7, seed=1).square(), randn(7, seed=2).square()
    zero = torch.zeros(7, dtype=torch.float64)
    found = frechet_distance(zero, (q * v1) @ q.T, zero, (q * v2) @ q.T)
    close(found, (v1.sqrt() - v2.sqrt()).square().sum())


def test_against_the_matrix_square_root() -> None:
    (mean1, cov1), (mean2, cov2) = gaussian(9, 1), gaussian(9, 2)
    root = scipy.linalg.sqrtm((cov1 @ cov2).numpy()).real
    expected = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * np.trace(root)
    close(frechet_distance(mean1, cov1, mean2, cov2), expected)


@pytest.mark.parametrize(("n1", "n2"), [(5, 9), (9, 5), (12, 30), (30, 12), (60, 70), (2, 2)])
def test_all_forms_agree(n1: int, n2: int) -> None:
    """Covariances, a factor of one side, factors of both; rank-deficient or not; and either way round."""
    d = 20
    x, y = randn(n1, d, seed=1), 1.5 * randn(n2, d, seed=2) + 0.3
    (mean1, factor1), (mean2, factor2) = row_factor(x), row_factor(y)
    cov1, cov2 = x.T.cov(), y.T.cov()
    torch.testing.assert_close(factor1.T @ factor1, cov1)
    # tr (C1 C2)^1/2 as a nuclear norm, in numpy
    nuclear = np.linalg.svd((factor1 @ factor2.T).numpy(), compute_uv=False).sum()
    expected = float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * nuclear)
    rank = min(n1, n2) - 1
    close(frechet_of_factors(mean1, factor1, mean2, factor2, rank=rank), expected, rel=1e-8)
    close(frechet_of_factors(mean2, factor2, mean1, factor1, rank=rank), expected, rel=1e-8)
    close(frechet_to_factor(mean1, psd_factor(cov1), mean2, cov2, rank=rank), expected, rel=1e-8)
    close(frechet_to_factor(mean2, psd_factor(cov2), mean1, cov1, rank=rank), expected, rel=1e-8)
    close(frechet_distance(mean1, cov1, mean2, cov2), expected, rel=1e-6)
    close(frechet_distance(mean2, cov2, mean1, cov1), expected, rel=1e-6)


def test_rank_deficient_in_high_precision() -> None:
    """n < d against 50 digits: the root of F1 C2 F1ᵀ through mpmath."""
    mpmath = pytest.importorskip("mpmath")
    x, y = randn(4, 10, seed=3), randn(6, 10, seed=4)
    with mpmath.workdps(50):
        a, b = (mpmath.matrix(z.tolist()) for z in (x, y))

        def centred(m: mpmath.matrix) -> tuple[mpmath.matrix, mpmath.matrix]:
            mean = mpmath.matrix([sum(m[:, j]) / m.rows for j in range(m.cols)])
            rows = [[(m[i, j] - mean[j]) / mpmath.sqrt(m.rows - 1) for j in range(m.cols)] for i in range(m.rows)]
            return mean, mpmath.matrix(rows)

        (m1, f1), (m2, f2) = centred(a), centred(b)
        overlap = f1 * f2.T
        values = mpmath.eigsy(overlap * overlap.T, eigvals_only=True)
        expected = sum((m1[i] - m2[i]) ** 2 for i in range(10))
        expected += sum(v**2 for v in f1) + sum(v**2 for v in f2)
        expected -= 2 * sum(mpmath.sqrt(max(v, 0)) for v in values)
    (mean1, factor1), (mean2, factor2) = row_factor(x), row_factor(y)
    close(frechet_of_factors(mean1, factor1, mean2, factor2, rank=3), float(expected), rel=1e-9)
    cov1, cov2 = x.T.cov(), y.T.cov()
    close(frechet_to_factor(mean1, psd_factor(cov1), mean2, cov2, rank=3), float(expected), rel=1e-9)


@pytest.mark.parametrize("rank", [1, 4, 30])
def test_psd_factor(rank: int) -> None:
    cov = gaussian(10, 5, rank)[1]
    factor = psd_factor(cov)
    assert len(factor) == min(rank, 10)
    torch.testing.assert_close(factor.T @ factor, cov, rtol=1e-10, atol=1e-10)
    assert psd_factor(torch.zeros(3, 3, dtype=torch.float64)).square().sum() == 0


def test_far_means_do_not_hide_small_covariances() -> None:
    mean, cov = gaussian(5, 1)
    close(frechet_distance(mean, 1e-8 * cov, mean, 4e-8 * cov), 1e-8 * float(cov.trace()), rel=1e-6, scale=1e-9)


def test_shapes_are_checked_by_name() -> None:
    mean, cov = gaussian(4, 1)
    with pytest.raises(ShapeError, match=r"`cov2` must be \(d d\) with d = 4, got shape \(4, 3\)"):
        frechet_distance(mean, cov, mean, cov[:, :3])
    with pytest.raises(ShapeError, match=r"`mean1` must be \(d\), got shape \(1, 4\)"):
        frechet_distance(mean[None], cov, mean, cov)
    with pytest.raises(ShapeError, match=r"`factor2` must be \(r2 d\) with d = 4"):
        frechet_of_factors(mean, cov, mean, cov[:, :3])
    with pytest.raises(ShapeError, match=r"`features` must be \(n d\)"):
        row_factor(mean)


# bind_shapes


def test_bind_shapes() -> None:
    x = torch.zeros(2, 3, 4, 5)
    assert bind_shapes(x=(x, "n 3 h w")) == {"n": 2, "h": 4, "w": 5}
    assert bind_shapes(a=(x, "n c h w"), b=(x[:, 0], "n h w"))["c"] == 3
    with pytest.raises(ShapeError, match=r"`x` must be \(n 1 h w\) with 1 = 1, got shape \(2, 3, 4, 5\)"):
        bind_shapes(x=(x, "n 1 h w"))
    with pytest.raises(ShapeError, match=r"`b` must be \(n d\) with n = 2, got shape \(3, 4\)"):
        bind_shapes(a=(x, "n c h w"), b=(x[0, :, :, 0], "n d"))
    with pytest.raises(ValueError, match=r"must be \(n\), got shape \(\)"):
        bind_shapes(ids=(torch.tensor(1), "n"))


# Intervals


@pytest.mark.parametrize("n", [2, 5, 1000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_mean_interval_is_students(n: int, confidence: float) -> None:
    scores = np.random.default_rng(n).normal(3, 2, n)
    error = scores.std(ddof=1) / math.sqrt(n)
    expected = scipy.stats.ttest_1samp(scores, 0).confidence_interval(confidence)
    assert mean_interval(scores.mean(), error, n, confidence) == pytest.approx(tuple(expected))


# Perceptual distances


@pytest.mark.parametrize("heads", [True, False])
def test_embedding_distance_is_lpips(heads: bool) -> None:
    """The squared distance against the sums of Zhang et al. 2018, position by position."""
    shapes = [(5, 6, 7), (3, 2, 4)]
    weights = [randn(c, seed=c).abs() for c, _, _ in shapes] if heads else None
    f, g = ([randn(2, *shape, seed=i + k) for i, shape in enumerate(shapes)] for k in (10, 20))
    found = lpips_distance(perceptual_embedding(f, weights), perceptual_embedding(g, weights))
    for n in range(2):
        expected = 0.0
        for layer, (c, h, w) in enumerate(shapes):
            weight = weights[layer].numpy() if weights else np.ones(c)
            for i in range(h):
                for j in range(w):
                    a, b = f[layer][n, :, i, j].numpy(), g[layer][n, :, i, j].numpy()
                    a, b = (v / (np.sqrt((v**2).sum()) + 1e-10) for v in (a, b))
                    expected += (weight * (a - b) ** 2).sum() / (h * w)
        close(found[n], expected)


def test_flat_features_are_at_no_distance() -> None:
    maps = [torch.zeros(1, 4, 3, 3, dtype=torch.float64)]
    assert lpips_distance(perceptual_embedding(maps), perceptual_embedding(maps)).item() == 0


def test_embeddings_of_unlike_images_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"`embedding2` must be \(n m\) with m = 3"):
        lpips_distance(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ShapeError, match=r"`maps\[1\]` must be \(n c h w\)"):
        perceptual_embedding([torch.zeros(1, 2, 3, 3), torch.zeros(1, 2)])
