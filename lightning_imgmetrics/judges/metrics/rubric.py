"""Rubrics: a judge scores each criterion alone, and gives its reasons before the number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import IMAGE, Message, Question, turn
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.queries import Ask, Sample, Verdict
from lightning_imgmetrics.judges.metrics.quoting import AGAIN, prompt_part, wording_digest
from lightning_imgmetrics.judges.parsing.answers import read_json

if TYPE_CHECKING:
    from lightning_imgmetrics.judges.metrics.answer_schemas import Scored
    from lightning_imgmetrics.judges.metrics.rubric_file import Criterion, Rubric

_TASK = """Answer one question about {picture}, and judge nothing else.

Question: {question}
Scale: {low} to {high}, the higher the better.{anchors}"""
_ORDER = "First look, and say what you see that bears on the question; then choose the number that it amounts to."
_FORM = """Answer with one JSON object and nothing else:
{{"reasoning": "what you see, in one to three sentences", "score": a number from {low} to {high}}}"""


class RubricJudge(JudgeMetric):
    """The mean over images of the weighted mean over criteria of (score - lowest) / (highest - lowest), in [0, 1].

    `rubric`: a `Rubric`, or what `read_rubric` makes one of: a file, a mapping, "text-to-image" or "image-edit". Each
    criterion is a question of its own, shown the picture and what the criterion `needs` alone. A score without reasons,
    or off the scale of its criterion, is unread. Where one criterion is, the sample has no score; `records` keeps what
    was read. `details`: the mean of each criterion, on its own scale, over the samples with a score. Other arguments:
    see `JudgeMetric`.
    """

    name: ClassVar[str] = "rubric"
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def __init__(
        self, judge: Judge | str, rubric: Rubric | Mapping[str, Any] | str | Path = "text-to-image", **kwargs: Any
    ):
        from lightning_imgmetrics.judges.metrics.rubric_file import read_rubric

        self.rubric = read_rubric(rubric)
        self.figures = tuple(criterion.name for criterion in self.rubric.criteria)
        super().__init__(judge, **kwargs)
        needed = {need for criterion in self.rubric.criteria for need in criterion.needs}
        self.inputs = tuple(name for need, name in (("prompt", "prompts"), ("source", "source")) if need in needed)
        self.logged = (*JudgeMetric.logged, *self.figures)

    def range_of(self, name: str) -> tuple[float, float] | None:
        scales = {criterion.name: criterion.scale for criterion in self.rubric.criteria}
        return scales.get(name) or super().range_of(name)

    def asks(self, sample: Sample) -> list[Ask]:
        return [_ask(criterion, sample) for criterion in self.rubric.criteria]

    def conclude(self, sample: Sample, readings: Sequence[Scored | None]) -> Verdict:
        scored = list(zip(self.rubric.criteria, readings, strict=True))
        figures = {criterion.name: None if read is None else read.score for criterion, read in scored}
        rationale = "\n".join(f"{criterion.name}: {read.reasoning}" for criterion, read in scored if read)
        rows = [
            {"question": c.question, "category": c.name, "score": figures[c.name], "reasoning": read and read.reasoning}
            for c, read in scored
        ]
        return Verdict(self._weighted(figures), figures, rationale, rows)

    def _weighted(self, figures: Mapping[str, float | None]) -> float | None:
        total = weights = 0.0
        for criterion in self.rubric.criteria:
            score, (low, high) = figures[criterion.name], criterion.scale
            if score is None:
                return None
            total += criterion.weight * (score - low) / (high - low)
            weights += criterion.weight
        return total / weights

    def signature_parameters(self) -> dict[str, object]:
        return {"rubric": self.rubric.digest, "template": _template(), **super().signature_parameters()}


def _ask(criterion: Criterion, sample: Sample) -> Ask:
    """One criterion about one sample, with what it needs to be judged and no more."""
    shown: list[str | Message] = []
    sources = sample.source if "source" in criterion.needs else ()
    for number in range(1, len(sources) + 1):
        shown += [f"Source picture {number}:" if len(sources) > 1 else "The source picture:", IMAGE]
    low, high = (f"{x:g}" for x in criterion.scale)
    picture = "the picture that comes last" if sources else "the picture"
    anchors = "".join(f"\n{number:g}: {meaning}" for number, meaning in criterion.anchors.items())
    task = _TASK.format(picture=picture, question=criterion.question, low=low, high=high, anchors=anchors)
    prompt = [prompt_part(sample.prompt)] if "prompt" in criterion.needs else []
    form = _FORM.format(low=low, high=high)
    text = "\n\n".join([task, *prompt, _ORDER, form])
    shown += ["The picture to judge:" if sources else "The picture:", IMAGE, text]
    return Ask(Question((*sources, sample.image), (turn(*shown),)), _reader(criterion.scale), AGAIN + form)


def _reader(scale: tuple[float, float]) -> Callable[[str], Scored | None]:
    def read(text: str) -> Scored | None:
        from lightning_imgmetrics.judges.metrics.answer_schemas import Scored

        scored = read_json(text, Scored)
        return scored if scored is not None and scale[0] <= scored.score <= scale[1] else None

    return read


def _template() -> str:
    """The digest of everything but the rubric, the prompt and the images."""
    from lightning_imgmetrics.judges.metrics.rubric_file import Criterion

    image = torch.zeros(3, 1, 1, dtype=torch.uint8)
    bare = {"name": "criterion", "question": "question"}
    samples = [Sample(image, "prompt", source=(image,) * k) for k in (0, 1, 2)]
    full = Criterion.model_validate({**bare, "anchors": {1: "anchor"}, "needs": ["prompt", "source"]})
    return wording_digest([_ask(Criterion.model_validate(bare), samples[0]), *(_ask(full, s) for s in samples[1:])])
