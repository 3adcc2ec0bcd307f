"""Agreement between raters, or between a judge's scores and human ratings; arrays in, plain numbers out.

A statistic that is undefined for the data, such as a correlation with constant ratings, is NaN.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import kendalltau, rankdata

from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError, UnknownName, ValueRangeError

WEIGHTS = (None, "linear", "quadratic")
LEVELS = ("nominal", "ordinal", "interval")


def pearson(scores: ArrayLike, ratings: ArrayLike) -> float:
    """Pearson's correlation of scores (n,) and ratings (n,), n >= 2, in [-1, 1]; NaN if either is constant.

    >>> pearson([1, 2, 3], [1, 3, 2])
    0.5
    """
    x, y = _paired(scores=scores, ratings=ratings)
    return _correlation(x, y)


def spearman(scores: ArrayLike, ratings: ArrayLike) -> float:
    """Pearson's correlation of the ranks, with mean ranks for ties; otherwise as `pearson` (Spearman 1904).

    >>> spearman([1, 2, 30], [1, 3, 2])
    0.5
    """
    x, y = _paired(scores=scores, ratings=ratings)
    return _correlation(rankdata(x), rankdata(y))


def kendall(scores: ArrayLike, ratings: ArrayLike) -> float:
    """Kendall's tau-b of scores (n,) and ratings (n,), n >= 2, in [-1, 1]; NaN if either is constant.

    Concordant minus discordant pairs, over the geometric mean of the numbers of pairs that each side does not tie:
    a tie on one side alone moves the value toward 0. O(n log n). Source: Kendall 1945.

    >>> round(kendall([1, 2, 3], [1, 3, 2]), 4)
    0.3333
    """
    x, y = _paired(scores=scores, ratings=ratings)
    if _constant(x) or _constant(y):
        return math.nan
    p_value = "asymptotic" if len(x) > 2 else "exact"  # unused: the cheap one that is defined for this n
    return float(kendalltau(x, y, method=p_value).statistic)


def pairwise_accuracy(scores: ArrayLike, ratings: ArrayLike, groups: ArrayLike | None = None) -> float:
    """Share of the pairs of samples that scores (n,) order as ratings (n,) do, in [0, 1]; chance is 0.5.

    Only pairs within one of `groups` (n,), such as the images of one prompt, count; without it all pairs do. Pairs
    with tied ratings have no order and are left out; a pair that only the scores tie counts half, as for a coin toss.
    Equal to (1 + D) / 2 of Somers' D (1962) and to Harrell's concordance index (1982). Unlike the accuracy of Deutsch
    et al. 2023 it does not credit predicted ties; `kendall` takes ties into account. NaN without any pair. O(n log n).

    >>> pairwise_accuracy([0.9, 0.2, 0.5], [3, 1, 2])
    1.0
    """
    x, y = _paired(scores=scores, ratings=ratings)
    group = np.zeros(len(x), int) if groups is None else _group_numbers(groups, len(x))
    x, y = _rank_within(group, x), _rank_within(group, y)
    pairs, inside, untied = math.comb(len(x), 2), _ties(group), _ties(group) - _ties(y)
    if not untied:
        return math.nan
    if _ties(x) == pairs:
        return 0.5
    # Pairs across groups are all concordant here; subtracting them from tau-b's integer numerator leaves those inside.
    balance = math.sqrt((pairs - _ties(x)) * (pairs - _ties(y))) * kendall(x, y)  # concordant minus discordant
    return (1 + (round(balance) - (pairs - inside)) / untied) / 2


def cohen_kappa(
    a: ArrayLike, b: ArrayLike, *, weights: str | None = None, categories: ArrayLike | None = None
) -> float:
    """Cohen's kappa of the labels a (n,) and b (n,) of two raters: 1 is full agreement, 0 is chance level, <= 1.

    `weights`: the cost of a disagreement by the distance of the two labels in `categories` (default: the labels that
    occur, ascending): None (1 for all), "linear" or "quadratic". Pass the categories of a rating scale, as an unused
    one changes the distances. NaN if both raters gave one label throughout; n >= 1. Source: Cohen 1960, 1968.

    >>> cohen_kappa(["cat", "dog", "cat", "dog"], ["cat", "dog", "dog", "dog"])
    0.5
    """
    if weights not in WEIGHTS:
        raise UnknownName("weights", weights, WEIGHTS)
    first, second = np.asarray(a), np.asarray(b)
    if first.ndim != 1 or first.shape != second.shape:
        raise ShapeError(f"`a` and `b` must be (n,), got shapes {first.shape} and {second.shape}")
    if not len(first):
        raise NotEnoughSamples("Cohen's kappa", 0, 1, "agreement on no label is undefined")
    scale = np.unique(np.concatenate([first, second])) if categories is None else np.asarray(categories)
    k = len(scale)
    i, j = _index(first, scale, "a"), _index(second, scale, "b")
    observed = np.bincount(i * k + j, minlength=k * k).reshape(k, k) / len(first)
    distance = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    cost = {None: distance > 0, "linear": distance, "quadratic": distance**2}[weights]
    expected = (cost * np.outer(observed.sum(1), observed.sum(0))).sum()
    return float(1 - (cost * observed).sum() / expected) if expected > 0 else math.nan


def krippendorff_alpha(table: ArrayLike, level: str = "nominal") -> float:
    """Krippendorff's alpha of ratings (raters, units), missing ones NaN: 1 is full agreement, 0 is chance level.

    `level` of measurement: "nominal", "ordinal" or "interval". Units with fewer than two ratings are left out; raters
    are interchangeable. NaN if no unit has two ratings, or all are equal. O(n log n) for n ratings: sums over the
    coincidence matrix reduce to sums of squares within units and in total, for "ordinal" of mean ranks.
    Source: Krippendorff 2011, Computing Krippendorff's alpha-reliability.

    >>> krippendorff_alpha([[1, 2, 3], [1, 2, 3]], "interval")
    1.0
    """
    if level not in LEVELS:
        raise UnknownName("level", level, LEVELS)
    ratings = np.asarray(table, float)
    if ratings.ndim != 2:
        raise ShapeError(f"`table` must be (raters, units), got shape {ratings.shape}")
    if np.isinf(ratings).any():
        raise ValueRangeError("`table` must hold finite ratings or NaN, got infinity")
    ratings = ratings[:, (~np.isnan(ratings)).sum(0) > 1]
    units = np.nonzero(~np.isnan(ratings.T))[0]
    x = ratings.T[~np.isnan(ratings.T)]
    if not len(x) or _constant(x):
        return math.nan
    if level == "nominal":
        within, total = _disagreements(units, x), _disagreements(np.zeros_like(units), x)[0]
    else:
        x = rankdata(x) if level == "ordinal" else _standardize(x)
        within, total = _scatter(units, x), _scatter(np.zeros_like(units), x)[0]
    return float(1 - (len(x) - 1) * (within / (np.bincount(units) - 1)).sum() / total)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if _constant(x) or _constant(y):
        return math.nan
    x, y = _standardize(x), _standardize(y)
    return float(np.clip(x @ y / math.sqrt((x @ x) * (y @ y)), -1, 1))


def _disagreements(group: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Number of ordered pairs of different labels within each group."""
    _, first, count = np.unique(_rank_within(group, x), return_index=True, return_counts=True)
    return np.bincount(group) ** 2 - np.bincount(group[first], count**2)


