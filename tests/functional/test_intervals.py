"""Jackknife, extrapolation and bootstrap where theory gives the number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.stats import binomtest, t, ttest_rel
from torch import Tensor

from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError, ValueRangeError
from lightning_imgmetrics.functional.intervals import (
    bounded_interval,
    clustered_wilson_interval,
    mean_interval,
    wilson_interval,
    win_interval,
)
from lightning_imgmetrics.functional.resampling import extrapolate, jackknife, paired_bootstrap


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


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.01, 0.999))
def test_wilson_is_scipys(trials: tuple[int, int], confidence: float) -> None:
    expected = binomtest(*trials).proportion_ci(confidence, method="wilson")
    assert wilson_interval(*trials, confidence) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)


def test_wilson_at_the_ends() -> None:
    """For no success the upper end is z^2 / (n + z^2); 1.96^2 = 3.8415."""
    low, high = wilson_interval(0, 10)
    assert low == 0
    assert high == pytest.approx(3.841458820694124 / 13.841458820694124, rel=1e-12)
    assert wilson_interval(10, 10) == (1 - high, 1)
    half = 0.5 / (1 + 5 / 3.841458820694124) ** 0.5  # at one half, fractions of trials included
    assert wilson_interval(2.5, 5) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-12)


def wilson_by_roots(share: float, n: float, z: float) -> list[float]:
    """The p with (share - p)^2 = z^2 p (1 - p) / n."""
    return sorted(np.roots([1 + z**2 / n, -2 * share - z**2 / n, share**2]))


def test_clustered_wilson_with_one_outcome_per_group() -> None:
    """Only the n - 1 of the variance and Student's quantile tell it from the interval of independent outcomes."""
    outcomes, groups = torch.tensor([1] * 30 + [0] * 70), torch.arange(100, 0, -1)
    expected = wilson_by_roots(0.3, 99, float(t.ppf(0.975, 99)))
    assert clustered_wilson_interval(outcomes, groups) == pytest.approx(expected, rel=1e-10)


def test_clustered_wilson_of_copies_counts_each_group_once() -> None:
    outcomes, groups = (torch.arange(40) % 4 == 0), torch.arange(40)
    once = clustered_wilson_interval(outcomes, groups)
    assert clustered_wilson_interval(outcomes.repeat(9), groups.repeat(9)) == pytest.approx(once, rel=1e-10)
    expected = wilson_by_roots(0.25, 39, float(t.ppf(0.975, 39)))
    assert once == pytest.approx(expected, rel=1e-10)
    none = clustered_wilson_interval(torch.zeros(360), groups.repeat(9))
    assert none == pytest.approx(wilson_by_roots(0, 40, float(t.ppf(0.975, 39))), abs=1e-10)
    assert clustered_wilson_interval(torch.ones(360), groups.repeat(9)) == pytest.approx((1 - none[1], 1), rel=1e-12)


def test_groups_more_alike_than_by_chance_gain_nothing() -> None:
    outcomes, groups = torch.tensor([0, 1] * 20), torch.arange(40) // 2
    expected = wilson_by_roots(0.5, 40, float(t.ppf(0.975, 19)))
    assert clustered_wilson_interval(outcomes, groups) == pytest.approx(expected, rel=1e-10)


def test_clustered_wilson_covers_dependent_outcomes_and_the_plain_interval_does_not() -> None:
    random, groups = np.random.default_rng(0), torch.arange(240) // 8
    clustered, plain = 0, 0
    for _ in range(500):
        outcomes = random.binomial(1, random.beta(0.4, 1.6, 30).repeat(8))
        low, high = clustered_wilson_interval(torch.from_numpy(outcomes), groups)
        clustered += low <= 0.2 <= high
        low, high = wilson_interval(outcomes.sum(), 240)
        plain += low <= 0.2 <= high
    assert 0.92 <= clustered / 500 <= 0.98
    assert plain / 500 < 0.85


