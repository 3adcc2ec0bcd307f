"""The JSON and the scores in a judge's answer, as values; nothing is completed or guessed.

Every reader takes what follows the last `</think>`, and returns None where the answer is not clear: a refusal, an
answer that is cut off, a number off its scale. One of more than 16384 characters is a loop, and also None.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_imgmetrics.errors import require
from lightning_imgmetrics.judges.parsing.json_text import NUMBER, Group, after_thinking, json_groups, plain, value_of

if TYPE_CHECKING:
    from pydantic import BaseModel

Model = TypeVar("Model", bound="BaseModel")
Scale = tuple[float, float]

_OVERSHOOT = 0.02
_ANY = (-math.inf, math.inf)
_NUMBER = re.compile(NUMBER)
_FENCE = re.compile(r"\A```\w*\s|```\Z")
_LINK = (
    r"(?:[\s\"'’)]|\([^()\n]{0,40}\)|[:=]"
    r"|\b(?:s|final|overall|total|quality|scores?|rating|is|of|a|an|the|gets?|receives?|has)\b){0,20}?"
    r"(?:[:=]|\b(?:score|rating)(?: is| of)?|\bscores)[ \t\"']*"
)
_BOTH = re.compile(
    rf"(?:(?:the )?scores?[ \t]*[:=]?[ \t]*)?[\[(]?({NUMBER})(?:,?[ \t]+and[ \t]+|[,;][ \t]+)({NUMBER})[\])]?\.?"
)


@dataclass(frozen=True)
class Reading:
    """The scores of an answer, in its order, and the reasons given for them ("" for none)."""

    scores: tuple[float, ...]
    reasoning: str = ""


def json_in(text: str) -> Any | None:
    """The last JSON object in prose or, where there is no object, the last list; None without one.

    Allowed beyond JSON: trailing commas, single quotes, keys and one-line values without quotes, comments, `+7`, line
    breaks in strings, Python's constants, the delimiters `||V^=^V||`. None for an object that is cut off or malformed,
    has a key twice, a number that is not finite or of more than 16 digits, or lacks the braces around it.
    """
    groups = json_groups(text) or []
    objects = [group for group in groups if group.text.startswith("{")]
    return value_of((objects or groups)[-1]) if groups else None


def read_json(text: str, schema: type[Model]) -> Model | None:
    """The JSON of an answer as an instance of a pydantic model; None where it does not fit.

    The last object with a field of the model decides, as a judge may repeat its example first. Types are strict: true
    is no number, and "7" is one only where the model has a validator for it, such as `as_number`.
    """
    pydantic = require("pydantic", "judge")
    names = set() if issubclass(schema, pydantic.RootModel) else _names(schema)
    for group in reversed(json_groups(text) or []):
        if names and not any(name in group.text for name in names):
            continue
        if (value := value_of(group)) is None:
            return None
        try:
            return schema.model_validate_json(json.dumps(value), strict=True)
        except pydantic.ValidationError:
            if not isinstance(value, dict) or not names or names & value.keys():
                return None
    return None


def numbers_at(text: str, key: str = "score", *, scale: Scale, count: int | None = None) -> Reading | None:
    """Scores at `key` of a judge's JSON, one number or a list, with the text at "reasoning".

    The last object with the key decides, whatever its case. Without any object, a list alone on a line or after
    `key:` counts, and a number that is the whole answer. None unless all are finite numbers, or strings of digits,
    on the scale (low, high), and as many as `count`.
    """
    answer, groups, key = after_thinking(text), json_groups(text), key.lower()
    if answer is None or groups is None:
        return None
    objects = any(group.text.startswith("{") for group in groups)
    fields = _fields(groups, key) if objects else {key: _bare(answer, key)}
    value, reasoning = fields.get(key), fields.get("reasoning")
    scores = tuple(as_number(x) for x in (value if isinstance(value, list) else [value]))
    if not scores or not all(_on_scale(x, scale) for x in scores) or count not in (None, len(scores)):
        return None
    return Reading(tuple(map(float, scores)), reasoning if isinstance(reasoning, str) else "")


def labeled_numbers(text: str, labels: Sequence[str], *, scale: Scale = (1, 5)) -> dict[str, float | None]:
    """The number after each label, as in `Style Score (1-5): 2.69`; None where absent, off the scale, or not one.

    Case, stars and the width of the colon do not matter, and the top of the scale may follow ("4/5"). A number up to
    2 % of the scale beyond its ends counts, unchanged: a network that predicts real values overshoots (5.01) on its
    best and worst images, and means would change if those were left out or clipped. The published parser takes any.
    """
    answer, end, beyond = plain(text), _end(*labels), _OVERSHOOT * (scale[1] - scale[0])
    top = rf"(?:[ \t]*\(?(?:/|out of)[ \t]*{scale[1]:g}(?:\.0+)?\b\)?)?"
    numbers = {}
    for label in labels:
        pattern = rf"{_label(label)}[ \t]*({NUMBER}){top}{end}"
        numbers[label] = _one(re.findall(pattern, answer, re.IGNORECASE), (scale[0] - beyond, scale[1] + beyond))
    return numbers


def labeled_pairs(text: str, labels: Sequence[str], *, scale: Scale = (0, 1)) -> dict[str, Scale | None]:
    """The two numbers after each label, as in `Style Score:`, ` Image 1: 0.4`, ` Image 2: 0.6`; None as above.

    They are shares of the top of the scale: None where they do not add up to it within 1 %.
    """
    answer, end = plain(text), _end("edited image", "image", *labels)
    images = r"[\s,;.]*".join(rf"(?:edited )?image {k}[ \t]*:[ \t]*({NUMBER}){end}" for k in (1, 2))
    shares: dict[str, Scale | None] = dict.fromkeys(labels)
    for label in labels:
        pairs = re.findall(rf"{_label(label)}\s*{images}", answer, re.IGNORECASE)
        first, second = (_one([pair[k] for pair in pairs], scale) for k in (0, 1))
        if first is not None and second is not None and abs(first + second - scale[1]) <= 0.01 * scale[1]:
            shares[label] = first, second
    return shares


def pair_scores(text: str) -> Scale | None:
    """Scores of image 1 and image 2, of any sign: a list or JSON at "score", `Image 1: 2.5`, or `Score: 1.5 and 2.5`.

    None where one is missing or two differ; the number of an image and numbers that count things are no scores.
    """
    answer = plain(text)
    if json_groups(text) is None or not answer:
        return None
    if reading := numbers_at(text, scale=_ANY, count=2):
        return reading.scores[0], reading.scores[1]
    if both := _BOTH.fullmatch(answer.strip().lower()):
        return float(both[1]), float(both[2])
    end = _end("the edited image", "edited image", "the image", "image", "the score")
    first, second = (
        _one(re.findall(rf"\bimage[ \t]*#?{k}\b{_LINK}({NUMBER}){end}", answer, re.IGNORECASE), _ANY) for k in (1, 2)
    )
    return None if first is None or second is None else (first, second)


def as_number(value: Any) -> Any:
    """The number that a string is ("7" is 7, "7.5" is 7.5); any other value as it is."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(number := value.strip()):
        return value
    return float(number) if re.search(r"[.eE]", number) or len(number) > 17 else int(number)


