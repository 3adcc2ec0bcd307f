"""Statistics of several samples per prompt against loops, subsets and simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError, ValueRangeError
from lightning_imgmetrics.functional.prompt_statistics import (
    best_of_k,
    intraclass_correlation,
    per_prompt_statistics,
    prompt_mean,
    variance_components,
    worst_of_k,
)

FUNCTIONS = (per_prompt_statistics, variance_components, intraclass_correlation, prompt_mean)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unbalanced(counts: tuple[int, ...] = (1, 4, 2, 7, 4), seed: int = 0) -> tuple[Tensor, Tensor, list[np.ndarray]]:
    """Scores and groups in random order, and the scores of each prompt in ascending order of its integer."""
    names = torch.tensor([-7, 0, 3, 4, 2**40])[: len(counts)]
    groups = names.repeat_interleave(torch.tensor(counts))
    scores = randn(len(groups), seed=seed) + 0.5 * randn(len(counts), seed=seed + 1).repeat_interleave(
        torch.tensor(counts)
    )
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    parts = [part.numpy() for part in scores.split(list(counts))]
    return scores[order], groups[order], parts


def test_each_prompt_is_described_in_ascending_order() -> None:
    scores, groups, parts = unbalanced()
    found = per_prompt_statistics(scores, groups)
    assert found.prompt.tolist() == [-7, 0, 3, 4, 2**40]
    assert found.n.tolist() == [1, 4, 2, 7, 4]
    assert found.mean.tolist() == pytest.approx([p.mean() for p in parts], rel=1e-12)
    assert found.variance[1:].tolist() == pytest.approx([p.var(ddof=1) for p in parts[1:]], rel=1e-12)
    assert math.isnan(found.variance[0])
    assert found.minimum.tolist() == [p.min() for p in parts]
    assert found.maximum.tolist() == [p.max() for p in parts]
    assert found.mean.dtype == torch.float64


def test_the_order_of_samples_does_not_change_a_bit() -> None:
    scores, groups, _ = unbalanced()
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(5))
    for function in (*FUNCTIONS, lambda s, g: best_of_k(s, g, 3)):
        one, other = function(scores, groups), function(scores[order], groups[order])
        pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def test_equal_scores_vary_by_exactly_nothing() -> None:
    groups = torch.tensor([0, 0, 0, 1, 1])
    found = per_prompt_statistics(torch.full((5,), 0.1), groups)
    assert found.mean.unique().tolist() == [float(torch.tensor(0.1))]
    assert found.variance.tolist() == [0, 0]
    assert [float(x) for x in variance_components(torch.full((5,), 0.1), groups)] == [0, 0]
    assert math.isnan(intraclass_correlation(torch.full((5,), 0.1), groups))


def test_a_large_offset_costs_no_accuracy() -> None:
    scores, groups, parts = unbalanced()
    shifted = per_prompt_statistics(scores + 1e6, groups).variance[1:]
    assert shifted.tolist() == pytest.approx([p.var(ddof=1) for p in parts[1:]], rel=1e-8)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 7])
def test_best_and_worst_of_k_are_means_over_all_subsets(k: int) -> None:
    scores, groups, parts = unbalanced()
    kept = [p for p in parts if len(p) >= k]
    best = np.mean([np.mean([max(s) for s in itertools.combinations(p, k)]) for p in kept])
    worst = np.mean([np.mean([min(s) for s in itertools.combinations(p, k)]) for p in kept])
    assert float(best_of_k(scores, groups, k)) == pytest.approx(best, rel=1e-12)
    assert float(worst_of_k(scores, groups, k)) == pytest.approx(worst, rel=1e-12)


def test_best_of_one_is_the_mean_and_of_all_the_maximum() -> None:
    scores, groups = randn(60), torch.arange(60) % 5
    assert float(best_of_k(scores, groups, 1)) == pytest.approx(float(scores.mean()), rel=1e-12)
    highest = scores.unflatten(0, (12, 5)).amax(0).mean()
    assert float(best_of_k(scores, groups, 12)) == pytest.approx(float(highest), rel=1e-12)
    rising = [float(best_of_k(scores, groups, k)) for k in range(1, 13)]
    assert rising == sorted(rising)


@pytest.mark.parametrize(("n", "k"), [(5000, 2), (5000, 100), (5000, 2500), (5000, 4999)])
def test_weights_hold_for_thousands_of_samples(n: int, k: int) -> None:
    """Of ranks 1..n the expected maximum of k is k (n + 1) / (k + 1)."""
    ranks, groups = torch.arange(1, n + 1).double(), torch.zeros(n, dtype=torch.int64)
    assert float(best_of_k(ranks, groups, k)) == pytest.approx(k * (n + 1) / (k + 1), rel=1e-12)
    squares = sum(Fraction(math.comb(i - 1, k - 1), math.comb(n, k)) * i**2 for i in range(n, max(k, n - 400) - 1, -1))
    top = torch.where(ranks >= max(k, n - 400), ranks.square(), 0)
    assert float(best_of_k(top, groups, k)) == pytest.approx(float(squares), rel=1e-11)


def test_best_of_k_of_uniform_scores_grows_as_order_statistics_do() -> None:
    scores = torch.rand(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(40_000) // 10
    for k in (1, 4, 10):
        assert float(best_of_k(scores, groups, k)) == pytest.approx(k / (k + 1), abs=0.006)


def naive_anova(parts: list[np.ndarray]) -> tuple[float, float]:
    n, p = sum(map(len, parts)), len(parts)
    grand = sum(x for part in parts for x in part) / n
    within = sum((x - part.mean()) ** 2 for part in parts for x in part) / (n - p)
    between = sum(len(part) * (part.mean() - grand) ** 2 for part in parts) / (p - 1)
    return (between - within) / ((n - sum(len(part) ** 2 for part in parts) / n) / (p - 1)), within


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5).filter(lambda c: max(c) > 1), st.integers(0, 1000))
def test_variance_components_are_the_analysis_of_variance(counts: list[int], seed: int) -> None:
    scores, groups, parts = unbalanced(tuple(counts), seed)
    expected = naive_anova(parts)
    found = [float(x) for x in variance_components(scores, groups)]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    share = expected[0] / (expected[0] + expected[1])
    assert float(intraclass_correlation(scores, groups)) == pytest.approx(share, rel=1e-7, abs=1e-9)
    assert share <= 1 + 1e-12


@pytest.mark.parametrize(("between", "within"), [(0.0, 1.0), (0.25, 1.0), (4.0, 1.0)])
def test_known_components_are_found_without_bias(between: float, within: float) -> None:
    """The average of 400 estimates from 12 unequal prompts lies within 4 of its standard errors."""
    counts = torch.tensor([1, 2, 3, 4, 5, 6] * 2)
    groups = torch.arange(12).repeat_interleave(counts)
    noise, effect = randn(400, len(groups)), randn(400, 12, seed=1)
    scores = within**0.5 * noise + between**0.5 * effect.repeat_interleave(counts, 1)
    estimates = torch.stack([torch.stack(variance_components(row, groups)) for row in scores])
    error = estimates.std(0) / 20
    assert ((estimates.mean(0) - torch.tensor([between, within])).abs() < 4 * error).all()
    if between == 0:
        assert 0.3 < float((estimates[:, 0] < 0).double().mean()) < 0.8  # as an estimate of zero must be


def test_means_of_prompts_closer_than_their_samples_give_a_negative_component() -> None:
    """Two prompts of the same two scores: MSB = 0, MSW = 2, n0 = 2."""
    scores, groups = torch.tensor([1.0, 3.0, 3.0, 1.0]), torch.tensor([0, 0, 1, 1])
    assert [float(x) for x in variance_components(scores, groups)] == [-1, 2]
    assert float(intraclass_correlation(scores, groups)) == -1
    assert float(intraclass_correlation(torch.tensor([1.0, 3.0, 1.0, 3.0]), torch.tensor([0, 1, 0, 1]))) == 1


def test_prompts_count_once_in_the_grand_mean() -> None:
    scores, groups, parts = unbalanced()
    mean, error = prompt_mean(scores, groups)
    means = np.array([p.mean() for p in parts])
    assert float(mean) == pytest.approx(means.mean(), rel=1e-12)
    assert float(error) == pytest.approx(means.std(ddof=1) / math.sqrt(5), rel=1e-12)
    copies = prompt_mean(scores.repeat(6), groups.repeat(6))
    assert [float(x) for x in copies] == pytest.approx([float(mean), float(error)], rel=1e-12)


def test_error_of_the_grand_mean_is_its_spread() -> None:
    """Of 1000 simulated studies with 10 prompts of 4 samples; the spread of a spread is about 2 %."""
    groups = torch.arange(40) // 4
    scores = randn(1000, 40) + randn(1000, 10, seed=1).repeat_interleave(4, 1)
    found = torch.stack([torch.stack(prompt_mean(row, groups)) for row in scores])
    assert float(found[:, 1].square().mean().sqrt()) == pytest.approx(float(found[:, 0].std()), rel=0.08)


@pytest.mark.parametrize("function", [*FUNCTIONS, lambda s, g: best_of_k(s, g, 1), lambda s, g: worst_of_k(s, g, 1)])
def test_refused_input(function: Callable[[Tensor, Tensor], Any]) -> None:
    with pytest.raises(ShapeError, match="`groups`"):
        function(randn(3), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ShapeError, match="`scores`"):
        function(randn(3, 1), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueRangeError, match=r"`groups`.*float32"):
        function(randn(3), torch.zeros(3))
    with pytest.raises(ValueRangeError, match="`scores` must be finite"):
        function(torch.tensor([1.0, math.nan]), torch.tensor([0, 0]))
    with pytest.raises(NotEnoughSamples, match="`scores`"):
        function(torch.zeros(0), torch.zeros(0, dtype=torch.int64))


def test_too_few_samples() -> None:
    one, each = torch.zeros(3, dtype=torch.int64), torch.arange(3)
    for function in (variance_components, intraclass_correlation):
        with pytest.raises(NotEnoughSamples, match="between prompts"):
            function(randn(3), one)
        with pytest.raises(NotEnoughSamples, match="within prompts"):
            function(randn(3), each)
    with pytest.raises(NotEnoughSamples, match="clustered by prompt"):
        prompt_mean(randn(3), one)
    with pytest.raises(NotEnoughSamples, match="has 3 samples and needs 4"):
        best_of_k(randn(3), one, 4)
    with pytest.raises(ValueRangeError, match="`k`"):
        worst_of_k(randn(3), one, 0)
