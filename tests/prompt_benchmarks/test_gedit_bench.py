"""GEdit-Bench: the published sums, which item an image belongs to, what the judge is shown."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_images
from helpers.benchmark_references import gedit_scores
from helpers.judges import ScriptedJudge, qwen2_vl, texts_of
from hypothesis import given, settings, strategies as st
from PIL import Image
from torch import Tensor

from lightning_imgmetrics.errors import JudgeFailed, ShapeError, UnknownName, UnreadableQuestions
from lightning_imgmetrics.judges.backends.local import LocalJudge
from lightning_imgmetrics.judges.backends.question import Question
from lightning_imgmetrics.judges.metrics.vie_score import VIEScore
from lightning_imgmetrics.prompt_benchmarks.base.group_scores import GEDIT_GROUPS
from lightning_imgmetrics.prompt_benchmarks.base.prompt_files import GEditItem, read_gedit
from lightning_imgmetrics.prompt_benchmarks.gedit_bench import GEditBench, resized_to

pytestmark = pytest.mark.filterwarnings("ignore:the prompt viescore")
NOWHERE = Path("nowhere.png")
Answers = dict[int, "tuple[tuple[float, float], tuple[float, float]] | None"]


def made(i: int, group: str, instruction: str | None = None, **changes: Any) -> GEditItem:
    base = GEditItem(f"k{i}", group, instruction or f"do {i}", "en", NOWHERE, True)
    return replace(base, **changes)


def flat(*numbers: int) -> Tensor:
    return torch.stack([torch.full((3, 8, 8), 10 + number, dtype=torch.uint8) for number in numbers])


def told(scores: tuple[float, float]) -> str:
    return json.dumps({"score": list(scores), "reasoning": "so it is"})


def scripted(answers: Answers, name: str = "") -> ScriptedJudge:
    """Scores of the edited image, which comes last, by its level: of consistency, of quality; None: no answer."""

    def script(q: Question) -> str | None:
        pair = answers[int(q.images[-1][0, 0, 0]) - 10]
        return None if pair is None else told(pair[len(q.images) == 1])

    return ScriptedJudge(script, name=name)


def world_of(seed: int, n: int = 24) -> tuple[list[GEditItem], Answers]:
    draw = random.Random(seed)
    items = [made(i, draw.choice(GEDIT_GROUPS)) for i in range(n)]
    scores = [((draw.randint(0, 10), 10.0), (9.5, draw.randint(0, 10))) for _ in items]
    return items, {i: None if draw.random() < 0.15 else pair for i, pair in enumerate(scores)}


def metric_of(items: Any, judge: Any, **kwargs: Any) -> GEditBench:
    return GEditBench(items, judge, max_failed=1.0, **kwargs)


# The published sums


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 40))
def test_the_published_sums(seed: int, n: int) -> None:
    items, answers = world_of(seed, n)
    metric = metric_of(items, scripted(answers))
    order = random.Random(seed).sample(range(n), n)
    images = flat(*order)
    metric.update(images=images, prompts=[f"do {i}" for i in order], source=images, ids=order)
    if all(x is None for x in answers.values()):
        with pytest.raises(JudgeFailed):
            metric.compute()
        return
    sides = [[None if x is None else min(x[side]) for x in answers.values()] for side in (0, 1)]
    expected, result = gedit_scores([item.task_type for item in items], *sides), metric.result()
    assert result.value == expected.overall
    assert result.details["sc"] == expected.semantics
    assert result.details["pq"] == expected.quality
    assert result.details["n_failed"] == expected.n_failed
    groups = {name: (x.value, x.n) for name, x in metric.categories().items()}
    assert groups == {name: (x, expected.groups.n[name]) for name, x in expected.groups.mean.items()}
    assert metric.missing() == [item.name for i, item in enumerate(items) if answers[i] is None]


def test_the_interval_is_that_of_fixed_groups() -> None:
    """Groups that differ with no spread within leave no doubt about their mean."""
    items = [made(i, GEDIT_GROUPS[i % 2]) for i in range(6)]
    metric = metric_of(
        items, scripted({i: ((4.0, 4.0), (4.0, 4.0)) if i % 2 else ((9.0, 9.0), (9.0, 9.0)) for i in range(6)})
    )
    metric.update(images=flat(*range(6)), prompts=metric.prompts, source=flat(*range(6)))
    assert metric.result().interval == (6.5, 6.5)
    spread: Answers = {i: ((x := float(i), x), (x, x)) for i in range(6)}
    other = metric_of(items, scripted(spread))
    other.update(images=flat(*range(6)), prompts=metric.prompts, source=flat(*range(6)))
    error = other.result().details["standard_error"]
    assert error == pytest.approx((4 / 3 + 4 / 3) ** 0.5 / 2)  # each group has values 2 apart: variance 4
    single = metric_of(items[:3], scripted(spread))
    single.update(images=flat(0, 1, 2), prompts=single.prompts, source=flat(0, 1, 2))
    assert single.result().interval is None


def test_several_images_of_an_item_count_as_one() -> None:
    items = [made(0, "ps_human"), made(1, "ps_human")]
    answers: Answers = {0: ((9, 9), (4, 4)), 1: ((0, 0), (4, 4)), 2: ((9, 9), (9, 9))}
    metric = metric_of(items, scripted(answers))
    metric.update(images=flat(0, 1, 2), prompts=["do 0", "do 0", "do 1"], source=flat(0, 0, 0))
    assert float(metric.compute()) == ((6 + 0) / 2 + 9) / 2


# What the judge is shown


def test_the_questions_are_those_of_viescore() -> None:
    """With the edited image at the size of the source, and the instruction even where a name was given."""
    asked = []
    images, source = random_images(1, (40, 24), 1), random_images(1, (24, 36), 2)
    for prompt in ("do 0", "fullset/tone_transfer/en/k0"):
        judge = ScriptedJudge(lambda q: told((7, 6)))
        metric = metric_of([made(0, "tone_transfer")], judge)
        metric.update(images=images, prompts=prompt, source=source)
        asked.append(judge.asked)
        assert float(metric.compute()) == 6
    resized = Image.fromarray(images[0].permute(1, 2, 0).numpy()).resize((36, 24))  # by default bicubic
    edited = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
    judge = ScriptedJudge(lambda q: told((7, 6)))
    VIEScore(judge, task="tie").update(images=edited[None], prompts="do 0", source=source)
    for one in asked:
        assert [q.messages for q in one] == [q.messages for q in judge.asked]
        assert all(
            torch.equal(a, b)
            for q, p in zip(one, judge.asked, strict=True)
            for a, b in zip(q.images, p.images, strict=True)
        )


def test_an_image_of_the_size_of_its_source_is_shown_as_it_is() -> None:
    image = random_images(1, 24)[0]
    assert resized_to(image, torch.zeros_like(image)) is image


def test_rows_tell_what_was_asked_and_said() -> None:
    metric = metric_of([made(0, "ps_human")], scripted({0: ((7, 8), (3, 9))}))
    metric.update(images=flat(0), prompts="do 0", source=flat(5), ids=[2])
    (record,) = metric.records()
    assert (record["item"], record["prompt"], record["sc"], record["pq"]) == ("fullset/ps_human/en/k0", "do 0", 7, 3)
    assert [(row["question"], row["read"], row["score"], row["category"]) for row in record["rows"]] == [
        ("semantic consistency", [7, 8], 7, "ps_human"),
        ("perceptual quality", [3, 9], 3, "ps_human"),
    ]
    half = metric_of([made(0, "ps_human")], ScriptedJudge(lambda q: told((7, 8)) if len(q.images) == 2 else "no"))
    half.update(images=flat(0), prompts="do 0", source=flat(5))
    rows = half.records()[0]["rows"]
    assert [row["score"] for row in rows] == [7, None]
    assert rows[1]["problem"] == "unreadable answer: 'no'"


# Which item


@pytest.fixture
def twins(tmp_path: Path) -> tuple[list[GEditItem], Tensor]:
    """Three items with one instruction, of two groups, and their sources on disk."""
    sources = random_images(3, (32, 48), 3)
    for i, source in enumerate(sources):
        Image.fromarray(source.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    groups = ("subject-add", "subject-remove", "subject-remove")
    items = [made(i, group, "do it", source=tmp_path / f"{i}.png") for i, group in enumerate(groups)]
    return [*items, made(3, "ps_human", source=NOWHERE)], sources


@pytest.mark.parametrize("size", [(32, 48), (16, 24), (33, 20)])
def test_items_of_one_instruction_are_told_apart_by_their_source(twins: Any, size: tuple[int, int]) -> None:
    items, sources = twins
    given_as = torch.stack([resized_to(source, torch.zeros(3, *size)) for source in sources])
    metric = metric_of(items, ScriptedJudge(lambda q: told((7, 6))))
    order = [2, 0, 1]
    metric.update(images=random_images(3, 16), prompts="do it", source=given_as[order])
    assert [record["item"] for record in metric.records()] == [items[i].name for i in order]
    metric.compute()
    assert metric.missing() == [items[3].name]


def test_items_that_cannot_be_told_apart_need_their_name(twins: Any) -> None:
    items, sources = twins
    same = [replace(items[0], key="again"), *items]
    metric = metric_of(same, ScriptedJudge(lambda q: told((7, 6))))
    for source in (sources[:1], torch.full((1, 3, 8, 8), 120, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"'do it' is that of several items.*'fullset/subject-add/en/again'"):
            metric.update(images=flat(0), prompts=["do it"], source=source)
    metric.update(images=flat(0), prompts=[same[0].name], source=sources[:1])
    assert [record["item"] for record in metric.records()] == ["fullset/subject-add/en/again"]


def test_languages_and_the_intersection() -> None:
    """Images of items that are left out are passed over, and are not missing."""
    items = [made(0, "ps_human"), made(1, "ps_human", intersection=False), made(2, "text_change", "改", language="cn")]
    answers: Answers = {0: ((4, 4), (4, 4)), 1: ((8, 8), (8, 8)), 2: ((2, 2), (2, 2))}
    found = {}
    for name, kwargs in {
        "en": {},
        "shared": {"intersection_only": True},
        "cn": {"language": "cn"},
        "zh": {"language": "zh"},
    }.items():
        judge = scripted(answers)
        metric = metric_of(items, judge, **kwargs)
        metric.update(images=flat(0, 1, 2), prompts=["do 0", "do 1", "改"], source=flat(0, 0, 0), ids=[0, 1, 2])
        assert len(judge.asked) == 2 * len(metric.items)
        found[name] = float(metric.compute()), len(metric.prompts), metric.missing(), str(metric.signature())
    assert [x[:3] for x in found.values()] == [(6, 2, []), (4, 1, []), (2, 1, []), (2, 1, [])]
    assert found["cn"] == found["zh"]
    assert len({x[3] for x in found.values()}) == 3
    passed = metric_of(items, scripted(answers), language="cn")
    passed.update(images=flat(0), prompts="do 0", source=flat(0))
    assert passed.records() == []


def test_items_from_a_file(twins: Any, tmp_path: Path) -> None:
    items, sources = twins
    rows = [
        {"task_type": x.task_type, "key": x.key, "instruction": x.instruction, "instruction_language": "en"}
        | {"input_image": f"{i}.png", "Intersection_exist": True}
        for i, x in enumerate(items[:3])
    ]
    (tmp_path / "gedit.json").write_text(json.dumps(rows))
    assert read_gedit(tmp_path / "gedit.json") == items[:3]
    metric = metric_of(tmp_path / "gedit.json", ScriptedJudge(lambda q: told((7, 6))))
    metric.update(images=sources, prompts=metric.prompts, source=sources)
    assert [record["item"] for record in metric.records()] == list(metric.items)


@pytest.mark.parametrize(
    ("items", "kwargs", "error", "match"),
    [
        ([], {}, UnreadableQuestions, "at least one GEditItem"),
        ([made(0, "no_group")], {}, UnknownName, "`task_type` must be one of 'background_change'"),
        ([made(0, "ps_human")] * 2, {}, UnreadableQuestions, "1 names for 2 items"),
        ([made(0, "ps_human")], {"language": "de"}, UnknownName, "`language` must be one of 'en', 'cn', 'zh'"),
        ([made(0, "ps_human")], {"language": "cn"}, UnreadableQuestions, "at least one item"),
    ],
)
def test_what_is_no_benchmark(items: Any, kwargs: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        GEditBench(items, ScriptedJudge(lambda q: "no"), **kwargs)


def test_images_without_one_source_each() -> None:
    metric = metric_of([made(0, "ps_human")], scripted({0: ((4, 4), (4, 4))}))
    with pytest.raises(TypeError, match="gedit_bench needs `source="):
        metric.update(images=flat(0), prompts="do 0")
    with pytest.raises(ShapeError, match=r"`source\[0\]` must hold 1 image\(s\) for gedit_bench, got 2"):
        metric.update(images=flat(0), prompts="do 0", source=[[flat(0)[0], flat(1)[0]]])
    with pytest.raises(ValueError, match=r"`prompts\[0\]` is no prompt"):
        metric.update(images=flat(0), prompts="do what you want", source=flat(0))


# Resumption, ranks, suites


def test_a_run_that_goes_on_asks_nothing_twice() -> None:
    items, answers = world_of(4, 10)
    answers = {i: x or ((5, 5), (5, 5)) for i, x in answers.items()}
    values = []
    for judge in (first := scripted(answers, "kept"), second := scripted({}, "kept")):
        metric = metric_of(items, judge)
        metric.update(images=flat(*range(10)), prompts=metric.prompts, source=flat(*range(10)))
        values.append(float(metric.compute()))
    assert values[0] == values[1]
    assert (len(first.asked), second.asked) == (20, [])


def test_a_checkpoint_as_the_judge(tmp_path: Path) -> None:
    judge = LocalJudge(qwen2_vl(tmp_path, told((9, 4))), dtype="float32", batch_size=2)
    metric = GEditBench([made(0, "ps_human")], judge)
    metric.update(images=torch.rand(1, 3, 28, 56), prompts="do 0", source=torch.rand(1, 3, 56, 28))
    assert float(metric.compute()) == 4
    assert "do 0" in texts_of(metric.queries(metric.identified(_sample()))[0].question)


def _sample() -> Any:
    from lightning_imgmetrics.judges.metrics.queries import Sample

    return Sample(flat(0)[0], "do 0", (flat(1)[0],))
