"""Statistics of scores with several samples per prompt: scores (n,) and `groups` (n,), an integer for each prompt.

Results do not depend on the order of the samples, to the last bit: they are sorted by prompt and score before summing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import NotEnoughSamples, ValueRangeError


class PromptStatistics(NamedTuple):
    """One row per prompt, ascending; `variance` is unbiased, and NaN for a prompt with one sample."""

    prompt: Tensor
    n: Tensor
    mean: Tensor
    variance: Tensor
    minimum: Tensor
    maximum: Tensor


def per_prompt_statistics(scores: Tensor, groups: Tensor) -> PromptStatistics:
    """Prompt, count, mean, variance, minimum and maximum of each of p prompts: tensors (p,), the first two int64.

    scores (n,), n >= 1, finite; groups (n,) integers. ShapeError, ValueRangeError, NotEnoughSamples otherwise.

    >>> per_prompt_statistics(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 7])).mean
    tensor([2., 5.], dtype=torch.float64)
    """
    x, prompt, count = _sorted(scores, groups)
    ends = count.cumsum(0)
    low, high = x[ends - count], x[ends - 1]
    excess = x - low.repeat_interleave(count)  # so that the mean of equal scores is exact and their variance 0
    mean_excess = _sums(excess, count) / count
    scatter = _sums((excess - mean_excess.repeat_interleave(count)).square(), count)
    variance = torch.where(count > 1, scatter / (count - 1), torch.nan)
    return PromptStatistics(prompt, count, low + mean_excess, variance, low, high)


def best_of_k(scores: Tensor, groups: Tensor, k: int) -> Tensor:
    """Expected maximum of k scores drawn without replacement from a prompt's, averaged over the prompts -> scalar.

    Exact, over all subsets of k: the i-th smallest of n is their maximum with probability C(i-1, k-1) / C(n, k).
    Prompts with fewer than k samples are left out; NotEnoughSamples if none is left. float64, in the unit of scores.

    >>> best_of_k(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 0]), k=2)
    tensor(2.6667, dtype=torch.float64)
    """
    if k < 1:
        raise ValueRangeError(f"`k` must be at least 1, got {k}")
    x, _, count = _sorted(scores, groups)
    if (count < k).all():
        raise NotEnoughSamples("the largest prompt", int(count.max()), k, f"k = {k} are drawn without replacement")
    size = count.repeat_interleave(count)
    totals = []
    for n in count[count >= k].unique().tolist():
        totals.append((x[size == n].unflatten(0, (-1, n)) * _weights(n, k).to(x)).sum())
    return torch.stack(totals).sum() / (count >= k).sum()


def worst_of_k(scores: Tensor, groups: Tensor, k: int) -> Tensor:
    """Expected minimum of k scores of a prompt, averaged over the prompts -> scalar; otherwise as `best_of_k`.

    >>> worst_of_k(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 0]), k=2)
    tensor(1.3333, dtype=torch.float64)
    """
    return -best_of_k(-scores.double(), groups, k)


def variance_components(scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Variance between prompts and within prompts of a random-effects model, scalars float64 in squared score units.

    The unbiased method of moments for unequal counts n_p: within = MSW, between = (MSB - MSW) / n0 with
    n0 = (n - sum n_p^2 / n) / (p - 1). Between may be negative: then the means of prompts differ less than expected
    from the variance within prompts. It is not clipped at 0, which would bias averages of it. NotEnoughSamples unless
    there are two prompts, one of them with two samples. Source: Searle, Casella & McCulloch 1992, ch. 3.

    >>> variance_components(torch.tensor([1.0, 2.0, 4.0, 5.0]), torch.tensor([0, 0, 1, 1]))
    (tensor(4.2500, dtype=torch.float64), tensor(0.5000, dtype=torch.float64))
    """
    by_prompt = per_prompt_statistics(scores, groups)
    n, p = int(by_prompt.n.sum()), len(by_prompt.n)
    if p < 2:
        raise NotEnoughSamples("the variance between prompts", p, 2, "samples of one prompt do not show it")
    if n == p:
        raise NotEnoughSamples("the variance within prompts", 1, 2, "no prompt has a second sample")
    within = (by_prompt.variance * (by_prompt.n - 1)).nansum() / (n - p)
    deviation = by_prompt.mean - by_prompt.mean.min()
    deviation = deviation - (by_prompt.n * deviation).sum() / n
    effective = (n - by_prompt.n.double().square().sum() / n) / (p - 1)
    return ((by_prompt.n * deviation.square()).sum() / (p - 1) - within) / effective, within


def intraclass_correlation(scores: Tensor, groups: Tensor) -> Tensor:
    """ICC(1): the share of variance that lies between prompts, between / (between + within) -> scalar float64, <= 1.

    1 if the prompt determines the score, about 0 or below if it has no effect (see `variance_components`); NaN if all
    scores are equal. Source: Donner 1986.

    >>> intraclass_correlation(torch.tensor([1.0, 2.0, 4.0, 5.0]), torch.tensor([0, 0, 1, 1]))
    tensor(0.8947, dtype=torch.float64)
    """
    between, within = variance_components(scores, groups)
    return between / (between + within)


def prompt_mean(scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over prompts of their means and its standard error clustered by prompt, scalars float64.

    Each of p >= 2 prompts has the same weight, however many samples it has; the error is the standard deviation of the
    means of prompts over sqrt(p), so samples of one prompt need not be independent. NotEnoughSamples for one prompt.

    >>> prompt_mean(torch.tensor([1.0, 3.0, 4.0]), torch.tensor([0, 0, 1]))
    (tensor(3., dtype=torch.float64), tensor(1., dtype=torch.float64))
    """
    means = per_prompt_statistics(scores, groups).mean
    p = len(means)
    if p < 2:
        raise NotEnoughSamples("the error clustered by prompt", p, 2, "one prompt shows no spread")
    return means.mean(), means.std() / p**0.5


def _weights(n: int, k: int) -> Tensor:
    """Probability (n,) that the i-th smallest of n is the largest of k of them: products of ratios, from the last."""
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
    """Sums (p,) of consecutive runs of `count` (p,) values each, always in the same order."""
    return torch.segment_reduce(x, "sum", lengths=count)
