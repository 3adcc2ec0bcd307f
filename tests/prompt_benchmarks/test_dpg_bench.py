"""DPG-Bench: the published sums from scripted answers, grids of images, what the published loader lost."""

from __future__ import annotations

import csv
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_images
from helpers.benchmark_references import DpgScores, dpg_scores
from helpers.judges import ScriptedJudge, chance, qwen2_vl, texts_of
from hypothesis import given, settings, strategies as st
from torch import Tensor

from lightning_imgmetrics import MetricSuite
from lightning_imgmetrics.errors import JudgeFailed, ShapeError, UnknownName, UnreadableQuestions, ValueRangeError
from lightning_imgmetrics.judges.backends.local import LocalJudge
from lightning_imgmetrics.judges.backends.question import Question
from lightning_imgmetrics.prompt_benchmarks.base.question_files import DpgQuestion
from lightning_imgmetrics.prompt_benchmarks.dpg_bench import DPGBench

TUPLES = ("entity - whole (a)", "attribute - color (a, b)", "entity - part (c)", "global (d)", "global - style (e)")
SAID = {1.0: "Yes.", 0.0: "no", None: None}
Table = dict[tuple[int, int, int], "float | None"]  # item, crop, proposition


def made(item: int, number: int, parents: tuple[int, ...] = (), **changes: Any) -> DpgQuestion:
    category = TUPLES[(item + number) % 5]
    base = DpgQuestion(f"p_{item}", f"text {item}", number, parents, "", "", category, f"q{item}.{number}?")
    return replace(base, **changes)


def square(*levels: int) -> Tensor:
    """Four images in a square."""
    one, two, three, four = (torch.full((3, 4, 6), level, dtype=torch.uint8) for level in levels)
    return torch.cat([torch.cat([one, two], 2), torch.cat([three, four], 2)], 1)


def grid_of(item: int) -> Tensor:
    return square(*(10 + 4 * item + crop for crop in range(4)))


def place(question: Question) -> tuple[int, int, int]:
    """Item and crop that the image shows, and the proposition that is asked about."""
    (image,) = question.images
    assert len(image.unique()) == 1, "a crop holds one image"
    shown = int(image.unique()) - 10
    return shown // 4, shown % 4, int(texts_of(question).split("Question: q")[1].split("?")[0].split(".")[1])


def scripted(table: Table, name: str = "") -> ScriptedJudge:
    return ScriptedJudge(lambda q: SAID[table[place(q)]], name=name)


def world_of(seed: int, items: int = 4, crops: int = 4) -> tuple[list[DpgQuestion], Table]:
    """Questions that depend on others of their item, in any order of the file, and answers; some failed."""
    draw = random.Random(seed)
    questions = []
    for item in range(items):
        numbers = draw.sample(range(1, 9), draw.randint(1, 6))
        for i, number in enumerate(numbers):
            questions.append(made(item, number, tuple(draw.sample(numbers[:i], min(i, draw.randint(0, 2))))))
        rows = questions[-len(numbers) :]
        questions[-len(numbers) :] = draw.sample(rows, len(rows))
    keys = [(int(q.item_id[2:]), crop, q.proposition) for q in questions for crop in range(crops)]
    return questions, {key: draw.choice([1.0, 1.0, 1.0, 0.0, None]) for key in keys}


def by_hand(questions: list[DpgQuestion], table: Table, images: int = 4, crops: str = "last") -> DpgScores:
    items: dict[str, list[DpgQuestion]] = {}
    for q in questions:
        items.setdefault(q.item_id, []).append(q)
    answers = {
        name: [{q.proposition: table[int(name[2:]), crop, q.proposition] for q in of} for crop in range(images)]
        for name, of in items.items()
    }
    parents = {name: {q.proposition: q.parents for q in of} for name, of in items.items()}
    tuples = {name: {q.proposition: q.tuple for q in of} for name, of in items.items()}
    return dpg_scores(answers, parents, tuples, crops=crops)


def require_like(metric: DPGBench, expected: DpgScores) -> None:
    result = metric.result()
    assert result.value == pytest.approx(expected.score, rel=1e-14)
    assert result.details["n_failed_questions"] == expected.n_failed
    assert metric.missing() == expected.items.absent
    found, told = metric.categories(), {f"L1/{k}": x for k, x in expected.broad.mean.items()}
    told |= {f"L2/{k}": x for k, x in expected.detailed.mean.items()}
    counts = {f"L1/{k}": n for k, n in expected.broad.n.items()} | {
        f"L2/{k}": n for k, n in expected.detailed.n.items()
    }
    assert {name: category.value for name, category in found.items()} == pytest.approx(told, rel=1e-14)
    assert {name: category.n for name, category in found.items()} == counts
    assert {name: result.details[f"category:{name}"] for name in told} == {name: found[name].value for name in told}


