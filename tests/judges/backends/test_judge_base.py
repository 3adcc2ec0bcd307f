"""What every judge does: each question is answered once, answers are cached, failures are not."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.judges import (
    ScriptedJudge,
    picture,
    question,
    texts_of,
)

from lightning_imgmetrics.errors import JudgeUnavailable, ShapeError
from lightning_imgmetrics.judges.backends.local import LocalJudge
from lightning_imgmetrics.judges.backends.question import IMAGE, Answer, Decoding, Question, turn
from lightning_imgmetrics.judges.backends.resolve import as_judge

CPU = torch.device("cpu")


def test_no_question_is_asked_twice() -> None:
    judge = ScriptedJudge(script=lambda q: texts_of(q).upper(), name="upper")
    questions = [question(0, "a"), question(0, "b"), question(0, "a"), question(1, "a")]
    first = judge.ask(questions, Decoding(), CPU)
    assert [a.text for a in first] == ["A", "B", "A", "A"]
    assert len(judge.asked) == 3
    another = ScriptedJudge(script=lambda q: "other", name="upper")
    assert another.ask(questions, Decoding(), CPU) == first
    assert another.asked == []


@pytest.mark.parametrize(
    "change",
    [
        dict(judge=dict(name="another")),
        dict(decoding=Decoding(max_tokens=7)),
        dict(decoding=Decoding(temperature=0.5)),
        dict(decoding=Decoding(temperature=0.5, seed=1)),
        dict(question=dict(text="a ")),
        dict(question=dict(i=4)),
        dict(question=dict(i=1)),
    ],
)
def test_what_makes_a_question_new(change: dict[str, Any]) -> None:
    before = ScriptedJudge(script=lambda q: "old", name="one")
    before.ask([question(0, "a")], Decoding(temperature=0.5 if "seed" in str(change) else 0.0, seed=3), CPU)
    judge = ScriptedJudge(**{"script": lambda q: "new", "name": "one", **change.get("judge", {})})
    changed = question(**{"i": 0, "text": "a", **change.get("question", {})})
    (answer,) = judge.ask([changed], change.get("decoding", Decoding(seed=3)), CPU)
    assert answer.text == "new"


def test_an_image_of_the_same_bytes_and_another_shape_is_another() -> None:
    judge = ScriptedJudge(script=lambda q: str(tuple(q.images[0].shape)), name="shapes")
    x = picture(0, (28, 56))
    images = [Question((x.reshape(3, *size),), (turn(IMAGE),)) for size in ((28, 56), (56, 28))]
    assert [a.text for a in judge.ask(images, Decoding(), CPU)] == ["(3, 28, 56)", "(3, 56, 28)"]


def test_failures_are_not_cached() -> None:
    judge = ScriptedJudge(script=lambda q: None, name="silent")
    assert judge.ask([question(0)], Decoding(), CPU) == [Answer(problem="silent")]
    assert ScriptedJudge(script=lambda q: "now", name="silent").ask([question(0)], Decoding(), CPU)[0].text == "now"


def test_a_damaged_answer_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGMETRICS_CACHE", str(tmp_path))
    judge = ScriptedJudge(script=lambda q: "whole", name="kept")
    judge.ask([question(0)], Decoding(), CPU)
    (file,) = tmp_path.rglob("*.json")
    file.write_text(file.read_text()[:-4])
    assert judge.ask([question(0)], Decoding(), CPU)[0].text == "whole"
    assert len(judge.asked) == 2


@pytest.mark.parametrize("kwargs", [dict(name="here", cache=False), dict(name="")])
def test_judges_that_cache_nothing(kwargs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGMETRICS_CACHE", str(tmp_path))
    judge = ScriptedJudge(script=lambda q: "said", **kwargs)
    for _ in range(2):
        judge.ask([question(0)], Decoding(), CPU)
    assert len(judge.asked) == 2
    assert list(tmp_path.rglob("*.json")) == []


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_judge_that_becomes_unavailable_keeps_earlier_answers(concurrency: int) -> None:
    lock = threading.Lock()
    reply: list[str] = []

    def script(q: Question) -> str:
        with lock:
            if len(reply) >= 5:
                raise JudgeUnavailable("the server is gone")
            reply.append(texts_of(q))
        return "yes"

    questions = [question(0, f"question {i}") for i in range(12)]
    answers = ScriptedJudge(script=script, name=f"mortal{concurrency}", concurrency=concurrency).ask(
        questions, Decoding(), CPU
    )
    assert sorted(texts_of(q) for q, a in zip(questions, answers, strict=True) if a.text == "yes") == sorted(reply)
    assert sum(a.problem == "the server is gone" for a in answers) == 7
    later = ScriptedJudge(script=lambda q: "late", name=f"mortal{concurrency}")
    answers = later.ask(questions, Decoding(), CPU)
    assert [a.text for a in answers].count("late") == len(later.asked) == 7


def test_probabilities_and_texts_are_cached_apart() -> None:
    judge = ScriptedJudge(script=lambda q: 0.25 if q.answer else "Yes", name="both")
    images = [picture(0)]
    assert judge.probability([images], ["is it?"], ["Yes"]) == [0.25]
    assert judge.answer([images], [[turn(IMAGE, "is it?")]]) == ["Yes"]
    assert judge.probability([images], ["is it?"], ["Yes"]) == [0.25]
    assert len(judge.asked) == 2


def test_images_and_their_places_must_match() -> None:
    with pytest.raises(ShapeError, match="one place per image, got 1 for 2 images"):
        Question((picture(0), picture(1)), (turn(IMAGE, "which?"),))


@pytest.mark.parametrize(("name", "value"), [("max_tokens", 0), ("temperature", -1.0), ("repetition_penalty", 0.0)])
def test_bad_decoding(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        Decoding(**{name: value})


@pytest.mark.parametrize("name", ["batch_size", "concurrency"])
def test_bad_sizes(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        ScriptedJudge(**{name: 0})


def test_judges_are_named_by_their_checkpoint() -> None:
    judge = ScriptedJudge()
    assert as_judge(judge) is judge
    assert as_judge("org/model") == LocalJudge("org/model")
    with pytest.raises(TypeError, match="`judge` must be a Judge, a checkpoint or 'MODEL@URL' of a server, got 3"):
        as_judge(3)  # type: ignore[arg-type]


def test_a_disk_that_cannot_be_written_only_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IMGMETRICS_CACHE", str(tmp_path / "file"))
    judge = ScriptedJudge(script=lambda q: "said", name="here")
    with pytest.warns(UserWarning, match="answers of judges cannot be cached"):
        assert judge.ask([question(0)], Decoding(), CPU) == [Answer("said")]
