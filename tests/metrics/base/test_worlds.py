"""Worlds of 1, 2 and 3 ranks: any split of the samples gives every rank the bits of the same number."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Worlds, random_images
from torch import Tensor, nn
from torch.utils.data import DistributedSampler
from torchmetrics import MetricCollection
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_imgmetrics import (
    CLIPScore,
    FrechetDistance,
    LearnedPerceptualImagePatchSimilarity,
    LPIPSDiversity,
    MetricSuite,
    NoiseLevel,
    WinRate,
)
from lightning_imgmetrics.errors import DuplicateSamples, MissingRanks

N = 23
WORDS = ["zero", "one", "two", "three", "four", "five"]


class Vectors(nn.Module):
    """Features in float64: float32 convolutions of an image depend on the batch around it in the 7th digit."""

    num_features = 5

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(x.double() / 255, 3).flatten(1)
        return x @ torch.linspace(-1, 1, 27 * 5, dtype=torch.float64).cos().view(27, 5).mul(3).sin()


class Maps(nn.Module):
    """Feature maps of two layers, in float64."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.first, self.second = nn.Conv2d(3, 4, 3).double(), nn.Conv2d(4, 6, 3, stride=2).double()

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.first(x.double()).relu()
        return [first, self.second(first).relu()]


@functools.cache
def images(seed: int = 0) -> Tensor:
    return random_images(N, 16, seed)


def feed_frechet(metric: Any, rows: Tensor, /, **kw: Any) -> None:
    metric.update(images(0)[rows], real=True, **kw)
    metric.update(images(1)[rows], real=False, **kw)


def feed_clip(metric: Any, rows: Tensor, /, **kw: Any) -> None:
    metric.update(images(0)[rows], [f"a handwritten {WORDS[i % 6]}" for i in rows.tolist()], **kw)


def feed_pairs(metric: Any, rows: Tensor, /, **kw: Any) -> None:
    metric.update(images(0)[rows], images(1)[rows], **kw)


def feed_prompts(metric: Any, rows: Tensor, /, **kw: Any) -> None:
    metric.update(images(0)[rows], [WORDS[i % 6] for i in rows.tolist()], **kw)


def feed_votes(metric: Any, rows: Tensor, /, **kw: Any) -> None:
    metric.update(rows % 3, (rows + 1) % 3, torch.tensor([0.0, 0.5, 1.0, 1.0])[rows % 4], **kw)


Feed = Callable[..., None]
# key -> (makes the metric, adds the samples of some rows to it)
METRICS: dict[str, tuple[Callable[..., Any], Feed]] = {
    "frechet": (lambda **kw: FrechetDistance(Vectors(), **kw), feed_frechet),
    "clip_score": (lambda **kw: CLIPScore("digits-clip", **kw), feed_clip),
    "clip_score_sums": (lambda **kw: CLIPScore("digits-clip", keep_scores=False, **kw), feed_clip),
    "lpips": (lambda **kw: LearnedPerceptualImagePatchSimilarity(Maps(), **kw), feed_pairs),
    "lpips_diversity": (lambda **kw: LPIPSDiversity(Maps(), image_size=16, **kw), feed_prompts),
    "diversity_digits": (lambda **kw: LPIPSDiversity("digits-clip", **kw), feed_prompts),
    "win_rate": (lambda **kw: WinRate(1, **kw), feed_votes),
}
FLOAT32 = ("clip_score", "clip_score_sums", "diversity_digits")


def gather(x: Tensor, group: Any = None) -> list[Tensor]:
    """A user's own `dist_sync_fn`."""
    return gather_all_tensors(x, group)


def expected(key: str) -> Any:
    """One process, one batch; up to float64, or to float32 where the network is."""
    make, feed = METRICS[key]
    metric = make(sync_on_compute=False)
    feed(metric, torch.arange(N))
    return pytest.approx(metric.compute().item(), rel=2e-6 if key in FLOAT32 else 1e-9)


