"""Statistics of scores of several samples per prompt: scores (n,) and, as `groups` (n,), the integer of each's prompt.

The order of the samples does not matter, to the last bit: they are sorted by prompt and score before anything is added.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import NotEnoughSamples, ValueRangeError


class PromptStatistics(NamedTuple):
    """One row per prompt, ascending; `variance` is unbiased, and NaN where a prompt has one sample."""

    prompt: Tensor
    n: Tensor
    mean: Tensor
    variance: Tensor
    minimum: Tensor
    maximum: Tensor


def prompt_statistics(scores: Tensor, groups: Tensor) -> PromptStatistics:
    """Count, mean, variance, minimum and maximum of each of p prompts: six tensors (p,), float64 but the first two.

    scores (n,), n >= 1, finite; groups (n,) integers. ShapeError, ValueRangeError, NotEnoughSamples otherwise.
    """
    x, prompt, count = _sorted(scores, groups)
    ends = count.cumsum(0)
    low, high = x[ends - count], x[ends - 1]
    away = x - low.repeat_interleave(count)  # equal scores have exactly their mean and no variance
    middle = _sums(away, count) / count
    scatter = _sums((away - middle.repeat_interleave(count)).square(), count)
    variance = torch.where(count > 1, scatter / (count - 1), torch.nan)
    return PromptStatistics(prompt, count, low + middle, variance, low, high)


def best_of_k(scores: Tensor, groups: Tensor, k: int) -> Tensor:
    """Expected maximum of k scores drawn without replacement from a prompt's, averaged over the prompts -> scalar.

    Exact, as if over all subsets of k: the i-th smallest of n is their maximum with probability C(i-1, k-1) / C(n, k).
    Prompts with fewer than k samples are left out; NotEnoughSamples where none is left. float64, in the unit of scores.
    """
    if k < 1:
        raise ValueRangeError(f"`k` must be at least 1, got {k}")
    x, _, count = _sorted(scores, groups)
    if (count < k).all():
        raise NotEnoughSamples("the largest prompt", int(count.max()), k, f"k = {k} are drawn without replacement")
    owner = count.repeat_interleave(count)
    totals = []
    for n in count[count >= k].unique().tolist():
        totals.append((x[owner == n].unflatten(0, (-1, n)) * _weights(n, k).to(x)).sum())
    return torch.stack(totals).sum() / (count >= k).sum()


def worst_of_k(scores: Tensor, groups: Tensor, k: int) -> Tensor:
    """Expected minimum of k scores of a prompt, averaged over the prompts -> scalar; otherwise as `best_of_k`."""
    return -best_of_k(-scores.double(), groups, k)


def variance_components(scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Variance between prompts and within prompts of a random-effects model, scalars float64 in squared score units.

    The unbiased method of moments for unequal counts n_p: within = MSW, between = (MSB - MSW) / n0 with
    n0 = (n - sum n_p^2 / n) / (p - 1). Between may be below 0: the means of prompts differ less than the samples of one
    prompt would make them, so it is zero as far as can be told. It is not cut off, which would bias averages of it.
    Needs two prompts and one with two samples (NotEnoughSamples). Source: Searle, Casella & McCulloch 1992, ch. 3.
    """
    each = prompt_statistics(scores, groups)
    n, p = int(each.n.sum()), len(each.n)
    if p < 2:
        raise NotEnoughSamples("the variance between prompts", p, 2, "samples of one prompt do not show it")
    if n == p:
        raise NotEnoughSamples("the variance within prompts", 1, 2, "no prompt has a second sample")
    within = (each.variance * (each.n - 1)).nansum() / (n - p)
    away = each.mean - each.mean.min()
    away = away - (each.n * away).sum() / n
    effective = (n - each.n.double().square().sum() / n) / (p - 1)
    return ((each.n * away.square()).sum() / (p - 1) - within) / effective, within


def intraclass_correlation(scores: Tensor, groups: Tensor) -> Tensor:
    """ICC(1): the share of variance that lies between prompts, between / (between + within) -> scalar float64, <= 1.

    1 where the prompt decides all, about 0 or below where it decides nothing (see `variance_components`); NaN where all
    scores are equal. Source: Donner 1986.
    """
    between, within = variance_components(scores, groups)
    return between / (between + within)


def prompt_mean(scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over prompts of their means and its standard error clustered by prompt, scalars float64.

    Each of p >= 2 prompts counts once, however many samples it has; the error is the standard deviation of the means of
    prompts over sqrt(p), so samples of one prompt need not be independent. NotEnoughSamples for one prompt.
    """
    means = prompt_statistics(scores, groups).mean
    p = len(means)
    if p < 2:
        raise NotEnoughSamples("the error clustered by prompt", p, 2, "one prompt shows no spread")
    return means.mean(), means.std() / p**0.5


def _weights(n: int, k: int) -> Tensor:
    """Probability (n,) that the i-th smallest of n is the largest of k of them: a product of ratios from the last."""
    i = torch.arange(n, 1, -1, dtype=torch.float64)
    ratios = (i - k).clamp(min=0) / (i - 1)
    return torch.cat([ratios.new_tensor([k / n]), ratios]).cumprod(0).flip(0)


def _sorted(scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (n,) float64 ascending within ascending prompts, the prompts (p,) and their counts (p,)."""
    if not bind_shapes(scores=(scores, "n"), groups=(groups, "n"))["n"]:
        raise NotEnoughSamples("`scores`", 0, 1, "a statistic of no sample is undefined")
    if groups.is_floating_point() or groups.is_complex():
        raise ValueRangeError(f"`groups` must be integers that name prompts, got {groups.dtype}")
    x = scores.double()
    if not x.isfinite().all():
        raise ValueRangeError("`scores` must be finite, got NaN or infinity")
    x, order = x.sort()
    by_prompt = groups[order].argsort(stable=True)
    prompt, count = groups.unique(return_counts=True)
    return x[by_prompt], prompt, count


def _sums(x: Tensor, count: Tensor) -> Tensor:
    """Sums (p,) of consecutive runs of `count` (p,) values each, in the same order every time."""
    return torch.segment_reduce(x, "sum", lengths=count)
