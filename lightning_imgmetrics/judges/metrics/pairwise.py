"""Comparisons of two images by a judge that is asked twice, with the places of the two exchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lightning_imgmetrics.functional.intervals import win_interval
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import IMAGE, Question, turn
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.position_bias import FOR_FIRST, ORDER_COLUMNS, PLACES, both_orders, in_orders
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.quoting import RETRY_PREFIX, prompt_part, template_digest
from lightning_imgmetrics.judges.metrics.verdicts import Verdict
from lightning_imgmetrics.judges.parsing.answers import read_json
from lightning_imgmetrics.metrics.base.summary import Column, Summary

if TYPE_CHECKING:
    from lightning_imgmetrics.judges.metrics.answer_schemas import Chosen

CRITERION = "Which shows more faithfully what the text asks for? Where both are equally faithful: which is better made?"

_TASK = "Compare the two pictures, which were made from the same text.\n\nQuestion: {criterion}"
_ORDER = """Their order means nothing. First say what speaks for and against either of them; then decide. Where neither
is better, say so."""
_FORMAT = """Answer with one JSON object and nothing else:
{"reasoning": "what decides, in one to three sentences", "winner": 1 or 2, or 0 where neither is better}"""


class Outcomes(NamedTuple):
    """Comparisons as `WinRate.update` takes them; `ids` is None where some samples came without one."""

    a: Tensor
    b: Tensor
    outcome: Tensor
    ids: Tensor | None


class PairwiseJudge(JudgeMetric):
    """Share of images that a judge prefers to their rival, asked in both orders.

    A win counts 1, a tie 0.5, a loss 0: in [0, 1], higher is better, with `win_interval`. `update` takes exactly one
    rival per image. Where the two decisions of a pair agree, they are its outcome; where they do not, it is a tie;
    where one cannot be parsed, the pair has none. `details`: `tie_rate`; `position_bias`, the share of pairs of which
    the same place won in both orders; `first_rate`, the share of decisions for the first place, a tie counting half,
    0.5 without bias. Reference: Zheng et al. 2023, of position bias.

    Args:
        judge: see `JudgeMetric`.
        criterion: what the judge is asked about the two.
        kwargs: those of `JudgeMetric`.

    Raises:
        ValueError: `criterion` is empty.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import Answer, Judge, PairwiseJudge
        >>> class Biased(Judge):  # for the first picture, whichever it is
        ...     def reply(self, questions, decoding, device):
        ...         return [Answer('{"reasoning": "it is sharper", "winner": 1}') for _ in questions]
        >>> metric = PairwiseJudge(Biased())
        >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> metric.update(images=images, rivals=images, prompts="a red hat")
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
        >>> metric.result().details["position_bias"]
        1.0
    """

    name: ClassVar[str] = "pairwise_judge"
    inputs = ("prompts", "rivals")
    images_per_sample: Mapping[str, int] = {"rivals": 1}
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def __init__(self, judge: Judge | str, criterion: str = CRITERION, **kwargs: Any):
        self.criterion = checked_criterion(criterion)
        super().__init__(judge, **kwargs)

    def columns(self) -> tuple[Column, ...]:
        order = (Column(name, logged=name != "first_rate") for name in ORDER_COLUMNS)
        return (*order, *super().columns())

    def queries(self, sample: Sample) -> list[Query]:
        return [
            replace(self._query(images, sample.prompt), name=place)
            for place, images in zip(PLACES, in_orders(sample), strict=True)
        ]

    def _query(self, images: tuple[Tensor, ...], prompt: str) -> Query:
        task = _TASK.format(criterion=self.criterion)
        text = "\n\n".join([task, prompt_part(prompt), _ORDER, _FORMAT])
        message = turn("Picture 1:", IMAGE, "Picture 2:", IMAGE, text)
        return Query(Question(images, (message,)), _parse, RETRY_PREFIX + _FORMAT)

    def conclude(self, sample: Sample, answers: Sequence[Chosen | None]) -> Verdict:
        ahead, behind = answers
        if ahead is None or behind is None:
            return Verdict(None)
        score, extra = both_orders([FOR_FIRST[answer.winner] for answer in (ahead, behind)])
        return Verdict(score, extra, f"shown first: {ahead.reasoning}\nshown second: {behind.reasoning}")

    def over_samples(self, rows: Tensor) -> Summary:
        return replace(super().over_samples(rows), interval=win_interval(rows[:, 0]))

    def outcomes(self, contestant: int = 0, rival: int = 1) -> Outcomes:
        """The pairs of this rank that have an outcome, sorted by id: `WinRate().update(*metric.outcomes())`.

        `contestant` and `rival` number the makers of `images` and `rivals`. Of several `repeats`, the majority decides.
        """
        ids, scores = self.scores()
        decided = scores.isfinite()
        ids, outcome = ids[decided], (scores[decided] - 0.5).sign() / 2 + 0.5
        a, b = (torch.full_like(outcome, maker, dtype=torch.int64) for maker in (contestant, rival))
        return Outcomes(a, b, outcome, None if ids.isnan().any() else ids.long())

    def signature_parameters(self) -> dict[str, object]:
        image = torch.zeros(3, 1, 1, dtype=torch.uint8)
        template = template_digest([self._query((image, image), "prompt")])
        return {"template": template, **super().signature_parameters()}


def checked_criterion(criterion: str) -> str:
    """The text itself; ValueError unless it says something."""
    if not isinstance(criterion, str) or not criterion.strip():
        raise ValueError(f"`criterion` must be a text that the judge can decide by, got {criterion!r}")
    return criterion


def _parse(text: str) -> Chosen | None:
    from lightning_imgmetrics.judges.metrics.answer_schemas import Chosen

    return read_json(text, Chosen)
