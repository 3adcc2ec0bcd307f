"""Distribution metrics on 1, 2 and 3 ranks: any split of the samples gives every rank the bits of the same number."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Worlds, random_images
from torch import Tensor, nn
from torch.utils.data import DistributedSampler
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_imgmetrics import (
    METRICS,
    Authenticity,
    CLIPMaximumMeanDiscrepancy,
    DensityCoverage,
    FeatureLikelihoodDivergence,
    FrechetDistance,
    FrechetInceptionDistance,
    FrechetInceptionDistanceInfinity,
    InceptionScore,
    IntraFrechetInceptionDistance,
    KernelInceptionDistance,
    MemorizationInformedFrechetInceptionDistance,
    MetricSuite,
    PrecisionRecall,
    ReferenceStatistics,
    SpatialFrechetInceptionDistance,
    VendiScore,
)
from lightning_imgmetrics.errors import NotEnoughSamples
from lightning_imgmetrics.metrics.distribution.base import DistributionMetric
from lightning_imgmetrics.metrics.distribution.entropy import SetMetric

N = 64
IDS = torch.arange(N) + 100  # such that each of 16 hashed groups has some


class Vectors(nn.Module):
    """Features with so few bits that they are the same ones in any batch."""

    num_features = 5

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(x.double() / 255, 3).flatten(1)
        x = x @ torch.linspace(-1, 1, 27 * 5, dtype=torch.float64).cos().view(27, 5).mul(3).sin()
        return (x * 2**18).round() / 2**18


class Spatial(SpatialFrechetInceptionDistance):
    """sFID of a small network."""

    def __init__(self, **kwargs: Any) -> None:
        FrechetDistance.__init__(self, NETWORK, **kwargs)


NETWORK = Vectors()
CASES: dict[str, Callable[..., Any]] = {
    "fid": lambda **kw: FrechetInceptionDistance(NETWORK, **kw),
    "fid_intervals": lambda **kw: FrechetDistance(NETWORK, groups=6, **kw),
    "fid_infinity": lambda **kw: FrechetInceptionDistanceInfinity(NETWORK, groups=16, **kw),
    "sfid": lambda **kw: Spatial(groups=5, **kw),
    "intra_fid": lambda **kw: IntraFrechetInceptionDistance(NETWORK, **kw),
    "mifid": lambda **kw: MemorizationInformedFrechetInceptionDistance(NETWORK, **kw),
    "fd": lambda **kw: FrechetDistance(NETWORK, **kw),
    "kid": lambda **kw: KernelInceptionDistance(NETWORK, subsets=5, subset_size=20, **kw),
    "kid_bounded": lambda **kw: KernelInceptionDistance(NETWORK, subsets=2, subset_size=20, max_samples=30, **kw),
    "cmmd": lambda **kw: CLIPMaximumMeanDiscrepancy(NETWORK, **kw),
    "cmmd_moments": lambda **kw: CLIPMaximumMeanDiscrepancy(NETWORK, streaming=True, **kw),
    "inception_score": lambda **kw: InceptionScore(NETWORK, splits=4, **kw),
    "precision": lambda **kw: PrecisionRecall("precision", NETWORK, **kw),
    "recall": lambda **kw: PrecisionRecall("recall", NETWORK, bank="float16", **kw),
    "density": lambda **kw: DensityCoverage("density", NETWORK, max_samples=30, **kw),
    "coverage": lambda **kw: DensityCoverage("coverage", NETWORK, bank="float64", max_samples=300, **kw),
    "authenticity": lambda **kw: Authenticity(NETWORK, **kw),
    "vendi": lambda **kw: VendiScore(NETWORK, **kw),
    # All ranks fit the same density to the same banks, so its optimization needs no tolerance of its own.
    "fld": lambda **kw: FeatureLikelihoodDivergence(NETWORK, **kw),
}
SAME = ("fd_dinov2", "fd_clip", "clip_fid", "fd_digits_clip")  # "fd" with other networks
DRAWN = ("fid_intervals", "fid_infinity", "sfid", "kid", "inception_score", "fld", "kid_bounded", "density")  # by id
BANKED = ("kid_bounded", "density", "precision", "recall")


def test_every_distribution_metric_of_the_table_is_here() -> None:
    kinds = {key: getattr(maker, "func", maker) for key, maker in METRICS.items()}
    found = {key for key, kind in kinds.items() if issubclass(kind, DistributionMetric)}
    assert found - set(SAME) - {"rfid"} <= set(CASES)  # which has its own, with pairs


@functools.cache
def images(seed: int) -> Tensor:
    return random_images(N, 8, seed, 1 + 0.2 * seed)


def feed(metric: Any, rows: Tensor, *, sides: tuple[bool, ...] = (True, False), with_ids: bool = True) -> None:
    for real in sides:
        kwargs: dict[str, Any] = {"ids": IDS[rows]} if with_ids else {}
        if isinstance(metric, SetMetric):
            if not real:
                metric.update(images(1)[rows], **kwargs)
            continue
        if isinstance(metric, IntraFrechetInceptionDistance):
            kwargs["labels"] = rows % 3
        metric.update(images(0 if real else 1)[rows], real=real, **kwargs)


def feed_suite(suite: MetricSuite, rows: Tensor, *, sides: tuple[bool, ...] = (True, False)) -> None:
    for real in sides:
        suite.update(images(0 if real else 1)[rows], real=real, labels=rows % 3, ids=IDS[rows])


def share(rank: int, size: int, split: str) -> Tensor:
    """Shuffled rows of a rank: alike, ragged, or nothing to the first ranks."""
    order = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    if split == "even":
        return order[rank::size]
    if split == "empty":
        return order if rank == size - 1 else order[:0]
    cuts = [0, *(N - N // 4**r for r in range(1, size)), N]
    return order[cuts[rank] : cuts[rank + 1]]


Answer = tuple[tuple[float, ...], tuple[float, ...], int]


def answer(metric: Any) -> Answer:
    """Value (and deviation), interval with its replicates, n."""
    value, result = metric.compute(), metric.result()
    numbers = [float(x) for x in (value if isinstance(value, tuple) else (value,))]
    return tuple(numbers), (*(result.interval or ()), *result.replicates), result.n


@functools.cache
def expected(key: str) -> Answer:
    """One process, one batch."""
    metric = CASES[key](sync_on_compute=False)
    feed(metric, torch.arange(N))
    return answer(metric)


def check(answers: list[dict[str, Answer]]) -> None:
    for key in answers[0]:
        assert all(found[key] == answers[0][key] for found in answers), f"the ranks differ in {key}"
        for found, wanted in zip(answers[0][key], expected(key), strict=True):
            assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12), key
        assert answers[0][key][2] == expected(key)[2] > 0


def parts(rank: int, size: int, split: str, batch: int) -> list[Tensor]:
    return [rows for rows in share(rank, size, split).split(batch) if len(rows)]


def run_single(
    rank: int, size: int, keys: list[str], split: str, batch: int, with_ids: bool = True, own: bool = False
) -> dict[str, Answer]:
    answers = {}
    for key in keys:
        metric = CASES[key](**({"dist_sync_fn": gather} if own else {}))
        for rows in parts(rank, size, split, batch):
            feed(metric, rows, with_ids=with_ids)
        answers[key] = answer(metric)
        assert not metric._is_synced
    return answers


def gather(x: Tensor, group: Any = None) -> list[Tensor]:
    """A user's own `dist_sync_fn`."""
    return gather_all_tensors(x, group)


