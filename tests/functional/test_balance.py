"""Balance of labels where mathematics gives the number, and what its interval covers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.stats import entropy
from torch import Tensor

from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError, ValueRangeError
from lightning_imgmetrics.functional.balance import balance_interval, kl_divergence, largest_skew, total_variation

STATISTICS = (kl_divergence, largest_skew, total_variation)


def shares(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def uniform(k: int) -> Tensor:
    return torch.full((k,), 1 / k)


def samples(prompts: int, each: int, target: Tensor, concentration: float, seed: int) -> Tensor:
    """Counts (prompts, k): each prompt has its own Dirichlet shares, around `target`."""
    random = np.random.default_rng(seed)
    own = random.dirichlet(concentration * target.numpy(), size=prompts)
    return torch.from_numpy(random.multinomial(each, own))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_counts_in_the_shares_of_the_target_are_balanced(statistic: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert float(statistic(torch.tensor([5, 15, 30]), shares(0.1, 0.3, 0.6))) == pytest.approx(0, abs=1e-15)
    assert float(statistic(torch.tensor([7, 7, 7]), uniform(3))) == pytest.approx(0, abs=1e-7)
    assert float(statistic(torch.tensor([4, 0]), shares(1, 0))) == 0


def test_rounding_makes_no_divergence_negative() -> None:
    weights = torch.randint(1, 50, (200, 7), generator=torch.Generator().manual_seed(0)).double()
    found = torch.stack([kl_divergence(3 * w, w / w.sum()) for w in weights])
    assert 0 <= float(found.min()) <= float(found.max()) < 1e-15


def test_a_known_imbalance() -> None:
    counts, target = torch.tensor([30, 10]), shares(0.5, 0.5)
    assert float(kl_divergence(counts, target)) == pytest.approx(
        math.log(2) + 0.75 * math.log(0.75) + math.log(0.25) / 4
    )
    assert float(largest_skew(counts, target)) == pytest.approx(math.log(2), rel=1e-12)
    assert float(total_variation(counts, target)) == 0.25


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=6), st.integers(1, 5))
def test_statistics_are_their_definitions(pairs: list[tuple[int, int]], scale: int) -> None:
    counts, weights = (np.array(x, dtype=float) for x in zip(*pairs, strict=True))
    if counts.sum() == 0:
        counts[0] = 1
    p, q = counts / counts.sum(), weights / weights.sum()
    x, target = scale * torch.from_numpy(counts), torch.from_numpy(q)
    assert float(kl_divergence(x, target)) == pytest.approx(entropy(p, q), rel=1e-9, abs=1e-12)
    assert float(total_variation(x, target)) == pytest.approx(sum(np.clip(p - q, 0, None)), rel=1e-9, abs=1e-12)
    skew = max(abs(math.log(a / b)) if a > 0 else math.inf for a, b in zip(p, q, strict=True))
    assert float(largest_skew(x, target)) == pytest.approx(skew, rel=1e-9, abs=1e-12)
    assert float(total_variation(x, target)) <= math.sqrt(float(kl_divergence(x, target)) / 2) + 1e-9  # Pinsker


def test_labels_that_never_appear() -> None:
    missing, unexpected = (torch.tensor([8, 0]), shares(0.5, 0.5)), (torch.tensor([4, 4]), shares(1, 0))
    assert float(kl_divergence(*missing)) == pytest.approx(math.log(2), rel=1e-12)
    assert float(kl_divergence(*unexpected)) == math.inf
    assert float(largest_skew(*missing)) == float(largest_skew(*unexpected)) == math.inf
    assert float(total_variation(*missing)) == float(total_variation(*unexpected)) == 0.5


def test_bias_of_the_divergence_is_as_documented() -> None:
    counts = torch.from_numpy(np.random.default_rng(0).multinomial(500, [0.25] * 4, size=4000))
    assert float(kl_divergence(counts, uniform(4)).mean()) == pytest.approx(3 / (2 * 500), rel=0.05)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_leading_axes_are_scored_apart(statistic: Callable[[Tensor, Tensor], Tensor]) -> None:
    counts = torch.arange(1, 25).unflatten(0, (2, 3, 4))
    each = [[statistic(row, uniform(4)) for row in rows] for rows in counts]
    assert torch.equal(statistic(counts, uniform(4)), torch.stack([torch.stack(x) for x in each]))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_interval_is_seeded_and_around_the_value(statistic: Callable[[Tensor, Tensor], Tensor]) -> None:
    counts, target = samples(40, 6, shares(0.6, 0.3, 0.1), 5.0, seed=0), uniform(3)
    before = torch.get_rng_state()
    value, low, high = balance_interval(counts, target, statistic)
    assert torch.equal(torch.get_rng_state(), before)
    assert value == float(statistic(counts.sum(0), target))
    assert low < value < high
    assert balance_interval(counts, target, statistic) == (value, low, high)
    assert balance_interval(counts, target, statistic, seed=1) != (value, low, high)
    narrow = balance_interval(counts, target, statistic, confidence=0.5)
    assert low < narrow[1] < narrow[2] < high


def test_many_prompts_are_resampled_in_blocks() -> None:
    """With one sample per prompt the interval has the width of a binomial share."""
    counts = samples(3000, 1, uniform(2), 5.0, seed=0)
    value, low, high = balance_interval(counts, shares(0.4, 0.6), total_variation, resamples=1000)
    error = math.sqrt(0.25 / 3000)
    assert value == pytest.approx(0.1, abs=4 * error)
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.1)


def test_samples_of_one_prompt_are_not_taken_as_independent() -> None:
    """Prompts whose samples all agree carry one label each: ten copies of it add nothing."""
    once = torch.eye(2, dtype=torch.int64)[(torch.arange(60) % 3 == 0).long()]
    target = shares(0.5, 0.5)
    assert balance_interval(10 * once, target) == pytest.approx(balance_interval(once, target), rel=1e-9)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_interval_covers_the_truth(statistic: Callable[[Tensor, Tensor], Tensor]) -> None:
    """300 studies of 50 dependent prompts, far from balance: 0.95, but for 4 errors of 0.0126 and 0.02 of bias."""
    truth, target = shares(0.6, 0.3, 0.1), uniform(3)
    true = float(statistic(truth, target))
    covered = 0
    for seed in range(300):
        _, low, high = balance_interval(samples(50, 5, truth, 4.0, seed), target, statistic, resamples=300)
        covered += low <= true <= high
    assert 0.88 <= covered / 300 <= 0.99


def test_an_infinite_skew_has_an_infinite_interval() -> None:
    counts = torch.tensor([[3, 1, 0], [1, 3, 0]])
    assert balance_interval(counts, uniform(3), largest_skew, resamples=50) == (math.inf, math.inf, math.inf)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_refused_input(statistic: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ShapeError, match="`counts`"):
        statistic(torch.ones(3), uniform(2))
    with pytest.raises(ShapeError, match="`target`"):
        statistic(torch.ones(2), torch.ones(1, 2) / 2)
    for target in ([0.5, 0.6], [1.5, -0.5], [math.nan, 1.0]):
        with pytest.raises(ValueRangeError, match="`target`"):
            statistic(torch.ones(2), torch.tensor(target))
    for counts in ([-1, 2], [math.inf, 1], [math.nan, 1]):
        with pytest.raises(ValueRangeError, match="`counts`"):
            statistic(torch.tensor(counts), uniform(2))
    with pytest.raises(NotEnoughSamples, match="`counts`"):
        statistic(torch.zeros(2), uniform(2))


def test_refused_intervals() -> None:
    with pytest.raises(ShapeError, match="`counts`"):
        balance_interval(torch.ones(2), uniform(2))
    with pytest.raises(ShapeError, match="`target`"):
        balance_interval(torch.ones(4, 3), uniform(2))
    with pytest.raises(NotEnoughSamples, match="bootstrap"):
        balance_interval(torch.ones(1, 2), uniform(2))
    for wrong in ({"resamples": 0}, {"confidence": 1.0}):
        with pytest.raises(ValueRangeError, match=f"`{next(iter(wrong))}`"):
            balance_interval(torch.ones(4, 2), uniform(2), **wrong)
