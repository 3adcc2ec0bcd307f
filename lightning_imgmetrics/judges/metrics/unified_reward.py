"""UnifiedReward: a model trained to rate generated images, or to weigh two of one prompt."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import Decoding
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.position_bias import PLACES, both_orders, checked_orders, in_orders
from lightning_imgmetrics.judges.metrics.published_prompts import WordedMetric
from lightning_imgmetrics.judges.metrics.queries import Ask, Sample, Verdict
from lightning_imgmetrics.judges.parsing.answers import Reading, labeled_numbers, labeled_pairs
from lightning_imgmetrics.judges.parsing.json_text import after_thinking
from lightning_imgmetrics.judges.prompts.unified_reward import (
    UNIFIED_REWARD_PAIR,
    UNIFIED_REWARD_POINT,
    UNIFIED_REWARD_POINT_DIFFSYNTH,
)

_LABELS = ("Alignment Score", "Coherence Score", "Style Score")
_AXES = ("alignment", "coherence", "style")
_POINT = {"official": UNIFIED_REWARD_POINT, "diffsynth": UNIFIED_REWARD_POINT_DIFFSYNTH}
_POINT_FORM = "Answer with these three lines alone, numbers from 1 to 5 in place of X:" + "".join(
    f"\n{label} (1-5): X" for label in _LABELS
)
_PAIR_FORM = "Answer with these lines alone, numbers from 0 to 1 that add up to 1 in place of X and Y:" + "".join(
    f"\n{label}:\n Image 1: X\n Image 2: Y" for label in _LABELS
)


class UnifiedReward(WordedMetric):
    """The mean of `alignment` (with the prompt), `coherence` and `style`; higher is better.

    `mode` "pointwise": each from 1 to 5. "pairwise": the image's share of each against its one rival, from 0 to 1, 0.5
    where both are equal; asked in both orders and averaged, or with `orders=1` once, the image first, as published.
    `details` then hold `position_bias`, the share of pairs of which the same place was ahead both times, and
    `first_share`, the mean share of the first place, 0.5 without bias. Where one of the three axes cannot be read, the
    sample has no score: a mean over the rest would be of another kind. `wording` "diffsynth" (pointwise) has a sentence
    that the network was not trained on. Thinking is off, as its authors serve it. Source: Wang et al. 2025.
    """

    name: ClassVar[str] = "unified_reward"
    default_decoding = Decoding(max_tokens=4096, thinking=False)

    def __init__(
        self,
        judge: Judge | str = "CodeGoat24/UnifiedReward-2.0-qwen35-9b",
        *,
        mode: str = "pointwise",
        wording: str = "official",
        orders: int = 2,
        **kwargs: Any,
    ):
        if mode not in ("pointwise", "pairwise"):
            raise UnknownName("mode", mode, ("pointwise", "pairwise"))
        if wording not in _POINT:
            raise UnknownName("wording", wording, _POINT)
        self.pairwise = mode == "pairwise"
        if self.pairwise and wording != "official":
            raise ValueError(f"`wording` must be 'official' with mode='pairwise', got {wording!r}")
        self.mode, self.orders = mode, checked_orders(orders)
        self.takes = {"rivals": 1} if self.pairwise else {}
        self.inputs = ("prompts", *self.takes)
        self.figures = (*_AXES, "position_bias", "first_share") if self.pairwise else _AXES
        self.logged = (*JudgeMetric.logged, *self.figures)
        self.cards = (UNIFIED_REWARD_PAIR if self.pairwise else _POINT[wording],)
        super().__init__(judge, **kwargs)

    @property
    def plot_lower_bound(self) -> float:
        return 0.0 if self.pairwise else 1.0

    @property
    def plot_upper_bound(self) -> float:
        return 1.0 if self.pairwise else 5.0

    def range_of(self, name: str) -> tuple[float, float] | None:
        return super().range_of(self.name if name in self.figures else name)

    def asks(self, sample: Sample) -> list[Ask]:
        (card,) = self.cards
        if not self.pairwise:
            return [Ask(self.question(card, (sample.image,), sample), _read_point, _POINT_FORM)]
        return [
            Ask(self.question(card, pair, sample), _read_pair, _PAIR_FORM, place)
            for place, pair in zip(PLACES, in_orders(sample, self.orders), strict=False)
        ]

    def conclude(self, sample: Sample, readings: Sequence[Reading | None]) -> Verdict:
        known = [reading for reading in readings if reading is not None]
        axes = [dict(zip(_AXES, reading.scores, strict=True)) for reading in known]
        if len(known) < len(readings):
            return Verdict(None)
        if not self.pairwise:
            return Verdict(_mean(axes[0].values()), axes[0], known[0].reasoning)
        said = "\n".join(f"{place}: {reading.reasoning}" for place, reading in zip(PLACES, known, strict=False))
        return replace(_weighed(axes), rationale=said)

    def signature_parameters(self) -> dict[str, object]:
        orders = {"orders": self.orders} if self.pairwise else {}
        return {"mode": self.mode, **orders, **super().signature_parameters()}


def _read_point(text: str) -> Reading | None:
    return _complete(labeled_numbers(text, _LABELS, scale=(1, 5)), text)


def _read_pair(text: str) -> Reading | None:
    """The share of the first image on each axis."""
    pairs = labeled_pairs(text, _LABELS).items()
    return _complete({label: pair and pair[0] / sum(pair) for label, pair in pairs}, text)


def _complete(found: Mapping[str, float | None], text: str) -> Reading | None:
    """All of the axes, and the answer that they stand in."""
    known = [score for label in _LABELS if (score := found[label]) is not None]
    return Reading(tuple(known), after_thinking(text) or "") if len(known) == len(_LABELS) else None


def _weighed(shares: Sequence[Mapping[str, float]]) -> Verdict:
    """Of the shares of the first place, where the image stood first, then second."""
    of_image = [shares[0], *({axis: 1 - share for axis, share in other.items()} for other in shares[1:])]
    figures: dict[str, float | None] = {axis: _mean([one[axis] for one in of_image]) for axis in _AXES}
    first = [_mean(one.values()) for one in shares]
    _, told = both_orders([1.0 if share > 0.5 else 0.5 if share == 0.5 else 0.0 for share in first])
    score = _mean([_mean(one.values()) for one in of_image])
    return Verdict(score, {**figures, "position_bias": told["position_bias"], "first_share": _mean(first)})


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values)
