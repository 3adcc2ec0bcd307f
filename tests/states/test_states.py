"""Every state is a commutative monoid: identity, order, grouping, split, and `add` as a merge."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from lightning_imgmetrics.states.bank import Bank
from lightning_imgmetrics.states.base import State
from lightning_imgmetrics.states.hash import text_key, uniform_hash
from lightning_imgmetrics.states.moments import GroupedMoments, Moments
from lightning_imgmetrics.states.tables import Groups, Reservoir, Samples, Splits

STATES: dict[str, State] = {
    "moments_1": Moments(1),
    "moments_4": Moments(4),
    "reservoir": Reservoir(7, 3),
    "reservoir_all": Reservoir(None, 3),
    "samples": Samples(),
    "groups": Groups(3, 2),
    "splits": Splits(4, 2),
    "grouped_moments": GroupedMoments(3, 4),
    "bank": Bank(3),
    "bank_bounded": Bank(3, 6),
    "bank_float16": Bank(5, 6, torch.float16),
    "bank_float64": Bank(2, None, torch.float64),
}
EVERY_STATE = pytest.mark.parametrize("name", STATES)


def rows_of(name: str, n: int, seed: int, offset: float = 0.0) -> Tensor:
    """Rows as the metric of this state makes them: plain vectors, or a key first. One key always has one vector."""
    g = torch.Generator().manual_seed(seed)
    state = STATES[name]
    if isinstance(state, Moments):
        return torch.randn(n, state.d, generator=g, dtype=torch.float64) + offset
    if isinstance(state, Splits | GroupedMoments):
        return state.rows(torch.randn(n, state.d, generator=g).double() + offset, torch.randint(30, (n,), generator=g))
    if isinstance(state, Groups):
        keys = uniform_hash(torch.randint(5, (n, 1), generator=g))
        return torch.cat([keys, torch.randn(n, state.d, generator=g, dtype=torch.float64) + offset], 1)
    ids = torch.randint(12, (n,), generator=g)  # with duplicates within and between parts
    vectors = torch.stack([(ids + 1).double().mul(k + 1).sin() + offset for k in range(state.d)], 1)
    if isinstance(state, Bank):
        return state.rows(vectors, ids)
    keys = ids.double() if isinstance(state, Samples) else uniform_hash(ids)
    return torch.cat([keys[:, None], vectors], 1)


def same(left: Tensor, right: Tensor) -> None:
    """A bank to the bit: the ids in it are no numbers. Others up to rounding."""
    assert left.dtype == right.dtype
    if left.dtype != torch.float64:
        assert left.shape == right.shape
        assert left.numpy().tobytes() == right.numpy().tobytes()
        return
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=3, max_size=5),
    seed=st.integers(0, 10**6),
    offset=st.sampled_from([0.0, -3.0, 100.0]),
)
@EVERY_STATE
def test_laws(name: str, sizes: list[int], seed: int, offset: float) -> None:
    state = STATES[name]
    parts = [rows_of(name, n, seed + i, offset) for i, n in enumerate(sizes)]
    a, b, c = (state.of(rows) for rows in parts[:3])
    same(state.merge([a, state.empty()]), a)  # identity
    same(state.merge([state.empty(), a]), a)
    same(state.merge([state.empty(), state.empty()]), state.empty())
    same(state.of(parts[0][:0]), state.empty())
    same(state.merge([a, b]), state.merge([b, a]))  # order
    grouped = state.merge([a, b, c])
    same(state.merge([state.merge([a, b]), c]), grouped)  # grouping
    same(state.merge([a, state.merge([b, c])]), grouped)
    whole = state.of(torch.cat(parts))
    same(state.merge([state.of(rows) for rows in parts]), whole)  # split
    one_by_one = state.empty()
    for rows in parts:
        before = one_by_one.clone()
        one_by_one = state.add(one_by_one, rows)
        same(one_by_one, state.merge([before, state.of(rows)]))  # add
    same(one_by_one, whole)


@EVERY_STATE
def test_merge_and_of_leave_their_arguments_alone(name: str) -> None:
    state = STATES[name]
    rows = rows_of(name, 9, 1)
    a, b = state.of(rows), state.of(rows_of(name, 5, 2))
    kept = [x.clone() for x in (a, b, rows)]
    state.merge([a, b])
    state.of(rows)
    assert all(x.numpy().tobytes() == y.numpy().tobytes() for x, y in zip((a, b, rows), kept, strict=True))


@EVERY_STATE
def test_states_of_inference_mode_can_be_added_to_outside(name: str) -> None:
    state = STATES[name]
    with torch.inference_mode():
        a = state.of(rows_of(name, 6, 1))
    rows = rows_of(name, 4, 2)
    same(state.add(a, rows), state.merge([state.of(rows_of(name, 6, 1)), state.of(rows)]))


@pytest.mark.parametrize(("mean", "std"), [(1e5, 1.0), (-1e5, 1e-2), (0.0, 1e-6), (1e8, 1.0)])
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_moments_are_accurate_far_from_zero(mean: float, std: float, batch: int) -> None:
    """Against two passes in extended precision; sums of squares would have lost these digits."""
    rows = np.random.default_rng(0).normal(mean, std, (1000, 3))
    moments = Moments(3)
    state = moments.empty()
    for part in torch.from_numpy(rows).split(batch):
        state = moments.add(state, part)
    exact = rows.astype(np.longdouble)
    centred = exact - exact.mean(0)
    count, found, scatter = moments.unpack(state)
    assert count == 1000
    np.testing.assert_allclose(found, exact.mean(0).astype(float), rtol=1e-14)
    expected = (centred.T @ centred).astype(float)
    rounding = 4 * np.finfo(float).eps * (abs(mean) / std)  # of an input near `mean`, relative to its spread
    np.testing.assert_allclose(scatter, expected, rtol=1e-12 + rounding, atol=np.trace(expected) * (1e-13 + rounding))
    np.testing.assert_allclose(moments.cov(state), scatter / 999)
    merged = moments.merge([moments.of(part) for part in torch.from_numpy(rows).split(batch)])
    np.testing.assert_allclose(moments.unpack(merged)[2], scatter, rtol=1e-9 + 10 * rounding, atol=1e-3 * std**2)


def test_moments_take_float32_rows_in_float64() -> None:
    rows = torch.rand(50, 2) + 1000
    _, mean, scatter = Moments(2).unpack(Moments(2).of(rows))
    torch.testing.assert_close(mean, rows.double().mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(scatter / 49, rows.double().T.cov(), rtol=1e-9, atol=0)


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(20)), st.lists(st.integers(1, 6), min_size=20, max_size=20), st.integers(0, 20))
@pytest.mark.parametrize("size", [5, None])
def test_reservoir_keeps_the_same_members(size: int | None, order: list[int], batches: list[int], again: int) -> None:
    """To the bit, in any order and batching, however often a sample comes."""
    state = Reservoir(size, 2)
    ids = torch.arange(20)
    rows = torch.cat([uniform_hash(ids)[:, None], torch.randn(20, 2, generator=torch.Generator().manual_seed(0))], 1)
    ranked = rows[rows[:, 0].argsort()][:size]
    shuffled, kept = rows[[*order, *order[:again]]], state.empty()
    for part in shuffled.split(_cut(batches, len(shuffled))):
        kept = state.add(kept, part)
    assert torch.equal(kept, ranked)


def _cut(sizes: list[int], n: int) -> list[int]:
    cut = []
    for size in itertools.cycle(sizes):
        cut.append(min(size, n - sum(cut)))
        if sum(cut) == n:
            return cut
    raise AssertionError


def test_reservoir_is_a_uniform_sample() -> None:
    """Each of 40 samples is kept equally often over 2000 seeds (chi-square)."""
    counts = torch.zeros(40)
    for seed in range(2000):
        keys = uniform_hash(torch.arange(40), seed)
        kept = Reservoir(10, 1).of(torch.stack([keys, torch.arange(40).double()], 1))
        counts[kept[:, 1].long()] += 1
    assert counts.sum() == 20000
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_rows_without_a_key_are_all_different() -> None:
    rows = torch.tensor([[math.nan, 1.0], [math.nan, 1.0], [3.0, 2.0], [3.0, 2.0]], dtype=torch.float64)
    kept = Samples().merge([rows, rows])
    assert kept[:, 1].tolist() == [2, 1, 1, 1, 1]


def test_groups_are_complete() -> None:
    """Count, spread and mean of the groups with the smallest keys, by hand."""
    rows = torch.tensor([[0.3, 1, 2], [0.1, 5, 5], [0.3, 3, 4], [0.9, 0, 0], [0.1, 5, 7], [0.2, 1, 1]])
    state = Groups(2, 2)
    kept = state.empty()
    for part in rows.double().split(1):
        kept = state.add(kept, part)
    count, spread, mean = state.unpack(kept)
    torch.testing.assert_close(kept[:, 0], torch.tensor([0.1, 0.2]).double(), rtol=0, atol=1e-7)
    assert count.tolist() == [2, 1]
    assert spread.tolist() == [2, 0]
    assert mean.tolist() == [[5, 6], [1, 1]]


# Banks

BANKS = pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])


@BANKS
def test_a_bank_returns_what_was_put_in(dtype: torch.dtype) -> None:
    """Ids of any size, also negative ones, and the vectors as `dtype` holds them; in the order of the hashes."""
    ids = torch.tensor([0, 1, 7, 2**53 - 1, 2**40 + 3, -1, -2, -(2**33)])
    vectors = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bank = Bank(3, None, dtype)
    state = bank.of(bank.rows(vectors, ids))
    order = uniform_hash(ids).argsort()
    assert state.dtype == dtype
    assert bank.ids(state).tolist() == ids[order].tolist()
    assert torch.equal(bank.features(state), vectors[order].to(dtype))
    assert state.numel() * state.element_size() == 8 * (8 + 3 * dtype.itemsize)


@BANKS
@pytest.mark.parametrize("size", [5, None])
@settings(max_examples=20, deadline=None)
@given(st.permutations(range(20)), st.lists(st.integers(1, 6), min_size=20, max_size=20), st.integers(0, 20))
def test_a_bank_keeps_the_same_members(
    size: int | None, dtype: torch.dtype, order: list[int], batches: list[int], again: int
) -> None:
    """To the bit, in any order, batching and grouping, however often a sample comes."""
    bank = Bank(2, size, dtype)
    ids = torch.arange(20) * 12345678901
    rows = bank.rows(torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), ids)
    ranked = rows[uniform_hash(ids).argsort()][:size]
    parts = rows[[*order, *order[:again]]].split(_cut(batches, 20 + again))
    kept = bank.empty()
    for part in parts:
        kept = bank.add(kept, part)
    for found in (kept, bank.merge([bank.of(part) for part in parts])):
        assert found.numpy().tobytes() == ranked.numpy().tobytes()


def test_a_bounded_bank_is_a_uniform_sample() -> None:
    """Each of 40 samples is kept equally often over 2000 sets of ids, with ids and without."""
    for sign in (1, -1):
        counts = torch.zeros(40)
        bank = Bank(1, 10)
        for block in range(2000):
            ids = sign * (1 + 40 * block + torch.arange(40))
            kept = bank.of(bank.rows(torch.arange(40.0)[:, None], ids))
            counts[bank.features(kept)[:, 0].long()] += 1
        assert counts.sum() == 20000
        assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_samples_without_ids_are_all_kept() -> None:
    """Several ranks or shards number theirs alike, and none is another's duplicate."""
    bank = Bank(1)
    parts = [bank.of(bank.rows(torch.arange(6.0)[:, None] + 10 * i, -1 - torch.arange(6))) for i in range(3)]
    merged = bank.merge(parts)
    assert sorted(bank.features(merged)[:, 0].tolist()) == [10 * i + j for i in range(3) for j in range(6)]
    bounded = Bank(1, 9).merge(parts)
    assert bounded.numpy().tobytes() == merged[:9].numpy().tobytes()


