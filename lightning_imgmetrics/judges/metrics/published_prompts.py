"""Questions in the words of those who published a metric."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lightning_imgmetrics.judges.backends.question import IMAGE, Question, turn
from lightning_imgmetrics.models.prompt_templates.templates import Template, TemplateCard, find_template


@dataclass(frozen=True)
class PublishedPrompts:
    """The prompt templates of `cards`, each found once, so that signature and questions agree.

    `path`: a copy of the Python source of the texts, or a folder with the sources, where they cannot be downloaded.
    """

    cards: tuple[TemplateCard, ...]
    path: str | Path | None = None
    _templates: dict[str, Template] = field(default_factory=dict, init=False, repr=False, compare=False)

    def template(self, card: TemplateCard) -> Template:
        """The text of a card."""
        if card.name not in self._templates:
            self._templates[card.name] = find_template(card, self.path)
        return self._templates[card.name]

    def question(self, card: TemplateCard, images: Iterable[Tensor], prompt: str) -> Question:
        """One turn: the images in order, then the text of the card, the prompt in its placeholder."""
        images = tuple(images)
        text = self.template(card).fill(**dict.fromkeys(card.slots, prompt))
        return Question(images, (turn(*[IMAGE] * len(images), text),))

    def signature(self) -> dict[str, object]:
        """Where the texts come from."""
        return {"template": "+".join(dict.fromkeys(self.template(card).origin for card in self.cards))}
