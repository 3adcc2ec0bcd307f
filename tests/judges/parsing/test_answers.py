"""What judges answer, word by word, and the value that each answer has; most that go wrong have none."""

from __future__ import annotations

import json
import math
import sys
from typing import Annotated, Any, Literal

import pydantic
import pytest

from lightning_imgmetrics.errors import MissingExtra
from lightning_imgmetrics.judges.parsing.answers import (
    Reading,
    as_number,
    json_in,
    labeled_numbers,
    labeled_pairs,
    numbers_at,
    pair_scores,
    read_json,
)

AXES = ("Alignment Score", "Coherence Score", "Style Score")
REFUSALS = (
    "",
    "   \n",
    "I'm sorry, I can't help with that.",
    "I can't rate this 10/10 image",
    "As an AI model I cannot see images. On a scale of 0 to 10 you could rate it yourself.",
    "The image scores well: 3 people, 2 dogs and 1 cat are there.",
    "I would give this image a 7.",
    "Between 6 and 8.",
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"score": [7], "reasoning": "good"}', {"score": [7], "reasoning": "good"}),
        ('Sure! Here it is:\n```json\n{"a": 1}\n```\nHope this helps.', {"a": 1}),
        ("```\n{'a': 'it\\'s', 'b': None, 'c': True}\n```", {"a": "it's", "b": None, "c": True}),
        ('{"a": [1, 2,], "b": {"c": 3,},}', {"a": [1, 2], "b": {"c": 3}}),
        (
            "{a: 1, over-editing: fine, two words: none at all}",
            {"a": 1, "over-editing": "fine", "two words": "none at all"},
        ),
        ("{score: 6, reasoning: it's good}", {"score": 6, "reasoning": "it's good"}),
        ('{"a": +7, "b": -0.5, "c": .5, "d": 1e2}', {"a": 7, "b": -0.5, "c": 0.5, "d": 100.0}),
        ('{"a": 1, // the } first\n "b": 2 /* of { two */}', {"a": 1, "b": 2}),
        ("{a: 1 // the first\n, b: 2}", {"a": 1, "b": 2}),
        ('{"a": "line\nbreak\tand {brace"}', {"a": "line\nbreak\tand {brace"}),
        ('{"a": "say \\"}\\" twice"}', {"a": 'say "}" twice'}),
        ('||V^=^V||\n{"score": [7]}\n||V^=^V||', {"score": [7]}),
        ('{"a": 0} ||V^=^V||{"a": 1}||V^=^V|| {"a": 2}', {"a": 1}),
        ('{"a": 1}||V^=^V||', {"a": 1}),
        ('<think>{"a": 1} or {</think>{"a": 2}', {"a": 2}),
        ('{"a": 1} is my draft</think>\n\n{"a": 2}', {"a": 2}),
        ('{"a": 1}\nOn reflection:\n{"a": 2}', {"a": 2}),
        ('[Image 1] shows {an object} at [3, 4]: {"a": 1}. {See above}', {"a": 1}),
        ("From [0, 10) I take {a: 1}", {"a": 1}),
        ('{"a": "\\u00e9", "\u00e4": "\u4f60"}', {"a": "\u00e9", "\u00e4": "\u4f60"}),
        ('{"Detail": {"Noise": {"score": "N/A"}}}', {"Detail": {"Noise": {"score": "N/A"}}}),
        ("[6, 0]", [6, 0]),
        ("My scores are [6, 0].", [6, 0]),
        ('[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
        ('{"a": 1} {see [above]}', {"a": 1}),
        ('{"a": [1} or {"a": 1}', {"a": 1}),
        ("{}", None),
        ("no json", None),
        ("7", None),
        ("a {placeholder} and [...]", None),
    ],
)
def test_json_in_prose(text: str, value: Any) -> None:
    assert json_in(text) == value
    assert json_in(f"<think>A first {{thought: 9}}</think>\nThe answer:\n{text}\n") == value


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1',
        '{"a": 1, "b": "open',
        '{"a": {"b": 1}',
        '{"a": 1} then {"a": 2, ',
        '[{"a": 1}, {"a": 2}',
        '[{"a": 1},',
        '{"reasoning": "a } b", "inner": {"a": 1}, "c": ',
        '{"reasoning": "the "red" car", "a": 1}',
        '{"reasoning": "} or {a: 3} {", "b": [...]}',
        '{"a": 1 "b": 2}',
        '{"a": [1, 2}, "b": 3]',
        '{"a": 1, "a": 2}',
        "{a: 1, 'a': 1}",
        '{{"a": 1}}',
        '"Detail": {"Noise": 1}, "Realism": {"Physics": 2}',
        '{"a": 1e999}',
        '{"a": 123456789012345678}',
        '{"a": ' + "9" * 5000 + "}",
        '{"a": 1} was my draft. {"a": [...]}',
        "<think>it is {a: 1}",
        "<think>first</think>{a: 1}<think>again",
        '<Thinking>{"a": 1}',
        "{a: " * 17 + "1" + "}" * 17,
        '{"a": 1}' + " " * 10 + "loop " * 4000,
    ],
)
def test_broken_json_is_not_completed(text: str) -> None:
    assert json_in(text) is None
    assert numbers_at(text, "a", scale=(0, 10)) is None


