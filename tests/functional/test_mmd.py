"""MMD against its definition, torch-fidelity, torchmetrics and scikit-learn; memory, shares, small differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel
from torch import Tensor
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torchmetrics.image.kid import poly_mmd

from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError
from lightning_imgmetrics.functional import mmd
from lightning_imgmetrics.functional.mmd import (
    gaussian_mmd,
    gaussian_mmd_of_moments,
    gaussian_mmd_truncation,
    polynomial_mmd,
    random_subsets,
    subset_polynomial_mmd,
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.nn.functional.normalize(randn(n, d, seed=seed) + shift, dim=1)


def unbiased(x: Tensor, y: Tensor, **kernel: float) -> float:
    """The definition, with scikit-learn's kernel in float64."""
    xx, yy, xy = (polynomial_kernel(a.double(), b.double(), **kernel) for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    return (xx.sum() - xx.trace()) / n / (n - 1) + (yy.sum() - yy.trace()) / m / (m - 1) - 2 * xy.mean()


def biased(x: Tensor, y: Tensor, sigma: float) -> float:
    xx, yy, xy = (rbf_kernel(a.double(), b.double(), gamma=0.5 / sigma**2) for a, b in ((x, x), (y, y), (x, y)))
    return xx.mean() + yy.mean() - 2 * xy.mean()


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 1), (7, 5, 3), (257, 300, 8), (1100, 1030, 4)])
@pytest.mark.parametrize("kernel", [{}, {"degree": 2, "gamma": 0.3, "coef0": 0.5}])
def test_polynomial_mmd_is_its_definition(n: int, m: int, d: int, kernel: dict) -> None:
    x, y = randn(n, d), randn(m, d, seed=1) + 0.2
    ours = {"coef" if key == "coef0" else key: value for key, value in kernel.items()}
    expected = unbiased(x, y, **{"degree": 3, "coef0": 1, **kernel})
    assert float(polynomial_mmd(x, y, **ours)) == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_polynomial_mmd_spans_several_blocks_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmd, "STRIP", 8)
    x, y = randn(333, 5), randn(97, 5, seed=1)
    assert float(polynomial_mmd(x, y)) == pytest.approx(unbiased(x, y, degree=3, coef0=1), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_narrow_features_lose_only_their_own_rounding(dtype: torch.dtype) -> None:
    x, y = (randn(400, 64, seed=s).abs().to(dtype) for s in (0, 1))
    expected = unbiased(x, y, degree=3, coef0=1)
    assert abs(float(polynomial_mmd(x, y)) - expected) < 1e-7
    with torch.autocast("cpu", torch.bfloat16):
        assert abs(float(polynomial_mmd(x, y)) - expected) < 1e-7


def test_kid_subsets_as_torch_fidelity() -> None:
    x, y = randn(300, 32), randn(280, 32, seed=1) + 0.1
    theirs = kid_features_to_metric(
        x,
        y,
        kid_subsets=12,
        kid_subset_size=100,
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1.0,
        rng_seed=2020,
        verbose=False,
    )
    random = np.random.RandomState(2020)
    drawn = [[random.choice(n, 100, replace=False) for n in (300, 280)] for _ in range(12)]
    rows, columns = (torch.tensor(np.stack(side)) for side in zip(*drawn, strict=True))
    ours = subset_polynomial_mmd(x, y, rows, columns)
    assert float(ours.mean()) == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-10)
    assert float(ours.std(correction=0)) == pytest.approx(theirs[KEY_METRIC_KID_STD], rel=1e-9)


def test_kid_subsets_as_torchmetrics() -> None:
    x, y = randn(50, 6), randn(60, 6, seed=1)
    rows, columns = random_subsets(50, 40, 5, 0), random_subsets(60, 40, 5, 1)
    theirs = [poly_mmd(x[i], y[j]) for i, j in zip(rows, columns, strict=True)]
    torch.testing.assert_close(subset_polynomial_mmd(x, y, rows, columns), torch.stack(theirs), rtol=1e-9, atol=1e-12)


def test_subsets_are_drawn_without_replacement_and_leave_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    subsets = random_subsets(20, 15, 30, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert subsets.shape == (30, 15)
    assert subsets.dtype == torch.int64
    assert all(len(set(row)) == 15 and set(row) <= set(range(20)) for row in subsets.tolist())
    assert torch.equal(subsets, random_subsets(20, 15, 30, seed=3))
    assert not torch.equal(subsets, random_subsets(20, 15, 30, seed=4))
    assert random_subsets(20, 15, 0, seed=3).shape == (0, 15)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.3, 30), st.floats(-100, 100))
