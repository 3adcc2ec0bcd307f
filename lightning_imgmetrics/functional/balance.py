"""Balance of attribute labels, such as the perceived gender of people in images, against a target distribution."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError, ValueRangeError


def kl_divergence(counts: Tensor, target: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the observed shares p from the target q, counts (..., k) -> (...) nats, >= 0.

    sum p log(p / q), q (k,) summing to 1. A label that never occurs adds 0; one that occurs although its target is 0
    makes it infinite. Plug-in estimate: for n balanced independent labels it is biased upward by about (k - 1) / 2n.

    >>> kl_divergence(torch.tensor([30, 10]), torch.tensor([0.5, 0.5]))
    tensor(0.1308, dtype=torch.float64)
    """
    p, q = _shares(counts, target)
    return torch.where(p > 0, p * (p / q).log(), 0).sum(-1).clamp(min=0)


def largest_skew(counts: Tensor, target: Tensor) -> Tensor:
    """Largest |log(p / q)| over the labels of observed shares p and target q, counts (..., k) -> (...) nats, >= 0.

    log 2 = 0.69: some label occurs twice or half as often as it should. Infinite if a label never occurs although its
    target is not 0, or the other way round; 0 and 0 agree. Source: Geyik et al. 2019.

    >>> largest_skew(torch.tensor([30, 10]), torch.tensor([0.5, 0.5]))
    tensor(0.6931, dtype=torch.float64)
    """
    p, q = _shares(counts, target)
    return torch.where(p == q, 0, (p / q).log().abs()).amax(-1)


def total_variation(counts: Tensor, target: Tensor) -> Tensor:
    """Total variation distance of observed shares and target, counts (..., k) -> (...) in [0, 1].

    Half the sum of |p - q|: the share of images whose label would have to change. Defined for zero counts too.

    >>> total_variation(torch.tensor([30, 10]), torch.tensor([0.5, 0.5]))
    tensor(0.2500, dtype=torch.float64)
    """
    p, q = _shares(counts, target)
    return (p - q).abs().sum(-1) / 2


def balance_interval(
    counts: Tensor,
    target: Tensor,
    statistic: Callable[[Tensor, Tensor], Tensor] = kl_divergence,
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """`statistic` of the counts (p, k) summed over p >= 2 prompts, and its interval -> (value, low, high).

    Percentiles of the Bayesian bootstrap over prompts: with Dirichlet weights, samples of one prompt need not be
    independent and no label vanishes by chance. These statistics are non-negative and biased upward: near balance the
    interval lies above the true value. The same seed gives the same interval. Source: Rubin 1981.

    >>> value, low, high = balance_interval(torch.tensor([[4, 0], [1, 3]]), torch.tensor([0.5, 0.5]), total_variation)
    >>> value, 0 <= low <= high <= 0.5
    (0.125, True)
    """
    prompts = bind_shapes(counts=(counts, "p k"), target=(target, "k"))["p"]
    if prompts < 2:
        raise NotEnoughSamples("the bootstrap of prompts", prompts, 2, "one prompt shows no spread")
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueRangeError(
            f"`resamples` must be at least 1 and `confidence` in (0, 1), got {resamples} and {confidence:g}"
        )
    counts, target = counts.detach().cpu().double(), target.detach().cpu().double()
    value = float(statistic(counts.sum(0), target))
    generator, rows = torch.Generator().manual_seed(seed), max(1, (1 << 20) // prompts)
    values = []
    for start in range(0, resamples, rows):
        weights = counts.new_empty(min(rows, resamples - start), prompts).exponential_(generator=generator)
        values.append(statistic(weights @ counts, target))  # unnormalized: shares do not depend on the weights' scale
    levels = counts.new_tensor([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = torch.cat(values).quantile(levels, interpolation="nearest").tolist()  # interpolating infinities is NaN
    return value, low, high


def _shares(counts: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Observed shares (..., k) and target shares (k,), both float64 and each summing to 1."""
    labels = bind_shapes(target=(target, "k"))["k"]
    if counts.ndim < 1 or counts.shape[-1] != labels:
        raise ShapeError(f"`counts` must be (..., k) with k = {labels}, got shape {tuple(counts.shape)}")
    p, q = counts.double(), target.double()
    if not ((q >= 0).all() and abs(float(q.sum()) - 1) < 1e-4):
        raise ValueRangeError(f"`target` must be shares that sum to 1, got {target.tolist()}")
    if not ((p >= 0) & p.isfinite()).all():
        raise ValueRangeError("`counts` must be finite and not negative")
    total = p.sum(-1, keepdim=True)
    if (total == 0).any():
        raise NotEnoughSamples("`counts`", 0, 1, "shares of no label are undefined")
    return p / total, q / q.sum()