def test_not_a_number_is_text() -> None:
    assert json_in('{"a": NaN, "b": -Infinity}') == {"a": "NaN", "b": "-Infinity"}


class Rating(pydantic.BaseModel):
    score: int = pydantic.Field(ge=0, le=10)
    reason: str = ""


class Loose(pydantic.BaseModel):
    score: Annotated[float, pydantic.BeforeValidator(as_number), pydantic.Field(ge=0, le=10)]
    verdict: Literal["good", "bad"] = pydantic.Field("good", alias="Verdict")


class Facets(pydantic.RootModel[dict[str, int]]): ...


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"score": 7, "reason": "good", "more": [1]}', 7),
        ("Example: {score: 3}\nAnswer: {score: 7,}", 7),
        ('{"score": 7}\n{"usage": {"tokens": 12}}', 7),
        ('{"score": 7} {oops: [...]}', 7),
        ('{"score": 0}', 0),
        ('{"score": 11}', None),
        ('{"score": -1}', None),
        ('{"score": 7.5}', None),
        ('{"score": "7"}', None),
        ('{"score": true}', None),
        ('{"score": null}', None),
        ('{"score": [7]}', None),
        ('{"score": NaN}', None),
        ('{"score": 1e999}', None),
        ('{"score": 7, "reason": 3}', None),
        ('{"reason": "no score"}', None),
        ('{"score": 7}\n{"score": 70}', None),
        ('{"score": 7}\n{"score": "the "red" one"}', None),
        ('{"score": 7}\n{"score": 8', None),
        ('[{"score": 7}]', None),
        ("7", None),
    ],
)
def test_schema(text: str, score: int | None) -> None:
    result = read_json(text, Rating)
    assert (None if result is None else result.score) == score


def test_schema_may_accept_digits_and_aliases() -> None:
    assert read_json('{"score": "7.5", "Verdict": "bad"}', Loose) == Loose(score=7.5, Verdict="bad")
    assert read_json('{"score": " 7 "}', Loose) == Loose(score=7)
    for text in ('{"score": "7/10"}', '{"score": true}', '{"score": "nan"}', '{"score": 7, "Verdict": "fine"}'):
        assert read_json(text, Loose) is None


def test_schema_without_fields_is_that_of_the_last_value() -> None:
    assert read_json("{noise: 1} {noise: 2}", Facets) == Facets({"noise": 2})
    assert read_json("{noise: 1} {noise: fine}", Facets) is None
    assert read_json("nothing", Facets) is None


def test_digits() -> None:
    assert [as_number(x) for x in ("7", " -7.5 ", "+.5", "07", "7 of 10", "\u0667", "", None, True)] == [
        *(7, -7.5, 0.5, "07", "7 of 10", "\u0667", "", None, True)
    ]
    assert math.isinf(as_number("9" * 5000))


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("7", [7]),
        (" 7.5\n", [7.5]),
        ("**7**", [7]),
        ("```\n7\n```", [7]),
        ("[6, 0]", [6, 0]),
        ("```json\n[6, 0]\n```", [6, 0]),
        ("Here are my scores:\n[6, 0]", [6, 0]),
        ("output score = [6, 0]", [6, 0]),
        ("**Score**: [6, 0] because the sky is [sic] green", [6, 0]),
        ("{score: 6, reasoning: good}", [6]),
        ('{"score" : [7], "reasoning" : "good"}', [7]),
        ('{"score": 7}', [7]),
        ('{"Score": ["7", "8.5"]}', [7, 8.5]),
        ('{\n\n"reasoning" : "sharp",\n"score" : [7, 8],\n}', [7, 8]),
        ('{"score" : [...], "reasoning" : "..."}\n{"score": [7, 8], "reasoning": "sharp"}', [7, 8]),
        ('{"score": [7, 8]} {"image": "cat"}', [7, 8]),
        ('{"score": 0}', [0]),
        ("scores: [7, 8, 9]", None),
        ("subscore: [7, 8]", None),
        ("The dog at [3, 4] is sharp.", None),
        ('{"reasoning": "no score"}', None),
        ('{"scores": [7, 8]}', None),
        ('{"score": [6], "reasoning": "the "red" car"}', None),
        ('{"score": [6], "reasoning": "cut', None),
        ('{"score": [6]} No, rather {"score": [', None),
        ('{"score": [6]} No, rather {"score": "seven"}', None),
        ('{"score": 6, "Score": 7}', None),
        ('{"score": 11}', None),
        ('{"score": -1}', None),
        ('{"score": [7, 10.5]}', None),
        ("11", None),
        ("-1", None),
        ("[7, 11]", None),
        ("[]", None),
        ('{"score": []}', None),
        ('{"score": [[7]]}', None),
        ('{"score": {"a": 7}}', None),
        ('{"score": true}', None),
        ('{"score": [null]}', None),
        ('{"score": NaN}', None),
        ('{"score": "7/10"}', None),
        ("{score: 7/10}", None),
        ("{score: 7-8}", None),
        ("{score: 7 /* or */ 8}", None),
        ('{"score": 0x7}', None),
        ('{"score": 07}', None),
        ("7/10", None),
        ("Score: 7", None),
        ("[6, 0", None),
        *((text, None) for text in REFUSALS),
    ],
)
def test_scores(text: str, scores: list[float] | None) -> None:
    result = numbers_at(text, scale=(0, 10))
    assert (None if result is None else list(result.scores)) == scores


