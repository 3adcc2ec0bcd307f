"""Marks of facets to scores of three levels, by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from lightning_imgmetrics.judges.metrics.qwen_scores import dimensions_of, heading_scores, known_mean, parse_marks

CHECKLIST = {
    "Realism": ["Physical Logic", "Material Texture"],
    "Detail": ["Noise", "Edge Clarity", "Naturalness"],
    "Resolution": ["Resolution"],
}
MARKS = {
    "Physical Logic": 1,
    "Material Texture": "N/A",
    "Noise": 2,
    "Edge Clarity": 0,
    "Naturalness": 1,
    "Resolution": 2,
}
WORTH = {
    "Realism": {"Physical Logic": 60, "Material Texture": None},
    "Detail": {"Noise": 100, "Edge Clarity": 0, "Naturalness": 60},
    "Resolution": {"Resolution": 100},
}


def nested(marks: dict[str, Any]) -> dict[str, Any]:
    return {heading: {facet: {"score": marks[facet]} for facet in facets} for heading, facets in CHECKLIST.items()}


def test_the_three_levels() -> None:
    marks = parse_marks(json.dumps(nested(MARKS)), CHECKLIST)
    assert marks == WORTH
    scores = heading_scores(marks)
    assert scores == pytest.approx({"Realism": 60, "Detail": 160 / 3, "Resolution": 100})
    assert known_mean(scores.values()) == pytest.approx((60 + 160 / 3 + 100) / 3)
    assert known_mean([]) is known_mean([None]) is None
    assert known_mean([None, 0, 50]) == 25


FLAT = {facet: {"score": mark} for facet, mark in MARKS.items()}
MOVED = {"Resolution": {**nested(MARKS)["Resolution"], **nested(MARKS)["Detail"]}, "Realism": nested(MARKS)["Realism"]}
BARE = {"Realism": {"Physical Logic": 1, "Material Texture": "n/a"}, "All": {k: MARKS[k] for k in list(MARKS)[2:]}}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(FLAT),
        json.dumps(MOVED),
        json.dumps(BARE),
        json.dumps({"Resolution": {"score": 2}, **{k: x for k, x in nested(MARKS).items() if k != "Resolution"}}),
        json.dumps(nested({k: str(mark) for k, mark in MARKS.items()})),
        json.dumps(nested({k: float(mark) if mark != "N/A" else mark for k, mark in MARKS.items()})),
        json.dumps(nested({**MARKS, "Material Texture": 3})),
        json.dumps(nested({**MARKS, "Material Texture": 0.5})),
        json.dumps(nested({**MARKS, "Material Texture": True})),
        json.dumps(nested({**MARKS, "Material Texture": None})),
        json.dumps({**nested(MARKS), "Remarks": "none"}),
        f"<think>It is {{sharp}}.</think>\n```json\n{json.dumps(nested(MARKS), indent=2)}\n```",
    ],
)
def test_what_judges_make_of_the_form(text: str) -> None:
    assert parse_marks(text, CHECKLIST) == WORTH


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I'm sorry, I can't.",
        "7",
        "[1, 2]",
        "{}",
        '{"score": 2}',
        '{"Realism": {}}',
        '{"Realism": {"Physical Logic": {"score": "good"}}}',
        '{"Realism": {"Physical Logic": {"score": 3}}}',
        '{"Realism": {"Beauty": {"score": 2}}}',
        '{"Realism": {"Physical Logic": {"score": 2}}',
        f"<think>{json.dumps(nested(MARKS))}",
    ],
)
def test_answers_that_mark_nothing(text: str) -> None:
    assert parse_marks(text, CHECKLIST) is None


def test_a_checklist_of_which_nothing_applies_is_read() -> None:
    marks = parse_marks(json.dumps(nested(dict.fromkeys(MARKS, "N/A"))), CHECKLIST)
    assert marks == {heading: dict.fromkeys(facets) for heading, facets in CHECKLIST.items()}
    assert set(heading_scores(marks).values()) == {None}


def test_facets_that_were_not_asked_for_stay_and_count() -> None:
    text = json.dumps({"Detail": {"Noise": {"score": 0}, "Grain": {"score": 2}}, "Mood": {"Calm": {"score": 1}}})
    marks = parse_marks(text, CHECKLIST)
    assert marks == {"Detail": {"Noise": 0, "Grain": 100}, "Mood": {"Calm": 60}}
    assert heading_scores(marks) == {"Detail": 50, "Mood": 60}


def test_the_slip_of_the_published_judge() -> None:
    text = '{"Feature Mapping": {"Feature Mapping": {"score": 2}}}'
    assert parse_marks(text, {"Feature Matching": ["Feature Matching"]}) == {
        "Feature Matching": {"Feature Matching": 100}
    }
    assert parse_marks(text, {**CHECKLIST, "Feature Mapping": ["Feature Mapping"]}) == {
        "Feature Mapping": {"Feature Mapping": 100}
    }


@pytest.mark.parametrize(
    ("text", "dimensions"),
    [
        ("Quality / Realism / Physical Logic; Aesthetics / Color Harmony / Color Harmony", ["Quality", "Aesthetics"]),
        ("Alignment/Scene;Quality / Detail / Noise ; Alignment / Layout / 2D Space;", ["Alignment", "Quality"]),
        ("Creative Generation", ["Creative Generation"]),
        ("", []),
    ],
)
def test_dimensions_of_the_published_prompts(text: str, dimensions: list[str]) -> None:
    assert dimensions_of(text) == dimensions


@given(st.dictionaries(st.sampled_from(list(MARKS)), st.sampled_from([0, 1, 2, "N/A"]), min_size=1), st.booleans())
def test_scores_lie_between_their_parts(given_marks: dict[str, Any], flat: bool) -> None:
    objects = {facet: {"score": mark} for facet, mark in given_marks.items()}
    marks = parse_marks(json.dumps(objects if flat else {"Any": objects}), CHECKLIST)
    assert marks is not None
    known = [{0: 0, 1: 60, 2: 100}[mark] for mark in given_marks.values() if mark != "N/A"]
    total = known_mean(heading_scores(marks).values())
    assert (total is None) == (not known)
    assert total is None or min(known) <= total <= max(known) + 1e-9
