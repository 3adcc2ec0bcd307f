"""Agreement of raters against the literature, scikit-learn, counting by hand and what must not matter."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from scipy.stats import kendalltau, norm, pearsonr, spearmanr
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError, UnknownName, ValueRangeError
from lightning_imgmetrics.functional.agreement import (
    LEVELS,
    WEIGHTS,
    cohen_kappa,
    kendall,
    krippendorff_alpha,
    pairwise_accuracy,
    pearson,
    spearman,
)
from lightning_imgmetrics.functional.resampling import cluster_bootstrap

NAN = math.nan
CORRELATIONS = (pearson, spearman, kendall)
# Four observers, twelve units, of which the last but two have two ratings or more: Krippendorff 2011.
OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)
labels = st.integers(1, 5)
pairs = st.integers(2, 25).flatmap(lambda n: st.tuples(*[st.lists(labels, min_size=n, max_size=n)] * 2))
tables = st.tuples(st.integers(2, 5), st.integers(1, 12)).flatmap(
    lambda shape: st.lists(
        st.lists(st.sampled_from([NAN, 1, 2, 3, 4]), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0],
        max_size=shape[0],
    )
)


def coincidences(table: np.ndarray, level: str) -> float:
    """Alpha by its definition: observed over expected disagreement of the coincidence matrix."""
    values = np.unique(table[~np.isnan(table)])
    matrix = np.zeros((len(values), len(values)))
    for unit in table.T:
        known = np.searchsorted(values, unit[~np.isnan(unit)])
        for a, b in itertools.permutations(range(len(known)), 2):
            matrix[known[a], known[b]] += 1 / (len(known) - 1)
    count = matrix.sum(0)
    c, k = np.indices(matrix.shape)
    upto = np.concatenate([[0], count.cumsum()])
    low, high = np.minimum(c, k), np.maximum(c, k)
    apart = {
        "nominal": (c != k).astype(float),
        "ordinal": (upto[high + 1] - upto[low] - (count[c] + count[k]) / 2) ** 2 * (c != k),
        "interval": (values[c] - values[k]) ** 2,
    }[level]
    expected = (np.outer(count, count) * apart).sum()
    return 1 - (count.sum() - 1) * (matrix * apart).sum() / expected if expected else NAN


def ordered(scores: Any, ratings: Any, groups: Any = None) -> float:
    """Pairwise accuracy, pair by pair."""
    credit = []
    for i, j in itertools.combinations(range(len(scores)), 2):
        people = np.sign(ratings[i] - ratings[j])
        if people and (groups is None or groups[i] == groups[j]):
            credit.append((1 + people * np.sign(scores[i] - scores[j])) / 2)
    return float(np.mean(credit)) if credit else NAN


@pytest.mark.parametrize(("level", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_own_example(level: str, expected: float) -> None:
    assert krippendorff_alpha(OBSERVERS, level) == pytest.approx(expected, abs=5e-4)


def test_two_observers_and_binary_labels() -> None:
    """Krippendorff 2011, example A: ten units, alpha = 0.095."""
    table = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
    for level in LEVELS:  # one distance is all that two labels have
        assert krippendorff_alpha(table, level) == pytest.approx(0.095, abs=5e-4)


@settings(max_examples=60, deadline=None)
@given(tables, st.sampled_from(LEVELS), st.randoms(use_true_random=False))
def test_alpha_is_that_of_the_coincidence_matrix_in_any_order(rows: list, level: str, random: Any) -> None:
    table = np.array(rows, float)
    found = krippendorff_alpha(table, level)
    assert found == pytest.approx(coincidences(table, level), abs=1e-10, nan_ok=True)
    units, raters = (random.sample(range(n), n) for n in (table.shape[1], table.shape[0]))
    assert krippendorff_alpha(table[:, units][raters], level) == pytest.approx(found, abs=1e-10, nan_ok=True)


def test_alpha_of_agreement_scale_and_nothing() -> None:
    copies = np.tile(np.arange(6.0), (3, 1))
    assert [krippendorff_alpha(copies, level) for level in LEVELS] == [1, 1, 1]
    assert krippendorff_alpha(OBSERVERS * 7 - 1e6, "interval") == pytest.approx(
        krippendorff_alpha(OBSERVERS, "interval"), abs=1e-9
    )
    assert krippendorff_alpha(np.exp(OBSERVERS), "ordinal") == krippendorff_alpha(OBSERVERS, "ordinal")
    for undefined in ([[1.0, 2.0]], [[2, 2], [2, 2]], [[1, NAN], [NAN, 2]], np.empty((2, 0))):
        assert math.isnan(krippendorff_alpha(undefined, "ordinal"))


@settings(max_examples=60, deadline=None)
@given(pairs, st.sampled_from(WEIGHTS))
def test_kappa_is_scikit_learns(data: tuple[list[int], list[int]], weights: str | None) -> None:
    a, b = data
    assume(len({*a, *b}) > 1)
    assert cohen_kappa(a, b, weights=weights) == pytest.approx(cohen_kappa_score(a, b, weights=weights), abs=1e-12)
    expected = cohen_kappa_score(a, b, weights=weights, labels=[9, 5, 3, 1, 2, 4])
    assert cohen_kappa(a, b, weights=weights, categories=[9, 5, 3, 1, 2, 4]) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(labels, min_size=2), st.sampled_from(WEIGHTS))
def test_kappa_of_equal_labels_is_one(a: list[int], weights: str | None) -> None:
    kappa = cohen_kappa(a, a, weights=weights)
    assert kappa == 1 if len(set(a)) > 1 else math.isnan(kappa)


def test_kappa_by_hand() -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: (0.7 - 0.5) / (1 - 0.5); a step unused by both stays a step."""
    a, b = ["yes"] * 25 + ["no"] * 25, ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4, abs=1e-12)
    a, b = [1, 1, 3, 2], [1, 2, 3, 2]
    kappa = cohen_kappa(a, b, weights="quadratic")
    assert cohen_kappa(a, b, weights="quadratic", categories=range(9)) == pytest.approx(kappa, abs=1e-12)
    a, b = [1, 1, 5, 4], [1, 4, 5, 4]  # without 2 and 3, from 1 to 4 would be one step
    assert cohen_kappa(a, b, weights="linear", categories=range(1, 6)) == pytest.approx(1 - 0.75 / 1.875, abs=1e-12)
    assert cohen_kappa(a, b, weights="linear") == pytest.approx(1 - 0.25 / 0.875, abs=1e-12)


