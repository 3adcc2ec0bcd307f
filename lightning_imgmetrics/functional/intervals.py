"""Confidence intervals in closed form; plain numbers out."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import norm, t
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import NotEnoughSamples, ValueRangeError


def mean_interval(mean: float, standard_error: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval of a mean over n >= 2 independent samples, in the unit of `mean` (Student 1908).

    >>> low, high = mean_interval(0.0, 1.0, 10)
    >>> round(low, 3), round(high, 3)
    (-2.262, 2.262)
    """
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * standard_error
    return mean - half, mean + half


def bounded_interval(
    mean: float, standard_error: float, n: int, bounds: tuple[float, float], confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of a mean over n >= 2 independent samples in `bounds` = (lowest, highest), which it never leaves.

    Wilson's interval for the effective number of trials at which a proportion has this standard error, with Student's
    quantile (n - 1 degrees of freedom): close to `mean_interval` away from the bounds, and Wilson's if all samples lie
    at the bounds. If all lie at one bound, each is one trial. Source: Korn & Graubard 1998, with Wilson's interval.

    >>> low, high = bounded_interval(0.98, 0.02, 20, (0, 1))
    >>> round(low, 3), round(high, 3)
    (0.884, 0.997)
    """
    check_confidence(confidence)
    low, width = bounds[0], bounds[1] - bounds[0]
    share, error = min(max((mean - low) / width, 0.0), 1.0), standard_error / width
    trials = float(n)
    if 0 < share < 1:
        if error == 0:
            return mean, mean
        trials = share * (1 - share) / error**2
    ends = _wilson(share * trials, trials, float(t.ppf((1 + confidence) / 2, n - 1)))
    below, above = (low + width * min(max(end, 0.0), 1.0) for end in ends)
    return min(below, mean), max(above, mean)


def win_interval(outcomes: Tensor, confidence: float = 0.95) -> tuple[float, float]:
    """Interval in [0, 1] of the mean outcome of n >= 1 independent comparisons, (n,): 1 a win, 0.5 a tie, 0 a loss.

    The mean is (1 + share of wins - share of losses) / 2, and the interval is the score interval of a difference of
    paired proportions (Tango 1998): Wilson's without ties, narrower with them. An outcome between two of these values
    counts as a fraction of each.

    >>> low, high = win_interval(torch.tensor([1.0, 1.0, 0.5, 0.0]))
    >>> round(low, 3), round(high, 3)
    (0.248, 0.889)
    """
    bind_shapes(outcomes=(outcomes, "n"))
    check_confidence(confidence)
    x = as_array(outcomes)
    if not len(x):
        raise NotEnoughSamples("the interval of a win rate", 0, 1, "a share of no comparison is undefined")
    if not ((x >= 0) & (x <= 1)).all():
        raise ValueRangeError("`outcomes` must lie in [0, 1]")
    lead = 2 * x - 1
    won, lost = float(lead.clip(min=0).sum()), float((-lead).clip(min=0).sum())
    z = float(norm.ppf((1 + confidence) / 2))
    return _lowest_win_rate(won, lost, len(x), z), 1 - _lowest_win_rate(lost, won, len(x), z)


def wilson_interval(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Interval (low, high) in [0, 1] of the probability behind `successes` of n > 0 independent trials (Wilson 1927).

    Both may be fractional, for effective sample sizes. ValueRangeError unless 0 <= successes <= n, 0 < confidence < 1.

    >>> low, high = wilson_interval(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    """
    if not n > 0:
        raise NotEnoughSamples("the Wilson interval", 0, 1, "a share of no trial is undefined")
    if not 0 <= successes <= n:
        raise ValueRangeError(f"`successes` must lie in [0, n = {n:g}], got {successes:g}")
    check_confidence(confidence)
    return _wilson(successes, n, float(norm.ppf((1 + confidence) / 2)))


def clustered_wilson_interval(outcomes: Tensor, groups: Tensor, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson interval of the share of ones in outcomes (n,) 0/1 that may depend on each other in g >= 2 groups (n,).

    n is divided by the design effect: the variance of the share between groups over that of independent outcomes, at
    least 1; the quantile is Student's with g - 1 degrees of freedom. If all outcomes are equal, the effect cannot be
    estimated and each group counts as one trial. Source: Korn & Graubard 1998, with Wilson's interval.

    >>> low, high = clustered_wilson_interval(torch.tensor([1, 1, 0, 1, 0, 0]), torch.tensor([0, 0, 1, 1, 2, 2]))
    >>> round(low, 3), round(high, 3)
    (0.036, 0.964)
    """
    n = bind_shapes(outcomes=(outcomes, "n"), groups=(groups, "n"))["n"]
    check_confidence(confidence)
    x = as_array(outcomes)
    if not np.isin(x, (0, 1)).all():
        raise ValueRangeError("`outcomes` must be 0 or 1")
    group = np.unique(groups.detach().cpu().numpy(), return_inverse=True)[1]
    count, ones = np.bincount(group), np.bincount(group, x)
    g = len(count)
    if g < 2:
        raise NotEnoughSamples("the clustered interval", g, 2, "one group shows no spread between groups")
    share = x.mean()
    independent = n * share * (1 - share)
    effect = n / g
    if independent > 0:
        effect = max(1.0, ((ones - share * count) ** 2).sum() * g / (g - 1) / independent)
    quantile = float(t.ppf((1 + confidence) / 2, g - 1))
    return _wilson(ones.sum() / effect, n / effect, quantile)


def check_confidence(confidence: float) -> None:
    """ValueRangeError unless it lies in (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueRangeError(f"`confidence` must lie in (0, 1), got {confidence:g}")


def _wilson(successes: float, n: float, z: float) -> tuple[float, float]:
    def low(s: float) -> float:
        return float((2 * s + z * z - z * np.sqrt(z * z + 4 * s * (1 - s / n))) / (2 * (n + z * z)))

    return low(successes), 1 - low(n - successes)


def _lowest_win_rate(won: float, lost: float, n: int, z: float) -> float:
    """The lower end of `win_interval`: where the score statistic of the difference equals z, by bisection."""
    low, high = -1.0, (won - lost) / n
    for _ in range(60):
        d = (low + high) / 2
        b, c = (2 * n - won + lost) * d - won - lost, -lost * d * (1 - d)
        losses = (np.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)  # maximum likelihood given the difference d
        variance = n * (2 * losses + d * (1 - d))
        low, high = (d, high) if (won - lost - n * d) ** 2 > z * z * variance else (low, d)
    return (1 + high) / 2


def as_array(x: Tensor) -> np.ndarray:
    """A float64 array on the CPU, detached."""
    return x.detach().to("cpu", torch.float64).numpy()
