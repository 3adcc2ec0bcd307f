"""VIEScore: how well an image does what was asked, and how well it is made, as a multimodal model sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import Decoding, Question
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.published_prompts import PublishedPrompts
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.verdicts import Verdict
from lightning_imgmetrics.judges.parsing.answers import Reading, numbers_at
from lightning_imgmetrics.judges.parsing.refusals import is_refusal
from lightning_imgmetrics.judges.prompts.vie_score import VIESCORE_PQ, VIESCORE_SC
from lightning_imgmetrics.metrics.base.summary import Column

VIESCORE_DECODING = Decoding(max_tokens=1400)  # as the published client
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


class VIEQuestions:
    """The two published questions about a sample of one task, and what their answers come to.

    `extra`: the names of the scores beside sqrt(SC * PQ). `images_per_sample`: how many images of each kind are shown.
    """

    def __init__(self, task: str, template: str | Path | None = None):
        if task not in _TASKS:
            raise UnknownName("task", task, _TASKS)
        self.task = task
        self.prompts = PublishedPrompts((VIESCORE_SC[task], VIESCORE_PQ), template)
        self.extra = ("sc", "pq", *_TASKS[task].scores, *_QUALITY)
        sources = _TASKS[task].sources
        self.images_per_sample = {"source": sources} if sources else {}
        self.inputs = ("prompts", *self.images_per_sample)

    def columns(self) -> tuple[Column, ...]:
        return tuple(Column(name, logged=name in ("sc", "pq")) for name in self.extra)

    def queries(self, sample: Sample) -> list[Query]:
        sources = sample.source if self.images_per_sample else ()
        if self.task == "msdig":
            sources = (_side_by_side(sources),)
        consistency, quality = self.prompts.cards
        images, count = (*sources, sample.image), len(_TASKS[self.task].scores)
        return [
            _query(self.prompts.question(consistency, images, sample.prompt), count, "SC"),
            _query(self.prompts.question(quality, (sample.image,), sample.prompt), len(_QUALITY), "PQ"),
        ]

    def conclude(self, answers: Sequence[Reading | None]) -> Verdict:
        consistency, quality = answers
        if consistency is None or quality is None:
            return Verdict(None)
        sc, pq = min(consistency.scores), min(quality.scores)
        extra = zip(self.extra, (sc, pq, *consistency.scores, *quality.scores), strict=True)
        return Verdict(math.sqrt(sc * pq), dict(extra), f"SC: {consistency.reasoning} PQ: {quality.reasoning}")

    def signature(self) -> dict[str, object]:
        return {"task": self.task, **self.prompts.signature()}


class VIEScore(JudgeMetric):
    """How well an image does what was asked, and how well it is made, as a judge scores it with published prompts.

    The mean of sqrt(SC * PQ), from 0 to 10, higher is better: SC (semantic consistency) is the lowest of the scores of
    what was asked for, PQ (perceptual quality) the lowest of how it is made. All are from 0 to 10 and higher is better,
    "artifacts" and "overediting" too (10: none). Images stand before the text, as in the published local judges (the
    published GPT-4o client puts them after). An answer of another number of scores than asked for, or a refusal, is
    none. `details`: `sc`, `pq` and each score. Published judges: GPT-4o; Qwen2.5-VL-72B-Instruct. Reference: Ku et al.
    2024.

    Args:
        judge: see `JudgeMetric`.
        task: what `prompts` and `source` of an update are. "t2i": texts to draw, no source; "tie", "mie": instructions,
            and the image before the edit; "cig": texts, and a control image; "sdig": texts, and the subject; "sdie":
            the name of the subject, and the image before, then the subject; "msdig": texts, and two subjects, which are
            shown side by side as one image.
        template: a copy of the published source of the prompts, or a folder with it.
        kwargs: those of `JudgeMetric`.

    Raises:
        UnknownName: another `task`.

    Example:
        >>> from lightning_imgmetrics import Answer, Judge, VIEScore
        >>> class Pleased(Judge):
        ...     def reply(self, questions, decoding, device):
        ...         return [Answer('{"score": [9, 9], "reasoning": "as asked"}') for _ in questions]
        >>> metric = VIEScore(Pleased(), task="tie")
        >>> metric.inputs  # what `update` takes beside images
        ('prompts', 'source')
        >>> metric.range_of("overediting")
        (0.0, 10.0)
    """

    name: ClassVar[str] = "vie_score"
    default_decoding = VIESCORE_DECODING
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 10.0

    def __init__(self, judge: Judge | str, *, task: str = "t2i", template: str | Path | None = None, **kwargs: Any):
        self.questions = VIEQuestions(task, template)
        self.inputs, self.images_per_sample = self.questions.inputs, self.questions.images_per_sample
        super().__init__(judge, **kwargs)

    def columns(self) -> tuple[Column, ...]:
        return (*self.questions.columns(), *super().columns())

    def range_of(self, name: str) -> tuple[float, float] | None:
        return super().range_of(self.name if name in self.questions.extra else name)

    def queries(self, sample: Sample) -> list[Query]:
        return self.questions.queries(sample)

    def conclude(self, sample: Sample, answers: Sequence[Reading | None]) -> Verdict:
        return self.questions.conclude(answers)

    def signature_parameters(self) -> dict[str, object]:
        return {**self.questions.signature(), **super().signature_parameters()}


def _query(question: Question, count: int, name: str) -> Query:
    numbers = ", ".join(f"number {i}" for i in range(1, count + 1))
    reminder = f'Answer with this JSON object alone: {{"score": [{numbers}], "reasoning": "..."}}, each from 0 to 10.'
    return Query(question, partial(_parse, count=count), reminder, name)


def _parse(text: str, count: int) -> Reading | None:
    reading = numbers_at(text, scale=(0, 10), count=count)
    return None if reading is None or is_refusal(reading.reasoning) else reading


def _side_by_side(images: Sequence[Tensor]) -> Tensor:
    """Images (3, h, w) in one row, with white below those that are not as high as the highest."""
    height = max(image.shape[1] for image in images)
    return torch.cat([pad(image, (0, 0, 0, height - image.shape[1]), value=255) for image in images], 2)
