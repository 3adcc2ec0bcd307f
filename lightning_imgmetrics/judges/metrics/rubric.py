"""Rubrics: a judge scores each criterion alone, and gives its reasons before the number."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import IMAGE, Message, Question, turn
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.quoting import RETRY_PREFIX, prompt_part, template_digest
from lightning_imgmetrics.judges.metrics.verdicts import Verdict
from lightning_imgmetrics.judges.parsing.answers import read_json
from lightning_imgmetrics.metrics.base.summary import Column

if TYPE_CHECKING:
    from lightning_imgmetrics.judges.metrics.answer_schemas import Scored
    from lightning_imgmetrics.judges.metrics.rubric_file import Criterion, Rubric

_TASK = """Answer one question about {picture}, and judge nothing else.

Question: {question}
Scale: {low} to {high}, the higher the better.{anchors}"""
_ORDER = "First look, and say what you see that bears on the question; then choose the number that it amounts to."
_FORMAT = """Answer with one JSON object and nothing else:
{{"reasoning": "what you see, in one to three sentences", "score": a number from {low} to {high}}}"""


class RubricJudge(JudgeMetric):
    """Scores of a judge by your own criteria, each asked about alone.

    The mean over images of sum_c w_c (s_c - low_c) / (high_c - low_c) / sum_c w_c, for the score s_c, weight w_c and
    scale [low_c, high_c] of each criterion: in [0, 1], higher is better. Each query shows the picture and what its
    criterion `needs`, no more. Where a criterion has no score, or one without reasons or off its scale, the sample has
    none; `records` keeps what could be parsed. `details`: the mean of each criterion on its own scale.

    Args:
        judge: see `JudgeMetric`.
        rubric: a `Rubric`, or what `read_rubric` makes one of: a file, a mapping, "text-to-image" or "image-edit".
        kwargs: those of `JudgeMetric`.

    Raises:
        UnreadableQuestions: the rubric is malformed.
        MissingExtra: `lightning-imgmetrics[judge]` is not installed.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import Answer, Judge, RubricJudge
        >>> class Lenient(Judge):
        ...     def reply(self, questions, decoding, device):
        ...         return [Answer('{"reasoning": "it is there", "score": 4}') for _ in questions]
        >>> rubric = {"criteria": [{"name": "subject", "question": "Is the subject there?", "needs": "prompt"}]}
        >>> metric = RubricJudge(Lenient(), rubric)
        >>> metric.update(images=torch.zeros(2, 3, 8, 8, dtype=torch.uint8), prompts="a red hat")
        >>> metric.compute()  # 4 on a scale from 1 to 5
        tensor(0.7500, dtype=torch.float64)
    """

    name: ClassVar[str] = "rubric"
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def __init__(
        self, judge: Judge | str, rubric: Rubric | Mapping[str, Any] | str | Path = "text-to-image", **kwargs: Any
    ):
        from lightning_imgmetrics.judges.metrics.rubric_file import read_rubric

        self.rubric = read_rubric(rubric)
        super().__init__(judge, **kwargs)
        needs = {need for criterion in self.rubric.criteria for need in criterion.needs}
        self.inputs = tuple(name for need, name in (("prompt", "prompts"), ("source", "source")) if need in needs)

    def columns(self) -> tuple[Column, ...]:
        criteria = (Column(criterion.name, logged=True) for criterion in self.rubric.criteria)
        return (*criteria, *super().columns())

    def range_of(self, name: str) -> tuple[float, float] | None:
        scales = {criterion.name: criterion.scale for criterion in self.rubric.criteria}
        return scales.get(name) or super().range_of(name)

    def queries(self, sample: Sample) -> list[Query]:
        return [_query(criterion, sample) for criterion in self.rubric.criteria]

    def conclude(self, sample: Sample, answers: Sequence[Scored | None]) -> Verdict:
        pairs = list(zip(self.rubric.criteria, answers, strict=True))
        scores = {criterion.name: None if answer is None else answer.score for criterion, answer in pairs}
        rationale = "\n".join(f"{criterion.name}: {answer.reasoning}" for criterion, answer in pairs if answer)
        rows = [
            {"question": c.question, "category": c.name, "score": scores[c.name], "reasoning": a and a.reasoning}
            for c, a in pairs
        ]
        return Verdict(self._weighted(scores), scores, rationale, rows)

    def _weighted(self, scores: Mapping[str, float | None]) -> float | None:
        total = weights = 0.0
        for criterion in self.rubric.criteria:
            score, (low, high) = scores[criterion.name], criterion.scale
            if score is None:
                return None
            total += criterion.weight * (score - low) / (high - low)
            weights += criterion.weight
        return total / weights

    def signature_parameters(self) -> dict[str, object]:
        return {"rubric": self.rubric.digest, "template": template_of_rubrics(), **super().signature_parameters()}


def _query(criterion: Criterion, sample: Sample) -> Query:
    """One criterion about one sample, with what it needs to be judged and no more."""
    parts: list[str | Message] = []
    sources = sample.source if "source" in criterion.needs else ()
    for number in range(1, len(sources) + 1):
        parts += [f"Source picture {number}:" if len(sources) > 1 else "The source picture:", IMAGE]
    low, high = (f"{x:g}" for x in criterion.scale)
    picture = "the picture that comes last" if sources else "the picture"
    anchors = "".join(f"\n{number:g}: {meaning}" for number, meaning in criterion.anchors.items())
    task = _TASK.format(picture=picture, question=criterion.question, low=low, high=high, anchors=anchors)
    prompt = [prompt_part(sample.prompt)] if "prompt" in criterion.needs else []
    answer_format = _FORMAT.format(low=low, high=high)
    text = "\n\n".join([task, *prompt, _ORDER, answer_format])
    parts += ["The picture to judge:" if sources else "The picture:", IMAGE, text]
    question = Question((*sources, sample.image), (turn(*parts),))
    return Query(question, partial(_parse, scale=criterion.scale), RETRY_PREFIX + answer_format)


def _parse(text: str, scale: tuple[float, float]) -> Scored | None:
    from lightning_imgmetrics.judges.metrics.answer_schemas import Scored

    answer = read_json(text, Scored)
    return answer if answer is not None and scale[0] <= answer.score <= scale[1] else None


@functools.cache
def template_of_rubrics() -> str:
    """The digest of everything but the rubric, the prompt and the images."""
    from lightning_imgmetrics.judges.metrics.rubric_file import Criterion

    image = torch.zeros(3, 1, 1, dtype=torch.uint8)
    bare = {"name": "criterion", "question": "question"}
    samples = [Sample(image, "prompt", source=(image,) * k) for k in (0, 1, 2)]
    full = Criterion.model_validate({**bare, "anchors": {1: "anchor"}, "needs": ["prompt", "source"]})
    queries = [_query(Criterion.model_validate(bare), samples[0]), *(_query(full, s) for s in samples[1:])]
    return template_digest(queries)
