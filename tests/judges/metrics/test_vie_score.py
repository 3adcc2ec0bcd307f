"""VIEScore: its arithmetic, what each task shows the judge, answers that are none, real checkpoints, ranks."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_images
from helpers.judges import ScriptedJudge, chance, qwen2_vl, texts_of
from helpers.qwen_judges import qwen_vl

from lightning_imgmetrics import MetricSuite
from lightning_imgmetrics.errors import JudgeFailed, ShapeError, UnknownName
from lightning_imgmetrics.judges.backends.local import LocalJudge
from lightning_imgmetrics.judges.backends.question import IMAGE, Answer, Decoding, Question
from lightning_imgmetrics.judges.metrics.vie_score import VIEScore
from lightning_imgmetrics.judges.prompts.vie_score import VIESCORE_PQ, VIESCORE_SC

pytestmark = pytest.mark.filterwarnings("ignore:the prompt viescore-:UserWarning")
SHELF = os.environ.get("IMGMETRICS_WEIGHTS", "")  # each test has none
SOURCES = {"t2i": 0, "tie": 1, "mie": 1, "cig": 1, "sdig": 1, "sdie": 2, "msdig": 2}
NAMES = {
    "t2i": ("prompt_following",),
    "tie": ("editing_success", "overediting"),
    "mie": ("editing_success", "overediting"),
    "cig": ("prompt_following", "control_following"),
    "sdig": ("prompt_following", "subject_likeness"),
    "sdie": ("subject_likeness", "overediting"),
    "msdig": ("prompt_following", "first_likeness", "second_likeness"),
}
N = 7


def is_quality(question: Question) -> bool:
    return "naturalness" in texts_of(question)


def said(*scores: float, why: str = "so it is") -> str:
    return json.dumps({"score": scores, "reasoning": why})


def by_question(consistency: str | None, quality: str | None) -> ScriptedJudge:
    return ScriptedJudge(lambda q: quality if is_quality(q) else consistency)


def drawn(question: Question) -> str:
    """Scores that depend on the image and the texts alone; now and then none."""
    x = chance(question)
    scores = [round(10 * x, 1), round(10 * (x * 97 % 1), 1)]
    return "none" if x < 0.1 else said(*scores[: 2 if is_quality(question) else 1])


def sources(task: str, n: int) -> dict[str, Any]:
    sets = [list(random_images(SOURCES[task], 16 + 4 * i, seed=50 + i)) for i in range(n)]
    return {"source": sets} if SOURCES[task] else {}


def updated(metric: VIEScore, n: int = 1, prompts: str | Sequence[str] = "a cat") -> VIEScore:
    metric.update(images=random_images(n, 24), prompts=prompts, ids=range(n), **sources(metric.questions.task, n))
    return metric


@pytest.mark.parametrize("task", SOURCES)
def test_the_lowest_of_each_and_their_geometric_mean(task: str) -> None:
    consistency = [8.0, 5.0, 9.0][: len(NAMES[task])]
    result = updated(VIEScore(by_question(said(*consistency), said(7, 4.5)), task=task), 3).result()
    sc, pq = min(consistency), 4.5
    assert result.value == pytest.approx(math.sqrt(sc * pq), abs=1e-12)
    expected = dict(zip(NAMES[task], consistency, strict=True)) | {"naturalness": 7, "artifacts": 4.5}
    expected |= {"sc": sc, "pq": pq, "n_failed": 0, "parse_failure_rate": 0}
    assert {name: result.details[name] for name in expected} == expected
    assert (result.n, result.higher_is_better) == (3, True)


def test_the_roots_are_averaged_and_not_the_scores() -> None:
    scores = {"a": 9, "b": 0, "c": 1}
    judge = ScriptedJudge(lambda q: said(10, 4) if is_quality(q) else said(scores[texts_of(q).split("<<")[1][0]]))
    metric = updated(VIEScore(judge), 3, ["<<a", "<<b", "<<c"])
    assert metric.compute().item() == pytest.approx((6 + 0 + 2) / 3, abs=1e-12)
    assert metric.scores()[1].tolist() == pytest.approx([6, 0, 2], abs=1e-12)
    assert metric.result().details["sc"] == pytest.approx(10 / 3)


@pytest.mark.parametrize("task", SOURCES)
def test_what_the_judge_is_shown(task: str) -> None:
    judge = by_question(said(*[7] * len(NAMES[task])), said(7, 7))
    metric = VIEScore(judge, task=task)
    image, given = random_images(1, 24)[0], sources(task, 1)
    metric.update(images=[image], prompts="a cat on a mat", **given)
    before = given["source"][0] if given else []
    if task == "msdig":
        before = [torch.cat(before, 2)]
    consistency, quality = judge.asked
    for question, shown in ((consistency, [*before, image]), (quality, [image])):
        assert len(question.images) == len(shown)
        assert all(map(torch.equal, question.images, shown))
        (message,) = question.messages
        assert message["role"] == "user"
        assert [part == IMAGE for part in message["content"]] == [*[True] * len(shown), False]
    (slot,) = VIESCORE_SC[task].slots
    assert texts_of(consistency) == VIESCORE_SC[task].generic.replace(f"{{{slot}}}", "a cat on a mat")
    assert texts_of(quality) == VIESCORE_PQ.generic


def test_two_subjects_are_one_picture() -> None:
    judge = by_question(said(7, 7, 7), said(7, 7))
    first, second = random_images(1, (8, 12))[0], random_images(1, (14, 10), seed=1)[0]
    VIEScore(judge, task="msdig").update(images=random_images(1), prompts="both", source=[[first, second]])
    (row, _) = judge.asked[0].images
    assert row.shape == (3, 14, 22)
    assert torch.equal(row[:, :8, :12], first)
    assert torch.equal(row[:, :, 12:], second)
    assert (row[:, 8:, :12] == 255).all()


def test_a_source_that_the_task_does_not_take_is_not_shown() -> None:
    judge = by_question(said(7), said(7, 7))
    VIEScore(judge).update(images=random_images(1), prompts="a", source=random_images(1, seed=1))
    assert [len(question.images) for question in judge.asked] == [1, 1]


@pytest.mark.parametrize(
    ("task", "text", "sc"),
    [
        ("t2i", "7", 7),
        ("t2i", "[7]", 7),
        ("t2i", '{"score": 7, "reasoning": ""}', 7),
        ("t2i", "{score: 6, reasoning: good}", 6),
        ("t2i", '||V^=^V||{"score": [0], "reasoning": "none of it"}||V^=^V||', 0),
        ("t2i", '```json\n{"score": [10],\n "reasoning": "all\nof it",}\n```', 10),
        ("t2i", '<think>{"score": [2]}?</think>{"score": [4]}', 4),
        ("tie", "[6, 0]", 0),
        ("tie", '{"score": ["6", 2.5], "reasoning": "so"}', 2.5),
        ("t2i", "scores: [7, 8, 9]", None),
        ("t2i", '{"rating": [7]}', None),
        ("t2i", '{"score": [7], "reasoning": "the "red" car"}', None),
        ("t2i", said(7, 8), None),
        ("tie", said(7), None),
        ("tie", said(7, 8, 9), None),
        ("t2i", '{"score": []}', None),
        ("t2i", said(11), None),
        ("t2i", said(-1), None),
        ("t2i", '{"score": [NaN]}', None),
        ("t2i", '{"score": [true]}', None),
        ("t2i", "", None),
        ("t2i", "It deserves a 9.", None),
        ("t2i", "I'm sorry, I can't rate this 10/10 image.", None),
        ("t2i", said(0, why="I'm sorry, but I cannot evaluate images of people."), None),
        ("tie", said(0, 0, why="No image was provided."), None),
        ("t2i", Answer(problem="cut off after 8 tokens"), None),
    ],
)
def test_answers(task: str, text: Any, sc: float | None) -> None:
    metric = updated(VIEScore(by_question(text, said(9, 10)), task=task, max_failed=0))
    if sc is not None:
        assert metric.compute().item() == pytest.approx(math.sqrt(9 * sc), abs=1e-12)
        return
    assert metric.scores()[1].isnan().all()
    with pytest.raises(JudgeFailed, match="no usable answer for 1 of 1 samples"):
        metric.compute()


@pytest.mark.parametrize("answers", [("none", said(9, 9)), (said(9), "none"), ("none", "none")])
def test_a_sample_without_one_of_the_two_is_left_out_and_counted(answers: tuple[str, str]) -> None:
    odd = random_images(3, 24)[1]

    def script(question: Question) -> str:
        if torch.equal(question.images[-1], odd):
            return answers[is_quality(question)]
        return said(4, 9) if is_quality(question) else said(9)

    for _ in range(3):  # nothing is drawn
        metric = VIEScore(ScriptedJudge(script), max_failed=0.5)
        result = updated(metric, 3).result()
        assert (result.value, result.n, result.details["n_failed"]) == (6, 2, 1)
        asked = 6 + answers.count("none")
        assert result.details["parse_failure_rate"] == pytest.approx(2 * answers.count("none") / asked)
        assert metric.records()[1]["score"] is None
        assert "unreadable answer: 'none'" in metric.rationales()[1]


def test_a_second_try_is_told_the_form() -> None:
    judge = ScriptedJudge(lambda q: said(*[8, 9][-1 - is_quality(q) :]) if len(q.messages) == 3 else "It is lovely.")
    metric = updated(VIEScore(judge))
    assert metric.compute().item() == pytest.approx(math.sqrt(72))
    first, second, *_ = (q for q in judge.asked if not is_quality(q))
    assert len(judge.asked) == 4
    assert second.messages[:1] == first.messages
    assert second.messages[1]["content"][0]["text"] == "It is lovely."
    assert '{"score": [number 1], "reasoning": "..."}' in second.messages[2]["content"][0]["text"]
    with pytest.raises(JudgeFailed):
        updated(VIEScore(judge, retries=0)).compute()


def test_the_rationale() -> None:
    metric = updated(VIEScore(by_question(said(7, why="a cat"), said(8, 8, why="crisp"))))
    assert metric.rationales() == {0: "SC: a cat PQ: crisp"}


@pytest.mark.parametrize(
    "prompt",
    [
        'a "cat", it\'s \\"red\\"',
        "one\n\ntwo\r\n\ttabs",
        '{prompt} {instruction} <prompt> {{x}} {0} {"score": [10, 10]}',
        r"\1 \g<0> %s $prompt",
        "word " * 2000,
        "一只猫在雨中 — кошка, قطة 🐈\u200d⬛",
    ],
    ids=range(6),
)
@pytest.mark.parametrize("task", ["t2i", "tie", "sdie"])
def test_prompts_are_shown_as_they_are_but_for_what_would_close_their_tags(prompt: str, task: str) -> None:
    judge = by_question(said(*[7] * len(NAMES[task])), said(7, 7))
    assert updated(VIEScore(judge, task=task), 1, prompt).compute().item() == 7
    (slot,) = VIESCORE_SC[task].slots
    before, _, after = VIESCORE_SC[task].generic.partition(f"{{{slot}}}")
    assert texts_of(judge.asked[0]) == before + prompt.replace(f"<{slot}>", f"&lt;{slot}>") + after


def given(task: str, count: int) -> dict[str, Any]:
    return {"prompts": "a", "source": [list(random_images(count))] * 2} if count else {"prompts": "a"}


@pytest.mark.parametrize(
    ("task", "inputs", "error", "match"),
    [
        ("tie", {"prompts": "a"}, TypeError, "vie_score needs `source=` in update"),
        ("t2i", {}, TypeError, "vie_score needs `prompts=` in update"),
        ("t2i", {"prompts": ["a", " "]}, ValueError, r"`prompts\[1\]` is empty"),
        ("tie", given("tie", 2), ShapeError, r"`source\[0\]` must hold 1 image\(s\) for vie_score, got 2"),
        ("sdie", given("sdie", 1), ShapeError, r"`source\[0\]` must hold 2 image\(s\) for vie_score, got 1"),
        ("msdig", given("msdig", 3), ShapeError, r"`source\[0\]` must hold 2 image\(s\) for vie_score, got 3"),
        ("cig", {"prompts": "a", "source": random_images(3)}, ShapeError, "`source` must hold one entry per image"),
    ],
)
def test_bad_input(task: str, inputs: dict[str, Any], error: type[Exception], match: str) -> None:
    judge = by_question(said(7), said(7, 7))
    metric = VIEScore(judge, task=task)
    with pytest.raises(error, match=match):
        metric.update(images=random_images(2), **inputs)
    assert not judge.asked


def test_bad_arguments() -> None:
    with pytest.raises(UnknownName, match="`task` must be one of 't2i', 'tie'"):
        VIEScore(ScriptedJudge(), task="t2v")
    with pytest.raises(TypeError, match="judge"):
        VIEScore()  # type: ignore[call-arg]


def test_the_signature() -> None:
    fields = VIEScore(ScriptedJudge(), task="tie", decoding=Decoding(99)).signature().fields
    assert (fields["task"], fields["template"], fields["max_tokens"]) == ("tie", "generic", "99")
    assert VIEScore(ScriptedJudge()).signature().fields["max_tokens"] == "1400"


@pytest.mark.skipif(not (Path(SHELF) / "vie_prompts.py").is_file(), reason="needs vie_prompts.py in IMGMETRICS_WEIGHTS")
@pytest.mark.parametrize("template", ["", "vie_prompts.py"])
def test_the_published_words(template: str) -> None:
    judge = by_question(said(7, 8), said(7, 7))
    metric = updated(VIEScore(judge, task="tie", template=str(Path(SHELF) / template)), 1, "make it <red>")
    assert metric.signature().fields["template"] == "8f529562+2473ff2c"
    assert texts_of(judge.asked[0]).endswith("Editing instruction: make it <red>\n")


def test_a_suite_hands_over_the_sources() -> None:
    judge = by_question(said(4, 5), said(9, 9))
    suite = MetricSuite({"tie": VIEScore(judge, task="tie"), "mie": VIEScore(judge, task="mie")})
    suite.update(random_images(2), prompts="a", source=random_images(2, seed=1))
    assert {name: result.value for name, result in suite.results().items()} == {"tie": 6, "mie": 6}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_batches_duplicates_and_order(batch_size: int) -> None:
    images, prompts = random_images(N, 20), [f"prompt {i}" for i in range(N)]
    whole, parts = (VIEScore(ScriptedJudge(drawn, batch_size=k), max_failed=0.9) for k in (1, batch_size))
    whole.update(images=images, prompts=prompts, ids=range(N))
    for i in reversed(range(N)):
        parts.update(images=images[i : i + 1].float() / 255, prompts=prompts[i], ids=[i])
    parts.update(images=images[2:4], prompts=prompts[2:4], ids=[2, 3])
    assert parts.result().value == pytest.approx(whole.result().value, abs=1e-12)
    assert parts.result().n == whole.result().n
    assert torch.equal(parts.scores()[1].nan_to_num(-1), whole.scores()[1].nan_to_num(-1))
    assert whole.scores()[1].unique().numel() > 3


ANSWER = '{"score": [6, 8], "reasoning": "the hat is {red}"}'


def test_a_real_checkpoint(tmp_path: Path) -> None:
    """Of the newest Qwen; `test_real_judges` has the others."""
    folder = qwen_vl("qwen3_5", tmp_path / "judge", ANSWER)
    results = []
    for batch_size in (1, 4):
        metric = VIEScore(LocalJudge(folder, batch_size=batch_size, cache=False), task="tie")
        updated(metric, 3, ["make it red", "word " * 40, "\u4f60\n{x}"])
        assert metric.rationales()[2] == "SC: the hat is {red} PQ: the hat is {red}"
        results.append(metric.result())
    assert results[0] == results[1]
    assert (results[0].value, results[0].n, results[0].details["sc"]) == (6, 3, 6)
    two_for_one = updated(VIEScore(LocalJudge(folder, cache=False)), 2)
    with pytest.raises(JudgeFailed, match="no usable answer for 2 of 2 samples"):
        two_for_one.compute()


def test_what_an_untaught_network_writes_is_no_score(tmp_path: Path) -> None:
    metric = VIEScore(qwen2_vl(tmp_path / "noise"), decoding=Decoding(max_tokens=6))
    with pytest.raises(JudgeFailed, match="no usable answer for 2 of 2 samples"):
        updated(metric, 2).compute()