def test_scores_of_another_key_scale_and_count() -> None:
    assert numbers_at('{"rating": 20}', "Rating", scale=(0, 25), count=1) == Reading((20.0,))
    assert numbers_at("[20, 25]", scale=(0, 25), count=2) == Reading((20.0, 25.0))
    assert numbers_at("20", scale=(0, 25), count=2) is None
    assert numbers_at("[20, 25, 1]", scale=(0, 25), count=2) is None
    assert numbers_at("[20, 26]", scale=(0, 25)) is None


def test_reasoning_comes_with_scores() -> None:
    text = '{"score": [7, 8],\n "reasoning": "The cat\nis sharp."}'
    assert numbers_at(text, scale=(0, 10)) == Reading((7.0, 8.0), "The cat\nis sharp.")
    assert numbers_at('{"score": 7, "reasoning": ["a"]}', scale=(0, 10)) == Reading((7.0,), "")


def test_labeled_numbers() -> None:
    plain = (
        "Alignment Score (1-5): 2.694700002670288\nCoherence Score (1-5): 2.371500015258789\n"
        "Style Score (1-5): 2.802500009536743\n"
    )
    assert list(labeled_numbers(plain, AXES).values()) == [2.694700002670288, 2.371500015258789, 2.802500009536743]
    for text in (
        "**Alignment Score (1-5):** 4\n**Coherence Score** (1-5)\uff1a 3.5/5\n- *Style Score*: 2 out of 5",
        "alignment score: 4. Coherence score : 3.5; STYLE SCORE (of 5):2",
        "Style Score: 3\n<think>5</think>Alignment Score: 4 (good)\nCoherence Score: 3.5 - fine\nStyle Score: 2",
        "Alignment Score: 4, Coherence Score: 3.5, Style Score: 2\nAs said: Style Score: 2.0",
    ):
        assert labeled_numbers(text, AXES) == {AXES[0]: 4, AXES[1]: 3.5, AXES[2]: 2}


def test_labeled_numbers_that_overshoot_the_scale_are_kept_as_they_are() -> None:
    """By 2 % of it at most, as networks do that write real values."""
    text = "Alignment Score (1-5): 5.0123\nCoherence Score (1-5): 0.98\nStyle Score (1-5): 5.0800"
    assert list(labeled_numbers(text, AXES).values()) == [5.0123, 0.98, 5.08]
    assert labeled_numbers("Style Score: 25.5", AXES[2:], scale=(0, 25)) == {AXES[2]: 25.5}
    assert labeled_numbers("Style Score: 25.6", AXES[2:], scale=(0, 25)) == {AXES[2]: None}


NO_SCORES = [
    "X",
    "",
    "6",
    "0.9",
    "5.09",
    "-3",
    "4/10",
    "4/50",
    "4,5",
    "3-4",
    "3–4",
    "1.5.2",
    "3x",
    "80%",
    "NaN",
    "03",
    "(3)",
    "four",
]
NO_SCORES += [
    "3 people",
    "3, 4",
    "3 and 4",
    "4 out of 10",
    "4 (of 10)",
    "4 (out of 10)",
    "\n3",
    "1. The image",
    "\n1. The",
]