def test_correlations_by_hand() -> None:
    scores, ratings = [1, 2, 3, 4, 5], [2, 1, 4, 3, 5]
    assert spearman(scores, ratings) == pytest.approx(1 - 6 * 4 / (5 * 24), abs=1e-12)
    assert kendall(scores, ratings) == pytest.approx((8 - 2) / 10, abs=1e-12)
    assert pearson(scores, ratings) == pytest.approx(0.8, abs=1e-12)
    # Of six pairs four are in order, one is tied by the scores and one by the ratings.
    assert kendall([1, 1, 2, 3], [1, 2, 3, 3]) == pytest.approx(4 / math.sqrt(5 * 5), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_correlations_are_scipys(data: tuple[list[int], list[int]]) -> None:
    x, y = (np.exp(np.array(values)) for values in data)
    assume(np.ptp(x) > 0 and np.ptp(y) > 0)
    assert pearson(x, y) == pytest.approx(pearsonr(x, y).statistic, abs=1e-12)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize("function", CORRELATIONS)
def test_what_has_no_correlation_is_nan(function: Callable[..., float]) -> None:
    assert math.isnan(function([2, 2, 2], [1, 2, 3]))
    assert math.isnan(function([1, 2, 3], [0.1] * 3))
    assert function([1e300, 2e300, 3e300], [1e-300, 2e-300, 3e-300]) == pytest.approx(1, abs=1e-12)
    assert function([-1.7e308, 1.7e308, 0], [-5e-324, 5e-324, 0]) == pytest.approx(1, abs=1e-12)
    assert function([1, 1 + 4e-16, 1], [1, 2, 1]) == pytest.approx(1, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_ranks_are_all_that_spearman_kendall_and_pairs_see(data: tuple[list[int], list[int]]) -> None:
    scores, ratings = (np.array(x, float) for x in data)
    for function in (spearman, kendall, pairwise_accuracy):
        expected = function(scores, ratings)
        assert function(np.exp(3 * scores), ratings**3) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    for function in CORRELATIONS:
        turned, straight = function(-scores, ratings), function(scores, ratings)
        assert turned == pytest.approx(-straight, abs=1e-12, nan_ok=True)


def test_pairs_by_hand() -> None:
    # (a, b) in order, (a, c) against it, (b, c) tied by the judge; people tie c and d, so that pair is none.
    ratings = [1, 2, 3, 3]
    assert pairwise_accuracy([2, 5, 1, 9], ratings) == 3 / 5
    assert pairwise_accuracy([2, 5, 5, 9], ratings) == 4.5 / 5
    assert pairwise_accuracy([7, 7, 7, 7], ratings) == 0.5
    assert pairwise_accuracy([1, 2, 3], [3, 2, 1]) == 0
    assert math.isnan(pairwise_accuracy([1, 2, 3], [4, 4, 4]))
    # Within prompts the judge is always right, across them it is not.
    scores, ratings, prompts = [1, 2, 11, 12, 13], [8, 9, 1, 2, 3], ["x", "x", "y", "y", "y"]
    assert pairwise_accuracy(scores, ratings, prompts) == 1
    assert pairwise_accuracy(scores, ratings) == 4 / 10
    assert math.isnan(pairwise_accuracy(scores, ratings, range(5)))


@settings(max_examples=100, deadline=None)
@given(pairs, st.integers(1, 6), st.randoms(use_true_random=False))
def test_accuracy_is_that_of_the_pairs(data: tuple[list[int], list[int]], prompts: int, random: Any) -> None:
    scores, ratings = (np.array(x, float) for x in data)
    groups = np.array([random.randrange(prompts) for _ in scores])
    for by in (None, groups):
        found = pairwise_accuracy(scores, ratings, by)
        assert found == pytest.approx(ordered(scores, ratings, by), abs=1e-12, nan_ok=True)
        assert pairwise_accuracy(-scores, ratings, by) == pytest.approx(1 - found, abs=1e-12, nan_ok=True)


def test_accuracy_of_two_grades_is_the_area_under_the_roc_curve() -> None:
    random = np.random.default_rng(0)
    ratings = random.integers(0, 2, 10_000)
    scores = (random.normal(size=10_000) + ratings).round(1)
    assert pairwise_accuracy(scores, ratings) == pytest.approx(roc_auc_score(ratings, scores), abs=1e-12)


def test_accuracy_without_ties_is_kendalls_tau_over_large_groups() -> None:
    random = np.random.default_rng(1)
    scores, groups = random.normal(size=20_000), np.repeat([5, -3], 10_000)
    ratings = scores + random.normal(size=20_000)
    taus = [kendalltau(scores[groups == g], ratings[groups == g]).statistic for g in (5, -3)]
    assert pairwise_accuracy(scores, ratings, groups) == pytest.approx((1 + np.mean(taus)) / 2, abs=1e-12)


def mean_of(x: np.ndarray) -> Callable[..., list[float]]:
    return lambda rows, draws: [x[rows].mean()]


def test_bootstrap_of_a_mean_is_its_theory() -> None:
    x = np.random.default_rng(0).normal(size=300)
    [(low, high, undefined)] = cluster_bootstrap(mean_of(x), np.arange(300), resamples=4000, confidence=0.9)
    half = norm.ppf(0.95) * x.std() / 300**0.5
    assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.01)
    assert undefined == 0


def test_clusters_are_drawn_whole_and_their_names_do_not_matter() -> None:
    names = np.array(["b", "a", "b", "c", "a", "b"])
    seen = []

    def statistics(rows: np.ndarray, draws: np.ndarray) -> list[float]:
        assert draws.tolist() == sorted(draws)
        assert [{*names[rows[draws == i]]} for i in range(3)] == [{names[rows[draws == i][0]]} for i in range(3)]
        for i in range(3):
            assert sorted(rows[draws == i]) == np.flatnonzero(names == names[rows[draws == i][0]]).tolist()
        seen.append(rows.tolist())
        return [rows.mean()]

    found = cluster_bootstrap(statistics, names, resamples=40, seed=3)
    first, seen = seen, []
    numbers = np.array([{"b": 7, "a": 9, "c": -1}[name] for name in names])
    assert cluster_bootstrap(statistics, numbers, resamples=40, seed=3) == found
    assert seen == first
    assert cluster_bootstrap(statistics, numbers, resamples=40, seed=4) != found


def test_resamples_without_a_value_are_counted() -> None:
    ratings = np.array([1.0] * 60 + [2.0] * 4)

    def statistics(rows: np.ndarray, draws: np.ndarray) -> list[float]:
        return [spearman(np.arange(64)[rows], ratings[rows]), NAN]

    some, none = cluster_bootstrap(statistics, np.arange(64), resamples=2000)
    assert some.n_undefined == pytest.approx(2000 * (60 / 64) ** 64, rel=0.5)
    assert 0 < some.low < some.high < 1
    assert none.n_undefined == 2000
    assert math.isnan(none.low)
    ratings[61:] = 1  # one differs: a third of the resamples miss it
    missed = cluster_bootstrap(statistics, np.arange(64), resamples=500)[0]
    assert math.isnan(missed.low)
    assert missed.n_undefined / 500 == pytest.approx(math.exp(-1), abs=0.08)


def test_intervals_of_clusters_cover_and_those_of_samples_do_not() -> None:
    random, owner = np.random.default_rng(0), np.arange(240) // 8
    clustered = plain = 0
    for seed in range(200):
        x = random.normal(size=30)[owner] + random.normal(size=240)
        by_cluster = cluster_bootstrap(mean_of(x), owner, resamples=200, seed=seed)[0]
        by_sample = cluster_bootstrap(mean_of(x), np.arange(240), resamples=100, seed=seed)[0]
        clustered += by_cluster.low <= 0 <= by_cluster.high
        plain += by_sample.low <= 0 <= by_sample.high
    assert 0.9 <= clustered / 200 <= 0.98
    assert plain / 200 < 0.75


def test_refusals() -> None:
    for function in (*CORRELATIONS, pairwise_accuracy):
        with pytest.raises(ShapeError, match="`ratings`"):
            function([1, 2, 3], [1, 2])
        with pytest.raises(ShapeError, match="`scores`"):
            function([[1, 2]], [1])
        with pytest.raises(ValueRangeError, match="`scores`"):
            function([1, NAN], [1, 2])
        with pytest.raises(NotEnoughSamples, match="2"):
            function([1], [2])
    with pytest.raises(ShapeError, match="`groups`"):
        pairwise_accuracy([1, 2], [1, 2], [0])
    with pytest.raises(UnknownName, match="'quadratic'; got 'squared'"):
        cohen_kappa([1], [1], weights="squared")
    with pytest.raises(UnknownName, match="`b` must be one of 1, 2; got 3"):
        cohen_kappa([1, 2], [2, 3], categories=[1, 2])
    with pytest.raises(ShapeError, match="`a` and `b`"):
        cohen_kappa([1, 2], [2])
    with pytest.raises(NotEnoughSamples, match="kappa"):
        cohen_kappa([], [])
    with pytest.raises(UnknownName, match="'interval'; got 'ratio'"):
        krippendorff_alpha(OBSERVERS, "ratio")
    with pytest.raises(ShapeError, match="`table`"):
        krippendorff_alpha([1, 2])
    with pytest.raises(ValueRangeError, match="`table`"):
        krippendorff_alpha([[1, math.inf], [1, 2]])
    with pytest.raises(NotEnoughSamples, match="bootstrap of clusters"):
        cluster_bootstrap(mean_of(np.ones(3)), np.zeros(3))
    with pytest.raises(ValueRangeError, match="`resamples`"):
        cluster_bootstrap(mean_of(np.ones(3)), np.arange(3), resamples=0)
    with pytest.raises(ValueRangeError, match="`confidence`"):
        cluster_bootstrap(mean_of(np.ones(3)), np.arange(3), confidence=95)