def run_suite(rank: int, size: int, split: str, batch: int) -> dict[str, Answer]:
    suite = MetricSuite({key: make() for key, make in CASES.items()})
    for rows in parts(rank, size, split, batch):
        feed_suite(suite, rows)
    values, results = suite.compute(), suite.results()
    assert not any(m._is_synced for m in suite.named().values())
    return {
        key: (
            tuple(float(x) for x in (values[key] if isinstance(values[key], tuple) else (values[key],))),
            (*(result.interval or ()), *result.replicates),
            result.n,
        )
        for key, result in results.items()
    }


SPLITS = pytest.mark.parametrize(
    ("size", "split", "batch"),
    [(1, "even", 1), (1, "even", 7), (2, "ragged", 64), (2, "empty", 7), (3, "ragged", 7), (3, "even", 64)],
)


@SPLITS
def test_any_split_gives_the_same_number(worlds: Worlds, size: int, split: str, batch: int) -> None:
    check(worlds(size, run_single, list(CASES), split, batch))


@pytest.mark.parametrize(
    ("size", "split", "batch"), [(1, "even", 7), (2, "even", 64), (2, "ragged", 1), (3, "empty", 7), (3, "ragged", 1)]
)
def test_a_suite_of_all_gives_the_same_numbers(worlds: Worlds, size: int, split: str, batch: int) -> None:
    """Where most metrics read the bank of one."""
    check(worlds(size, run_suite, split, batch))


