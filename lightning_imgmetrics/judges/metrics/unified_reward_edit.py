"""UnifiedReward-Edit: a model trained to score edits of images, or to choose between two of one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.functional.intervals import win_interval
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import Decoding
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.position_bias import (
    FOR_FIRST,
    ORDER_COLUMNS,
    PLACES,
    both_orders,
    checked_orders,
    in_orders,
)
from lightning_imgmetrics.judges.metrics.published_prompts import PublishedPrompts
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.verdicts import Verdict
from lightning_imgmetrics.judges.parsing.answers import Reading, numbers_at, pair_scores
from lightning_imgmetrics.judges.parsing.decisions import preferred_image
from lightning_imgmetrics.judges.parsing.json_text import after_thinking
from lightning_imgmetrics.judges.prompts.unified_reward import UNIFIED_REWARD_EDIT
from lightning_imgmetrics.metrics.base.summary import Column, Summary

_LIST = 'Answer with this JSON object alone: {"reasoning": "...", "score": [number 1, number 2]}, each from 0 to 25.'
_LINES = "Answer with these two lines alone, a number in place of X and of Y:\nImage 1: X\nImage 2: Y"
_SENTENCE = (
    "Answer with one of these lines alone:\nImage 1 is better.\nImage 2 is better.\nBoth images are equally good."
)


class _Mode(NamedTuple):
    extra: tuple[str, ...]
    images_per_sample: dict[str, int]
    parse: Callable[[str], Any]
    format_reminder: str


class _Choice(NamedTuple):
    """What a comparison gives the first place, the scores of both places where it gives them, and its reasons."""

    first: float
    scores: tuple[float, float] | None
    reasoning: str


class UnifiedRewardEdit(JudgeMetric):
    """Scores of a judge that was trained to score edits of images, or to choose between two edits of one image.

    Higher is better. "pointwise_score": the mean of `editing_success` and `overediting` (25: no more than had to be),
    from 0 to 25. "pointwise_quality": of `naturalness` and `artifacts` (25: none), shown neither source nor
    instruction. "pairwise_rank", "pairwise_score": the share of edits that it prefers to their one rival, in [0, 1], a
    tie counting half, as two orders do that disagree. `details` of pairs are as of `PairwiseJudge`; with
    "pairwise_score" also the mean scores `image_score`, `rival_score` and their difference `margin`, without bounds. A
    choice that cannot be parsed is no tie. Thinking is off, as its authors serve it. Reference: Wang et al. 2025.

    Args:
        judge: see `JudgeMetric`; by default the published one.
        mode: what is asked; `prompts` of an update are the instructions, `source` the images before the edit.
        orders: of a pair: 2 asks in both orders, 1 asks once, the image first, as published.
        template: a copy of the published source of the prompts, or a folder with it.
        kwargs: those of `JudgeMetric`.

    Raises:
        UnknownName: another `mode`.
        ValueError: `orders` that are neither 1 nor 2.

    Example:
        >>> from lightning_imgmetrics import UnifiedRewardEdit
        >>> metric = UnifiedRewardEdit("CodeGoat24/UnifiedReward-Edit-qwen3vl-8b", mode="pairwise_score")
        >>> metric.inputs  # what `update` takes beside images
        ('prompts', 'source', 'rivals')
        >>> metric.range_of("unified_reward_edit")
        (0.0, 1.0)
    """

    name: ClassVar[str] = "unified_reward_edit"
    default_decoding = Decoding(max_tokens=4096, thinking=False)
    plot_lower_bound: float = 0.0

    def __init__(
        self,
        judge: Judge | str = "CodeGoat24/UnifiedReward-Edit-qwen3vl-8b",
        *,
        mode: str = "pointwise_score",
        orders: int = 2,
        template: str | Path | None = None,
        **kwargs: Any,
    ):
        if mode not in _MODES:
            raise UnknownName("mode", mode, _MODES)
        self.mode, self.orders = mode, checked_orders(orders)
        self.extra, self.images_per_sample = _MODES[mode].extra, _MODES[mode].images_per_sample
        self.pairwise = "rivals" in self.images_per_sample
        self.inputs = ("prompts", *self.images_per_sample) if self.images_per_sample else ()
        self.prompts = PublishedPrompts((UNIFIED_REWARD_EDIT[mode],), template)
        super().__init__(judge, **kwargs)

    def columns(self) -> tuple[Column, ...]:
        return (*(Column(name, logged=True) for name in self.extra), *super().columns())

    @property
    def plot_upper_bound(self) -> float:
        return 1.0 if self.pairwise else 25.0

    def range_of(self, name: str) -> tuple[float, float] | None:
        return super().range_of(self.name if not self.pairwise and name in self.extra else name)

    def queries(self, sample: Sample) -> list[Query]:
        edits: list[tuple[Tensor, ...]] = [(sample.image,)]
        if self.pairwise:
            edits = [*in_orders(sample, self.orders)]
        before = sample.source if "source" in self.images_per_sample else ()
        (card,), mode = self.prompts.cards, _MODES[self.mode]
        names = PLACES if self.pairwise else ("",)
        questions = [self.prompts.question(card, (*before, *images), sample.prompt) for images in edits]
        return [
            Query(question, mode.parse, mode.format_reminder, name)
            for name, question in zip(names, questions, strict=False)
        ]

    def conclude(self, sample: Sample, answers: Sequence[Any]) -> Verdict:
        if any(answer is None for answer in answers):
            return Verdict(None)
        return _pair_verdict(answers) if self.pairwise else _single_verdict(answers[0], self.extra)

    def over_samples(self, rows: Tensor) -> Summary:
        summary = super().over_samples(rows)
        if not self.pairwise:
            return summary
        return replace(summary, interval=win_interval(rows[:, 0]))

    def signature_parameters(self) -> dict[str, object]:
        orders = {"orders": self.orders} if self.pairwise else {}
        return {"mode": self.mode, **orders, **self.prompts.signature(), **super().signature_parameters()}


def _single_verdict(reading: Reading, names: Sequence[str]) -> Verdict:
    scores = dict(zip(names, reading.scores, strict=True))
    return Verdict(sum(reading.scores) / len(reading.scores), scores, reading.reasoning)


def _pair_verdict(choices: Sequence[_Choice]) -> Verdict:
    """Of choices where the image stood first, then second."""
    score, extra = both_orders([choice.first for choice in choices])
    scores = [choice.scores for choice in choices if choice.scores]
    if scores:
        of_image = [scores[0], *(pair[::-1] for pair in scores[1:])]
        image, rival = torch.tensor(of_image, dtype=torch.float64).mean(0).tolist()
        extra |= {"image_score": image, "rival_score": rival, "margin": image - rival}
    reasons = (f"{place}: {choice.reasoning}" for place, choice in zip(PLACES, choices, strict=False))
    return Verdict(score, extra, "\n".join(reasons))


def _parse_list(text: str) -> Reading | None:
    return numbers_at(text, scale=(0, 25), count=2)


def _parse_rank(text: str) -> _Choice | None:
    image = preferred_image(text)
    return None if image is None else _Choice(FOR_FIRST[image], None, after_thinking(text) or "")


def _parse_scores(text: str) -> _Choice | None:
    pair = pair_scores(text)
    if pair is None:
        return None
    first = 0.5 if pair[0] == pair[1] else float(pair[0] > pair[1])
    return _Choice(first, pair, after_thinking(text) or "")


_SOURCE, _RIVAL = {"source": 1}, {"source": 1, "rivals": 1}
_SCORE_COLUMNS = (*ORDER_COLUMNS, "image_score", "rival_score", "margin")
_MODES = {
    "pointwise_score": _Mode(("editing_success", "overediting"), _SOURCE, _parse_list, _LIST),
    "pointwise_quality": _Mode(("naturalness", "artifacts"), {}, _parse_list, _LIST),
    "pairwise_rank": _Mode(ORDER_COLUMNS, _RIVAL, _parse_rank, _SENTENCE),
    "pairwise_score": _Mode(_SCORE_COLUMNS, _RIVAL, _parse_scores, _LINES),
}
