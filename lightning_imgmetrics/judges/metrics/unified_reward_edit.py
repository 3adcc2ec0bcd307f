"""UnifiedReward-Edit: a model trained to rate edits of images, or to choose between two of one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.functional.intervals import win_interval
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import Decoding
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.position_bias import (
    ORDER_FIGURES,
    PLACES,
    both_orders,
    checked_orders,
    in_orders,
)
from lightning_imgmetrics.judges.metrics.published_prompts import WordedMetric
from lightning_imgmetrics.judges.metrics.queries import Ask, Sample, Verdict
from lightning_imgmetrics.judges.parsing.answers import Reading, numbers_at, pair_scores
from lightning_imgmetrics.judges.parsing.decisions import preferred_image
from lightning_imgmetrics.judges.parsing.json_text import after_thinking
from lightning_imgmetrics.judges.prompts.unified_reward import UNIFIED_REWARD_EDIT
from lightning_imgmetrics.metrics.base.summary import Summary

_FIRST = {1: 1.0, 2: 0.0, 0: 0.5}  # what a decision gives the first place
_LIST = 'Answer with this JSON object alone: {"reasoning": "...", "score": [number 1, number 2]}, each from 0 to 25.'
_LINES = "Answer with these two lines alone, a number in place of X and of Y:\nImage 1: X\nImage 2: Y"
_SENTENCE = (
    "Answer with one of these lines alone:\nImage 1 is better.\nImage 2 is better.\nBoth images are equally good."
)


class _Mode(NamedTuple):
    figures: tuple[str, ...]
    takes: dict[str, int]
    read: Callable[[str], Any]
    form: str


class _Choice(NamedTuple):
    """What a comparison gives the first place, the scores of both places where it gives them, and what it says."""

    first: float
    scores: tuple[float, float] | None
    told: str


class UnifiedRewardEdit(WordedMetric):
    """What a judge trained on edits makes of them; `prompts` are the instructions. Higher is better.

    `mode` "pointwise_score": the mean of `editing_success` and `overediting` (25: no more than had to be).
    "pointwise_quality": of `naturalness` and `artifacts` (25: none), shown neither source nor instruction. All are from
    0 to 25. "pairwise_rank", "pairwise_score": the share of edits that it prefers to their one rival, in [0, 1], a tie
    counting half; asked in both orders, a tie where they disagree, or with `orders=1` once, the image first, as
    published. `details` of pairs are as of `PairwiseJudge`; with "pairwise_score" also the mean scores `image_score`,
    `rival_score` and their difference `margin`, without bounds. A choice that cannot be read is no tie. Thinking is
    off, as its authors serve it. Source: Wang et al. 2025.
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
        **kwargs: Any,
    ):
        if mode not in _MODES:
            raise UnknownName("mode", mode, _MODES)
        self.mode, self.orders = mode, checked_orders(orders)
        self.figures, self.takes = _MODES[mode].figures, _MODES[mode].takes
        self.pairwise = "rivals" in self.takes
        self.inputs = ("prompts", *self.takes) if self.takes else ()
        self.logged = (*JudgeMetric.logged, *self.figures)
        self.cards = (UNIFIED_REWARD_EDIT[mode],)
        super().__init__(judge, **kwargs)

    @property
    def plot_upper_bound(self) -> float:
        return 1.0 if self.pairwise else 25.0

    def range_of(self, name: str) -> tuple[float, float] | None:
        return super().range_of(self.name if not self.pairwise and name in self.figures else name)

    def asks(self, sample: Sample) -> list[Ask]:
        shown: list[tuple[Tensor, ...]] = [(sample.image,)]
        if self.pairwise:
            shown = [*in_orders(sample, self.orders)]
        before = sample.source if "source" in self.takes else ()
        _, _, read, form = _MODES[self.mode]
        names = PLACES if self.pairwise else ("",)
        return [
            Ask(self.question(self.cards[0], (*before, *images), sample), read, form, name)
            for name, images in zip(names, shown, strict=False)
        ]

    def conclude(self, sample: Sample, readings: Sequence[Any]) -> Verdict:
        if any(reading is None for reading in readings):
            return Verdict(None)
        return _compared(readings) if self.pairwise else _rated(readings[0], self.figures)

    def over_samples(self, rows: Tensor) -> Summary:
        summary = super().over_samples(rows)
        if not self.pairwise:
            return summary
        return replace(summary, interval=win_interval(rows[:, 0]))

    def signature_parameters(self) -> dict[str, object]:
        orders = {"orders": self.orders} if self.pairwise else {}
        return {"mode": self.mode, **orders, **super().signature_parameters()}


def _rated(reading: Reading, names: Sequence[str]) -> Verdict:
    figures = dict(zip(names, reading.scores, strict=True))
    return Verdict(sum(reading.scores) / len(reading.scores), figures, reading.reasoning)


def _compared(choices: Sequence[_Choice]) -> Verdict:
    """Of choices where the image stood first, then second."""
    score, figures = both_orders([choice.first for choice in choices])
    scores = [choice.scores for choice in choices if choice.scores]
    if scores:
        of_image = [scores[0], *(pair[::-1] for pair in scores[1:])]
        image, rival = torch.tensor(of_image, dtype=torch.float64).mean(0).tolist()
        figures |= {"image_score": image, "rival_score": rival, "margin": image - rival}
    told = zip(PLACES, choices, strict=False)
    return Verdict(score, figures, "\n".join(f"{place}: {choice.told}" for place, choice in told))


def _read_list(text: str) -> Reading | None:
    return numbers_at(text, scale=(0, 25), count=2)


def _read_rank(text: str) -> _Choice | None:
    image = preferred_image(text)
    return None if image is None else _Choice(_FIRST[image], None, after_thinking(text) or "")


def _read_scores(text: str) -> _Choice | None:
    pair = pair_scores(text)
    if pair is None:
        return None
    first = 0.5 if pair[0] == pair[1] else float(pair[0] > pair[1])
    return _Choice(first, pair, after_thinking(text) or "")


_SOURCE, _RIVAL = {"source": 1}, {"source": 1, "rivals": 1}
_SCORED = (*ORDER_FIGURES, "image_score", "rival_score", "margin")
_MODES = {
    "pointwise_score": _Mode(("editing_success", "overediting"), _SOURCE, _read_list, _LIST),
    "pointwise_quality": _Mode(("naturalness", "artifacts"), {}, _read_list, _LIST),
    "pairwise_rank": _Mode(ORDER_FIGURES, _RIVAL, _read_rank, _SENTENCE),
    "pairwise_score": _Mode(_SCORED, _RIVAL, _read_scores, _LINES),
}
