"""Benchmarks added up as their authors do, in a few lines that share nothing with the package."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

Score = float | None  # None: the answer failed
GEDIT = "background_change color_alter material_alter motion_change ps_human style_change subject-add subject-remove"
GEDIT += " subject-replace text_change tone_transfer"
BASIC = ("attribute", "scene", "spatial relation", "action relation", "part relation")
ADVANCED = ("counting", "comparison", "differentiation", "negation", "universal")


class Means(NamedTuple):
    """Mean and number of the scores of each group that did not fail, and the groups without one."""

    mean: dict[str, float]
    n: dict[str, int]
    absent: list[str]


class TifaScores(NamedTuple):
    average: float
    stdev: float | None
    captions: Means
    element_types: Means
    n_failed: int


class DpgScores(NamedTuple):
    score: float
    items: Means
    broad: Means
    detailed: Means
    n_failed: int


class GEditScores(NamedTuple):
    semantics: float
    quality: float
    overall: float
    groups: Means
    n_failed: int


class GenAiScores(NamedTuple):
    average: float
    skills: Means


def means(groups: Sequence[str], scores: Sequence[Score]) -> Means:
    known: dict[str, list[float]] = {group: [] for group in groups}
    for group, score in zip(groups, scores, strict=True):
        known[group] += [] if score is None else [score]
    some = {group: values for group, values in known.items() if values}
    return Means(
        {group: mean(values) for group, values in some.items()},
        {group: len(values) for group, values in some.items()},
        [group for group, values in known.items() if not values],
    )


def mean(values: Collection[float]) -> float:
    return math.fsum(values) / len(values)


def failed(scores: Iterable[Score]) -> int:
    return sum(score is None for score in scores)


def tifa_scores(captions: Sequence[str], element_types: Sequence[str], scores: Sequence[Score]) -> TifaScores:
    """Questions are averaged within captions, and the captions then; types are averaged over all questions."""
    by_caption = means(captions, scores)
    each = list(by_caption.mean.values())
    average = mean(each)
    stdev = math.sqrt(math.fsum((x - average) ** 2 for x in each) / (len(each) - 1)) if len(each) > 1 else None
    return TifaScores(average, stdev, by_caption, means(element_types, scores), failed(scores))


def dpg_scores(
    answers: Mapping[str, Sequence[Mapping[int, Score]]],
    parents: Mapping[str, Mapping[int, Sequence[int]]],
    tuples: Mapping[str, Mapping[int, str]],
    *,
    crops: str = "last",
) -> DpgScores:
    """Item -> answers to each of its images: zeros spread, then means over questions, images, items, in percent."""

    def closed(image: Mapping[int, Score], of: Mapping[int, Sequence[int]], question: int) -> bool:
        return any(image[parent] == 0 or closed(image, of, parent) for parent in of.get(question, ()) if parent)

    owners, shares, kinds, raw = [], [], [], []
    for item, images in answers.items():
        for i, image in enumerate(images, 1):
            worth = [0.0 if closed(image, parents[item], q) else x for q, x in image.items() if x is not None]
            owners.append(item)
            shares.append(100 * mean(worth) if worth else None)
            if crops == "all" or i == len(images):
                kinds += [tuples[item][q].split("(")[0].strip() for q in image]
                raw += [None if x is None else 100 * x for x in image.values()]
    items = means(owners, shares)
    broad = means([kind.split("-")[0].strip() for kind in kinds], raw)
    n = sum(failed(image.values()) for images in answers.values() for image in images)
    return DpgScores(mean(items.mean.values()), items, broad, means(kinds, raw), n)


def gedit_scores(groups: Sequence[str], semantics: Sequence[Score], quality: Sequence[Score]) -> GEditScores:
    """Of samples with both scores: means within each of the groups, then the unweighted mean of those."""
    pairs = [None if None in pair else pair for pair in zip(semantics, quality, strict=True)]
    values = [
        [None if pair is None else pair[0] for pair in pairs],
        [None if pair is None else pair[1] for pair in pairs],
        [None if pair is None else math.sqrt(pair[0] * pair[1]) for pair in pairs],  # type: ignore[operator]
    ]
    by_group = [means([*GEDIT.split(), *groups], [*[None] * 11, *some]) for some in values]
    averages = [mean(some.mean.values()) for some in by_group]
    return GEditScores(averages[0], averages[1], averages[2], by_group[2], failed(pairs))  # type: ignore[arg-type]


def genai_scores(prompts: Sequence[str], scores: Sequence[Score], skills: Mapping[str, Collection[str]]) -> GenAiScores:
    """Means over images of prompts by skill; with an advanced skill a prompt is advanced, with basic ones alone basic.

    Where the skills have "basic" and "advanced" themselves, those count.
    """
    advanced = {name for skill in ADVANCED for name in skills.get(skill, ())}
    basic = {name for skill in BASIC for name in skills.get(skill, ())} - advanced
    tags = {"basic": basic, "advanced": advanced, **skills}
    rows = [(tag, x) for tag, names in tags.items() for name, x in zip(prompts, scores, strict=True) if name in names]
    tagged = {name for names in tags.values() for name in names}
    known = [x for name, x in zip(prompts, scores, strict=True) if name in tagged and x is not None]
    return GenAiScores(mean(known), means([tag for tag, _ in rows], [x for _, x in rows]))
