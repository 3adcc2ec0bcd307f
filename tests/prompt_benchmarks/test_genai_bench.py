"""GenAI-Bench: means by skill as the benchmark's own rule says, over images judged by what they are and asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_images
from helpers.benchmark_references import genai_scores
from helpers.judges import ScriptedJudge, chance, texts_of
from torch import Tensor

from lightning_imgmetrics.errors import JudgeFailed, UnreadableQuestions
from lightning_imgmetrics.judges.backends.question import Question
from lightning_imgmetrics.prompt_benchmarks.base.prompt_files import GenAiPrompts, read_genai
from lightning_imgmetrics.prompt_benchmarks.genai_bench import GenAIBench, genai_tags

PROMPTS = {f"{i:05d}": f"prompt {i}" for i in range(8)}
SKILLS = {
    "attribute": ("00000", "00001", "00002", "00003"),
    "scene": ("00001",),
    "counting": ("00002", "00004"),
    "negation": ("00005",),
    "universal": ("00002",),
    "part relation": ("00006",),
}
BENCH = GenAiPrompts(PROMPTS, SKILLS)  # the last prompt has no skill


def images(n: int = 8) -> Tensor:
    return random_images(n, 8)


def bench(script: Any = chance, **kwargs: Any) -> GenAIBench:
    return GenAIBench(BENCH, judge=ScriptedJudge(script=script), **kwargs)


def test_skills_are_as_the_rule_has_them() -> None:
    metric = bench()
    metric.update(images=images(), prompts=[*PROMPTS.values()], ids=range(8))
    result, records = metric.result(), metric.records()
    by_prompt = {record["prompt"]: record["score"] for record in records}
    assert len(records) == 7
    assert "prompt 7" not in by_prompt
    expected = genai_scores([*PROMPTS], [by_prompt.get(p) for p in PROMPTS.values()], SKILLS)
    assert result.value == pytest.approx(expected.average, rel=1e-12)
    found = metric.categories()
    assert {k: c.value for k, c in found.items() if k != "all"} == pytest.approx(expected.skills.mean, rel=1e-12)
    assert {k: c.n for k, c in found.items() if k != "all"} == expected.skills.n
    assert (found["all"].value, found["all"].n) == (pytest.approx(expected.average, rel=1e-12), 7)
    assert (result.n, result.details["n_failed"], result.details["n_items"]) == (7, 0, 7)
    assert result.details["category:counting"] == found["counting"].value
    assert result.details["n_missing_items"] == 0
    assert metric.missing() == []


def test_groups() -> None:
    tags = genai_tags(SKILLS)
    assert tags["advanced"] == {"00002", "00004", "00005"}
    assert tags["basic"] == {"00000", "00001", "00003", "00006"}
    assert tags["all"] == {f"{i:05d}" for i in range(7)}
    told = genai_tags({**SKILLS, "basic": ("00002",)})
    assert told["basic"] == {"00002"}  # the file knows better


def test_what_is_asked() -> None:
    judge = ScriptedJudge(script=lambda q: 0.5)
    metric = GenAIBench(BENCH, judge=judge, question="Is it {}?", answer="Aye")
    metric.update(images=images(2), prompts=["prompt 2", "prompt 7"], ids=[0, 1])
    (asked,) = judge.asked
    assert (texts_of(asked), asked.answer) == ("Is it prompt 2?", "Aye")
    (record,) = metric.records()
    (row,) = record["rows"]
    assert (row["question"], row["expected"], row["score"]) == ("Is it prompt 2?", "Aye", 0.5)
    assert row["category"] == "advanced, attribute, counting, universal, all"


def test_an_image_may_come_with_the_name_of_its_prompt() -> None:
    judge = ScriptedJudge(script=lambda q: 0.5)
    metric = GenAIBench(BENCH, judge)
    metric.update(images=images(1), prompts="00002")
    assert 'show "prompt 2"?' in texts_of(judge.asked[0])
    assert metric.records()[0]["item"] == "00002"


def test_failures_are_left_out_and_counted() -> None:
    def script(q: Question) -> float | None:
        return None if "prompt 2" in texts_of(q) else 0.25

    metric = bench(script)
    metric.update(images=images(), prompts=[*PROMPTS.values()], ids=range(8))
    result = metric.result()
    assert result.value == 0.25
    assert result.details["n_failed"] == result.details["n_failed_questions"] == 1
    assert "universal" not in metric.categories()
    assert metric.categories()["counting"].n == 1
    assert metric.missing() == ["00002"]
    strict = bench(script, max_failed=0.1)
    strict.update(images=images(), prompts=[*PROMPTS.values()], ids=range(8))
    with pytest.raises(JudgeFailed, match="1 of 7 samples"):
        strict.compute()


def test_prompts_count_once_however_many_images_they_have() -> None:
    metric = bench(lambda q: 1.0 if "prompt 0" in texts_of(q) else 0.0)
    metric.update(images=images(4), prompts=["prompt 0"] * 3 + ["prompt 1"], ids=range(4))
    assert metric.result().value == 0.5  # over prompts
    assert metric.categories()["attribute"].value == 0.75  # over images, as published
    assert metric.missing() == [f"{i:05d}" for i in range(2, 7)]


def test_files(tmp_path: Path) -> None:
    (tmp_path / "genai_image.json").write_text(json.dumps({k: {"prompt": p, "models": {}} for k, p in PROMPTS.items()}))
    numbers = {skill: [int(name) for name in names] for skill, names in SKILLS.items()}
    (tmp_path / "genai_skills.json").write_text(json.dumps(numbers))
    files = tmp_path / "genai_image.json", tmp_path / "genai_skills.json"
    assert read_genai(*files) == BENCH
    judge = ScriptedJudge(script=chance)
    one, two = GenAIBench(files[0], judge, skills=files[1]), GenAIBench(BENCH, judge)
    assert one.items == two.items
    assert str(one.signature()) == str(two.signature())
    fewer = GenAIBench(GenAiPrompts(PROMPTS, {**SKILLS, "scene": ()}), judge=judge)
    assert one.signature().fields["questions"] != fewer.signature().fields["questions"]
    with pytest.raises(UnreadableQuestions, match="must be a list of numbers of prompts"):
        GenAIBench(files[0], judge, skills=files[0])
    for prompts, skills in ((BENCH, files[1]), (files[0], None)):
        with pytest.raises(TypeError, match="`questions` and `skills` must be two files"):
            GenAIBench(prompts, judge, skills=skills)


def test_other_prompts_are_refused() -> None:
    metric = bench()
    with pytest.raises(
        ValueError, match=r"`prompts\[1\]` is no prompt, and no name, of an item of genai_bench: 'a cat'"
    ):
        metric.update(images=images(2), prompts=["prompt 1", "a cat"])
    with pytest.raises(ValueError, match="`variant` must be 'plain'"):
        bench(variant="published")


def test_similarity() -> None:
    matrix = bench(lambda q: 0.5 if "prompt 1" in texts_of(q) else 0.25).similarity(
        images=images(2), prompts=["prompt 1", "00003"]
    )
    assert matrix.tolist() == [[0.5, 0.5], [0.25, 0.25]]
    with pytest.raises(ValueError, match="'00007' of genai_bench is left out"):
        bench().similarity(images=images(2), prompts="prompt 7")


def test_scores_are_of_single_images() -> None:
    metric = bench()
    metric.update(images=images(), prompts=[*PROMPTS.values()], ids=range(8))
    ids, scores = metric.scores()
    assert ids.tolist() == [*range(7)]
    assert torch.equal(scores, torch.tensor([r["score"] for r in metric.records()], dtype=torch.float64))
