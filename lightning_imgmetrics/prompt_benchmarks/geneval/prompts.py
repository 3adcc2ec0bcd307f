"""GenEval's prompts: the objects, counts, colors and positions that an image must show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_imgmetrics.errors import UnreadableQuestions
from lightning_imgmetrics.models.detection.detections import CLASSES, COLORS, is_count

RELATIONS = ("left of", "right of", "above", "below")
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
_INCLUDE = {"class", "count", "color", "position"}
_EXCLUDE = {"class", "count"}


@dataclass(frozen=True)
class Clause:
    """At least `count` objects of one class; in one color; each in `position` (relation, clause) to that clause's."""

    label: str
    count: int
    color: str | None = None
    position: tuple[str, int] | None = None


@dataclass(frozen=True)
class GenEvalPrompt:
    """A prompt, and the objects that its image must and must not show, for `GenEval`.

    Args:
        prompt: the text that the image is made from.
        tag: its task, one of `TASKS`.
        include: the clauses that the image must meet, all of them.
        exclude: the clauses of which it may meet none.

    Example:
        >>> from lightning_imgmetrics import GenEvalPrompt
        >>> row = {"tag": "counting", "prompt": "two cats", "include": [{"class": "cat", "count": 2}]}
        >>> GenEvalPrompt.of(row).include[0].count
        2
    """

    prompt: str
    tag: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()

    @classmethod
    def of(cls, row: Any) -> GenEvalPrompt:
        """The published form {"tag", "prompt", "include", "exclude"}; UnreadableQuestions where it is another."""
        if not isinstance(row, Mapping) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise UnreadableQuestions(f'must be an object with a text under "prompt", got {str(row)[:80]}')
        _require_one("tag", row.get("tag"), TASKS)
        include, exclude = row.get("include", []), row.get("exclude", [])
        for name, clauses in (("include", include), ("exclude", exclude)):
            if not isinstance(clauses, list):
                raise UnreadableQuestions(f'"{name}" must be a list, got {str(clauses)[:80]}')
        if not include and not exclude:
            raise UnreadableQuestions('asks for nothing: "include" and "exclude" are empty')
        required = tuple(_clause(x, i, _INCLUDE) for i, x in enumerate(include))
        return cls(row["prompt"], row["tag"], required, tuple(_clause(x, 0, _EXCLUDE) for x in exclude))


def _clause(row: Any, place: int, allowed: set[str]) -> Clause:
    """The clause number `place`: its target must be one before it."""
    if not isinstance(row, Mapping) or not row.keys() <= allowed:  # what is not known would not be checked
        raise UnreadableQuestions(f"a clause must be an object with {', '.join(sorted(allowed))}, got {str(row)[:80]}")
    label, count, color, position = (row.get(key) for key in ("class", "count", "color", "position"))
    if not isinstance(label, str) or label not in CLASSES:
        raise UnreadableQuestions(f'"class" must be one of the 80 object names of GenEval, got {label!r}')
    if not is_count(count):
        raise UnreadableQuestions(f'"count" of {label!r} must be a whole number from 1 on, got {count!r}')
    if "color" in row:
        _require_one("color", color, COLORS)
    if "position" in row:
        if not isinstance(position, list | tuple) or len(position) != 2:
            raise UnreadableQuestions(f'"position" must be [relation, number of a clause], got {position!r}')
        _require_one("position", position[0], RELATIONS)
        if type(position[1]) is not int or not 0 <= position[1] < place:
            raise UnreadableQuestions(
                f'"position" of clause {place} must refer to a clause before it, counted from 0, got {position[1]!r}'
            )
    return Clause(label, count, color, None if position is None else (position[0], position[1]))


def _require_one(key: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UnreadableQuestions(f'"{key}" must be one of {", ".join(allowed)}, got {value!r}')
