"""GenEval's rules: the published positions, laws of relations, counting, colors, exclusion and the scores."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st

from lightning_imgmetrics.errors import (
    NotEnoughSamples,
    ShapeError,
    UnknownName,
    UnreadableQuestions,
    ValueRangeError,
)
from lightning_imgmetrics.models.detection.detections import CLASSES, COLORS, Box, Detection
from lightning_imgmetrics.prompt_benchmarks.geneval.prompts import RELATIONS, TASKS, Clause, GenEvalPrompt
from lightning_imgmetrics.prompt_benchmarks.geneval.rules import (
    Rules,
    box_overlap,
    check,
    geneval_scores,
    judge,
    relative_position,
    select,
)

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
UNIT = (0, 0, 10, 10)


def found(label: str, score: float = 0.95, box: Box = UNIT, color: str | None = None) -> Detection:
    return Detection(label, score, box, color=color)


def asked(tag: str, *include: Clause, exclude: tuple[Clause, ...] = ()) -> GenEvalPrompt:
    return GenEvalPrompt("a photo", tag, include, exclude)


def test_the_names_are_those_of_coco_in_its_order() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 80
    places = {"person": 0, "bench": 13, "sports ball": 32, "wine glass": 40, "hot dog": 52, "dining table": 60}
    places |= {"tv": 62, "computer mouse": 64, "tv remote": 65, "computer keyboard": 66, "hair drier": 78}
    places |= {"toothbrush": 79}
    assert {name: CLASSES.index(name) for name in places} == places
    assert len(COLORS) == 10
    assert len(TASKS) == 6


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (UNIT, (20, 0, 30, 10), {"left of"}),
        (UNIT, (1, 0, 11, 10), set()),
        (UNIT, (20, 20, 30, 30), {"left of", "above"}),
        (UNIT, (4, 12, 14, 22), {"above"}),
        ((0, 0, 100, 100), (15, 0, 115, 100), set()),
        ((0, 0, 100, 100), (45, 0, 145, 100), {"left of"}),
        (UNIT, UNIT, set()),
        (UNIT, (2, 0, 12, 10), set()),  # just at the margin
        (UNIT, (4, 0, 14, 10), set()),  # beyond it by exactly half of the distance
        (UNIT, (5, 0, 15, 10), {"left of"}),
        ((5, 5, 5, 5), (5, 4.9995, 5, 4.9995), set()),  # points: no margin, but too near
        ((5, 5, 5, 5), (5, 4.99, 5, 4.99), {"below"}),
    ],
)
def test_positions(a: Box, b: Box, expected: set[str]) -> None:
    assert relative_position(a, b) == expected


def test_without_a_margin_the_larger_share_of_the_distance_decides() -> None:
    assert relative_position(UNIT, (1, 0, 11, 10), margin=0) == {"left of"}
    assert relative_position(UNIT, (10, 5, 20, 15), margin=0) == {"left of"}  # 5 is less than half of 11.2
    assert relative_position(UNIT, (10, 6, 20, 16), margin=0) == {"left of", "above"}


def boxes() -> st.SearchStrategy[Box]:
    corner, side = st.integers(-300, 300), st.integers(0, 300)
    return st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def by_definition(a: Box, b: Box, margin: float) -> set[str]:
    """The same with arrays."""
    a_, b_ = np.reshape(a, (2, 2)).astype(float), np.reshape(b, (2, 2)).astype(float)
    offset = a_.mean(0) - b_.mean(0)
    rest = np.sign(offset) * np.clip(np.abs(offset) - margin * (np.ptp(a_, 0) + np.ptp(b_, 0)), 0, None)
    if (np.abs(rest) < 1e-3).all():
        return set()
    x, y = rest / np.sqrt((offset**2).sum())
    assume(abs(abs(x) - 0.5) > 1e-9)  # there, rounding decides
    assume(abs(abs(y) - 0.5) > 1e-9)
    return {*(["left of"] if x < -0.5 else []), *(["right of"] if x > 0.5 else [])} | {
        *(["above"] if y < -0.5 else []),
        *(["below"] if y > 0.5 else []),
    }


@given(boxes(), boxes(), st.sampled_from([0.0, 0.1, 0.3]))
def test_positions_by_definition(a: Box, b: Box, margin: float) -> None:
    assert relative_position(a, b, margin=margin) == by_definition(a, b, margin)


@given(boxes(), boxes())
def test_relations_are_turned_around_with_their_boxes(a: Box, b: Box) -> None:
    assert relative_position(b, a) == {OPPOSITE[relation] for relation in relative_position(a, b)}
    assert all(OPPOSITE[relation] not in relative_position(a, b) for relation in relative_position(a, b))


@given(boxes(), boxes(), st.integers(-500, 500), st.integers(-500, 500), st.sampled_from([1, 2, 4, 1024]))
def test_relations_stay_when_all_is_moved_and_enlarged(a: Box, b: Box, x: int, y: int, scale: int) -> None:
    moved = [tuple(scale * (v + s) for v, s in zip(box, (x, y, x, y))) for box in (a, b)]
    assert relative_position(*moved) == relative_position(a, b)  # type: ignore[arg-type]


@given(boxes(), boxes())
def test_relations_are_transposed_with_the_image(a: Box, b: Box) -> None:
    turned = {"left of": "above", "above": "left of", "right of": "below", "below": "right of"}
    flipped = [(box[1], box[0], box[3], box[2]) for box in (a, b)]
    assert relative_position(*flipped) == {turned[relation] for relation in relative_position(a, b)}


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 9, 9), (0, 0, 9, 9), 1),
        ((0, 0, 9, 9), (10, 0, 19, 9), 0),  # they touch, and share no pixel
        ((0, 0, 9, 9), (9, 0, 18, 9), 10 / 190),
        ((0, 0, 9, 9), (5, 5, 14, 14), 25 / 175),
        ((3, 3, 3, 3), (3, 3, 3, 3), 1),
        ((0, 0, 1, 1), (0, 0, 3, 0), 2 / 6),
    ],
)
def test_overlap_counts_both_ends(a: Box, b: Box, expected: float) -> None:
    assert box_overlap(a, b) == box_overlap(b, a) == pytest.approx(expected)


def test_what_counts() -> None:
    scores = [0.3, 0.31, 0.9, 0.91, 0.5]
    detections = [found("cat", s) for s in scores] + [found("dog", 0.2)]
    assert {k: [d.score for d in v] for k, v in select(detections, "colors").items()} == {"cat": [0.91, 0.9, 0.5, 0.31]}
    assert {k: [d.score for d in v] for k, v in select(detections, "counting").items()} == {"cat": [0.91]}
    low = select(detections, "position", rules=Rules(threshold=0.1, most=2))
    assert {k: [d.score for d in v] for k, v in low.items()} == {"cat": [0.91, 0.9], "dog": [0.2]}


def test_at_most_sixteen_of_a_class_and_equal_scores_in_their_order() -> None:
    detections = [found("cat", 0.5, (i, 0, i + 1, 1)) for i in range(20)] + [found("cat", 0.6, (99, 0, 100, 1))]
    kept = select(detections, "two_object")["cat"]
    assert [d.box[0] for d in kept] == [99, *range(15)]


def test_overlapping_detections_are_dropped_where_asked() -> None:
    # Each box overlaps the next by 10 x 6 of 10 x 14 pixels: 3/7.
    row = [found("cat", 0.9 - 0.1 * i, (4 * i, 0, 4 * i + 9, 9)) for i in range(4)]
    assert len(select(row, "colors")["cat"]) == 4
    assert [d.box[0] for d in select(row, "colors", rules=Rules(max_overlap=0.4))["cat"]] == [0, 8]
    assert len(select(row, "colors", rules=Rules(max_overlap=0.43))["cat"]) == 4
    other = [found("dog", 0.8, row[0].box)]  # of another class
    assert len(select(row + other, "colors", rules=Rules(max_overlap=0.4))["dog"]) == 1
    half = [found("cat", 0.9, (0, 0, 9, 9)), found("cat", 0.8, (0, 0, 9, 4))]
    assert len(select(half, "colors", rules=Rules(max_overlap=0.5))["cat"]) == 1  # the limit itself is too much
    copies = [found("cat", 0.9, UNIT)] * 3
    assert len(select(copies, "colors")["cat"]) == 3  # 1 is off, not a limit
    # The limit of a class comes first: what is dropped is not made up for.
    assert [d.box[0] for d in select(row, "colors", rules=Rules(max_overlap=0.4, most=2))["cat"]] == [0]


@pytest.mark.parametrize("n", range(6))
@pytest.mark.parametrize("wanted", [2, 3, 4])
def test_counting(n: int, wanted: int) -> None:
    prompt = asked("counting", Clause("cat", wanted), exclude=(Clause("cat", wanted + 1),))
    verdict = judge(prompt, [found("cat", 0.95)] * n + [found("cat", 0.85), found("dog", 0.99)])
    few, many = f"cat: expected {wanted}, found {n}", f"cat: expected fewer than {wanted + 1}, found {n}"
    assert verdict == (n == wanted, few if n < wanted else many if n > wanted else "")


def test_every_clause_must_be_met() -> None:
    prompt = asked("two_object", Clause("cat", 1), Clause("dog", 1))
    assert judge(prompt, [found("cat"), found("dog", 0.31), found("cup")]) == (True, "")
    assert judge(prompt, [found("cat")]) == (False, "dog: expected 1, found 0")
    assert judge(prompt, []) == (False, "cat: expected 1, found 0; dog: expected 1, found 0")


def test_the_color_is_that_of_the_most_certain() -> None:
    prompt = asked("colors", Clause("cat", 1, "red"))
    both = [found("cat", 0.5, color="red"), found("cat", 0.8, color="blue")]
    assert judge(prompt, both) == (False, "cat: expected 1 red, found 1 blue")
    assert judge(prompt, both[:1]) == (True, "")
    two = asked("color_attr", Clause("cat", 2, "red"), Clause("dog", 1, "blue"))
    assert judge(two, [*both, found("dog", color="blue")]) == (False, "cat: expected 2 red, found 1 red, 1 blue")
    assert judge(two, [both[0], both[0], found("dog", color="blue")]).correct


def test_colors_are_asked_for_only_where_they_matter() -> None:
    calls: list[list[float]] = []

    def colors(detections: Sequence[Detection]) -> list[str]:
        calls.append([d.score for d in detections])
        return ["red"] * len(detections)

    detections = [found("cat", s) for s in (0.5, 0.9, 0.7)] + [found("dog", 0.9)]
    assert judge(asked("colors", Clause("cat", 2, "red"), Clause("dog", 1)), detections, colors=colors).correct
    assert calls == [[0.9, 0.7]]
    assert not judge(asked("colors", Clause("dog", 2, "red")), detections, colors=colors).correct
    assert len(calls) == 1
    with pytest.raises(ValueError, match="`colors` is needed: a red dog is asked for"):
        judge(asked("colors", Clause("dog", 1, "red")), detections)
    with pytest.raises(ShapeError, match="one color for each of 1 detections, got 2"):
        judge(asked("colors", Clause("dog", 1, "red")), detections, colors=lambda _: ["red", "red"])


def position(relation: str, **cat: Any) -> GenEvalPrompt:
    return asked("position", Clause("cat", 1, **cat), Clause("dog", 1, position=(relation, 0)))


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_placed_object_is_seen_from_the_target(relation: str) -> None:
    places = {"left of": (-30, 0), "right of": (30, 0), "above": (0, -30), "below": (0, 30)}
    for name, (x, y) in places.items():
        verdict = judge(position(relation), [found("cat"), found("dog", box=(x, y, x + 10, y + 10))])
        assert verdict.correct == (name == relation)
        assert verdict.reason == ("" if verdict.correct else f"dog: expected {relation} the cat, found {name} it")


def test_two_relations_may_hold_and_none_may() -> None:
    corner = [found("cat"), found("dog", box=(-30, -30, -20, -20))]
    assert [judge(position(r), corner).correct for r in RELATIONS] == [True, False, True, False]
    assert judge(position("below"), corner).reason == "dog: expected below the cat, found above and left of it"
    verdict = judge(position("above"), [found("cat"), found("dog")])
    assert verdict.reason == "dog: expected above the cat, found in no relation to it"


def test_there_is_no_position_to_what_was_not_met() -> None:
    dog = found("dog", box=(30, 0, 40, 10))
    missing = judge(position("right of"), [dog])
    assert missing.reason == "cat: expected 1, found 0; dog: expected right of the cat, which is not there as asked"
    recolored = judge(position("right of", color="red"), [found("cat", color="blue"), dog])
    assert recolored.reason.startswith("cat: expected 1 red, found 1 blue; dog: expected right of the cat, which")
    assert judge(position("right of", color="red"), [found("cat", color="red"), dog]).correct


def test_all_pairs_must_stand_as_asked() -> None:
    prompt = asked("position", Clause("cat", 2), Clause("dog", 2, position=("right of", 0)))
    cats = [
        found("cat", 0.9, (0, 0, 10, 10)),
        found("cat", 0.8, (100, 0, 110, 10)),
        found("cat", 0.5, (900, 0, 910, 10)),
    ]
    for left, right in itertools.product([50, 200], repeat=2):
        dogs = [found("dog", box=(x, 0, x + 10, 10)) for x in (left, right)]
        assert judge(prompt, cats + dogs).correct == (left == right == 200)


def test_check_takes_objects_as_they_are() -> None:
    objects = {"cat": [found("cat", 0.1)]}
    assert check(asked("single_object", Clause("cat", 1)), objects).correct
    assert not check(asked("single_object", exclude=(Clause("cat", 1),)), objects).correct
    assert check(asked("single_object", exclude=(Clause("dog", 1),)), objects).correct


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.5}, "`threshold` must lie in"),
        ({"counting_threshold": float("nan")}, "`counting_threshold` must lie in"),
        ({"max_overlap": -0.1}, "`max_overlap` must lie in"),
        ({"most": 0}, "`most` must be at least 1"),
        ({"margin": -1}, "`margin` not negative"),
    ],
)
def test_rules_that_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueRangeError, match=message):
        Rules(**change)


def test_detections_that_are_refused() -> None:
    with pytest.raises(UnknownName, match=r"`label` must be one of 'person', .*; got 'mouse'"):
        found("mouse")
    with pytest.raises(UnknownName, match=r"`color` must be one of 'red', .*; got 'grey'"):
        found("cat", color="grey")
    for score, box in [(float("nan"), UNIT), (0.5, (0, 0, float("inf"), 1)), (0.5, (2, 0, 1, 1)), (0.5, (0, 2, 1, 1))]:
        with pytest.raises(ValueRangeError, match="a finite score and a box x0 <= x1, y0 <= y1"):
            found("cat", score, box)


def row(**change: Any) -> dict[str, Any]:
    whole = {"tag": "position", "prompt": "a dog left of a cat", "include": [{"class": "cat", "count": 1}]}
    return {**whole, **change}


def test_prompts_are_read_as_they_are_published() -> None:
    dog = {"class": "dog", "count": 1, "position": ["left of", 0]}
    read = GenEvalPrompt.of(row(include=[{"class": "cat", "count": 2, "color": "red"}, dog], other="kept out"))
    clauses = (Clause("cat", 2, "red"), Clause("dog", 1, position=("left of", 0)))
    assert read == GenEvalPrompt("a dog left of a cat", "position", clauses)
    assert GenEvalPrompt.of(row(include=[], exclude=[{"class": "cat", "count": 1}])).exclude == (Clause("cat", 1),)


def clause(**change: Any) -> dict[str, Any]:
    return {"include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, **change}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, 'text under "prompt"'),
        ({"tag": "size"}, "\"tag\" must be one of single_object, .*, got 'size'"),
        ({"include": [], "exclude": []}, "asks for nothing"),
        ({"include": {"class": "cat"}}, '"include" must be a list'),
        ({"include": ["cat"]}, "a clause must be an object with class, color, count, position, got cat"),
        (clause(size="big"), "a clause must be an object"),
        (clause(**{"class": "mouse"}), "one of the 80 object names of GenEval, got 'mouse'"),
        (clause(**{"class": 3}), "one of the 80 object names of GenEval, got 3"),
        (clause(count=0), "\"count\" of 'dog' must be a whole number from 1 on, got 0"),
        (clause(count=True), "got True"),
        (clause(count=1.0), "got 1.0"),
        (clause(color="grey"), "\"color\" must be one of red, .*, got 'grey'"),
        (clause(color=None), "got None"),
        (clause(position=["beside", 0]), "\"position\" must be one of left of, .*, got 'beside'"),
        (clause(position="left of"), r'"position" must be \[relation, number of a clause\], got \'left of\''),
        (clause(position=["left of", 1]), "clause 1 must refer to a clause before it, counted from 0, got 1"),
        (clause(position=["left of", -1]), "got -1"),
        (clause(position=["left of", "0"]), "got '0'"),
        ({"exclude": [{"class": "cat", "count": 1, "color": "red"}]}, "an object with class, count, got"),
    ],
)
def test_prompts_that_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnreadableQuestions, match=message):
        GenEvalPrompt.of(row(**change))
    with pytest.raises(UnreadableQuestions, match='text under "prompt"'):
        GenEvalPrompt.of([change])


def test_scores_are_means_over_tasks() -> None:
    one, two = asked("colors", Clause("cat", 1, "red")), asked("colors", Clause("dog", 1, "red"))
    three = asked("counting", Clause("cat", 2))
    verdicts = [(one, True), (one, False), (two, False), (two, None), (two, False), (three, True), (three, None)]
    scores = geneval_scores([c for _, c in verdicts], [p for p, _ in verdicts])
    assert scores.tasks == {"counting": 1.0, "colors": 0.25}
    assert list(scores.tasks) == ["counting", "colors"]  # in the order of the benchmark
    assert scores.counts == {"counting": 1, "colors": 4}
    assert scores.overall == pytest.approx(0.625)
    assert scores.images == pytest.approx(2 / 5)
    assert scores.prompts == pytest.approx(2 / 3)
    assert scores.n_failed == 2


@given(st.lists(st.tuples(st.sampled_from(TASKS), st.integers(0, 3), st.sampled_from([True, False, None])), min_size=1))
def test_scores_by_definition(images: list[tuple[str, int, bool | None]]) -> None:
    assume(any(c is not None for _, _, c in images))
    prompts = [asked(tag, Clause(CLASSES[k], 1)) for tag, k, _ in images]
    scores = geneval_scores([c for _, _, c in images], prompts)
    judged = [(tag, k, c) for tag, k, c in images if c is not None]
    tags = {tag for tag, _, _ in judged}
    assert scores.overall == pytest.approx(np.mean([np.mean([c for t, _, c in judged if t == tag]) for tag in tags]))
    keys = {(tag, k) for tag, k, _ in judged}
    assert scores.prompts == pytest.approx(np.mean([any(c for t, j, c in judged if (t, j) == key) for key in keys]))
    assert scores.images == pytest.approx(np.mean([c for *_, c in judged]))
    assert scores.n_failed + sum(scores.counts.values()) == len(images)


def test_scores_of_nothing() -> None:
    prompt = asked("colors", Clause("cat", 1))
    for verdicts in ([], [None]):
        with pytest.raises(NotEnoughSamples, match="geneval has 0 samples"):
            geneval_scores(verdicts, [prompt] * len(verdicts))
    with pytest.raises(ShapeError, match="one entry per verdict, got 1 for 2"):
        geneval_scores([True, True], [prompt])
