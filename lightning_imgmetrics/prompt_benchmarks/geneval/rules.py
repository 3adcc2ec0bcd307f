"""The rules of GenEval: which detections count, whether an image shows what its prompt asks for, and the scores.

Source: Ghosh, Hajishirzi & Schmidt 2023. Boxes are (x0, y0, x1, y1) in pixels, y pointing down.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import copysign, hypot
from typing import NamedTuple

from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError, ValueRangeError
from lightning_imgmetrics.models.detection.detections import COLORS, Box, Detection
from lightning_imgmetrics.prompt_benchmarks.geneval.prompts import TASKS, Clause, GenEvalPrompt

Objects = Mapping[str, Sequence[Detection]]  # class -> its detections, the most certain first
ColorsOf = Callable[[Sequence[Detection]], Sequence[str]]
_TOUCHING = 1e-3  # pixels: boxes nearer than that, their margin aside, stand in no relation
_AXIS = 0.5  # the share of the distance between the centers that must point along an axis


@dataclass(frozen=True)
class Rules:
    """The constants of the protocol; other values give other scores.

    Detections count above `threshold`, those of the task "counting" above `counting_threshold`, at most `most` of a
    class. Of two of a class that overlap by `max_overlap` or more, the less certain is dropped; 1 drops none. Boxes are
    apart by what lies between their centers beyond `margin` times the sum of their sides.
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    most: int = 16
    max_overlap: float = 1.0
    margin: float = 0.1

    def __post_init__(self) -> None:
        for name in ("threshold", "counting_threshold", "max_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueRangeError(f"`{name}` must lie in [0, 1], got {getattr(self, name)}")
        if self.most < 1 or not self.margin >= 0:
            raise ValueRangeError(
                f"`most` must be at least 1 and `margin` not negative, got {self.most} and {self.margin}"
            )


class Finding(NamedTuple):
    """Whether an image is correct, and all that speaks against it, in words; "" where nothing does."""

    correct: bool
    reason: str


class GenEvalScores(NamedTuple):
    """Shares in [0, 1]: `overall` is the mean of `tasks`; `images` and `prompts` are the shares of correct images and
    of prompts with a correct image. `counts`: images of each task; `n_failed`: images without a verdict."""

    overall: float
    tasks: dict[str, float]
    counts: dict[str, int]
    images: float
    prompts: float
    n_failed: int


PUBLISHED = Rules()


def judge(
    prompt: GenEvalPrompt, detections: Sequence[Detection], *, rules: Rules = PUBLISHED, colors: ColorsOf | None = None
) -> Finding:
    """`select`, then `check`: the verdict on an image by all that was detected in it."""
    return check(prompt, select(detections, prompt.tag, rules=rules), margin=rules.margin, colors=colors)


def select(detections: Sequence[Detection], tag: str, *, rules: Rules = PUBLISHED) -> dict[str, list[Detection]]:
    """class -> its detections that count for the task `tag`, the most certain first; equal scores keep their order."""
    threshold = rules.counting_threshold if tag == "counting" else rules.threshold
    matches: dict[str, list[Detection]] = defaultdict(list)
    for detection in sorted(detections, key=lambda d: -d.score):
        if detection.score > threshold and len(matches[detection.label]) < rules.most:
            matches[detection.label].append(detection)
    return {label: _apart(some, rules.max_overlap) for label, some in matches.items() if some}


def _apart(detections: Sequence[Detection], max_overlap: float) -> list[Detection]:
    """Non-maximum suppression of what is sorted; also those that were dropped later count towards `most`."""
    survivors: list[Detection] = []
    for detection in detections:
        if max_overlap == 1 or all(box_overlap(one.box, detection.box) < max_overlap for one in survivors):
            survivors.append(detection)
    return survivors


def box_overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, each taken one pixel wider and higher: both ends count as pixels."""

    def area(box: Box) -> float:
        return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)

    shared = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    return shared / (area(a) + area(b) - shared)


def relative_position(a: Box, b: Box, *, margin: float = PUBLISHED.margin) -> frozenset[str]:
    """How box `a` lies to box `b`: none, one or two of "left of", "right of", "above", "below".

    Along each axis, the distance between the centers loses `margin` times the sum of the sides; what remains must be
    more than half of the (whole) distance between the centers.
    """
    offset = [(a[i] + a[i + 2] - b[i] - b[i + 2]) / 2 for i in (0, 1)]
    sides = [abs(a[i + 2] - a[i]) + abs(b[i + 2] - b[i]) for i in (0, 1)]
    apart = [copysign(max(abs(x) - margin * s, 0), x) for x, s in zip(offset, sides, strict=True)]
    if all(abs(x) < _TOUCHING for x in apart):
        return frozenset()
    dx, dy = (x / hypot(*offset) for x in apart)
    held = {"left of": dx < -_AXIS, "right of": dx > _AXIS, "above": dy < -_AXIS, "below": dy > _AXIS}
    return frozenset(relation for relation, holds in held.items() if holds)


def check(
    prompt: GenEvalPrompt, objects: Objects, *, margin: float = PUBLISHED.margin, colors: ColorsOf | None = None
) -> Finding:
    """Whether `objects`, as `select` returns them, are what the prompt asks for.

    Of each clause the `count` most certain detections are looked at: there must be as many, of the color, and each in
    its relation to each of the target clause's, which must have been met. No class may be there as often as `exclude`
    says. `colors` names the colors of detections of one class; None takes their own. ValueError: one has none.
    """
    reasons: list[str] = []
    groups: list[Sequence[Detection] | None] = []
    for clause in prompt.include:
        matches = objects.get(clause.label, ())[: clause.count]
        reason = _missing(clause, matches, colors) or _misplaced(clause, matches, prompt.include, groups, margin)
        groups.append(None if reason else matches)
        reasons += [reason] if reason else []
    for clause in prompt.exclude:
        if (n := len(objects.get(clause.label, ()))) >= clause.count:
            reasons.append(f"{clause.label}: expected fewer than {clause.count}, found {n}")
    return Finding(not reasons, "; ".join(reasons))


def _missing(clause: Clause, matches: Sequence[Detection], colors: ColorsOf | None) -> str:
    """Why the objects are too few or of other colors; "" where they are not."""
    if len(matches) < clause.count:
        return f"{clause.label}: expected {clause.count}, found {len(matches)}"
    if clause.color is None:
        return ""
    seen = [d.color for d in matches] if colors is None else list(colors(matches))
    if len(seen) != len(matches):
        raise ShapeError(f"`colors` must name one color for each of {len(matches)} detections, got {len(seen)}")
    if None in seen:
        raise ValueError(
            f"`colors` is needed: a {clause.color} {clause.label} is asked for, and its color is not known"
        )
    if seen.count(clause.color) >= clause.count:
        return ""
    description = ", ".join(f"{seen.count(color)} {color}" for color in COLORS if color in seen)
    return f"{clause.label}: expected {clause.count} {clause.color}, found {description}"


def _misplaced(
    clause: Clause,
    matches: Sequence[Detection],
    clauses: Sequence[Clause],
    groups: Sequence[Sequence[Detection] | None],
    margin: float,
) -> str:
    """Why the objects do not stand as asked to those of the clauses before; "" where they do."""
    if clause.position is None:
        return ""
    relation, target = clause.position
    others = groups[target]
    if others is None:
        return f"{clause.label}: expected {relation} the {clauses[target].label}, which is not there as asked"
    for one in matches:
        for other in others:
            relations = relative_position(one.box, other.box, margin=margin)
            if relation not in relations:
                description = " and ".join(sorted(relations)) or "in no relation to"
                return f"{clause.label}: expected {relation} the {clauses[target].label}, found {description} it"
    return ""


def geneval_scores(correct: Sequence[bool | None], prompts: Sequence[GenEvalPrompt]) -> GenEvalScores:
    """The scores of images by their verdicts (n) and prompts (n). None: no verdict; such an image is only counted.

    Tasks without an image are left out of the mean. ShapeError: counts differ. NotEnoughSamples: no verdict at all.
    """
    if len(correct) != len(prompts):
        raise ShapeError(f"`prompts` must hold one entry per verdict, got {len(prompts)} for {len(correct)}")
    verdicts = [(bool(c), p) for c, p in zip(correct, prompts, strict=True) if c is not None]
    if not verdicts:
        raise NotEnoughSamples("geneval", 0, 1, "no image has a verdict")
    by_task: dict[str, list[bool]] = {task: [] for task in TASKS}
    by_prompt: dict[GenEvalPrompt, bool] = {}
    for right, prompt in verdicts:
        by_task[prompt.tag].append(right)
        by_prompt[prompt] = by_prompt.get(prompt, False) or right
    tasks = {task: sum(rights) / len(rights) for task, rights in by_task.items() if rights}
    return GenEvalScores(
        overall=sum(tasks.values()) / len(tasks),
        tasks=tasks,
        counts={task: len(by_task[task]) for task in tasks},
        images=sum(right for right, _ in verdicts) / len(verdicts),
        prompts=sum(by_prompt.values()) / len(by_prompt),
        n_failed=len(correct) - len(verdicts),
    )
