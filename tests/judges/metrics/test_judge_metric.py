"""What all metrics of a judge share: failures, retries, repeats, limits, ranks and files."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.judges import (
    Grade,
    ScriptedJudge,
    chance,
    picture,
)
from torch import Tensor

from lightning_imgmetrics import MetricSuite
from lightning_imgmetrics.errors import JudgeFailed, ShapeError
from lightning_imgmetrics.judges.backends.local import LocalJudge
from lightning_imgmetrics.judges.backends.question import Decoding, Question
from lightning_imgmetrics.judges.metrics.queries import Sample


def scripted(share: float = 0.0, **kwargs: Any) -> ScriptedJudge:
    """Grades by content; a `share` of its answers cannot be read."""
    return ScriptedJudge(script=lambda q: "hm" if chance(q) < share else f"{chance(q):.6f}", **kwargs)


def test_failures_are_counted_and_never_scored() -> None:
    images = [picture(i) for i in range(60)]
    m = Grade(scripted(0.3), retries=0, max_failed=1.0)
    m.update(images=images, prompts="p", ids=range(60))
    good = [c for c in (chance(question_of(m, x)) for x in images) if c >= 0.3]
    result = m.result()
    assert 30 < len(good) < 55
    assert result.n == len(good)
    assert result.value == pytest.approx(sum(good) / len(good), abs=1e-6)
    assert result.details["n_failed"] == 60 - len(good)
    assert result.details["parse_failure_rate"] == pytest.approx(1 - len(good) / 60)
    assert result.details["half"] == pytest.approx(result.value / 2)
    records = {r["id"]: r for r in m.records()}
    assert all(
        (records[i]["score"] is None) == ("unreadable answer: 'hm'" in records[i]["rationale"]) for i in range(60)
    )


def question_of(m: Grade, image: Tensor, prompt: str = "p") -> Question:
    return m.queries(Sample(image, prompt))[0].question


def test_a_retry_reminds_of_the_format() -> None:
    def script(q: Question) -> str:
        return "0.5" if len(q.messages) == 3 else "I think it is good"

    judge = ScriptedJudge(script=script)
    m = Grade(judge, retries=2)
    m.update(images=[picture(0)], prompts="p")
    assert m.compute() == 0.5
    assert m.result().details["parse_failure_rate"] == 0.5
    assert [x["role"] for x in judge.asked[1].messages] == ["user", "assistant", "user"]
    assert judge.asked[1].messages[1]["content"][0]["text"] == "I think it is good"


@pytest.mark.parametrize("said", ["hm", "", None])
def test_a_judge_that_never_keeps_the_format(said: str | None) -> None:
    m = Grade(ScriptedJudge(script=lambda q: said), retries=3)
    m.update(images=[picture(i) for i in range(3)], prompts="p")
    with pytest.raises(JudgeFailed, match=r"no usable answer for 3 of 3 samples, `max_failed` is 0\.2"):
        m.compute()
    assert len(m.judge.asked) == (12 if said else 3)  # type: ignore[attr-defined]


def test_too_many_failures_are_an_error_with_reasons() -> None:
    m = Grade(scripted(0.5), retries=0)
    m.update(images=[picture(i) for i in range(40)], prompts="p")
    with pytest.raises(JudgeFailed, match=r"`max_failed` is 0.2. unreadable answer: 'hm' \(\d+x\)"):
        m.compute()


def test_repeats_give_a_spread() -> None:
    draws = iter(["0.1", "0.2", "0.6", "0.4"])
    judge = ScriptedJudge(script=lambda q: next(draws))
    m = Grade(judge, repeats=2, decoding=Decoding(temperature=0.7))
    m.update(images=[picture(0), picture(1)], prompts="p")
    result = m.result()
    assert result.value == pytest.approx((0.1 + 0.2 + 0.6 + 0.4) / 4)
    expected = (torch.tensor([0.1, 0.6]).std() + torch.tensor([0.2, 0.4]).std()) / 2
    assert result.details["spread"] == pytest.approx(float(expected), abs=1e-6)
    assert "temperature:0.7|repeats:2" in result.signature


def test_only_samples_below_the_limit_are_judged() -> None:
    judge = scripted()
    m = Grade(judge, limit=5)
    m.update(images=[picture(i) for i in range(12)], prompts="p", ids=range(12))
    assert m.result().n == len(judge.asked) == 5
    assert "limit:5" in m.result().signature
    with pytest.raises(TypeError, match="has a `limit`: it needs `ids=`"):
        m.update(images=[picture(0)], prompts="p")


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        (dict(retries=-1), "`retries` must be at least 0"),
        (dict(max_failed=1.5), "`max_failed` in"),
        (dict(limit=0), "`limit` at least 1"),
        (dict(repeats=3), "`repeats` above 1 needs a `decoding` with a temperature above 0"),
        (dict(keep_scores=False), "`keep_scores` must be True"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Grade(scripted(), **kwargs)


@pytest.mark.parametrize(
    ("inputs", "error", "told"),
    [
        (dict(), TypeError, "grade needs `prompts=`"),
        (dict(prompts=["a"]), ShapeError, "one entry per image, got 1 for 2 images"),
        (dict(prompts=["a", " "]), ValueError, r"`prompts\[1\]` is empty"),
        (dict(prompts="a", source=[picture(0)]), ShapeError, "`source` must hold one entry per image, got 1 for 2"),
        (dict(prompts="a", rivals=[[picture(0)], []]), ShapeError, r"rivals\[1\]"),
    ],
)
def test_bad_inputs(inputs: dict[str, Any], error: type[Exception], told: str) -> None:
    judge = scripted()
    m = Grade(judge)
    with pytest.raises(error, match=told):
        m.update(images=[picture(0), picture(1)], **inputs)
    assert judge.asked == []


def graded_on(rank: int, size: int, shares: list[list[int]]) -> tuple[float, dict[str, float], int]:
    judge = scripted(0.2)
    m = Grade(judge, retries=0, max_failed=1.0)
    for i in shares[rank]:
        m.update(images=[picture(i)], prompts=f"p{i % 3}", ids=[i])
    result = m.result()
    return result.value, dict(result.details), len(judge.asked)


def test_ranks(worlds: Any) -> None:
    size = 3
    alone = graded_on(0, 1, [list(range(11))])
    for shares in ([list(range(r, 11, size)) for r in range(size)], [list(range(11)), *[[] for _ in range(size - 1)]]):
        result = worlds(size, graded_on, shares)
        for value, details, _ in result:
            assert (value, details) == (pytest.approx(alone[0], abs=1e-12), pytest.approx(alone[1], abs=1e-12))
        assert sum(questions for *_, questions in result) == alone[2] == 11


def test_in_a_suite_and_on_disk(tmp_path: Path) -> None:
    judge = scripted(0.1)

    def suite() -> MetricSuite:
        return MetricSuite({"grade": Grade(judge, retries=0, max_failed=1.0)})

    images = torch.stack([picture(i) for i in range(10)])
    whole, half, rest = suite(), suite(), suite()
    whole.update(images, prompts=["p"] * 10, ids=range(10))
    half.update(images[:6], prompts="p", ids=range(6))
    rest.update(images[4:], prompts="p", ids=range(4, 10))
    half.save(tmp_path / "half.safetensors")
    rest.merge(tmp_path / "half.safetensors")
    assert rest.results()["grade"].value == pytest.approx(whole.results()["grade"].value, abs=1e-12)
    assert rest.results()["grade"].details == pytest.approx(whole.results()["grade"].details, abs=1e-12)
    assert whole.rationales()["grade"].keys() == set(range(10))


def test_copies() -> None:
    m = Grade(LocalJudge("nowhere"))
    for copied in (copy.deepcopy(m), pickle.loads(pickle.dumps(m)), m.clone()):
        assert copied.signature() == m.signature()


def test_rationales_are_forgotten_with_the_samples() -> None:
    m = Grade(scripted())
    m.update(images=[picture(0)], prompts="p", ids=[3])
    assert list(m.rationales()) == [3]
    m.reset()
    assert m.rationales() == {}
    assert m.records() == []


def test_a_suite_hands_the_same_images_to_all_judges() -> None:
    judges = [scripted(), scripted(), ScriptedJudge(lambda q: "0.5")]
    suite = MetricSuite({f"grade{i}": Grade(judge) for i, judge in enumerate(judges)})
    suite.update([picture(0), picture(1, (56, 28))], prompts="p")
    for images in zip(*(judge.asked for judge in judges), strict=True):
        assert len({id(question.images[0]) for question in images}) == 1
