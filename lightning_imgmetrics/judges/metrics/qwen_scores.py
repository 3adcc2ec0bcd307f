"""Qwen-Image-Bench: the marks that a judge gives the facets of an image, as scores of three levels from 0 to 100.

A checklist is one dimension (level 1): headings (level 2), and the facets under each (level 3).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from lightning_imgmetrics.judges.parsing.answers import as_number, json_in

Marks = dict[str, dict[str, "float | None"]]  # heading -> facet -> 0, 60, 100, or None where it has no mark
Checklist = Mapping[str, Collection[str]]

_WORTH: dict[float, float] = {0: 0.0, 1: 60.0, 2: 100.0}
_RENAMED = {"Feature Mapping": "Feature Matching"}  # a slip of the published judge


def parse_marks(text: str, checklist: Checklist) -> Marks | None:
    """The marks of an answer `{heading: {facet: {"score": 0, 1, 2 or "N/A"}}}`; None unless it marks a facet it should.

    Facets of the checklist go under their own heading, wherever the answer has them; others stay, and count, as in the
    published scores. A mark is None where it is "N/A", and where it is none of the four.
    """
    answer = json_in(text)
    if not isinstance(answer, dict):
        return None
    home = {facet: heading for heading, facets in checklist.items() for facet in facets}
    marks: Marks = {}
    is_answer = False
    for heading, name, mark in _facets(answer):
        facet = _RENAMED[name] if _RENAMED.get(name) in home else name
        worth = _worth(mark)
        marks.setdefault(home.get(facet, heading), {})[facet] = worth
        is_answer |= facet in home and (worth is not None or _is_not_applicable(mark))
    return marks if is_answer else None


def heading_scores(marks: Marks) -> dict[str, float | None]:
    """The mean of the marks under each heading, None where there is none."""
    return {heading: known_mean(facets.values()) for heading, facets in marks.items()}


def known_mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None, None without any: how each level is made of the one below."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def dimensions_of(text: str) -> list[str]:
    """The dimensions of a `dims_en` of the published prompts, such as "Quality / Detail / Noise; Alignment / Scene"."""
    parts = (part.split("/")[0].strip() for part in text.split(";"))
    return list(dict.fromkeys(part for part in parts if part))


def _facets(answer: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(heading, facet, mark) of all that an answer marks; a facet that stands outside of any heading is its own."""
    for name, value in answer.items():
        if isinstance(value, dict) and "score" in value:
            yield name, name, value["score"]
        elif isinstance(value, dict):
            for facet, mark in value.items():
                yield name, facet, mark.get("score") if isinstance(mark, dict) else mark


def _worth(mark: Any) -> float | None:
    number = as_number(mark)
    return _WORTH.get(number) if isinstance(number, int | float) and not isinstance(number, bool) else None


def _is_not_applicable(mark: Any) -> bool:
    return isinstance(mark, str) and mark.strip().upper() == "N/A"
