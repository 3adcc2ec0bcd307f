"""What metrics of verdicts share: batches one at a time, samples seen twice, places, and answers that are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Worlds, random_images
from helpers.judges import Grade, ScriptedJudge, texts_of
from helpers.openai_server import Said, serving
from torch import Tensor

from lightning_imgmetrics import MetricSuite, PerPrompt, score
from lightning_imgmetrics.cli.evaluate import report_of
from lightning_imgmetrics.errors import JudgeUnavailable
from lightning_imgmetrics.judges.backends.question import Answer, Question
from lightning_imgmetrics.judges.backends.resolve import as_judge
from lightning_imgmetrics.judges.metrics.ranking import RankingJudge
from lightning_imgmetrics.prompt_benchmarks.base.prompt_files import GenAiPrompts
from lightning_imgmetrics.prompt_benchmarks.base.question_files import TifaQuestion
from lightning_imgmetrics.prompt_benchmarks.genai_bench import GenAIBench
from lightning_imgmetrics.prompt_benchmarks.text_rendering.metric import TextRendering
from lightning_imgmetrics.prompt_benchmarks.tifa.metric import TIFA


def flat(*levels: int) -> Tensor:
    return torch.stack([torch.full((3, 8, 8), 10 + level, dtype=torch.uint8) for level in levels])


def by_level(question: Question) -> str | None:
    """The level of the image, none for one above 99."""
    level = int(question.images[0][0, 0, 0]) - 10
    return None if level > 99 else str(level)


def of_captions(*captions: str) -> list[TifaQuestion]:
    return [
        TifaQuestion(f"c_{i}", caption, f"q{i}?", ("yes", "no"), "yes", "object", "it")
        for i, caption in enumerate(captions)
    ]


def asked_of(question: Question) -> str:
    return texts_of(question).split("Question: ")[1].split("\n")[0]


# One batch at a time


def test_forward_gives_the_value_of_the_batch_and_keeps_all() -> None:
    metric, alone = Grade(ScriptedJudge(by_level)), Grade(ScriptedJudge(by_level))
    for levels in ((1, 2), (3,), (4, 6)):
        ids = [10 * level for level in levels]
        assert float(metric(images=flat(*levels), prompts="p", ids=ids)) == sum(levels) / len(levels)
        alone.update(images=flat(*levels), prompts="p", ids=ids)
        assert metric._forward_cache == sum(levels) / len(levels)
    assert metric.records() == alone.records()
    assert torch.equal(torch.stack(metric.scores()), torch.stack(alone.scores()))
    assert metric.result() == alone.result()
    assert metric._update_count == 3


@pytest.mark.parametrize("numbered", [True, False])
def test_a_batch_that_fails_costs_no_other_batch(numbered: bool) -> None:
    metric = Grade(ScriptedJudge(by_level), max_failed=0.5)
    metric(images=flat(1, 2, 3), prompts="p", **({"ids": [0, 1, 2]} if numbered else {}))
    value = metric(images=flat(100, 101, 7), prompts="p", **({"ids": [3, 4, 5]} if numbered else {}))
    assert value.isnan()
    assert (value.dtype, value.shape) == (torch.float64, ())
    assert [record["score"] for record in metric.records()] == [1, 2, 3, None, None, 7]
    assert metric.scores()[1].nan_to_num(-1).tolist() == [1, 2, 3, -1, -1, 7]
    assert metric.compute() == 13 / 4
    assert metric(images=flat(8), prompts="p", **({"ids": [6]} if numbered else {})) == 8


def test_a_batch_that_is_passed_over_has_no_value() -> None:
    metric = Grade(ScriptedJudge(by_level), limit=2)
    assert metric(images=flat(1, 5), prompts="p", ids=[1, 2]) == 1
    assert metric(images=flat(6, 7), prompts="p", ids=[3, 4]).isnan()
    assert metric.compute() == 1


def test_questions_of_batches_without_ids_add_up() -> None:
    questions = of_captions(*"abcd")
    judges = [ScriptedJudge(lambda q: "yes" if asked_of(q) in ("q0?", "q2?") else "no") for _ in range(2)]
    one, other = (TIFA(questions, judge) for judge in judges)
    for i, caption in enumerate("abcd"):
        assert one(images=flat(i), prompts=caption) == (i % 2 == 0)
        other.update(images=flat(i), prompts=caption)
    assert one.compute() == other.compute() == 0.5
    assert one.categories() == other.categories()
    assert one.categories()["object"].n == 4


def test_after_a_batch_the_categories_are_those_of_the_last_compute() -> None:
    metric = TIFA(of_captions("a", "b"), ScriptedJudge(lambda q: "yes"))
    metric.update(images=flat(0), prompts="a")
    metric.compute()
    before = metric.categories(), metric.missing()
    metric(images=flat(1), prompts="b")
    assert (metric.categories(), metric.missing()) == before
    metric.compute()
    assert metric.missing() == []


def stepped(rank: int, size: int, together: bool) -> list[float]:
    metric = Grade(ScriptedJudge(by_level), dist_sync_on_step=together)
    steps = [float(metric(images=flat(4 * k + rank), prompts="p", ids=[2 * k + rank])) for k in range(3)]
    return [*steps, float(metric.compute())]


@pytest.mark.parametrize("together", [True, False])
def test_batches_over_ranks(worlds: Worlds, together: bool) -> None:
    expected = [[0.5, 4.5, 8.5, 4.5]] * 2 if together else [[0, 4, 8, 4.5], [1, 5, 9, 4.5]]
    assert worlds(2, stepped, together) == expected


# Samples that come twice


def test_an_id_is_asked_about_once() -> None:
    judge = ScriptedJudge(by_level)
    metric = Grade(judge)
    metric.update(images=flat(3, 4), prompts="p", ids=[7, 7])
    assert metric(images=flat(5, 6), prompts="p", ids=[7, 8]) == 4.5  # the batch is of both; 7 was 3
    metric.update(images=flat(9, 9), prompts="p", ids=[8, 7])
    assert len(judge.asked) == 2
    assert [(record["id"], record["score"]) for record in metric.records()] == [(7, 3), (8, 6)]
    assert torch.stack(metric.scores()).tolist() == [[7, 8], [3, 6]]
    metric.reset()
    metric.update(images=flat(9), prompts="p", ids=[7])
    assert metric.compute() == 9


def test_samples_without_ids_are_all_different() -> None:
    metric = Grade(ScriptedJudge(by_level))
    metric.update(images=flat(3, 3), prompts="p")
    metric.update(images=flat(3), prompts="p")
    assert len(metric.records()) == len(metric.scores()[0]) == 3


def reported(rank: int, size: int) -> tuple[float, dict[int, float], list[float]]:
    suite = MetricSuite({"grade": Grade(ScriptedJudge(by_level))})
    suite.update(flat(1 + 4 * rank), prompts="p", ids=[5])
    report, errors = report_of(suite, [], None, None)
    assert not errors
    return report.results["grade"].value, report.scores["grade"], [r["score"] for r in report.records["grade"]]


def test_records_of_ranks_agree_with_their_scores(worlds: Worlds) -> None:
    assert worlds(2, reported) == [(1, {5: 1}, [1])] * 2


# Places


@pytest.mark.parametrize("step", [1, 2, 3])
def test_samples_that_are_passed_over_have_a_place(step: int) -> None:
    bench = GenAiPrompts({"0": "none", "1": "cat", "2": "cat"}, {"counting": ("1",), "attribute": ("2",)})
    metric = GenAIBench(bench, ScriptedJudge(lambda q: 0.5))
    prompts = ["none", "none", "cat", "cat", "none", "cat"]
    for start in range(0, 6, step):
        part = prompts[start : start + step]
        metric.update(images=random_images(len(part), 8, start), prompts=part)
    assert [record["item"] for record in metric.records()] == ["1", "2", "2"]


def ranked(question: Question) -> str:
    """As they were shown, so that the order decides."""
    return json.dumps({"reasoning": "so", "ranking": list(range(1, len(question.images) + 1))})


def test_scores_do_not_hang_on_the_batches() -> None:
    rivals = [list(random_images(3, 8, 20 + i)) for i in range(6)]
    given: Any = {"images": random_images(6, 8), "prompts": "p", "rivals": rivals}
    metric = RankingJudge(ScriptedJudge(ranked))
    metric.update(**given, ids=range(6))
    for size in (1, 2, 6):
        found = score("ranking_judge", **given, judge=ScriptedJudge(ranked), batch_size=size)
        assert found.tolist() == metric.scores()[1].tolist()
        judge = ScriptedJudge(lambda q: "yes")
        pictures = random_images(3, 8)
        score(
            "tifa",
            images=pictures,
            prompts=["a", "b", "a"],
            questions=of_captions(*"aba"),
            judge=judge,
            batch_size=size,
        )
        assert [asked_of(q) for q in judge.asked] == ["q0?", "q1?", "q2?"]


@pytest.mark.parametrize("step", [1, 4])
def test_prompts_of_several_samples_do_not_hang_on_the_batches(step: int) -> None:
    rivals = [list(random_images(3, 8, 20 + i)) for i in range(4)]
    suite = MetricSuite({"rank": PerPrompt(RankingJudge(ScriptedJudge(ranked)))})
    for i in range(0, 4, step):
        part = slice(i, i + step)
        suite.update(random_images(4, 8)[part], prompts="p", rivals=rivals[part], ids=range(4)[part])
    whole = score("ranking_judge", images=random_images(4, 8), prompts="p", rivals=rivals, judge=ScriptedJudge(ranked))
    assert suite.results()["rank"].value == pytest.approx(float(whole.mean()))


def test_ids_beyond_those_of_questions_feed_nothing() -> None:
    judge = ScriptedJudge(lambda q: "yes")
    metric = TIFA(of_captions("a"), judge)
    with pytest.raises(ValueError, match=r"`ids` must lie in \[0, 2\^43\) for tifa, got 8796093022208"):
        metric.update(images=flat(0, 1), prompts="a", ids=[0, 1 << 43])
    assert (judge.asked, metric.records(), len(metric.scores()[0])) == ([], [], 0)
    metric.update(images=flat(0), prompts="a", ids=[(1 << 43) - 1])
    assert metric.compute() == 1
    assert metric.categories()["object"].n == 1


# Answers that are none


def failing(problem: str, given: bool) -> Callable[[Question], Any]:
    """A number for the even prompts, a problem for the others."""
    return lambda q: "3" if texts_of(q).endswith("0") else Answer(problem=problem, answered=given)


@pytest.mark.parametrize(
    ("problem", "rate"),
    [
        ("cut off after 6 tokens", 0.5),
        ("refused: by the content filter", 0.5),
        ("empty answer", 0.5),
        ("'Yes' is not among the 20 likeliest tokens, which leave it up to 0.1", 0.5),
        ("no reply within 120 s, 6 times", 0),
        ("HTTP 500: out of memory (after 6 tries)", 0),
        ("silent", 0),
    ],
)
def test_answers_that_were_not_given_are_no_parse_failures(problem: str, rate: float) -> None:
    metric = Grade(ScriptedJudge(failing(problem, given=rate > 0)), max_failed=1)
    metric.update(images=flat(*range(4)), prompts=[f"p{i % 2}" for i in range(4)], ids=range(4))
    details = metric.result().details
    assert (details["parse_failure_rate"], details["n_failed"]) == (rate, 2)


def test_score_asks_about_no_more_than_the_limit() -> None:
    judge = ScriptedJudge(lambda q: json.dumps({"reasoning": "so", "score": 3}))
    scores = score("rubric", images=flat(*range(5)), prompts="p", judge=judge, limit=2, batch_size=2)
    assert scores.isnan().tolist() == [False, False, True, True, True]
    assert len(judge.asked) == 2 * 7


def test_a_judge_that_is_gone_fails_no_parser() -> None:
    said = iter(["3", "bad", "4"])

    def script(question: Question) -> str:
        answer = next(said, None)
        if answer is None:
            raise JudgeUnavailable("nobody")
        return answer

    metric = Grade(ScriptedJudge(script), max_failed=1, retries=0)
    metric.update(images=flat(*range(9)), prompts="p", ids=range(9))
    details = metric.result().details
    assert details["n_failed"] == 7
    assert details["parse_failure_rate"] == pytest.approx(1 / 3)


def test_what_servers_say_is_told_from_what_they_do_not() -> None:
    def script(body: Any) -> Said:
        text = body["messages"][-1]["content"][-1]["text"]
        faults = {
            "cut": Said("12", "length"),
            "refusal": Said(None, refusal="I will not"),
            "fault": Said("no", status=400),
        }
        return faults.get(text.split()[-1], Said("3"))

    with serving(script) as server:
        metric = Grade(as_judge(f"m@{server.url}"), max_failed=1)
        metric.update(images=flat(*range(4)), prompts=["good", "cut", "refusal", "fault"], ids=range(4))
        details = metric.result().details
    assert details["n_failed"] == 3
    assert details["parse_failure_rate"] == pytest.approx(2 / 3)  # of three answers


def test_a_text_that_an_engine_reads_is_no_refusal() -> None:
    sign = "I'm sorry, I cannot assist with that"
    engine = TextRendering(['a sign that says "OPEN"'], lambda images: [sign] * len(images))
    engine.update(images=flat(0), prompts=engine.prompts)
    assert engine.compute() == 0
    judge = TextRendering(['a sign "OPEN"'], ScriptedJudge(lambda q: json.dumps({"text": "Sorry, we are closed"})))
    judge.update(images=flat(0), prompts=judge.prompts)
    assert judge.compute() == 0
