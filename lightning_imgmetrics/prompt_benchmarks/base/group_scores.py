"""Means of scores by group, and the groups of GEdit-Bench and GenAI-Bench.

A failed answer is None or NaN. It is left out of every mean; it is never 0. A group all of whose answers
failed has no mean and is listed as absent. Sums are exact, so the order of the answers does not change a bit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError, ValueRangeError

GEDIT_GROUPS = (
    "background_change",
    "color_alter",
    "material_alter",
    "motion_change",
    "ps_human",
    "style_change",
    "subject-add",
    "subject-remove",
    "subject-replace",
    "text_change",
    "tone_transfer",
)
GENAI_BASIC = ("attribute", "scene", "spatial relation", "action relation", "part relation")
GENAI_ADVANCED = ("counting", "comparison", "differentiation", "negation", "universal")


class GroupMeans(NamedTuple):
    """Mean score and number of answers that did not fail, by group, and the groups where all failed or none came."""

    mean: dict[str, float]
    n: dict[str, int]
    absent: tuple[str, ...]


def group_means(groups: Sequence[str], scores: Sequence[float | None], *, expected: Iterable[str] = ()) -> GroupMeans:
    """Mean of the scores of each group; `expected` groups come first, and are absent where `groups` lacks them.

    ShapeError unless there are as many groups as scores; ValueRangeError for an infinite score.
    """
    if len(groups) != len(scores):
        raise ShapeError(f"there must be one group per score, got {len(groups)} groups and {len(scores)} scores")
    answered: dict[str, list[float]] = {group: [] for group in dict.fromkeys((*expected, *groups))}
    for group, score in zip(groups, scores, strict=True):
        if (value := known(score)) is not None:
            answered[group].append(value)
    present = {group: values for group, values in answered.items() if values}
    return GroupMeans(
        {group: math.fsum(values) / len(values) for group, values in present.items()},
        {group: len(values) for group, values in present.items()},
        tuple(group for group, values in answered.items() if not values),
    )


def known(score: float | None) -> float | None:
    """The score as a float, or None where it failed."""
    if score is None or math.isnan(score):
        return None
    if math.isinf(score):
        raise ValueRangeError(f"`scores` must be finite, or None where the answer failed, got {score}")
    return float(score)


def mean_of(values: Collection[float], metric: str, why: str) -> float:
    if not values:
        raise NotEnoughSamples(metric, 0, 1, why)
    return math.fsum(values) / len(values)
