"""Metrics of judges that ask in words which others published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import IMAGE, Question, turn
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.queries import Sample
from lightning_imgmetrics.models.prompt_templates.templates import Template, TemplateCard, find_template


class WordedMetric(JudgeMetric):
    """A `JudgeMetric` whose questions are published texts, the `cards`.

    `template`: a copy of the Python source of the texts, or a folder with the sources, where they cannot be downloaded.
    `takes`: the inputs beside prompts, and how many images of each belong to a sample.
    """

    cards: tuple[TemplateCard, ...] = ()
    takes: Mapping[str, int] = {}

    def __init__(self, judge: Judge | str, *, template: str | Path | None = None, **kwargs: Any):
        super().__init__(judge, **kwargs)
        self.template = template
        self._wordings: dict[str, Template] = {}

    def check_inputs(self, n: int, **inputs: Any) -> None:
        super().check_inputs(n, **inputs)
        for name, count in self.takes.items():
            for i, images in enumerate(inputs.get(name) or ()):
                if len(images) != count:
                    raise ShapeError(f"`{name}[{i}]` must hold {count} image(s) for {self.name}, got {len(images)}")

    def wording(self, card: TemplateCard) -> Template:
        """The text of a card, found once, so that signature and questions agree."""
        if card.name not in self._wordings:
            self._wordings[card.name] = find_template(card, self.template)
        return self._wordings[card.name]

    def question(self, card: TemplateCard, images: Iterable[Tensor], sample: Sample) -> Question:
        """One turn: the images in order, then the text, its placeholder filled with the prompt of the sample."""
        shown = tuple(images)
        text = self.wording(card).fill(**dict.fromkeys(card.slots, sample.prompt))
        return Question(shown, (turn(*[IMAGE] * len(shown), text),))

    def signature_parameters(self) -> dict[str, object]:
        origins = dict.fromkeys(self.wording(card).origin for card in self.cards)
        return {"template": "+".join(origins), **super().signature_parameters()}