@pytest.mark.parametrize(("size", "split"), [(2, "ragged"), (3, "empty")])
def test_without_ids(worlds: Worlds, size: int, split: str) -> None:
    check(worlds(size, run_single, [key for key in CASES if key not in DRAWN], split, 7, False))


def run_without_ids(rank: int, size: int, keys: list[str]) -> list[tuple[float, int]]:
    answers = []
    for key in keys:
        metric = CASES[key]()
        for rows in parts(rank, size, "even", 7):
            feed(metric, rows, with_ids=False)
        answers.append((metric.result().value, metric.result().n))
    return answers


def test_what_is_drawn_by_id_counts_all_samples_without_ids(worlds: Worlds) -> None:
    keys = [key for key in DRAWN if key not in ("fid_infinity", "fid_intervals")]
    one, two = worlds(2, run_without_ids, keys)
    assert one == two
    assert [n for _, n in one] == [expected(key)[2] for key in keys]


def test_a_users_own_gather(worlds: Worlds) -> None:
    check(worlds(2, run_single, list(CASES), "ragged", 7, True, True))


def run_padded(rank: int, size: int, batch: int) -> dict[str, Answer]:
    sampler = DistributedSampler(range(N), num_replicas=size, rank=rank, shuffle=True, seed=2)
    answers, suite = {}, MetricSuite({key: make() for key, make in CASES.items()})
    singles = {key: CASES[key]() for key in ("fid_intervals", "kid", "inception_score", "mifid")}
    for rows in torch.tensor(list(sampler)).split(batch):
        feed_suite(suite, rows)
        for metric in singles.values():
            feed(metric, rows)
    answers = {key: answer(metric) for key, metric in singles.items()}
    together = {key: result.value for key, result in suite.results().items()}
    assert {key: together[key] for key in answers} == {
        key: pytest.approx(found[0][0], rel=1e-9) for key, found in answers.items()
    }
    return answers


@pytest.mark.parametrize("batch", [3, 64])
def test_what_a_distributed_sampler_pads_with_does_not_count(worlds: Worlds, batch: int) -> None:
    assert N % 3
    check(worlds(3, run_padded, batch))


def run_members(rank: int, size: int, split: str, batch: int) -> list[tuple[bytes, bytes]]:
    """Ids and features of the synced banks, in their order."""
    answers = []
    for key in BANKED:
        metric = CASES[key]()
        for rows in parts(rank, size, split, batch):
            feed(metric, rows)
        metric.sync()
        for side in ("real", "fake"):
            bank = metric.state(f"{side}_bank")
            answers.append((metric.store.ids(bank).numpy().tobytes(), metric.features(side).numpy().tobytes()))
        metric.unsync()
    return answers


