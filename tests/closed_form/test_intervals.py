"""Jackknife, extrapolation and bootstrap where theory gives the number."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel
from torch import Tensor

from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError
from lightning_imgmetrics.functional.intervals import extrapolate, jackknife, paired_bootstrap


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def without_each(x: Tensor) -> list[Tensor]:
    return [torch.cat([x[:i], x[i + 1 :]]) for i in range(len(x))]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_jackknife_of_the_mean_is_the_classical_standard_error(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    estimate, error = jackknife(x.mean(), torch.stack([y.mean() for y in without_each(x)]))
    assert estimate == pytest.approx(float(x.mean()), abs=1e-9)
    assert error == pytest.approx(float(x.std() / len(x) ** 0.5), rel=1e-6, abs=1e-9)


def test_jackknife_removes_a_bias_of_order_one_over_n() -> None:
    x = randn(25)
    left = torch.stack([y.var(correction=0) for y in without_each(x)])
    estimate, error = jackknife(x.var(correction=0), left)
    assert estimate == pytest.approx(float(x.var()), rel=1e-12)
    plain, same = jackknife(x.var(correction=0), left, bias_correct=False)
    assert plain == float(x.var(correction=0))
    assert same == error


def test_sizes_that_are_equal_change_nothing() -> None:
    left = randn(6)
    assert jackknife(0.3, left, sizes=torch.full((6,), 50)) == pytest.approx(jackknife(0.3, left), rel=1e-12)
    assert jackknife(0.3, left, sizes=torch.full((6,), 50), total=300) == pytest.approx(jackknife(0.3, left), rel=1e-12)


def test_unequal_groups_of_a_mean() -> None:
    """The weighted form leaves the mean unbiased; its error is that of the group means (Busing et al. 1999)."""
    sizes = torch.tensor([3, 10, 7, 20])
    groups = randn(40).split(sizes.tolist())
    x = torch.cat(groups)
    left = torch.stack([torch.cat([*groups[:i], *groups[i + 1 :]]).mean() for i in range(4)])
    estimate, error = jackknife(x.mean(), left, sizes=sizes)
    assert estimate == pytest.approx(float(x.mean()), rel=1e-12)
    means, times = torch.stack([g.mean() for g in groups]), 40 / sizes.double()
    expected = ((means - x.mean()).square() / (times - 1)).mean().sqrt()
    assert error == pytest.approx(float(expected), rel=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.floats(-50, 50), st.floats(-1e4, 1e4))
def test_extrapolation_recovers_a_line_in_one_over_n(a: float, b: float) -> None:
    n = torch.tensor([5000, 8000, 20000, 50000])
    intercept, error = extrapolate(n, a + b / n.double())
    assert intercept == pytest.approx(a, abs=1e-9)
    assert error == pytest.approx(0, abs=1e-6)


def test_error_of_the_extrapolation_is_that_of_least_squares() -> None:
    n = torch.linspace(100, 1000, 15).double()
    values = 2 + 30 / n + 0.01 * randn(15)
    design = torch.stack([torch.ones_like(n), 1 / n], 1)
    solution = torch.linalg.lstsq(design, values).solution
    variance = (values - design @ solution).square().sum() / 13
    expected = (variance * torch.linalg.inv(design.T @ design)[0, 0]).sqrt()
    assert extrapolate(n, values) == pytest.approx((float(solution[0]), float(expected)), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_paired_bootstrap_agrees_with_the_paired_t_test(shift: float) -> None:
    common, a, b = randn(400), randn(400, seed=1), randn(400, seed=2)
    a, b = common * 5 + a + shift, common * 5 + b
    theory = ttest_rel(a.numpy(), b.numpy())
    difference, low, high, p = paired_bootstrap(a, b)
    expected = theory.confidence_interval()
    assert difference == pytest.approx(float((a - b).mean()), rel=1e-12)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.01)
    assert p == pytest.approx(theory.pvalue, abs=0.02)


def test_paired_bootstrap_is_seeded_antisymmetric_and_bounded() -> None:
    a, b = randn(50), randn(50, seed=1)
    assert paired_bootstrap(a, b, resamples=500) == paired_bootstrap(a, b, resamples=500)
    assert paired_bootstrap(a, b, resamples=500) != paired_bootstrap(a, b, resamples=500, seed=1)
    forth, back = paired_bootstrap(a, b, resamples=500), paired_bootstrap(b, a, resamples=500)
    assert back == pytest.approx((-forth[0], -forth[2], -forth[1], forth[3]), rel=1e-9)
    assert paired_bootstrap(a, a) == (0, 0, 0, 1)
    assert paired_bootstrap(a + 1e3, b, resamples=99)[3] == 0.01


def test_refusals() -> None:
    with pytest.raises(NotEnoughSamples, match="jackknife"):
        jackknife(1.0, randn(1))
    with pytest.raises(ShapeError, match="`sizes`"):
        jackknife(1.0, randn(3), sizes=torch.ones(4))
    with pytest.raises(NotEnoughSamples, match="extrapolation"):
        extrapolate(torch.tensor([10, 20]), randn(2))
    with pytest.raises(NotEnoughSamples, match="extrapolation"):
        extrapolate(torch.tensor([10, 10, 10]), randn(3))
    with pytest.raises(NotEnoughSamples, match="bootstrap"):
        paired_bootstrap(randn(1), randn(1))
    with pytest.raises(ShapeError, match="`b`"):
        paired_bootstrap(randn(3), randn(4))