def test_gaussian_mmd_is_its_definition(n: int, m: int, sigma: float, offset: float) -> None:
    """A common offset changes nothing."""
    x, y = randn(n, 5), randn(m, 5, seed=1) + 0.1
    found = gaussian_mmd(x + offset, y + offset, sigma=sigma)
    assert float(found) == pytest.approx(biased(x, y, sigma), rel=1e-7, abs=1e-12)


def test_gaussian_mmd_of_several_blocks_and_dtypes() -> None:
    x, y = unit(1500, 32, 0), unit(1100, 32, 1, 0.1)
    assert float(gaussian_mmd(x, y)) == pytest.approx(biased(x, y, 10), rel=1e-9)
    for dtype in (torch.float16, torch.float32):
        narrow = x.to(dtype), y.to(dtype)
        assert float(gaussian_mmd(*narrow)) == pytest.approx(biased(*narrow, 10), rel=1e-5)


def test_gaussian_mmd_keeps_its_digits_under_the_null() -> None:
    """Where kernels in float32 are wrong by a quarter: the result is 1e-5 of the kernel's values."""
    x, y = unit(2000, 768, 0).float(), unit(2000, 768, 1).float()
    assert float(gaussian_mmd(x, y)) == pytest.approx(biased(x, y, 10), rel=1e-5)
    assert 0 < float(gaussian_mmd(x, y)) < 2e-5


def test_equal_sets_are_at_distance_zero() -> None:
    x = unit(300, 16, 0)
    assert abs(float(gaussian_mmd(x, x))) < 1e-15
    assert float(gaussian_mmd(x[:1], x[:1])) == 0


@pytest.mark.parametrize("shift", [0.0, 0.05, 1.0])
def test_moments_give_the_gaussian_mmd_up_to_the_truncation(shift: float) -> None:
    x, y = unit(700, 24, 0), unit(600, 24, 1, shift)
    stream = gaussian_mmd_of_moments(x.mean(0), x.T @ x / len(x), y.mean(0), y.T @ y / len(y))
    exact = gaussian_mmd(x, y)
    assert -1e-15 <= float(exact - stream) <= gaussian_mmd_truncation()
    assert gaussian_mmd_truncation() == pytest.approx(6.6e-7, rel=0.01)


@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_truncation_is_reached_by_opposite_points(sigma: float) -> None:
    """All odd orders of one unit vector and its negative differ by the largest amount, the even ones by nothing."""
    x = unit(1, 5, 0)
    second = x.T @ x
    rest = float(gaussian_mmd(x, -x, sigma=sigma) - gaussian_mmd_of_moments(x[0], second, -x[0], second, sigma=sigma))
    a = sigma**-2
    assert rest == pytest.approx(4 * math.exp(-a) * (math.sinh(a) - a), rel=1e-9)
    assert 0 < rest <= gaussian_mmd_truncation(sigma)


def test_shares_sum_to_the_whole_bit_by_bit() -> None:
    x, y = unit(2100, 8, 0).float(), unit(1300, 8, 1).float()
    rows, columns = random_subsets(2100, 50, 7, 0), random_subsets(1300, 50, 7, 1)
    whole = gaussian_mmd(x, y)
    subsets = subset_polynomial_mmd(x, y, rows, columns)
    for world in (2, 3, 5):
        shares = [(rank, world) for rank in range(world)]
        assert torch.equal(sum(gaussian_mmd(x, y, share=s) for s in shares), whole)
        assert torch.equal(sum(subset_polynomial_mmd(x, y, rows, columns, share=s) for s in shares), subsets)


def test_refusals() -> None:
    x = randn(3, 2)
    with pytest.raises(NotEnoughSamples, match="1 samples and needs 2"):
        polynomial_mmd(x, x[:1])
    with pytest.raises(NotEnoughSamples):
        gaussian_mmd(x[:0], x)
    with pytest.raises(NotEnoughSamples, match="without replacement"):
        random_subsets(3, 4, 1, 0)
    with pytest.raises(ShapeError, match="`y`"):
        polynomial_mmd(x, randn(3, 4))
    with pytest.raises(ShapeError, match="`y_subsets`"):
        subset_polynomial_mmd(x, x, random_subsets(3, 2, 4, 0), random_subsets(3, 2, 5, 0))


def test_gaussian_mmd_of_the_published_vector() -> None:
    """cmmd-pytorch's distance of rows of numpy's RandomState(0), in float64 (its own float32 gives 2.327442)."""
    random = np.random.RandomState(0)
    rows = [random.randn(8, 16), random.randn(5, 16) + 0.5]
    x, y = (torch.from_numpy(z.astype(np.float32)) for z in rows)
    x, y = (z / z.norm(dim=1, keepdim=True) for z in (x, y))
    assert 1000 * float(gaussian_mmd(x, y)) == pytest.approx(2.327382, abs=6e-7)