def share(rank: int, size: int, split: str) -> Tensor:
    """Shuffled ids of a rank: alike, ragged (three quarters of what is left to each), or nothing to the first ranks."""
    order = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    if split == "even":
        return order[rank::size]
    if split == "empty":
        return order if rank == size - 1 else order[:0]
    cuts = [0, *(N - N // 4**r for r in range(1, size)), N]
    return order[cuts[rank] : cuts[rank + 1]]


def run_metric(
    rank: int, size: int, keys: list[str], split: str, batch: int, with_ids: bool, own_gather: bool = False
) -> list[tuple[str, bytes, int, int]]:
    answers = []
    for key in keys:
        make, feed = METRICS[key]
        metric = make(**({"dist_sync_fn": gather} if own_gather else {}))
        for ids in share(rank, size, split).split(batch):
            if len(ids):
                feed(metric, ids, **({"ids": ids} if with_ids else {}))
        result = metric.result()
        answers.append((key, metric.compute().numpy().tobytes(), result.n, len(share(rank, size, split))))
    return answers


def check(answers: list[list[tuple[str, bytes, int, int]]]) -> None:
    assert sum(answer[0][3] for answer in answers) == N  # the shards make the whole
    for per_rank in zip(*answers, strict=True):
        key, bits, n, _ = per_rank[0]
        assert len({(a[1], a[2]) for a in per_rank}) == 1, f"the ranks differ in {key}"
        assert np.frombuffer(bits)[0] == expected(key), key
        assert n > 0


@pytest.mark.parametrize(
    ("size", "split", "batch", "with_ids"),
    [
        (1, "even", 1, False),
        (1, "even", 7, True),
        (2, "even", 7, True),
        (2, "ragged", 1, False),
        (2, "ragged", 1, True),
        (2, "empty", 64, True),
        (3, "even", 64, False),
        (3, "ragged", 7, True),
        (3, "ragged", 64, False),
        (3, "empty", 1, True),
        (3, "empty", 7, False),
    ],
)
def test_any_split_gives_the_same_number(worlds: Worlds, size: int, split: str, batch: int, with_ids: bool) -> None:
    check(worlds(size, run_metric, list(METRICS), split, batch, with_ids))


@pytest.mark.parametrize("split", ["even", "ragged", "empty"])
@pytest.mark.parametrize("with_ids", [True, False])
def test_a_users_own_gather_gives_the_same_number(worlds: Worlds, split: str, with_ids: bool) -> None:
    check(worlds(3, run_metric, list(METRICS), split, 7, with_ids, True))


def run_padded(rank: int, size: int, keys: list[str], batch: int) -> list[tuple[float, int]]:
    sampler = DistributedSampler(range(N), num_replicas=size, rank=rank, shuffle=True, seed=2)
    answers = []
    for key in keys:
        make, feed = METRICS[key]
        metric = make()
        for ids in torch.tensor(list(sampler)).split(batch):
            feed(metric, ids, ids=ids)
        answers.append((metric.compute().item(), int(metric.result().n)))
    return answers


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("size", [2, 3])
def test_what_a_distributed_sampler_pads_with_does_not_count(worlds: Worlds, size: int, batch: int) -> None:
    assert N % size
    for answers in worlds(size, run_padded, list(METRICS), batch):
        for key, (value, _) in zip(METRICS, answers, strict=True):
            assert value == expected(key), key


def run_same_ids(rank: int, size: int, key: str) -> str:
    make, feed = METRICS[key]
    metric = make()
    for ids in torch.arange(N).split(4):
        feed(metric, ids, ids=ids)
    try:
        return str(metric.compute().item())
    except DuplicateSamples as error:
        return f"error: {error}"


@pytest.mark.parametrize("key", ["frechet", "clip_score_sums", "lpips_diversity"])
def test_sums_refuse_samples_that_several_ranks_counted(worlds: Worlds, key: str) -> None:
    for answer in worlds(2, run_same_ids, key):
        assert answer.startswith("error:")
        assert "share of the ids" in answer


@pytest.mark.parametrize("key", ["clip_score", "lpips", "win_rate"])
def test_tables_count_a_sample_once_wherever_it_was_seen(worlds: Worlds, key: str) -> None:
    for answer in worlds(2, run_same_ids, key):
        assert float(answer) == expected(key)


def run_go_on(rank: int, size: int, keys: list[str]) -> list[list[float]]:
    """compute after half of the samples, again, and after the rest."""
    answers = []
    for key in keys:
        make, feed = METRICS[key]
        metric = make()
        half, rest = share(rank, size, "even").split([4, len(share(rank, size, "even")) - 4])
        feed(metric, half, ids=half)
        first, again = metric.compute().item(), metric.result().value
        assert not metric._is_synced
        feed(metric, rest, ids=rest)
        answers.append([first, again, metric.compute().item()])
    return answers


def test_updates_go_on_after_compute(worlds: Worlds) -> None:
    one, two = worlds(2, run_go_on, list(METRICS))
    assert one == two
    for key, (first, again, last) in zip(METRICS, one, strict=True):
        assert first == again
        assert last == expected(key), key
        assert first != expected(key), key


def run_one_sided(rank: int, size: int) -> list[int]:
    """How many samples a suite counts, when after a result one rank alone sees more."""
    suite = MetricSuite({"noise": NoiseLevel()})
    suite.update(random_images(3, 8, rank), ids=range(3 * rank, 3 * rank + 3))
    counts = [suite.results()["noise"].n]
    if rank == 0:
        suite.update(random_images(2, 8, 9), ids=[100, 101])
    return [*counts, suite.results()["noise"].n]


def test_a_rank_without_news_hears_that_of_others(worlds: Worlds) -> None:
    assert worlds(2, run_one_sided) == [[6, 8], [6, 8]]


def run_step_sync(rank: int, size: int, key: str) -> tuple[float, float]:
    make, _ = METRICS[key]
    metric = make(dist_sync_on_step=True)
    ids = share(rank, size, "ragged")
    if key == "frechet":
        metric.update(images(0)[ids], real=True, ids=ids)
        step = metric(images(1)[ids], real=False, ids=ids)
    else:
        step = metric(images(0)[ids], images(1)[ids], ids=ids)
    return step.item(), metric.compute().item()


@pytest.mark.parametrize("key", ["frechet", "lpips"])
def test_dist_sync_on_step(worlds: Worlds, key: str) -> None:
    for step, value in worlds(2, run_step_sync, key):
        assert [step, value] == [expected(key)] * 2


def run_local_step(rank: int, size: int) -> tuple[float, float]:
    make, feed = METRICS["lpips"]
    ids = share(rank, size, "ragged")
    step = make()(images(0)[ids], images(1)[ids], ids=ids).item()
    alone = make(sync_on_compute=False)
    feed(alone, ids, ids=ids)
    return step, alone.compute().item()


def test_forward_stays_on_its_rank_by_default(worlds: Worlds) -> None:
    answers = worlds(2, run_local_step)
    assert all(step == alone for step, alone in answers)
    assert answers[0][0] != answers[1][0]


def run_one_rank_computes(rank: int, size: int, keys: list[str]) -> list[str]:
    """What rank 0 is told of each metric whose `compute` it calls alone."""
    messages = []
    for key in keys:
        make, feed = METRICS[key]
        metric = make()
        feed(metric, share(rank, size, "even"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("IMGMETRICS_SYNC_TIMEOUT", "1")
            if rank == 0:
                with pytest.raises(MissingRanks) as error:
                    metric.compute()
                messages.append(str(error.value))
    if rank:
        time.sleep(4)  # stay alive, elsewhere
    return messages


def test_compute_on_one_rank_is_an_error_and_no_hang(worlds: Worlds) -> None:
    keys = ["frechet", "lpips"]
    messages, *_ = worlds(3, run_one_rank_computes, keys)
    assert len(messages) == len(keys)
    for message in messages:
        assert "[1, 2] of 3" in message
        assert "rank_zero_only" in message


def run_pool(rank: int, size: int, keys: list[str]) -> list[tuple[float | None, int]]:
    answers = []
    for key in keys:
        make, feed = METRICS[key]
        metric = make(sync_on_compute=False)
        ids = share(rank, size, "ragged")
        for part in ids.split(6):
            feed(metric, part, ids=part)
        metric.pool()
        answers.append((metric.compute().item() if rank == 0 else None, metric._update_count))
    return answers


def test_pool_moves_everything_to_rank_0(worlds: Worlds) -> None:
    first, *others = worlds(3, run_pool, list(METRICS))
    assert [value for value, _ in first] == [expected(key) for key in METRICS]
    assert all(count == 0 for answers in others for _, count in answers)


def run_suite(rank: int, size: int, ordinary: bool) -> list[dict[str, float]]:
    metrics = {key: METRICS[key][0]() for key in ("frechet", "lpips")}
    suite = MetricCollection(metrics) if ordinary else MetricSuite(metrics)
    ids = share(rank, size, "ragged")
    for part in ids.split(5):
        if ordinary:
            METRICS["frechet"][1](suite["frechet"], part, ids=part)
            METRICS["lpips"][1](suite["lpips"], part, ids=part)
        else:
            suite.update_reference(images(0)[part], ids=part)
            suite.update(images(1)[part], target=images(0)[part], ids=part)
    return [{key: float(value) for key, value in suite.compute().items()} for _ in range(2)]


@pytest.mark.parametrize("ordinary", [True, False])
def test_collections(worlds: Worlds, ordinary: bool) -> None:
    """Two metrics in torchmetrics' MetricCollection and in a suite."""
    for answers in worlds(3, run_suite, ordinary):
        for values in answers:
            assert values == {key: expected(key) for key in ("frechet", "lpips")}


def run_collection_update(rank: int, size: int) -> dict[str, float]:
    makes = [METRICS["lpips"][0] for _ in range(2)]
    collection = MetricCollection({"mean": makes[0](), "again": makes[1]()})
    ids = share(rank, size, "ragged")
    for part in ids.split(3):
        collection.update(images(0)[part], images(1)[part], ids=part)
    return {key: float(value) for key, value in collection.compute().items()}


def test_an_ordinary_collection_updates_its_metrics(worlds: Worlds) -> None:
    for values in worlds(2, run_collection_update):
        assert values == {"mean": expected("lpips"), "again": expected("lpips")}


def run_clamped(rank: int, size: int) -> tuple[float, float]:
    metric = LearnedPerceptualImagePatchSimilarity(Maps(), normalize=True)
    x = torch.full((1, 3, 16, 16), 0.5)
    x[0, 0, 0, : rank + 1] = 1.01
    metric.update(x, x)
    clip = CLIPScore("digits-clip")
    clip.update(["one " * 40 if rank == 0 else "one", "one"], ["two", "three"])
    return metric.result().details["n_clamped"], clip.result().details["truncated_fraction"]


def test_counts_are_summed_over_ranks(worlds: Worlds) -> None:
    for clamped, truncated in worlds(2, run_clamped):
        assert clamped == 2 * (1 + 2)
        assert truncated == 1 / 8


def run_reset_keeps_reference(rank: int, size: int) -> list[float]:
    metric = FrechetDistance(Vectors(), reset_real_features=False)
    values = []
    ids = share(rank, size, "ragged")
    for step in range(2):
        if step == 0:
            metric.update(images(0)[ids], real=True, ids=ids)
        metric.update(images(1)[ids], real=False, ids=ids)
        values.append(metric.compute().item())
        metric.reset()
    return values


def test_a_kept_reference_counts_once(worlds: Worlds) -> None:
    for values in worlds(3, run_reset_keeps_reference):
        assert values == [expected("frechet")] * 2


def run_large_moments(rank: int, size: int, d: int) -> Tensor:
    from lightning_imgmetrics._distributed import sum_
    from lightning_imgmetrics.states.moments import Moments, reduce_moments

    rows = torch.randn(4 * size, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 100
    moments = Moments(d)
    state = moments.of(rows[rank::size])
    reduce_moments([(moments, state)], sum_)
    return (state - moments.of(rows)).abs().max() / moments.of(rows).abs().max()


@pytest.mark.parametrize("d", [1, 3, 900])
def test_moments_travel_in_buckets(worlds: Worlds, d: int) -> None:
    """900 x 900 float64 is more than one bucket."""
    assert max(worlds(3, run_large_moments, d)) < 1e-12
