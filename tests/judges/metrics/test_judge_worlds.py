"""Metrics that ask judges, on 1, 2 and 3 ranks: any split of the samples gives every rank the one result."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest
import torch
from conftest import Worlds
from helpers import judge_cases
from torch import Tensor
from torch.utils.data import DistributedSampler

from lightning_imgmetrics import MetricSuite, Result
from lightning_imgmetrics.metrics.base.summary import Category

N = 23
Outcome = tuple[Result, list[str], dict[str, Category], int]
# transformers writes a checkpoint on one rank alone, and the detector's is made where it is used; detections are enough
CASES = [case for case in judge_cases.JUDGED if case != "geneval"]


def feed(metric: Any, case: str, rows: Tensor, batch: int = N, *, with_ids: bool = True) -> Any:
    for part in rows.split(batch):
        if len(part):
            metric.update(**{**judge_cases.given(case, part), **({"ids": part} if with_ids else {})})
    return metric


def share(rank: int, size: int, split: str) -> Tensor:
    """Shuffled ids of a rank: alike, ragged (three quarters of what is left to each), or nothing to the first ranks."""
    order = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    if split == "even":
        return order[rank::size]
    if split == "empty":
        return order if rank == size - 1 else order[:0]
    cuts = [0, *(N - N // 4**r for r in range(1, size)), N]
    return order[cuts[rank] : cuts[rank + 1]]


def quiet() -> None:
    """Published prompts are not on this machine."""
    warnings.filterwarnings("ignore", message="the prompt ")


def run_split(rank: int, size: int, split: str, batch: int, with_ids: bool) -> dict[str, Outcome]:
    answers = {}
    with warnings.catch_warnings():
        quiet()
        for case in CASES:
            answers[case] = outcome(
                feed(judge_cases.make(case), case, share(rank, size, split), batch, with_ids=with_ids)
            )
    return answers


def outcome(metric: Any) -> Outcome:
    """The result, which items of a benchmark have none, its categories, and how many questions were asked."""
    result = metric.result()
    asked = 0 if metric.protocol is None else len(metric.judge.asked)
    return result, metric.missing(), metric.categories(), asked


@functools.cache
def expected(with_ids: bool = True) -> dict[str, Outcome]:
    return run_split(0, 1, "even", N, with_ids)


def check(answers: list[dict[str, Outcome]], expected: dict[str, Outcome]) -> None:
    for case, (whole, missing, categories, _) in expected.items():
        assert len({(of[case][0].value, of[case][0].n) for of in answers}) == 1, f"the ranks differ in {case}"
        for result, theirs, kinds, _ in (of[case] for of in answers):
            assert (result.n, result.signature, theirs) == (whole.n, whole.signature, missing), case
            assert result.value == pytest.approx(whole.value, rel=1e-12), case
            assert result.details == pytest.approx(whole.details, rel=1e-9, abs=1e-12), case
            assert (result.interval is None) == (whole.interval is None), case
            assert result.interval is None or result.interval == pytest.approx(whole.interval, rel=1e-9), case
            assert {name: kind.n for name, kind in kinds.items()} == {name: of.n for name, of in categories.items()}
            assert {name: kind.value for name, kind in kinds.items()} == pytest.approx(
                {name: of.value for name, of in categories.items()}, rel=1e-12
            )


@pytest.mark.parametrize(
    ("size", "split", "batch", "with_ids"),
    [
        (1, "even", 1, True),
        (2, "even", 7, True),
        (2, "ragged", 1, False),
        (3, "ragged", 7, True),
        (3, "even", 64, False),
        (3, "empty", 7, True),
        (3, "empty", 64, False),
    ],
)
def test_any_split_gives_the_same_result(worlds: Worlds, size: int, split: str, batch: int, with_ids: bool) -> None:
    with warnings.catch_warnings():
        quiet()
        answers = worlds(size, run_split, split, batch, with_ids)
        check(answers, expected(with_ids))
    for case, (*_, asked) in expected(with_ids).items():
        assert sum(of[case][3] for of in answers) == asked, f"a question of {case} was asked twice, or not at all"


def run_padded(rank: int, size: int, batch: int) -> dict[str, Outcome]:
    rows = torch.tensor(list(DistributedSampler(range(N), num_replicas=size, rank=rank, shuffle=True, seed=2)))
    with warnings.catch_warnings():
        quiet()
        metrics = {case: feed(judge_cases.make(case), case, rows, batch) for case in CASES}
        return {case: outcome(metric) for case, metric in metrics.items()}


@pytest.mark.parametrize(("size", "batch"), [(2, 1), (3, 64)])
def test_what_a_distributed_sampler_pads_with_does_not_count(worlds: Worlds, size: int, batch: int) -> None:
    assert N % size
    with warnings.catch_warnings():
        quiet()
        check(worlds(size, run_padded, batch), expected())


def run_pool(rank: int, size: int) -> dict[str, Outcome] | None:
    with warnings.catch_warnings():
        quiet()
        answers = {}
        for case in CASES:
            metric = feed(judge_cases.make(case, sync_on_compute=False), case, share(rank, size, "ragged"), 6)
            metric.pool()
            if rank == 0:
                answers[case] = outcome(metric)
            assert (metric._update_count == 0) == (rank > 0)
    return answers


def test_pool_moves_everything_to_rank_0(worlds: Worlds) -> None:
    with warnings.catch_warnings():
        quiet()
        check([worlds(3, run_pool)[0]], expected())


def run_suite(rank: int, size: int) -> list[dict[str, Result]]:
    """Those that take prompts alone, together, computed twice, with more samples in between."""
    cases = [case for case in CASES if not judge_cases.JUDGED[case][2]]
    rows = share(rank, size, "even")
    with warnings.catch_warnings():
        quiet()
        suite = MetricSuite({case: judge_cases.make(case) for case in cases})
        out = []
        for part in (rows[::2], rows[1::2]):
            suite.update(**{**judge_cases.given(cases[0], part), "ids": part})
            out.append(suite.results())
    return out


def test_a_suite_of_judges(worlds: Worlds) -> None:
    with warnings.catch_warnings():
        quiet()
        whole = expected()
        answers = worlds(3, run_suite)
    for half, last in answers:
        assert {case: result.value for case, result in half.items()} == {
            case: result.value for case, result in answers[0][0].items()
        }
        for case, result in last.items():
            assert half[case].n < result.n == whole[case][0].n
            assert result.value == pytest.approx(whole[case][0].value, rel=1e-12), case
            assert result.details == pytest.approx(whole[case][0].details, rel=1e-9, abs=1e-12), case
