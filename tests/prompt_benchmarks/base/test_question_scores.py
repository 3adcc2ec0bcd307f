"""Benchmarks of questions: published numbers, the published loop, cases by hand, laws of failed answers, bad input."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_images
from helpers.judges import ScriptedJudge, texts_of
from hypothesis import given, strategies as st

from lightning_imgmetrics.errors import (
    JudgeFailed,
    NonFiniteFeatures,
    ShapeError,
    UnknownName,
    ValueRangeError,
)
from lightning_imgmetrics.judges.backends.question import Question
from lightning_imgmetrics.judges.parsing.decisions import literal_choice
from lightning_imgmetrics.prompt_benchmarks.base.group_scores import GEDIT_GROUPS, group_means
from lightning_imgmetrics.prompt_benchmarks.base.prompt_files import GEditItem, GenAiPrompts
from lightning_imgmetrics.prompt_benchmarks.base.question_files import DpgQuestion, TifaQuestion
from lightning_imgmetrics.prompt_benchmarks.base.question_scores import closest_choice, dependent_scores, dpg_category
from lightning_imgmetrics.prompt_benchmarks.dpg_bench import DPGBench
from lightning_imgmetrics.prompt_benchmarks.gedit_bench import GEditBench
from lightning_imgmetrics.prompt_benchmarks.genai_bench import GenAIBench
from lightning_imgmetrics.prompt_benchmarks.tifa.generated import (
    ELEMENT_TYPES,
    GeneratedQuestion,
    filtered_questions,
    parse_generated,
    passes_filter,
    token_f1,
)
from lightning_imgmetrics.prompt_benchmarks.tifa.metric import TIFA

NAN = math.nan
ANSWERS = st.sampled_from([0.0, 1.0, 0.5, None])


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[int, float | None], dict[int, list[int]]]:
    """Answers and parents of up to nine questions whose parents have lower ids, in the order of the ids."""
    n = draw(st.integers(1, 9))
    answers = {i: draw(ANSWERS) for i in range(1, n + 1)}
    parents = {i: draw(st.lists(st.integers(0, i - 1), max_size=3)) for i in answers}
    return answers, parents


def published(answers: Mapping[int, float], parents: Mapping[int, Sequence[int]]) -> dict[int, float]:
    """One pass in the order of the file, each question seeing the zeros that were set before it."""
    scores = dict(answers)
    for question, needed in parents.items():
        if any(scores[parent] == 0 for parent in needed if parent):
            scores[question] = 0
    return scores


def test_zeros_cascade_down_to_the_last_descendant() -> None:
    chain = {1: [0], 2: [1], 3: [2], 4: [0], 5: [3, 4]}
    assert dependent_scores({1: 0, 2: 1, 3: 1, 4: 1, 5: 1}, chain) == {1: 0, 2: 0, 3: 0, 4: 1, 5: 0}
    assert dependent_scores(dict.fromkeys(range(1, 6), 1), chain) == dict.fromkeys(range(1, 6), 1)
    assert dependent_scores({1: 1, 2: 1, 3: 0, 4: 1, 5: 1}, chain) == {1: 1, 2: 1, 3: 0, 4: 1, 5: 0}


def test_a_child_before_its_parent_is_zeroed_all_the_same() -> None:
    answers, parents = {3: 1.0, 2: 1.0, 1: 0.0}, {3: [2], 2: [1], 1: [0]}
    assert dependent_scores(answers, parents) == {3: 0, 2: 0, 1: 0}
    assert published(answers, parents) == {3: 1, 2: 0, 1: 0}


def test_a_failed_answer_stays_failed_and_blames_no_child() -> None:
    parents = {1: [0], 2: [1], 3: [2]}
    assert dependent_scores({1: 1, 2: None, 3: 1}, parents) == {1: 1, 2: None, 3: 1}
    assert dependent_scores({1: 1, 2: NAN, 3: 1}, parents) == {1: 1, 2: None, 3: 1}
    # whatever 2 had answered, it would be 0, and so is 3
    assert dependent_scores({1: 0, 2: None, 3: 1}, parents) == {1: 0, 2: None, 3: 0}


@given(graphs())
def test_where_parents_stand_first_the_scores_are_the_published_ones(graph: Any) -> None:
    answers = {i: 1.0 if answer is None else answer for i, answer in graph[0].items()}
    assert dependent_scores(answers, graph[1]) == published(answers, graph[1])


@given(graphs(), st.randoms())
def test_the_order_of_questions_does_not_matter_and_zeroing_twice_is_zeroing_once(graph: Any, random: Any) -> None:
    answers, parents = graph
    scores = dependent_scores(answers, parents)
    assert dependent_scores(scores, parents) == scores
    assert list(scores) == list(answers)
    ids = list(answers)
    random.shuffle(ids)
    renamed = {old: new for new, old in enumerate(ids, 101)}  # neither position nor size of an id counts
    mixed = dependent_scores(
        {renamed[i]: answers[i] for i in ids},
        {renamed[i]: [renamed[p] for p in parents[i] if p] for i in ids},
    )
    assert {i: mixed[renamed[i]] for i in ids} == scores


@given(graphs(), st.data())
def test_a_failed_question_more_changes_no_other(graph: Any, data: st.DataObject) -> None:
    answers, parents = graph
    needed = data.draw(st.lists(st.sampled_from([0, *answers]), max_size=3))
    more = dependent_scores({**answers, 99: None}, {**parents, 99: needed})
    assert more.pop(99) is None
    assert more == dependent_scores(answers, parents)


def test_parents_that_are_no_question_and_cycles_are_refused() -> None:
    with pytest.raises(UnknownName, match=r"`parents` must be one of 1, 2; got 7"):
        dependent_scores({1: 1, 2: 1}, {2: [7]})
    for parents in ({1: [2], 2: [1]}, {1: [1], 2: [0]}):
        with pytest.raises(ValueRangeError, match=r"no cycle, got 1 -> .*1$|no cycle, got 2 -> 1 -> 2"):
            dependent_scores({1: 1, 2: 1}, parents)
    with pytest.raises(ValueRangeError, match="finite"):
        dependent_scores({1: math.inf}, {})


def published_tifa() -> tuple[list[str], list[str], list[int]]:
    """Captions, element types, and right or wrong of the 19 questions about the two published sample images."""
    first = ["animal/human"] * 2 + ["object"] + ["location"] * 2 + ["activity"] * 2 + ["color"] * 4
    second = ["animal/human"] * 2 + ["object"] * 2 + ["activity"] + ["counting"] * 3
    return ["a"] * 11 + ["b"] * 8, first + second, [1] * 11 + [1, 0, 1, 1, 1, 1, 0, 0]


def by_question(scores: Mapping[str, float | None], yes: str, no: str) -> ScriptedJudge:
    """Says yes or no, or nothing, to what the first line asks."""
    said = {1: yes, 0: no, None: None}
    return ScriptedJudge(lambda q: said[scores[re.findall("^Question: (.*)", texts_of(q), re.MULTILINE)[0]]])


def tifa(captions: Sequence[str], element_types: Sequence[str], scores: Sequence[float | None]) -> TIFA:
    """One image of each caption, of whose questions so many are answered right."""
    questions = [
        TifaQuestion(caption, f"caption {caption}", f"{i}?", ("yes", "no"), "yes", kind, "it")
        for i, (caption, kind) in enumerate(zip(captions, element_types, strict=True))
    ]
    judge = by_question({f"{i}?": score for i, score in enumerate(scores)}, "yes", "no")
    metric = TIFA(questions, judge, max_failed=1)
    metric.update(images=random_images(len(metric.prompts), 8), prompts=metric.prompts)
    return metric


def test_tifa_of_the_published_sample() -> None:
    metric = tifa(*published_tifa())
    result = metric.result()
    assert result.value == 0.8125
    assert result.details["stdev"] == pytest.approx(0.2651650429449553, rel=1e-15)
    assert [(r["item"], r["score"]) for r in metric.records()] == [("a", 1), ("b", 0.625)]
    by_type = {"animal/human": 0.75, "object": 1, "location": 1, "activity": 1, "color": 1, "counting": 1 / 3}
    assert {name: category.value for name, category in metric.categories().items()} == by_type
    assert result.details["n_failed_questions"] == 0


def test_tifa_leaves_failed_answers_out_and_lists_what_has_no_other() -> None:
    metric = tifa(["a", "a", "b", "b", "c"], ["x", "y", "x", "x", "z"], [1, None, 0, None, None])
    result = metric.result()
    assert (result.value, result.details["stdev"]) == (0.5, pytest.approx(math.sqrt(0.5)))
    assert (result.details["n_failed_questions"], metric.missing()) == (3, ["c"])
    assert {name: (category.value, category.n) for name, category in metric.categories().items()} == {"x": (0.5, 2)}
    assert "stdev" not in tifa(["a"], ["x"], [1]).result().details
    with pytest.raises(JudgeFailed):
        tifa(["a"], ["x"], [None]).compute()


TUPLES = {"i": {1: "entity - whole (dog)", 2: "attribute - color (dog, red)"}, "j": {1: "global - (photo)"}}
PARENTS = {"i": {1: (0,), 2: (1,)}, "j": {1: (0,)}}
Images = Sequence[Mapping[int, "float | None"]]


def dpg(
    answers: Mapping[str, Images],
    tuples: Mapping[str, Mapping[int, str]] = TUPLES,
    parents: Any = PARENTS,
    **kwargs: Any,
) -> DPGBench:
    """Squares of four equal images of each item: image k of an item is answered as its last answers say."""
    questions = [
        DpgQuestion(
            item, f"text {item}", number, parents.get(item, {}).get(number, ()), "", "", kind, f"{item}{number}?"
        )
        for item, of in tuples.items()
        for number, kind in of.items()
    ]
    shown = {10 + 10 * i + k: image for i, images in enumerate(answers.values()) for k, image in enumerate(images)}

    def script(q: Question) -> str | None:
        number = int(re.findall(r"^Question: .(\d)\?", texts_of(q), re.MULTILINE)[0])
        answer = shown[int(q.images[0][0, 0, 0])][number]
        return None if answer is None else "yes" if answer else "no"

    metric = DPGBench(questions, ScriptedJudge(script), max_failed=1, **kwargs)
    for i, (item, images) in enumerate(answers.items()):
        crops = [torch.full((3, 4, 4), 10 + 10 * i + k, dtype=torch.uint8) for k in range(len(images))]
        rows = [torch.cat(crops[k : k + 2], 2) for k in (0, 2)] if len(crops) == 4 else []
        for image in [torch.cat(rows, 1)] if rows else crops:
            metric.update(images=[image], prompts=item)
    return metric


def test_dpg_means_images_then_items_and_categories_before_zeroing() -> None:
    full, empty = {1: 1.0, 2: 1.0}, {1: 0.0, 2: 1.0}  # the second has nothing left
    answers: dict[str, Images] = {"i": [full, full, empty, empty], "j": [{1: 1.0}] * 4}
    last = dpg(answers, grid=2)
    assert [record["score"] for record in last.records()] == [50, 100]
    assert last.compute() == 75
    names = {"L1/entity": 0, "L1/attribute": 100, "L1/global": 100}
    names |= {"L2/entity - whole": 0, "L2/attribute - color": 100, "L2/global -": 100}
    assert {name: category.value for name, category in last.categories().items()} == names
    every = dpg(answers, grid=2, crops="all")
    assert every.compute() == 75
    assert {name: category.value for name, category in every.categories().items()} == {
        **names,
        "L1/entity": 50,
        "L2/entity - whole": 50,
    }
    assert every.categories()["L1/entity"].n == 4


def test_dpg_pools_the_broad_categories_over_questions() -> None:
    names = ["entity - whole (a)", "entity - part (b)", "entity - part (c)", "entity - part (d)"]
    metric = dpg({"i": [{1: 0, 2: 1, 3: 1, 4: 1}]}, {"i": dict(enumerate(names, 1))}, {})
    metric.compute()
    expected = {"L1/entity": 75, "L2/entity - whole": 0, "L2/entity - part": 100}
    assert {name: category.value for name, category in metric.categories().items()} == expected


def test_dpg_leaves_failed_answers_out() -> None:
    metric = dpg({"i": [{1: 1, 2: None}, {1: None, 2: None}], "j": [{1: None}]})
    result = metric.result()
    assert (result.value, result.details["n_failed_questions"], metric.missing()) == (100, 4, ["j"])
    assert set(metric.categories()) == {"L1/entity", "L2/entity - whole"}


@pytest.mark.parametrize(
    ("text", "broad", "detailed"),
    [
        ("attribute - color (x, y)", "attribute", "attribute - color"),
        ("relation-spatial(a, b, on (top))", "relation", "relation-spatial"),
        ("global", "global", "global"),
    ],
)
def test_categories_of_a_tuple(text: str, broad: str, detailed: str) -> None:
    assert dpg_category(text) == (broad, detailed)


def gedit(groups: Sequence[str], semantics: Sequence[float | None], quality: Sequence[float | None]) -> GEditBench:
    items = [GEditItem(f"k{i}", group, f"do {i}", "en", Path("nowhere.png"), True) for i, group in enumerate(groups)]
    images = torch.stack([torch.full((3, 8, 8), i, dtype=torch.uint8) for i in range(len(items))])

    def script(q: Question) -> str | None:
        two = len(q.images) == 2
        score = (semantics if two else quality)[int(q.images[-1][0, 0, 0])]
        return None if score is None else json.dumps({"score": [score, score], "reasoning": "so"})

    metric = GEditBench(items, ScriptedJudge(script), max_failed=1)
    metric.update(images=images, prompts=metric.prompts, source=images)
    return metric


@pytest.mark.filterwarnings("ignore:the prompt viescore")
def test_gedit_averages_groups_and_not_samples() -> None:
    assert len(GEDIT_GROUPS) == 11
    metric = gedit([*GEDIT_GROUPS, "ps_human", "ps_human"], [4.0] * 11 + [10.0, 10.0], [9.0] * 13)
    result = metric.result()
    assert result.details["sc"] == pytest.approx((10 * 4 + 8) / 11)
    ps_human = (6 + 2 * math.sqrt(90)) / 3  # the mean of roots, not the root of means
    assert metric.categories()["ps_human"].value == pytest.approx(ps_human)
    assert result.value == pytest.approx((10 * 6 + ps_human) / 11)
    assert result.details["pq"] == 9


@pytest.mark.filterwarnings("ignore:the prompt viescore")
def test_gedit_drops_a_sample_without_both_scores_from_all_three() -> None:
    metric = gedit(["ps_human", "ps_human", "color_alter"], [4, None, 2], [4, 9, None])
    result = metric.result()
    assert (result.value, result.details["sc"], result.details["pq"]) == (4, 4, 4)
    assert result.details["n_failed"] == 2
    assert list(metric.categories()) == ["ps_human"]


def genai(names: Sequence[str], scores: Sequence[float | None], skills: Mapping[str, Sequence[str]]) -> GenAIBench:
    """One image per score, of the prompt with that name."""
    shown = dict(enumerate(scores))
    bench = GenAiPrompts({name: f"prompt {name}" for name in names}, {k: tuple(x) for k, x in skills.items()})
    metric = GenAIBench(bench, ScriptedJudge(lambda q: shown[int(q.images[0][0, 0, 0])]), max_failed=1)
    images = torch.stack([torch.full((3, 8, 8), i, dtype=torch.uint8) for i in shown])
    metric.update(images=images, prompts=list(names))
    return metric


def test_genai_counts_an_image_in_each_skill_and_once_in_all() -> None:
    skills = {"attribute": ["0", "1"], "counting": ["1", "2"], "negation": ["3"]}
    metric = genai(["0", "1", "2", "3", "9"], [0.2, 0.4, 0.9, None, 0.0], skills)
    result = metric.result()
    assert result.value == pytest.approx((0.2 + 0.4 + 0.9) / 3)
    expected = {"basic": 0.2, "advanced": 0.65, "attribute": 0.3, "counting": 0.65, "all": 0.5}
    assert {name: category.value for name, category in metric.categories().items()} == pytest.approx(expected)
    assert (len(metric.records()), result.details["n_failed"]) == (4, 1)  # one has no skill, one no score


def test_genai_takes_the_files_own_groups_and_several_images_of_a_prompt() -> None:
    skills = {"attribute": ["0"], "basic": ["0", "1"], "advanced": ["2"]}
    metric = genai(["0", "0", "1", "2"], [0.0, 1.0, 0.8, 0.1], skills)
    metric.compute()
    expected = {"basic": 0.6, "advanced": 0.1, "attribute": 0.5, "all": 1.9 / 4}
    assert {name: category.value for name, category in metric.categories().items()} == pytest.approx(expected)


def test_one_group_per_score() -> None:
    with pytest.raises(ShapeError, match="2 groups and 1 scores"):
        group_means(["a", "b"], [1])
    with pytest.raises(ValueRangeError, match="finite"):
        group_means(["a"], [-math.inf])
    assert group_means([], [], expected=["x"]) == ({}, {}, ("x",))


def test_choices_by_the_letter_then_but_for_case() -> None:
    assert literal_choice("Red", ["red", "Red"]) == 1
    assert literal_choice(" RED\n", ["blue", "red"]) == 1
    assert literal_choice("reddish", ["red", "blue"]) is None
    assert literal_choice("", []) is None


def test_the_closest_choice_has_the_largest_cosine() -> None:
    answer = torch.tensor([1.0, 1.0, 0.0])
    choices = torch.tensor([[9.0, 0.0, 0.0], [0.1, 0.1, 0.0], [0.2, 0.2, 0.0], [-1.0, -1.0, 0.0]])
    assert closest_choice(answer, choices) == 1  # length does not count, and the first of equals is taken
    assert closest_choice(answer, choices[[0, 3]]) == 0
    with pytest.raises(ShapeError, match="at least one"):
        closest_choice(answer, choices[:0])
    with pytest.raises(ShapeError, match="`choices` must be"):
        closest_choice(answer, choices[:, :2])
    with pytest.raises(NonFiniteFeatures):
        closest_choice(answer * NAN, choices)


@pytest.mark.parametrize(
    ("gold", "prediction", "expected"),
    [
        ("red dog", "red dog", 1.0),
        ("red dog", "dog", 2 / 3),
        ("dog", "a big dog", 0.5),
        ("red dog", "cat", 0.0),
        ("", "", 1.0),
        ("", "x", 0.0),
        ("x", "", 0.0),
        ("a a b", "a", 0.8),  # both of the repeated word are found
        ("two", "2", 0.0),
    ],
)
def test_token_f1(gold: str, prediction: str, expected: float) -> None:
    assert token_f1(gold, prediction) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "chosen", "free_form", "kept"),
    [
        ("yes", "yes", "nothing of the kind", True),
        ("yes", "no", "yes", False),
        ("2", "2", "Two.", True),
        ("2", "2", "there are two dogs", True),
        ("2", "2", "2", True),
        ("2", "2", "one or two", False),
        ("1", "1", "one hundred", False),
        ("two", "two", "2", False),  # as published: only answers in digits are compared as numbers
        ("red dog", "red dog", "A red dog!", True),
        ("dog", "dog", "a big dog", False),
    ],
)
def test_the_filter_of_questions(answer: str, chosen: str, free_form: str, kept: bool) -> None:
    assert passes_filter(answer, chosen, free_form) is kept


def test_the_filter_looks_at_the_first_of_equal_questions_alone() -> None:
    items = [GeneratedQuestion("dog", "object", text, ("yes", "no"), "yes") for text in ("a?", "b?", "a?", "c?")]
    assert filtered_questions(items, ["no", "yes", "yes", "yes"], [""] * 4) == [items[1], items[3]]
    with pytest.raises(ShapeError, match=r"got \(4, 1, 0\)"):
        filtered_questions(items, ["no"], [])


LAYOUT = """: hen, box
Activities:
Colors: red
Counting:
Other attributes:
Questions and answers are below:
About hen (animal):
Q: is there a hen?
Choices: yes, no
A: yes
Q: which bird is it?
Choices:hen, duck , crow
A: hen
About red (color):
Q: is the box red?
Choices: yes, no
A: yes"""


def test_generated_questions_are_read() -> None:
    found = parse_generated(LAYOUT)
    assert found == (
        [
            GeneratedQuestion("hen", "animal/human", "is there a hen?", ("yes", "no"), "yes"),
            GeneratedQuestion("hen", "animal/human", "which bird is it?", ("hen", "duck", "crow"), "hen"),
            GeneratedQuestion("red", "color", "is the box red?", ("yes", "no"), "yes"),
        ],
        0,
        0,
    )
    assert len(ELEMENT_TYPES) == 13


@pytest.mark.parametrize(
    ("change", "kept", "malformed", "other"),
    [
        (lambda text: text.replace("(animal)", "(bird)"), 1, 0, 2),
        (lambda text: text.replace("About hen (animal):", "About hen:"), 1, 2, 0),
        (lambda text: text.replace("A: hen", "A: goose"), 2, 1, 0),
        (lambda text: text.replace("A: hen\n", ""), 2, 1, 0),
        (lambda text: text.replace("Q: is the box red?\n", ""), 2, 1, 0),
        (lambda text: text.removesuffix("\nA: yes"), 2, 1, 0),
        (lambda text: text.replace("Choices: yes, no\n", "", 1), 2, 1, 0),
        (lambda text: text.replace("\n", "\r\n"), 3, 0, 0),
        (lambda text: text.replace("About", "\nAbout").replace("Q:", "\nQ:"), 3, 0, 0),
        (lambda text: f"{text}\n\nDescription: a cow\n{text}", 3, 0, 0),
        (lambda text: f"{text}\n\nI hope this helps.", 3, 0, 0),
        (lambda text: text[text.index("About") :], 3, 0, 0),
        (lambda text: "", 0, 0, 0),
        (lambda text: "About\nQ:\nChoices:\nA:", 0, 1, 0),
    ],
)
def test_malformed_blocks_are_dropped_and_counted(
    change: Callable[[str], str], kept: int, malformed: int, other: int
) -> None:
    found = parse_generated(change(LAYOUT))
    assert (len(found.questions), found.n_malformed, found.n_other_type) == (kept, malformed, other)


@given(st.text(alphabet=" \nABQ:about()choices,{}\"'木", max_size=200))
def test_no_response_breaks_the_parser(response: str) -> None:
    for item in parse_generated(response).questions:
        assert item.answer in item.choices
