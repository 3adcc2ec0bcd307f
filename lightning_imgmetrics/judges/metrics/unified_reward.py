"""UnifiedReward: a model trained to score generated images, or to compare two of one prompt."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import Decoding
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.position_bias import PLACES, both_orders, checked_orders, in_orders
from lightning_imgmetrics.judges.metrics.published_prompts import PublishedPrompts
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.verdicts import Verdict
from lightning_imgmetrics.judges.parsing.answers import Reading, labeled_numbers, labeled_pairs
from lightning_imgmetrics.judges.parsing.json_text import after_thinking
from lightning_imgmetrics.judges.prompts.unified_reward import (
    UNIFIED_REWARD_PAIR,
    UNIFIED_REWARD_POINT,
    UNIFIED_REWARD_POINT_DIFFSYNTH,
)
from lightning_imgmetrics.metrics.base.summary import Column

_LABELS = ("Alignment Score", "Coherence Score", "Style Score")
_AXES = ("alignment", "coherence", "style")
_POINT = {"official": UNIFIED_REWARD_POINT, "diffsynth": UNIFIED_REWARD_POINT_DIFFSYNTH}
_POINT_REMINDER = "Answer with these three lines alone, numbers from 1 to 5 in place of X:" + "".join(
    f"\n{label} (1-5): X" for label in _LABELS
)
_PAIR_REMINDER = "Answer with these lines alone, numbers from 0 to 1 that add up to 1 in place of X and Y:" + "".join(
    f"\n{label}:\n Image 1: X\n Image 2: Y" for label in _LABELS
)


class UnifiedReward(JudgeMetric):
    """Scores of a judge that was trained to score generated images, or to compare two of one prompt.

    The mean of `alignment` (with the prompt), `coherence` and `style`, which `details` hold; higher is better.
    "pointwise", from 1 to 5. "pairwise", from 0 to 1: the image's share of each against its one rival, 0.5 where both
    are equal; `details` then hold `position_bias`, the share of pairs of which the same place was ahead both times, and
    `first_share`, the mean share of the first place, 0.5 without bias. Where one of the three cannot be parsed, the
    sample has no score: a mean over the rest would be of another kind. Thinking is off, as its authors serve it.
    Reference: Wang et al. 2025.

    Args:
        judge: see `JudgeMetric`; by default the published one.
        mode: "pointwise" or "pairwise".
        prompt_version: "official", or "diffsynth" (pointwise): with a sentence that the network was not trained on.
        orders: of a pair: 2 asks in both and takes the mean, 1 asks once, the image first, as published.
        template: a copy of the published source of the prompts, or a folder with it.
        kwargs: those of `JudgeMetric`.

    Raises:
        UnknownName: another `mode` or `prompt_version`.
        ValueError: `prompt_version` with pairs, or `orders` that are neither 1 nor 2.

    Example:
        >>> from lightning_imgmetrics import UnifiedReward
        >>> metric = UnifiedReward("CodeGoat24/UnifiedReward-2.0-qwen35-9b", mode="pairwise")
        >>> metric.inputs  # what `update` takes beside images
        ('prompts', 'rivals')
        >>> metric.range_of("alignment")
        (0.0, 1.0)
    """

    name: ClassVar[str] = "unified_reward"
    default_decoding = Decoding(max_tokens=4096, thinking=False)

    def __init__(
        self,
        judge: Judge | str = "CodeGoat24/UnifiedReward-2.0-qwen35-9b",
        *,
        mode: str = "pointwise",
        prompt_version: str = "official",
        orders: int = 2,
        template: str | Path | None = None,
        **kwargs: Any,
    ):
        if mode not in ("pointwise", "pairwise"):
            raise UnknownName("mode", mode, ("pointwise", "pairwise"))
        if prompt_version not in _POINT:
            raise UnknownName("prompt_version", prompt_version, _POINT)
        self.pairwise = mode == "pairwise"
        if self.pairwise and prompt_version != "official":
            raise ValueError(f"`prompt_version` must be 'official' with mode='pairwise', got {prompt_version!r}")
        self.mode, self.orders = mode, checked_orders(orders)
        self.images_per_sample = {"rivals": 1} if self.pairwise else {}
        self.inputs = ("prompts", *self.images_per_sample)
        self.extra = (*_AXES, "position_bias", "first_share") if self.pairwise else _AXES
        self.prompts = PublishedPrompts((UNIFIED_REWARD_PAIR if self.pairwise else _POINT[prompt_version],), template)
        super().__init__(judge, **kwargs)

    def columns(self) -> tuple[Column, ...]:
        return (*(Column(name, logged=True) for name in self.extra), *super().columns())

    @property
    def plot_lower_bound(self) -> float:
        return 0.0 if self.pairwise else 1.0

    @property
    def plot_upper_bound(self) -> float:
        return 1.0 if self.pairwise else 5.0

    def range_of(self, name: str) -> tuple[float, float] | None:
        return super().range_of(self.name if name in self.extra else name)

    def queries(self, sample: Sample) -> list[Query]:
        (card,) = self.prompts.cards
        if not self.pairwise:
            question = self.prompts.question(card, (sample.image,), sample.prompt)
            return [Query(question, _parse_point, _POINT_REMINDER)]
        return [
            Query(self.prompts.question(card, pair, sample.prompt), _parse_pair, _PAIR_REMINDER, place)
            for place, pair in zip(PLACES, in_orders(sample, self.orders), strict=False)
        ]

    def conclude(self, sample: Sample, answers: Sequence[Reading | None]) -> Verdict:
        parsed = [answer for answer in answers if answer is not None]
        axes = [dict(zip(_AXES, answer.scores, strict=True)) for answer in parsed]
        if len(parsed) < len(answers):
            return Verdict(None)
        if not self.pairwise:
            return Verdict(_mean(axes[0].values()), axes[0], parsed[0].reasoning)
        rationale = "\n".join(f"{place}: {answer.reasoning}" for place, answer in zip(PLACES, parsed, strict=False))
        return replace(_pair_verdict(axes), rationale=rationale)

    def signature_parameters(self) -> dict[str, object]:
        orders = {"orders": self.orders} if self.pairwise else {}
        return {"mode": self.mode, **orders, **self.prompts.signature(), **super().signature_parameters()}


def _parse_point(text: str) -> Reading | None:
    return _complete(labeled_numbers(text, _LABELS, scale=(1, 5)), text)


def _parse_pair(text: str) -> Reading | None:
    """The share of the first image on each axis."""
    pairs = labeled_pairs(text, _LABELS).items()
    return _complete({label: pair and pair[0] / sum(pair) for label, pair in pairs}, text)


def _complete(scores: Mapping[str, float | None], text: str) -> Reading | None:
    """All of the axes, and the answer that they stand in."""
    known = [score for label in _LABELS if (score := scores[label]) is not None]
    return Reading(tuple(known), after_thinking(text) or "") if len(known) == len(_LABELS) else None


def _pair_verdict(shares: Sequence[Mapping[str, float]]) -> Verdict:
    """Of the shares of the first place, where the image stood first, then second."""
    of_image = [shares[0], *({axis: 1 - share for axis, share in other.items()} for other in shares[1:])]
    means: dict[str, float | None] = {axis: _mean([one[axis] for one in of_image]) for axis in _AXES}
    first = [_mean(one.values()) for one in shares]
    _, order = both_orders([1.0 if share > 0.5 else 0.5 if share == 0.5 else 0.0 for share in first])
    score = _mean([_mean(one.values()) for one in of_image])
    return Verdict(score, {**means, "position_bias": order["position_bias"], "first_share": _mean(first)})


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values)
