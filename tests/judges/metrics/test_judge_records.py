"""What records of judges hold of every answer, and the intervals of scores whose range is known."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
from conftest import random_images
from helpers.judge_cases import JUDGED, dpg_questions, given, make, picked, tifa_questions
from helpers.judges import Grade, ScriptedJudge

from lightning_imgmetrics.judges.backends.question import Decoding
from lightning_imgmetrics.judges.calibration.judge_calibration import JudgeCalibration
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.rubric import RubricJudge
from lightning_imgmetrics.judges.metrics.vie_score import VIEScore
from lightning_imgmetrics.prompt_benchmarks.dpg_bench import DPGBench
from lightning_imgmetrics.prompt_benchmarks.tifa.metric import TIFA

pytestmark = pytest.mark.filterwarnings("ignore:the prompt :UserWarning")
ASKED = [case for case in JUDGED if not case.startswith("geneval")]


@pytest.mark.parametrize("case", ASKED)
def test_every_answer_is_on_record(case: str) -> None:
    metric = make(case)
    judge = metric.judge
    script, said = judge.script, []

    def remembered(question: Any) -> Any:
        said.append(script(question))
        return said[-1]

    object.__setattr__(judge, "script", remembered)
    metric.update(**given(case, range(4)))
    rows = [row for record in metric.records() for row in record["rows"] if "answer" in row]
    assert sum(row["tries"] for row in rows) >= len(rows) > 0
    assert {row["answer"] for row in rows} == {None if x is None else x for x in said}
    assert all(row["question"] for row in rows)
    json.dumps(metric.records())


def test_rows_without_any_of_the_metric_are_those_of_its_questions() -> None:
    long = "1" * 3000
    texts = iter(["7", "bad", "<think>or 4?</think> 5", long])
    metric = Grade(ScriptedJudge(lambda q: next(texts)))
    for i in range(3):
        metric.update(images=random_images(1, 8, i), prompts=f"p{i}")
    first, second, third = (record["rows"] for record in metric.records())
    assert first == [{"question": "grade: p0", "score": 7.0, "answer": "7", "tries": 1}]
    assert (second[0]["tries"], second[0]["answer"]) == (2, "5")
    assert third[0]["answer"] == long[:2000]


def test_failed_samples_keep_what_was_said() -> None:
    metric = VIEScore(ScriptedJudge(lambda q: "I would rather not say"), max_failed=1)
    metric.update(images=random_images(1, 8), prompts="p", ids=[0])
    assert [(row["question"], row["answer"], row["tries"]) for row in metric.records()[0]["rows"]] == [
        ("SC", "I would rather not say", 2),
        ("PQ", "I would rather not say", 2),
    ]


def test_what_a_rating_model_writes_is_its_rationale() -> None:
    metric = make("unified_reward")
    metric.update(**given("unified_reward", range(1)), ids=[0])
    assert metric.rationales() == {0: metric.records()[0]["rows"][0]["answer"]}
    pairs = make("unified_reward (pairs)")
    pairs.update(**given("unified_reward (pairs)", range(1)), ids=[0])
    first, second = (row["answer"] for row in pairs.records()[0]["rows"])
    assert pairs.rationales() == {0: f"shown first: {first}\nshown second: {second}"}


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_equal_extremes_are_not_certain(answer: str) -> None:
    metric = DPGBench(dpg_questions(), ScriptedJudge(lambda q: answer))
    metric.update(**given("dpg_bench", range(6)))
    low, high = metric.result().interval  # type: ignore[misc]
    assert 0 <= low < high <= 100
    assert high - low > 10
    assert (high if answer == "yes" else low) == (100 if answer == "yes" else 0)
    assert all(0 <= end <= 100 for c in metric.categories().values() if c.interval for end in c.interval)


@pytest.mark.parametrize("case", ASKED)
@pytest.mark.parametrize("n", [4, 9])
def test_intervals_stay_within_the_range(case: str, n: int) -> None:
    metric = make(case, **({} if "max_failed" in JUDGED[case][1]() else {"max_failed": 1.0}))
    metric.update(**given(case, range(n)))
    result = metric.result()
    low, high = metric.range_of(metric.name)
    if result.interval is not None:
        assert low <= result.interval[0] <= result.value <= result.interval[1] <= high
    for category in getattr(metric, "categories", dict)().values():
        if category.interval is not None:
            most = 1.0 if metric.name == "genai_bench" else high
            assert low <= category.interval[0] <= category.value <= category.interval[1] <= most


@pytest.mark.parametrize("level", [0, 10])
def test_a_score_at_its_bound(level: int) -> None:
    told = json.dumps({"score": [level], "reasoning": "so"}), json.dumps({"score": [level] * 2, "reasoning": "so"})
    answers = itertools.cycle(told)
    metric = VIEScore(ScriptedJudge(lambda q: next(answers)))
    metric.update(images=random_images(4, 8), prompts="p", ids=range(4))
    assert metric.scores()[1].tolist() == [level] * 4
    low, high = metric.result().interval  # type: ignore[misc]
    assert 0 <= low < high <= 10
    assert level in (low, high)


def test_calibrations_are_what_compute_returns() -> None:
    judge = ScriptedJudge()
    ratings = {0: 1, 1: 2, 2: 3}
    found = JudgeCalibration.measure(ratings, ratings, resamples=20)
    assert RubricJudge(judge, calibration=found).protocol.calibration is found
    for wrong in ("x", 3, found.to_json(), JudgeCalibration(RubricJudge(judge), ratings)):
        with pytest.raises(TypeError, match=f"`calibration` must be .*, got {type(wrong).__name__}"):
            RubricJudge(judge, calibration=wrong)  # type: ignore[arg-type]


def test_draws_keep_an_answer() -> None:
    drawn = iter(["3", "bad", "5"])
    metric: JudgeMetric = Grade(
        ScriptedJudge(lambda q: next(drawn)), repeats=3, retries=0, decoding=Decoding(temperature=1.0)
    )
    metric.update(images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8), prompts="p")
    (row,) = metric.records()[0]["rows"]
    assert (row["answer"], row["score"]) == ("3", 4.0)


def test_tifa_tells_what_was_said_and_what_was_read() -> None:
    metric = TIFA(tifa_questions(), ScriptedJudge(lambda q: picked(q).upper() + "."))
    metric.update(**given("tifa", range(3)))
    rows = [row for record in metric.records() for row in record["rows"]]
    assert [row["answer"].strip(".").lower() for row in rows] == [row["read"] for row in rows]
    assert all(row["answer"].isupper() for row in rows)
