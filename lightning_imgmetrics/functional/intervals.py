"""Confidence intervals."""

from __future__ import annotations

from scipy.stats import t


def mean_interval(mean: float, standard_error: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval of a mean over n >= 2 independent samples, in the unit of `mean` (Student 1908)."""
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * standard_error
    return mean - half, mean + half
