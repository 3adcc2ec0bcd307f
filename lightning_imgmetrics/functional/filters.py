"""Separable windows, applied as shifted sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def correlate1d(x: Tensor, taps: Sequence[float], axis: int) -> Tensor:
    """Weighted sum over a window along `axis`, at the positions where the window fits."""
    size = x.shape[axis] - len(taps) + 1
    result = x.narrow(axis, 0, size) * taps[0]
    for i, tap in enumerate(taps[1:], 1):
        result.add_(x.narrow(axis, i, size), alpha=tap)
    return result


def gaussian_window(size: int, sigma: float) -> tuple[float, ...]:
    """`size` taps of a Gaussian around the middle, which sum to 1."""
    taps = [math.exp(-0.5 * ((i - size // 2) / sigma) ** 2) for i in range(size)]
    return tuple(tap / sum(taps) for tap in taps)
