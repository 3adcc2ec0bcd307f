"""Jackknife, bootstrap and extrapolation: errors and intervals of any statistic; plain numbers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import NotEnoughSamples, ValueRangeError
from lightning_imgmetrics.functional.intervals import as_array, check_confidence


def jackknife(
    value: float | Tensor,
    leave_out: Tensor,
    bias_correct: bool = True,
    *,
    sizes: Tensor | None = None,
    total: int | None = None,
) -> tuple[float, float]:
    """Estimate and standard error of a statistic by leaving out one of g >= 2 groups of samples at a time.

    `value` from all samples, `leave_out` (g,) without each group; both results are in their unit. Groups have equal
    weight (Shao & Wu 1989) or, with `sizes` (g,) > 0, that of so many of `total` samples (default: their sum; Busing
    et al. 1999), which is the same for equal sizes. `bias_correct=False` returns `value` itself with the error.

    >>> import torch
    >>> jackknife(2.0, torch.tensor([2.5, 2.0, 1.5]))  # the mean of 1, 2 and 3
    (2.0, 0.5773502691896257)
    """
    bind_shapes(leave_out=(leave_out, "g"))
    left = as_array(leave_out)
    g = len(left)
    if g < 2:
        raise NotEnoughSamples("the jackknife", g, 2, "each value leaves out one group and keeps the others")
    if sizes is None:
        times = np.full(g, float(g))
    else:
        bind_shapes(leave_out=(leave_out, "g"), sizes=(sizes, "g"))
        weights = as_array(sizes)
        times = (weights.sum() if total is None else total) / weights
    estimate = g * float(value) - ((1 - 1 / times) * left).sum()
    pseudo = times * float(value) - (times - 1) * left
    error = float(np.sqrt(((pseudo - estimate) ** 2 / (times - 1)).mean()))
    return (float(estimate) if bias_correct else float(value)), error


def extrapolate(n: Tensor, values: Tensor) -> tuple[float, float]:
    """Value at infinitely many samples and its standard error: least squares of values (m,) on 1 / n (m,).

    For statistics with a bias proportional to 1 / n, such as FID (Chong & Forsyth 2020). The error assumes independent
    values; overlapping samples make it too small. Needs m >= 3 and two different n.

    >>> import torch
    >>> value, error = extrapolate(torch.tensor([100, 200, 400]), torch.tensor([11.0, 10.5, 10.25]))
    >>> round(value, 6), round(error, 6)
    (10.0, 0.0)
    """
    bind_shapes(n=(n, "m"), values=(values, "m"))
    inverse, heights = 1 / as_array(n), as_array(values)
    if len(inverse) < 3 or len(np.unique(inverse)) < 2:
        raise NotEnoughSamples("the extrapolation", len(np.unique(inverse)), 3, "a line and its error need 3 values")
    deviation, mean = inverse - inverse.mean(), inverse.mean()
    slope = (deviation @ heights) / (deviation @ deviation)
    intercept = heights.mean() - slope * mean
    variance = ((heights - intercept - slope * inverse) ** 2).sum() / (len(inverse) - 2)
    return float(intercept), float(np.sqrt(variance * (1 / len(inverse) + mean**2 / (deviation @ deviation))))


def paired_bootstrap(
    a: Tensor, b: Tensor, *, seed: int = 0, resamples: int = 10000, confidence: float = 0.95
) -> tuple[float, float, float, float]:
    """Difference of the means of paired scores a (n,), b (n,), its percentile interval and two-sided p-value.

    -> (mean a - mean b, low, high, p), n >= 2, p in (0, 1]: the share of resamples whose difference deviates from the
    observed one by at least the observed one's distance from 0, the observed one included (Efron & Tibshirani 1993).

    >>> import torch
    >>> paired_bootstrap(torch.tensor([3.0, 4.0, 5.0]), torch.tensor([1.0, 2.0, 3.0]), resamples=99)
    (2.0, 2.0, 2.0, 0.01)
    """
    bind_shapes(a=(a, "n"), b=(b, "n"))
    difference = as_array(a) - as_array(b)
    n = len(difference)
    if n < 2:
        raise NotEnoughSamples("the paired bootstrap", n, 2, "one pair shows no spread")
    generator, rows = np.random.default_rng(seed), max(1, (1 << 20) // n)
    counts = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    means = np.concatenate([difference[generator.integers(0, n, (count, n))].mean(1) for count in counts])
    observed = difference.mean()
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    noise = 1e-12 * np.abs(difference).max()  # rounding must not make equal deviations differ
    extreme = (np.abs(means - observed) >= abs(observed) - noise).sum()
    return float(observed), float(low), float(high), float((1 + extreme) / (1 + resamples))


class BootstrapInterval(NamedTuple):
    """Percentile interval of a statistic, NaN if there is none, and the number of resamples that left it undefined."""

    low: float
    high: float
    n_undefined: int


def cluster_bootstrap(
    statistics: Callable[[np.ndarray, np.ndarray], Sequence[float]],
    clusters: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> list[BootstrapInterval]:
    """Percentile intervals of several statistics of n samples, resampled by whole clusters (n,), g >= 2 of them.

    `statistics(rows, draws)` returns them for samples (m,) and the number (m,) of the draw that each came with: a
    cluster drawn twice counts as two. Resamples for which a statistic is NaN are left out of its interval and counted;
    if they exceed 1 - `confidence` of all, the interval is NaN, as it could lie anywhere. The names of clusters do not
    matter, but their order of first appearance does. Sources: Efron & Tibshirani 1993; Davison & Hinkley 1997, ch. 3.8.

    >>> scores = np.array([1.0, 1.0, 3.0, 3.0])
    >>> cluster_bootstrap(lambda rows, draws: [scores[rows].mean()], np.array([0, 0, 1, 1]), resamples=99)
    [BootstrapInterval(low=1.0, high=3.0, n_undefined=0)]
    """
    check_confidence(confidence)
    if resamples < 1:
        raise ValueRangeError(f"`resamples` must be at least 1, got {resamples}")
    _, first, cluster = np.unique(clusters, return_index=True, return_inverse=True)
    g = len(first)
    if g < 2:
        raise NotEnoughSamples("the bootstrap of clusters", g, 2, "one cluster shows no spread")
    rank = np.argsort(np.argsort(first))[cluster]
    sizes = np.bincount(rank)
    members = np.split(np.argsort(rank, kind="stable"), sizes.cumsum()[:-1])
    generator, values = np.random.default_rng(seed), []
    for _ in range(resamples):
        draw = generator.integers(0, g, g)
        values.append(statistics(np.concatenate([members[i] for i in draw]), np.repeat(np.arange(g), sizes[draw])))
    return [_percentiles(column, confidence) for column in np.array(values, float).T]


def _percentiles(values: np.ndarray, confidence: float) -> BootstrapInterval:
    defined = values[~np.isnan(values)]
    n_undefined = len(values) - len(defined)
    if not len(defined) or n_undefined > (1 - confidence) * len(values):
        return BootstrapInterval(np.nan, np.nan, n_undefined)
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return BootstrapInterval(float(low), float(high), n_undefined)