def _names(schema: type[BaseModel]) -> set[str]:
    fields = schema.model_fields.items()
    aliases = (alias for _, field in fields for alias in (field.alias, field.validation_alias))
    return {name for name, _ in fields} | {alias for alias in aliases if isinstance(alias, str)}


def _fields(groups: list[Group], key: str) -> dict[str, Any]:
    """The last object that has the key, by keys in lower case; empty without one, or where it is unclear."""
    for group in reversed(groups):
        if key not in group.text.lower():
            continue
        if not isinstance(value := value_of(group), dict):
            return {}
        fields = {name.strip().lower(): x for name, x in value.items()}
        if len(fields) < len(value) or key in fields:
            return fields if len(fields) == len(value) else {}
    return {}


def _bare(answer: str, key: str) -> Any | None:
    """A number that is the whole answer, or the last list that is a line or stands after the key."""
    whole = _FENCE.sub("", answer).strip().strip("*`").strip()
    if _NUMBER.fullmatch(whole):
        return whole
    after_key = rf"""(?<![^\W_]){re.escape(key)}["'*]*[ \t]*[:=][ \t*]*(\[[^][]*\])"""
    lists = re.findall(rf"^[ \t*]*(\[[^][]*\])[ \t*.]*$|{after_key}", answer, re.IGNORECASE | re.MULTILINE)
    return value_of(Group("".join(lists[-1]))) if lists else None


def _on_scale(value: Any, scale: Scale) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and scale[0] <= value <= scale[1]


def _label(label: str) -> str:
    """The pattern of a label, optional parentheses after it, and its colon."""
    return rf"(?<!\w){re.escape(label)}[ \t]*(?:\([^()\n]{{0,40}}\))?[ \t]*:"


def _end(*labels: str) -> str:
    """The pattern of what may follow a number in prose: the line's end, some punctuation, the next of `labels`.

    "3 people", "7/10", "2,5", "3-4", "3, 4" and the "1." of a list are no scores.
    """
    words = "|".join(["and(?! [+-]?[0-9])", "while", "but", "points?", *map(re.escape, labels)])
    marks = r"[\n\r;)\]}|\"']|,(?![ \t]*[+-]?[0-9])|[-–—] (?![0-9])|\((?!out|of|[0-9/])"
    return rf"(?=[ \t]*(?:\.[ \t]*)?(?:$|{marks}|(?:{words})\b))"


def _one(numbers: list[str], scale: Scale) -> float | None:
    """The number that all of `numbers` are, if there is one and it is on the scale."""
    values = {float(number) for number in numbers}
    value = values.pop() if len(values) == 1 else None
    return value if _on_scale(value, scale) else None
