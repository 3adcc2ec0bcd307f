"""Benchmarks that ask questions about an image: what the answers to DPG-Bench are worth, and which choice TIFA's are.

Failed answers are None or NaN, as in `group_scores`. TIFA's questions have choices: what a network answers in its own
words is one of them by `literal_choice`, else by `closest_choice`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

import torch
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import NonFiniteFeatures, ShapeError, UnknownName, ValueRangeError
from lightning_imgmetrics.prompt_benchmarks.base.group_scores import known


def dependent_scores(
    answers: Mapping[int, float | None], parents: Mapping[int, Sequence[int]]
) -> dict[int, float | None]:
    """Scores of one image's questions, in their order: 0 where a parent scores 0, else the answer itself.

    `answers` maps ids to scores and `parents` to the ids a question depends on; id 0 stands for none. Zeros cascade, as
    parents are settled before their children wherever they stand. The published code goes through the file once, which
    is the same where parents stand first. A failed answer stays None; its children keep their own answers, unless its
    parents decide that it scores 0 whatever the answer. UnknownName for a parent that is no question, ValueRangeError
    for a cycle. Source: Hu et al. 2024 (ELLA), after Cho et al. 2024 (DSG).
    """
    scores: dict[int, float | None] = {}
    closed = set()
    for question in _parents_first(answers, parents):
        own = known(answers[question])
        blocked = any(parent in closed for parent in parents.get(question, ()))
        if blocked or own == 0:
            closed.add(question)
        scores[question] = 0.0 if blocked and own is not None else own
    return {question: scores[question] for question in answers}


def dpg_category(text: str) -> tuple[str, str]:
    """Broad and detailed category of a tuple: "attribute - color (x, y)" -> "attribute", "attribute - color"."""
    detailed = text.split("(")[0].strip()
    return detailed.split("-")[0].strip(), detailed


def closest_choice(answer: Tensor, choices: Tensor) -> int:
    """Position of the choice with the largest cosine to the answer, the first of equals.

    answer (d,) and choices (k, d), k >= 1: sentence embeddings of any length. ShapeError, NonFiniteFeatures otherwise.
    """
    if bind_shapes(answer=(answer, "d"), choices=(choices, "k d"))["k"] == 0:
        raise ShapeError("`choices` must hold at least one embedding, got none")
    if not (answer.isfinite().all() and choices.isfinite().all()):
        raise NonFiniteFeatures("`answer` and `choices` must be finite embeddings, got NaN or infinity")
    unit = torch.nn.functional.normalize(choices.double(), dim=1)
    return int((unit * answer.double()).sum(1).argmax())


def _parents_first(answers: Mapping[int, float | None], parents: Mapping[int, Sequence[int]]) -> tuple[int, ...]:
    graph = {question: [p for p in parents.get(question, ()) if p != 0] for question in answers}
    for parent in (p for ids in graph.values() for p in ids):
        if parent not in answers:
            raise UnknownName("parents", parent, answers)
    try:
        return tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise ValueRangeError(f"`parents` must have no cycle, got {' -> '.join(map(str, error.args[1]))}") from error