# The published sums


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), items=st.integers(1, 5), crops=st.sampled_from(["last", "all"]))
def test_the_published_sums_of_grids(seed: int, items: int, crops: str) -> None:
    questions, table = world_of(seed, items)
    metric = DPGBench(questions, scripted(table), grid=2, crops=crops, max_failed=1.0)
    order = random.Random(seed).sample(range(items), items)
    for i in order:
        metric.update(images=[grid_of(i)], prompts=f"text {i}", ids=[i])
    if any(x is not None for x in table.values()):
        require_like(metric, by_hand(questions, table, crops=crops))
    else:
        with pytest.raises(JudgeFailed, match="silent"):
            metric.compute()


@pytest.mark.parametrize("seed", range(8))
def test_the_published_sums_of_single_images(seed: int) -> None:
    """One image of each item; then several, which all count for the categories."""
    questions, table = world_of(seed)
    images = [torch.full((3, 5, 7), 10 + 4 * i, dtype=torch.uint8) for i in range(4)]
    metric = DPGBench(questions, scripted(table), max_failed=1.0)
    metric.update(images=images, prompts=metric.prompts, ids=range(4))
    require_like(metric, by_hand(questions, table, images=1))
    several = DPGBench(questions, scripted(table), max_failed=1.0)
    for crop in range(3):
        shown = torch.stack([image + crop for image in images])
        several.update(images=shown, prompts=several.prompts, ids=range(4 * crop, 4 * crop + 4))
    require_like(several, by_hand(questions, table, images=3, crops="all"))


def test_zeros_spread_to_what_depends_on_them() -> None:
    questions = [made(0, 3, (2,)), made(0, 1), made(0, 2, (1,)), made(0, 4)]
    table: Table = {(0, 0, 1): 0.0, (0, 0, 2): 1.0, (0, 0, 3): 1.0, (0, 0, 4): 1.0}
    metric = DPGBench(questions, scripted(table))
    metric.update(images=torch.full((1, 3, 4, 4), 10, dtype=torch.uint8), prompts="text 0", ids=[5])
    assert float(metric.compute()) == 25
    (record,) = metric.records()
    assert [(row["proposition"], row["score"], row["counted"]) for row in record["rows"]] == [
        (3, 1.0, 0.0),
        (1, 0.0, 0.0),
        (2, 1.0, 0.0),
        (4, 1.0, 1.0),
    ]
    assert {(row["expected"], row["crop"]) for row in record["rows"]} == {("yes", 0)}
    assert [row["read"] for row in record["rows"]] == ["yes", "no", "yes", "yes"]
    assert metric.rationales() == {5: "no: q0.1?"}
    assert sum(category.value == 100 for name, category in metric.categories().items() if name[:2] == "L2") == 3


# What the judge is shown and how it is read


def test_a_grid_is_cut_row_by_row() -> None:
    judge = ScriptedJudge(lambda q: "yes")
    metric = DPGBench([made(0, 1)], judge, grid=2)
    metric.update(images=[square(11, 12, 13, 14)], prompts="text 0")
    assert [int(q.images[0].unique()) for q in judge.asked] == [11, 12, 13, 14]
    assert {tuple(q.images[0].shape) for q in judge.asked} == {(3, 4, 6)}
    whole = ScriptedJudge(lambda q: "yes")
    DPGBench([made(0, 1)], whole).update(images=[square(11, 12, 13, 14)], prompts="text 0")
    assert torch.equal(whole.asked[0].images[0], square(11, 12, 13, 14))
    assert "text 0" not in texts_of(whole.asked[0])  # it would give the answer away


@pytest.mark.parametrize("size", [(5, 4), (4, 5), (1, 1)])
def test_an_odd_image_is_no_grid(size: tuple[int, int]) -> None:
    metric = DPGBench([made(0, 1)], ScriptedJudge(lambda q: "yes"), grid=2)
    with pytest.raises(ShapeError, match=rf"`grid=2` .* even height and width, got {size[0]} x {size[1]}"):
        metric.update(images=random_images(1, size), prompts="text 0")
    assert metric.records() == []


@pytest.mark.parametrize(
    ("said", "value"),
    [("Yes", 100), ("yes, it is", 100), ("No.", 0), ("<think>no</think>\nyes", 100), ("perhaps", None), ("1", None)],
)
def test_what_is_a_yes(said: str, value: float | None) -> None:
    metric = DPGBench([made(0, 1)], ScriptedJudge(lambda q: said))
    metric.update(images=random_images(1, 8), prompts="text 0")
    if value is None:
        with pytest.raises(JudgeFailed, match=f"unreadable answer: '{said}'"):
            metric.compute()
    else:
        assert float(metric.compute()) == value


# Items