def test_an_unchanged_bank_is_not_copied() -> None:
    bank = Bank(3)
    state = bank.of(rows_of("bank", 9, 0))
    assert bank.merge([state]) is state
    assert bank.merge([bank.empty()]).shape == (0, 5)


# Parts of a stream


def test_splits_and_groups_depend_on_the_ids_alone() -> None:
    ids = torch.arange(300)
    vectors = torch.randn(300, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shuffled = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    for state in (Splits(10, 3), GroupedMoments(3, 10)):
        whole = state.of(state.rows(vectors, ids))
        parts = [state.of(state.rows(vectors[i], ids[i])) for i in shuffled.split(70)]
        same(state.merge(parts), whole)


@pytest.mark.parametrize("groups", [2, 20])
def test_groups_are_a_random_partition(groups: int) -> None:
    """All samples, each once, spread evenly; Splits and GroupedMoments are drawn independently of one another."""
    ids = torch.arange(4000)
    grouped, splits = GroupedMoments(1, groups), Splits(groups, 1)
    rows = grouped.rows(torch.ones(4000, 1).double(), ids)
    counts = grouped.of(rows)[:, 0]
    assert counts.sum() == 4000
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-3
    table = torch.zeros(groups, groups)
    other = splits.rows(torch.ones(4000, 1).double(), ids)[:, 0]
    table.index_put_((rows[:, 0].long(), other.long()), torch.ones(4000), accumulate=True)
    assert scipy.stats.chi2_contingency(table.numpy()).pvalue > 1e-3


@settings(max_examples=20, deadline=None)
@given(st.integers(12, 60), st.integers(0, 10**6), st.sampled_from([0.0, 100.0]))
def test_leaving_a_group_out(n: int, seed: int, offset: float) -> None:
    """The moments without each part, against the moments of the other samples."""
    grouped, moments = GroupedMoments(3, 4), Moments(3)
    vectors = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + offset
    rows = grouped.rows(vectors, seed + torch.arange(n))
    state = grouped.of(rows)
    same(grouped.total(state), moments.of(vectors))
    for part, rest in enumerate(grouped.leave_out(state)):
        others = vectors[rows[:, 0] != part]
        if len(others):
            torch.testing.assert_close(rest, moments.of(others), rtol=1e-9, atol=1e-7)


def test_moments_of_a_known_mean_and_covariance() -> None:
    moments = Moments(2)
    mean, cov = torch.tensor([1.0, -2.0]), torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    for count in (2, 50000, 2.0**53):
        state = moments.pack(count, mean, cov)
        assert state.dtype == torch.float64
        torch.testing.assert_close(moments.unpack(state)[1], mean.double(), rtol=0, atol=0)
        torch.testing.assert_close(moments.cov(state), cov.double(), rtol=1e-15, atol=0)
        same(moments.merge([state, moments.empty()]), state)


# uniform_hash


def splitmix64(index: int, seed: int) -> float:
    """Steele, Lea & Flood 2014 in Python's integers, one step from state `index`."""
    mask = (1 << 64) - 1
    x = (index + 0x9E3779B97F4A7C15 * (seed + 1)) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return ((x ^ (x >> 31)) >> 11) / 2**53


@given(st.lists(st.integers(0, 2**53 - 1), min_size=1, max_size=8), st.integers(0, 2**20))
@settings(deadline=None)
def test_uniform_hash_is_splitmix64(ids: list[int], seed: int) -> None:
    assert uniform_hash(torch.tensor(ids), seed).tolist() == [splitmix64(i, seed) for i in ids]


def test_uniform_hash_of_a_published_vector() -> None:
    """The first output of splitmix64 with seed 0 is 0xE220A8397B1DCDAF."""
    assert uniform_hash(torch.tensor([0])).item() == (0xE220A8397B1DCDAF >> 11) / 2**53


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("stride", [1, 64, 1 << 40])
def test_uniform_hash_is_uniform(seed: int, stride: int) -> None:
    values = uniform_hash(torch.arange(20000) * stride % (1 << 53), seed)
    distinct = values.unique()
    assert distinct.min() >= 0
    assert distinct.max() < 1
    assert len(distinct) == len((torch.arange(20000) * stride % (1 << 53)).unique())
    assert scipy.stats.kstest(distinct.numpy(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.03 or len(distinct) < 20000


def test_uniform_hash_depends_on_the_seed() -> None:
    ids = torch.arange(5000)
    assert abs(np.corrcoef(uniform_hash(ids, 0), uniform_hash(ids, 1))[0, 1]) < 0.05


def test_text_keys_are_stable_and_spread() -> None:
    import hashlib

    assert text_key("a cat") == (int(hashlib.sha256(b"a cat").hexdigest()[:16], 16) >> 11) / 2**53
    values = [text_key(f"prompt {i}") for i in range(4000)]
    assert len(set(values)) == 4000
    assert scipy.stats.kstest(values, "uniform").pvalue > 1e-3