def _scatter(group: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Sum of squared differences over the ordered pairs within each group."""
    count = np.bincount(group)
    deviation = x - (np.bincount(group, x) / count)[group]
    return 2 * count * np.bincount(group, deviation**2)


def _paired(**named: ArrayLike) -> list[np.ndarray]:
    """The arguments as finite float64 arrays (n,) of one length n >= 2."""
    arrays = {name: np.asarray(x, float) for name, x in named.items()}
    n = next(iter(arrays.values())).shape[:1]
    for name, x in arrays.items():
        if x.ndim != 1 or x.shape != n:
            raise ShapeError(f"`{name}` must be (n,), one per sample, got shape {x.shape}")
        if len(x) < 2:
            raise NotEnoughSamples(f"`{name}`", len(x), 2, "one sample has no order")
        if not np.isfinite(x).all():
            raise ValueRangeError(f"`{name}` must be finite, got NaN or infinity")
    return list(arrays.values())


def _group_numbers(groups: ArrayLike, n: int) -> np.ndarray:
    names = np.asarray(groups)
    if names.shape != (n,):
        raise ShapeError(f"`groups` must be ({n},), one per sample, got shape {names.shape}")
    return np.unique(names, return_inverse=True)[1]


def _rank_within(group: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Integers that order x (n,) within each group, those of a later group all above those of an earlier one."""
    rank = np.unique(x, return_inverse=True)[1]
    return group * (int(rank.max()) + 1) + rank


def _ties(x: np.ndarray) -> int:
    """Number of pairs of equal entries."""
    count = np.unique(x, return_counts=True)[1]
    return int((count * (count - 1) // 2).sum())


def _index(labels: np.ndarray, scale: np.ndarray, argument: str) -> np.ndarray:
    """Position (n,) of each label in `scale`; UnknownName for a label outside it."""
    order = np.argsort(scale)
    position = np.searchsorted(scale[order], labels).clip(max=len(scale) - 1)
    unknown = scale[order][position] != labels
    if unknown.any():
        raise UnknownName(argument, labels[unknown][0].item(), scale.tolist())
    return order[position]


def _constant(x: np.ndarray) -> bool:
    return bool((x == x[0]).all())


def _standardize(x: np.ndarray) -> np.ndarray:
    """x (n,), not constant, shifted and scaled to mean 0 and entries of about 1, without overflow at any magnitude."""
    x = np.ldexp(x, -int(np.frexp(np.abs(x).max())[1]))  # a power of two: exact, where a division is not
    x = x - x[0]
    x = x / np.abs(x).max()
    return x - x.mean()