def test_banks_have_the_same_members_in_the_same_order(worlds: Worlds) -> None:
    wanted = []
    for key in BANKED:
        metric = CASES[key](sync_on_compute=False)
        feed(metric, torch.arange(N))
        for side in ("real", "fake"):
            bank = metric.state(f"{side}_bank")
            assert len(bank) == (metric.max_samples or N)
            wanted.append((metric.store.ids(bank).numpy().tobytes(), metric.features(side).numpy().tobytes()))
    for size, split, batch in ((1, "even", 1), (2, "ragged", 7), (3, "empty", 64), (3, "even", 1)):
        for found in worlds(size, run_members, split, batch):
            assert found == wanted


def run_too_few(rank: int, size: int) -> tuple[list[str], dict[str, float]]:
    """compute with two samples in all, of each metric and of the suite, then with all samples."""
    suite = MetricSuite({key: make() for key, make in CASES.items()})
    singles = {key: CASES[key]() for key in ("kid", "precision", "fid_intervals", "intra_fid", "fld")}
    first = share(rank, size, "even")
    feed_suite(suite, first[:1])
    messages = []
    for metric in singles.values():
        feed(metric, first[:1])
    for compute in (suite.compute, suite.results, *(metric.compute for metric in singles.values())):
        try:
            compute()
        except NotEnoughSamples as error:
            messages.append(str(error))
    members = [*suite.named().values(), *singles.values()]
    assert not any(m._is_synced or m.synced_owners for m in members)
    assert all(m._to_sync for m in members)
    feed_suite(suite, first[1:])
    for metric in singles.values():
        feed(metric, first[1:])
    values = {key: result.value for key, result in suite.results().items()}
    alone = {key: m.result().value for key, m in singles.items()}  # sums in other buckets are added in another order
    assert alone == {key: pytest.approx(values[key], rel=1e-9) for key in singles}
    return messages, values


def test_an_error_of_compute_leaves_the_metric_as_it_was(worlds: Worlds) -> None:
    first, *others = worlds(2, run_too_few)
    assert all(other == first for other in others)
    messages, values = first
    assert len(messages) == 6  # the distance of two samples has a value, without an interval
    assert any("kid has 2 samples and needs 20" in message for message in messages)
    assert values == {key: pytest.approx(expected(key)[0][0], rel=1e-9) for key in CASES}


def run_member_alone(rank: int, size: int) -> dict[str, float]:
    """compute of metrics that read the streams of another, without the suite around them."""
    suite = MetricSuite({key: CASES[key]() for key in ("kid", "precision", "authenticity", "fid", "mifid")})
    for rows in parts(rank, size, "ragged", 7):
        feed_suite(suite, rows)
    assert suite["authenticity"].streams.owners()
    values = {key: suite[key].result().value for key in ("authenticity", "mifid", "precision", "fid")}
    assert not any(m._is_synced for m in suite.named().values())
    together = {key: result.value for key, result in suite.results().items()}
    assert values == {key: pytest.approx(together[key], rel=1e-9) for key in values}
    return values


def test_members_of_a_suite_compute_alone(worlds: Worlds) -> None:
    for values in worlds(3, run_member_alone):
        assert values == {key: pytest.approx(expected(key)[0][0], rel=1e-9) for key in values}


def run_resets(rank: int, size: int) -> list[dict[str, float]]:
    """The generated side twice against one reference, by `reset_real_features` and by a suite."""
    keys = ("fid_intervals", "kid", "precision", "intra_fid", "mifid")
    kept = {key: CASES[key](reset_real_features=False) for key in keys}
    suite = MetricSuite({key: CASES[key]() for key in keys})
    rows = share(rank, size, "ragged")
    answers = []
    for step in range(2):
        sides = (True, False) if step == 0 else (False,)
        feed_suite(suite, rows, sides=sides)
        for metric in kept.values():
            feed(metric, rows, sides=sides)
        answers.append({key: metric.result().value for key, metric in kept.items()})
        answers.append({key: result.value for key, result in suite.results().items()})
        suite.reset_generated()
        for metric in kept.values():
            metric.reset()
    return answers