def test_refusals_of_shares() -> None:
    with pytest.raises(NotEnoughSamples, match="Wilson"):
        wilson_interval(0, 0)
    for successes in (-1, 6, float("nan")):
        with pytest.raises(ValueRangeError, match="`successes`"):
            wilson_interval(successes, 5)
    with pytest.raises(ValueRangeError, match="`confidence`"):
        wilson_interval(1, 5, 95)
    with pytest.raises(ValueRangeError, match="`confidence`"):
        clustered_wilson_interval(torch.ones(2), torch.arange(2), 95)
    with pytest.raises(ValueRangeError, match="`outcomes`"):
        clustered_wilson_interval(torch.tensor([0, 0.5]), torch.arange(2))
    with pytest.raises(NotEnoughSamples, match="clustered"):
        clustered_wilson_interval(torch.ones(2), torch.zeros(2))
    with pytest.raises(ShapeError, match="`groups`"):
        clustered_wilson_interval(torch.ones(2), torch.zeros(3))


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


def test_a_bounded_interval_of_zeros_and_ones_is_wilsons() -> None:
    for ones in range(6):
        x = torch.tensor([1.0] * ones + [0.0] * (5 - ones), dtype=torch.float64)
        found = bounded_interval(float(x.mean()), float(x.std()) / 5**0.5, 5, (0, 1))
        expected = clustered_wilson_interval(x, torch.arange(5))
        assert found == pytest.approx(expected, abs=1e-12)
        scaled = bounded_interval(2 + 10 * float(x.mean()), 10 * float(x.std()) / 5**0.5, 5, (2, 12))
        assert scaled == pytest.approx([2 + 10 * end for end in expected], abs=1e-11)


def test_a_bounded_interval_far_from_the_bounds_is_students() -> None:
    assert bounded_interval(0.5, 1e-4, 20, (0, 1)) == pytest.approx(mean_interval(0.5, 1e-4, 20), abs=1e-10)
    assert bounded_interval(6.5, 0.0, 4, (0, 10)) == (6.5, 6.5)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_a_bounded_interval_holds_the_mean_and_stays_within(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    mean = float(x.mean())
    low, high = bounded_interval(mean, float(x.std() / len(x) ** 0.5), len(x), (0, 1))
    assert 0 <= low <= mean <= high <= 1
    if set(values) in ({0.0}, {1.0}):
        assert high - low > 0.2


def test_a_mean_beyond_the_bounds_is_in_its_interval() -> None:
    """As a network may overshoot its scale."""
    low, high = bounded_interval(5.03, 0.01, 4, (1, 5))
    assert low < 5 < high == 5.03


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40))
def test_win_intervals_are_where_the_score_test_of_a_difference_is_at_its_quantile(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    low, high = win_interval(x)
    assert 0 <= low <= float(x.mean()) <= high <= 1
    assert high - low > 0.04
    assert win_interval(1 - x) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    if 0.5 not in values:
        assert (low, high) == pytest.approx(wilson_interval(float(x.sum()), len(x)), abs=1e-9)
    shares = np.linspace(0, 1, 20001)
    won, lost, n = (x == 1).sum().item(), (x == 0).sum().item(), len(x)
    for end in (low, high):
        if not 1e-6 < end < 1 - 1e-6:
            continue
        d = 2 * end - 1  # by brute force over the share of losses, wins being d more
        losses = np.clip(shares, max(0, -d), (1 - d) / 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = zip((won, lost, n - won - lost), (losses + d, losses, 1 - 2 * losses - d), strict=True)
            likelihood = sum(k * np.log(p.clip(0)) for k, p in terms if k)
        best = losses[np.nanargmax(likelihood)]
        z = abs(won - lost - n * d) / (n * (2 * best + d - d * d)) ** 0.5
        assert z == pytest.approx(1.959964, abs=0.01)


def test_ties_narrow_a_win_interval_and_leave_no_certainty() -> None:
    decided, tied = torch.tensor([1.0, 0.0] * 10), torch.full((20,), 0.5)
    wide, narrow = (high - low for low, high in map(win_interval, (decided, tied)))
    assert 0.1 < narrow < 0.6 * wide
    with pytest.raises(NotEnoughSamples, match="win rate has 0"):
        win_interval(torch.zeros(0))
    with pytest.raises(ValueRangeError, match="`outcomes`"):
        win_interval(torch.tensor([1.5]))