@pytest.mark.parametrize("number", [*NO_SCORES, "3\nStyle Score: 4"])
def test_labeled_numbers_that_are_none(number: str) -> None:
    text = f"Alignment Score (1-5): 2\nStyle Score (1-5): {number}\nThe end"
    assert labeled_numbers(text, AXES) == {AXES[0]: 2, AXES[1]: None, AXES[2]: None}
    assert labeled_numbers(f"Hairstyle Score: 3\n{text}", AXES[2:]) == {AXES[2]: None}
    assert labeled_numbers(f"{text}\n<think>", AXES[:1]) == {AXES[0]: None}


def test_labeled_number_on_another_scale() -> None:
    assert labeled_numbers("**Final Score:** 8.5/10", ["Final Score"], scale=(0, 10)) == {"Final Score": 8.5}
    assert labeled_numbers("Final Score: -8.5", ["Final Score"], scale=(-10, 10)) == {"Final Score": -8.5}


def test_labeled_pairs() -> None:
    text = (
        "Alignment Score:\n Image 1: 0.435699999332428\n Image 2: 0.564300000667572\n\n"
        "**Coherence Score:**\n - **Image 1:** 0.7\n - **Image 2:** 0.7\n\nStyle Score:\n Image 1: 1\n Image 2: 0\n"
    ).replace(" - ", " ")
    expected = {AXES[0]: (0.435699999332428, 0.564300000667572), AXES[1]: None, AXES[2]: (1, 0)}
    assert labeled_pairs(text, AXES) == expected
    assert labeled_pairs("Style Score: Image 1: 0.4, Image 2: 0.6. Done", AXES[2:]) == {AXES[2]: None}
    assert labeled_pairs("Style Score: Image 1: 0.4, Image 2: 0.6", AXES[2:]) == {AXES[2]: (0.4, 0.6)}
    assert labeled_pairs("Style Score:\n Image 1: 1.4\n Image 2: -0.4", AXES[2:]) == {AXES[2]: None}
    assert labeled_pairs("Style Score:\n Image 1: 0.4", AXES[2:]) == {AXES[2]: None}
    assert labeled_pairs("Style Score:\n Image 1: X\n Image 2: Y", AXES[2:]) == {AXES[2]: None}


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("[1.5, -2]", (1.5, -2)),
        ('{"score": [1.5, -2], "reasoning": "x"}', (1.5, -2)),
        ("Score: 1.5 and 2.5", (1.5, 2.5)),
        ("Scores: (-1.5, 2)", (-1.5, 2)),
        ("Image 1: 3\nImage 2: -1.5", (3, -1.5)),
        ("Edited Image 1: +3.2, Edited Image 2: \u22124", (3.2, -4)),
        ("**Image 1 Score:** 2.5\n**Image 2 Score:** 1", (2.5, 1)),
        ("Image 1 (first edit):\n\n**Score**: 2.5\n\nImage 2 (second edit):\n\n**Score**: 1", (2.5, 1)),
        ("Image 1 scores 3.5 and Image 2 scores 1.", (3.5, 1)),
        ("Image 1 gets a score of 3.5 while Image 2 has a score of -1", (3.5, -1)),
        ("The score for Image 1: 3. The score for Image 2: 4.", (3, 4)),
        ('{"Image 1": 2.5, "Image 2": 1.0}', (2.5, 1)),
        ("Image 1: 1. Image 2: 2.", (1, 2)),
        ("Image 2: 4\nImage 1: 3", (3, 4)),
        ("Image 1: 3\nImage 2: 4\nSo Image 2 (score: 4) is better", (3, 4)),
        ("Image 1: 3\nImage 2: 4\nImage 1: 5", None),
        ("Image 1 is better than Image 2.", None),
        ("Image 1 has 3 people and Image 2 has 4.", None),
        ("Image 1: 3 people. Image 2: 4 people.", None),
        ("Image 1:\n1. The edit works\nImage 2:\n2. It does not", None),
        ("Image 1: 1. The edit works\nImage 2: 2. It does not", None),
        ("Image 1: 3/10, Image 2: 4/10", None),
        ("Image 1: 3-4, Image 2: 5", None),
        ("Image 1: 1e999, Image 2: 5", None),
        ("Image 1: 3", None),
        ("Image 12: 3, Image 2: 4", None),
        ("1,5", None),
        ("1.5", None),
        ("[1, 2, 3]", None),
        ('{"Image 1": 2.5, "Image 2": 1', None),
        ('{"score": [1, true]}', None),
        ("<think>Image 1: 3, Image 2: 4", None),
        *((text, None) for text in REFUSALS),
    ],
)
def test_pair_scores(text: str, scores: tuple[float, float] | None) -> None:
    assert pair_scores(text) == scores


@pytest.mark.parametrize("module", ["json5", "pydantic"])
def test_missing_package(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"{module}.*\[judge\]"):
        read_json(json.dumps({"score": 7}), Rating)