def test_a_kept_reference_counts_once(worlds: Worlds) -> None:
    for answers in worlds(3, run_resets):
        for values in answers:
            assert values == {key: pytest.approx(expected(key)[0][0], rel=1e-9) for key in values}


def run_pool(rank: int, size: int) -> tuple[dict[str, float] | None, dict[str, float] | None]:
    """pool of single metrics that have computed what this rank had, and of a suite."""
    suite = MetricSuite({key: make() for key, make in CASES.items()})
    singles = {key: CASES[key](sync_on_compute=False) for key in ("fid", "precision", "kid")}
    for rows in parts(rank, size, "even", 7):
        feed_suite(suite, rows)
        for metric in singles.values():
            feed(metric, rows)
    for metric in singles.values():
        metric.result()
        metric.pool()
    suite.pool()
    held = [m.streams.untouched for m in [*suite.named().values(), *singles.values()]]
    assert all(held) if rank else not any(held)
    values = {key: result.value for key, result in suite.results().items()}  # collective, and rank 0 has it all
    return values, {key: m.result().value for key, m in singles.items()} if rank == 0 else None


def test_pool_moves_everything_to_rank_0(worlds: Worlds) -> None:
    answers = worlds(3, run_pool)
    for values, singles in answers:
        assert values == {key: pytest.approx(expected(key)[0][0], rel=1e-9) for key in CASES}
        assert singles is None or singles == {key: pytest.approx(values[key], rel=1e-9) for key in singles}


def run_filled(rank: int, size: int, path: str) -> list[dict[str, float]]:
    """Reference statistics that every rank takes, as a script that runs on all ranks does."""
    suite = MetricSuite({key: make() for key, make in CASES.items()})
    suite.update_reference(path)
    stats = ReferenceStatistics.load(path)
    single = {key: CASES[key]() for key in ("fid", "precision", "kid")}
    stats.fill(single.values())
    before = [entry.value.clone() for entry in stats.entries]
    for rows in parts(rank, size, "ragged", 7):
        feed_suite(suite, rows, sides=(False,))
        for metric in single.values():
            feed(metric, rows, sides=(False,))
    answers = [
        {key: r.value for key, r in suite.results().items()},
        {key: m.result().value for key, m in single.items()},
    ]
    assert all(a.numpy().tobytes() == e.value.numpy().tobytes() for a, e in zip(before, stats.entries, strict=True))
    return answers


def test_statistics_that_every_rank_takes_count_once(worlds: Worlds, tmp_path: Any) -> None:
    suite = MetricSuite({key: make() for key, make in CASES.items()})
    feed_suite(suite, torch.arange(N), sides=(True,))
    suite.reference().save(tmp_path / "reference.safetensors")
    for answers in worlds(3, run_filled, str(tmp_path / "reference.safetensors")):
        for values in answers:
            assert values == {key: pytest.approx(expected(key)[0][0], rel=1e-9) for key in values}


def run_traffic(rank: int, size: int, keys: list[str]) -> int:
    """Bytes that one sync of a suite moves."""
    import torch.distributed as dist

    suite, moved = MetricSuite({key: CASES[key]() for key in keys}), []
    feed_suite(suite, share(rank, size, "even"))
    all_gather, all_reduce = dist.all_gather, dist.all_reduce
    dist.all_gather = lambda out, x, **kw: moved.append(x.nbytes) or all_gather(out, x, **kw)
    dist.all_reduce = lambda x, **kw: moved.append(x.nbytes) or all_reduce(x, **kw)
    try:
        with suite.synced():
            return sum(moved)
    finally:
        dist.all_gather, dist.all_reduce = all_gather, all_reduce


def test_what_is_shared_travels_once(worlds: Worlds) -> None:
    one, both = (worlds(2, run_traffic, keys)[0] for keys in (["kid"], ["kid", "precision", "authenticity"]))
    bank = 2 * N // 2 * (8 + 5 * 4)
    assert bank <= one <= bank + 200
    assert both <= one + 400