def dpg_file(path: Path, questions: list[DpgQuestion]) -> Path:
    columns = ("item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "tuple", "question_natural_language"])
        for q in questions:
            parents = ",".join(map(str, q.parents)) or "0"
            row = [q.item_id, q.text, "", q.proposition, parents, q.category_broad, q.category_detailed]
            writer.writerow([*row, q.tuple, q.question])
    return path


def test_the_first_row_lost_as_published(tmp_path: Path) -> None:
    """The item that lost a parent is left out; its images are passed over, and it is not missing."""
    questions = [made(0, 1), made(0, 2, (1,)), made(1, 1), made(1, 2, (1,)), made(2, 1)]
    path = dpg_file(tmp_path / "dpg.csv", questions)
    table: Table = {(i, 0, n): float(i > 0) for i in range(3) for n in (1, 2)}
    images = torch.stack([torch.full((3, 4, 4), 10 + 4 * i, dtype=torch.uint8) for i in range(2)])
    values, signatures = [], set()
    for skip in (False, True):
        metric = DPGBench(path, scripted(table), skip_first_row=skip)
        metric.update(images=images, prompts=["text 0", "text 1"], ids=[0, 1])
        values.append(float(metric.compute()))
        signatures.add(metric.result().signature)
        assert metric.missing() == ["p_2"]
        assert metric.prompts == ["text 0", "text 1", "text 2"][skip:]
    assert values == [50, 100]
    assert len(signatures) == 2
    with pytest.raises(ValueError, match="'p_0' of dpg_bench is left out"):
        metric.scores_of({"pixels": list(images[:1])}, prompts=["text 0"])
    direct = DPGBench(questions, scripted(table))
    assert str(direct.signature()) in signatures


def test_items_without_a_text_are_known_by_their_name() -> None:
    metric = DPGBench(
        [made(0, 1, text=""), made(0, 2, text="two\n words"), made(1, 1, text=" ")], ScriptedJudge(lambda q: "yes")
    )
    assert metric.prompts == ["two\n words", "p_1"]
    metric.update(images=random_images(3, 8), prompts=["two words", "p_0", "p_1"])
    assert [record["item"] for record in metric.records()] == ["p_0", "p_0", "p_1"]
    with pytest.raises(ValueError, match=r"`prompts\[0\]` is no prompt"):
        metric.update(images=random_images(1, 8), prompts="one word")


@pytest.mark.parametrize(
    ("questions", "kwargs", "error", "match"),
    [
        ([], {}, UnreadableQuestions, "at least one DpgQuestion"),
        ([made(0, 1, (2,))], {}, UnknownName, "`parents` must be one of 1; got 2"),
        ([made(0, 1, (2,)), made(0, 2, (1,))], {}, ValueRangeError, "no cycle"),
        ([made(0, 1), made(0, 1)], {}, UnreadableQuestions, r"propositions of item 'p_0' must differ, got \[1, 1\]"),
        ([made(0, 1)], {"grid": 3}, ValueError, "`grid` must be 1 .* got 3"),
        ([made(0, 1)], {"crops": "first"}, UnknownName, "`crops` must be one of 'last', 'all'"),
        ([made(0, 1)], {"skip_first_row": True}, ValueError, "`skip_first_row` needs"),
    ],
)
def test_what_is_no_benchmark(questions: Any, kwargs: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        DPGBench(questions, ScriptedJudge(lambda q: "no"), **kwargs)


def test_too_many_questions() -> None:
    metric = DPGBench([made(0, n) for n in range(1, 258)], ScriptedJudge(lambda q: "no"), grid=2)
    with pytest.raises(ValueError, match="at most 1024 questions an image, got 1028"):
        metric.update(images=[grid_of(0)], prompts="text 0")


# Resumption, ranks, suites


def test_a_run_that_goes_on_asks_nothing_twice() -> None:
    questions, table = world_of(2)
    table = {key: 0.0 if x is None else x for key, x in table.items()}
    values = []
    for judge in (first := scripted(table, "kept"), second := scripted({}, "kept")):
        metric = DPGBench(questions, judge, grid=2)
        metric.update(images=[grid_of(i) for i in range(4)], prompts=metric.prompts)
        values.append(float(metric.compute()))
    assert values[0] == values[1]
    assert len(first.asked) == len(table)
    assert second.asked == []


def test_samples_count_once_and_passes_share_a_suite() -> None:
    judge = ScriptedJudge(lambda q: "yes" if chance(q) < 0.5 else "no")
    questions, _ = world_of(7)
    images = random_images(4, 8)
    suite = MetricSuite({"grid": DPGBench(questions, judge, grid=2), "one": DPGBench(questions, judge)})
    prompts = suite["one"].prompts
    suite.update(images, prompts=prompts, ids=range(4))
    before = suite.results(), suite["one"].categories()
    suite.update(images[:2], prompts=prompts[:2], ids=range(2))  # as a distributed sampler pads
    after = suite.results(), suite["one"].categories()
    assert before[1] == after[1]
    assert [before[0][name].value for name in ("grid", "one")] == [after[0][name].value for name in ("grid", "one")]


def test_a_checkpoint_as_the_judge(tmp_path: Path) -> None:
    judge = LocalJudge(qwen2_vl(tmp_path, "Yes, there is."), dtype="float32", batch_size=8)
    metric = DPGBench([made(0, 1), made(0, 2, (1,))], judge, grid=2)
    metric.update(images=torch.rand(1, 3, 56, 112), prompts="text 0")
    assert float(metric.compute()) == 100
