"""VIEScore: how well an image does what was asked, and how well it is made, as a multimodal model sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import Decoding
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.published_prompts import WordedMetric
from lightning_imgmetrics.judges.metrics.queries import Ask, Sample, Verdict
from lightning_imgmetrics.judges.parsing.answers import Reading, numbers_at
from lightning_imgmetrics.judges.parsing.refusals import is_refusal
from lightning_imgmetrics.judges.prompts.vie_score import VIESCORE_PQ, VIESCORE_SC

_QUALITY = ("naturalness", "artifacts")
_EDIT = ("editing_success", "overediting")


class _Task(NamedTuple):
    scores: tuple[str, ...]  # of semantic consistency, in the order that the judge is told
    sources: int = 0


_TASKS = {
    "t2i": _Task(("prompt_following",)),
    "tie": _Task(_EDIT, 1),
    "mie": _Task(_EDIT, 1),
    "cig": _Task(("prompt_following", "control_following"), 1),
    "sdig": _Task(("prompt_following", "subject_likeness"), 1),
    "sdie": _Task(("subject_likeness", "overediting"), 2),
    "msdig": _Task(("prompt_following", "first_likeness", "second_likeness"), 2),
}


class VIEScore(WordedMetric):
    """The mean of sqrt(SC * PQ): SC is the lowest of a judge's scores of what was asked for, PQ of how it is made.

    All from 0 to 10, higher is better, "artifacts" and "overediting" too (10: none). `task`, and the `source` of each
    sample: "t2i" none; "tie", "mie" the image before an edit; "cig" a control image; "sdig" the subject; "sdie" the
    image before, then the subject; "msdig" two subjects, shown side by side as one image. `prompts` are texts to draw,
    instructions ("tie", "mie") or the subject's name ("sdie"). Images stand before the text, as in the published local
    judges (its GPT-4o client puts them after). An answer of another number of scores than asked for, or a refusal, is
    none. `details`: `sc`, `pq`, each score. Published judges: GPT-4o; Qwen2.5-VL-72B-Instruct. Source: Ku et al. 2024.
    """

    name: ClassVar[str] = "vie_score"
    default_decoding = Decoding(max_tokens=1400)  # as the published client
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 10.0

    def __init__(self, judge: Judge | str, *, task: str = "t2i", **kwargs: Any):
        if task not in _TASKS:
            raise UnknownName("task", task, _TASKS)
        self.task = task
        self.figures = ("sc", "pq", *_TASKS[task].scores, *_QUALITY)
        self.takes = {"source": _TASKS[task].sources} if _TASKS[task].sources else {}
        self.inputs = ("prompts", *self.takes)
        self.logged = (*JudgeMetric.logged, "sc", "pq")
        self.cards = (VIESCORE_SC[task], VIESCORE_PQ)
        super().__init__(judge, **kwargs)

    def range_of(self, name: str) -> tuple[float, float] | None:
        return super().range_of(self.name if name in self.figures else name)

    def asks(self, sample: Sample) -> list[Ask]:
        sources = sample.source if self.takes else ()
        if self.task == "msdig":
            sources = (_side_by_side(sources),)
        consistency, quality = self.cards
        return [
            _ask(self.question(consistency, (*sources, sample.image), sample), len(_TASKS[self.task].scores), "SC"),
            _ask(self.question(quality, (sample.image,), sample), len(_QUALITY), "PQ"),
        ]

    def conclude(self, sample: Sample, readings: Sequence[Reading | None]) -> Verdict:
        consistency, quality = readings
        if consistency is None or quality is None:
            return Verdict(None)
        sc, pq = min(consistency.scores), min(quality.scores)
        single = zip(self.figures, (sc, pq, *consistency.scores, *quality.scores), strict=True)
        return Verdict(math.sqrt(sc * pq), dict(single), f"SC: {consistency.reasoning} PQ: {quality.reasoning}")

    def signature_parameters(self) -> dict[str, object]:
        return {"task": self.task, **super().signature_parameters()}


def _ask(question: Any, count: int, name: str) -> Ask:
    numbers = ", ".join(f"number {i}" for i in range(1, count + 1))
    form = f'Answer with this JSON object alone: {{"score": [{numbers}], "reasoning": "..."}}, each from 0 to 10.'
    return Ask(question, partial(_read, count=count), form, name)


def _read(text: str, count: int) -> Reading | None:
    reading = numbers_at(text, scale=(0, 10), count=count)
    return None if reading is None or is_refusal(reading.reasoning) else reading


def _side_by_side(images: Sequence[Tensor]) -> Tensor:
    """Images (3, h, w) in one row, with white below those that are not as high as the highest."""
    height = max(image.shape[1] for image in images)
    return torch.cat([pad(image, (0, 0, 0, height - image.shape[1]), value=255) for image in images], 2)
