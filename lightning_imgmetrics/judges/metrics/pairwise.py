"""Comparisons of two images by a judge that is asked twice, with the places of the two exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.functional.intervals import win_interval
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import IMAGE, Question, turn
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.position_bias import ORDER_FIGURES, PLACES, both_orders, in_orders
from lightning_imgmetrics.judges.metrics.queries import Ask, Sample, Verdict
from lightning_imgmetrics.judges.metrics.quoting import AGAIN, prompt_part, wording_digest
from lightning_imgmetrics.judges.parsing.answers import read_json
from lightning_imgmetrics.metrics.base.summary import Summary

if TYPE_CHECKING:
    from lightning_imgmetrics.judges.metrics.answer_schemas import Chosen

CRITERION = "Which shows more faithfully what the text asks for? Where both are equally faithful: which is better made?"

_TASK = "Compare the two pictures, which were made from the same text.\n\nQuestion: {criterion}"
_ORDER = """Their order means nothing. First say what speaks for and against either of them; then decide. Where neither
is better, say so."""
_FORM = """Answer with one JSON object and nothing else:
{"reasoning": "what decides, in one to three sentences", "winner": 1 or 2, or 0 where neither is better}"""


class Outcomes(NamedTuple):
    """Comparisons as `WinRate.update` takes them; `ids` is None where some samples came without one."""

    a: Tensor
    b: Tensor
    outcome: Tensor
    ids: Tensor | None


class PairwiseJudge(JudgeMetric):
    """Share of images that a judge prefers to their rival, a tie counting half; in [0, 1], with `win_interval`.

    `update` takes exactly one rival per image. Each pair is judged in both orders: where the two decisions agree, they
    are a win, loss or tie, where they do not, a tie; where one cannot be read, the pair has no outcome. `criterion`:
    what the judge is asked. `details`: `tie_rate`; `position_bias`, the share of pairs of which the same place won in
    both orders; `first_rate`, the share of decisions for the first place, a tie counting half, 0.5 without bias.
    Other arguments: see `JudgeMetric`.
    """

    name: ClassVar[str] = "pairwise_judge"
    inputs = ("prompts", "rivals")
    logged = (*JudgeMetric.logged, "tie_rate", "position_bias")
    figures = ORDER_FIGURES
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def __init__(self, judge: Judge | str, criterion: str = CRITERION, **kwargs: Any):
        self.criterion = checked_criterion(criterion)
        super().__init__(judge, **kwargs)

    def check_inputs(self, n: int, **inputs: Any) -> None:
        super().check_inputs(n, **inputs)
        for i, rivals in enumerate(inputs.get("rivals") or ()):
            if len(rivals) != 1:
                raise ShapeError(f"`rivals[{i}]` must hold exactly one image for {self.name}, got {len(rivals)}")

    def asks(self, sample: Sample) -> list[Ask]:
        return [
            replace(self._ask(images, sample.prompt), name=place)
            for place, images in zip(PLACES, in_orders(sample), strict=True)
        ]

    def _ask(self, images: tuple[Tensor, ...], prompt: str) -> Ask:
        task = _TASK.format(criterion=self.criterion)
        text = "\n\n".join([task, prompt_part(prompt), _ORDER, _FORM])
        shown = turn("Picture 1:", IMAGE, "Picture 2:", IMAGE, text)
        return Ask(Question(images, (shown,)), _read, AGAIN + _FORM)

    def conclude(self, sample: Sample, readings: Sequence[Chosen | None]) -> Verdict:
        ahead, behind = readings
        if ahead is None or behind is None:
            return Verdict(None)
        score, figures = both_orders([_FOR_FIRST[read.winner] for read in (ahead, behind)])
        return Verdict(score, figures, f"shown first: {ahead.reasoning}\nshown second: {behind.reasoning}")

    def over_samples(self, rows: Tensor) -> Summary:
        return replace(super().over_samples(rows), interval=win_interval(rows[:, 0]))

    def outcomes(self, contestant: int = 0, rival: int = 1) -> Outcomes:
        """The pairs of this rank that have an outcome, sorted by id: `WinRate().update(*metric.outcomes())`.

        `contestant` and `rival` number the makers of `images` and `rivals`. Of several `repeats`, the majority decides.
        """
        ids, scores = self.scores()
        known = scores.isfinite()
        ids, outcome = ids[known], (scores[known] - 0.5).sign() / 2 + 0.5
        a, b = (torch.full_like(outcome, maker, dtype=torch.int64) for maker in (contestant, rival))
        return Outcomes(a, b, outcome, None if ids.isnan().any() else ids.long())

    def signature_parameters(self) -> dict[str, object]:
        image = torch.zeros(3, 1, 1, dtype=torch.uint8)
        template = wording_digest([self._ask((image, image), "prompt")])
        return {"template": template, **super().signature_parameters()}


_FOR_FIRST = {1: 1.0, 2: 0.0, 0: 0.5}  # what a decision gives the picture in the first place


def checked_criterion(criterion: str) -> str:
    """The text itself; ValueError unless it says something."""
    if not isinstance(criterion, str) or not criterion.strip():
        raise ValueError(f"`criterion` must be a text that the judge can decide by, got {criterion!r}")
    return criterion


def _read(text: str) -> Chosen | None:
    from lightning_imgmetrics.judges.metrics.answer_schemas import Chosen

    return read_json(text, Chosen)
