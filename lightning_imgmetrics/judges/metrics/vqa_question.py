"""VQAScore's question: whether an image shows a prompt, as its authors ask models of each kind."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.clip_flant5 import pad_to_square
from lightning_imgmetrics.judges.backends.question import IMAGE, Decoding, Question, turn
from lightning_imgmetrics.judges.metrics.queries import Query
from lightning_imgmetrics.judges.prompts.vqascore import VQASCORE_SYSTEM
from lightning_imgmetrics.models.prompt_templates.templates import Template, find_template

VARIANTS = ("plain", "published")


@dataclass(frozen=True)
class Family:
    """How the authors ask models of one kind; `published` is their scoring, None where it cannot be had here.

    `as_trained`: images are padded to squares and the conversation opens with a system message, as LLaVA-1.5's did.
    """

    question: str
    answer: str = "Yes"
    published: str | None = None
    as_trained: bool = False


_FIGURE = 'Does this figure show "{}"? Please answer yes or no.'
_CAPITALS = 'Does this figure show "{}"? Please answer Yes or No.'
_IMAGE = 'Does this image show "{}"? Answer the question with Yes or No'
_OTHERS = Family(_CAPITALS)
FAMILIES = {  # by the `model_type` of the configuration, or that and the one of its language model
    "clip_t5": Family(_FIGURE, published="mean"),
    "instructblip/t5": Family(f"Question: {_FIGURE}", "yes", published="mean"),
    "llava/llama": Family(_FIGURE, published="mean", as_trained=True),
    "llava_next": Family(_FIGURE),
    "qwen2_vl": Family(_IMAGE, published="processed"),
    **dict.fromkeys(("llava_onevision", "molmo", "mllama"), Family(_IMAGE)),
    **dict.fromkeys(("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"), Family(_CAPITALS, published="processed")),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe"), Family(_CAPITALS, published="processed")),
    **dict.fromkeys(("gemma3", "gemma4", "paligemma"), Family(_CAPITALS, published="processed")),
}


class VQAQuestion:
    """What a judge is asked about prompts, and which probability of its answer is the score.

    `text`, in which `{}` is the prompt, `answer` and `variant`: by default the authors' for the judge's kind.
    """

    def __init__(
        self,
        judge: Judge,
        *,
        question: str | None = None,
        answer: str | None = None,
        variant: str | None = None,
        thinking: bool | None = None,
    ):
        if variant not in (None, *VARIANTS):
            raise UnknownName("variant", variant, VARIANTS)
        if question is not None and question.count("{}") != 1:
            raise ValueError(f"`question` must have {{}} once, where the prompt goes, got {question!r}")
        if answer is not None and not answer.strip():
            raise ValueError(f"`answer` must be a text, got {answer!r}")
        self.judge, self.thinking = judge, thinking
        self._text, self._answer, self._variant = question, answer, variant
        if not judge.networks:  # without a checkpoint to read, bad arguments are refused at once
            _ = self.scoring

    @property
    def decoding(self) -> Decoding:
        """Thoughts would come before the answer. A server may reject the option, so there the caller decides."""
        silent = self.judge.ignores_thinking and self.thinking is None
        return Decoding(max_tokens=1, thinking=False if silent else self.thinking)

    @functools.cached_property
    def family(self) -> Family:
        """How models of the judge's kind are asked."""
        kind, language = self.judge.model_types()
        return FAMILIES.get(f"{kind}/{language}") or FAMILIES.get(kind) or _OTHERS

    @property
    def text(self) -> str:
        return self._text or self.family.question

    @property
    def answer(self) -> str:
        return self._answer or self.family.answer

    @property
    def variant(self) -> str:
        return self._variant or ("published" if self.family.published == "mean" else "plain")

    @functools.cached_property
    def scoring(self) -> str:
        """Which probability is asked for. ValueError where the authors' code has none for this judge, or answer."""
        published = self.family.published
        if self.variant == "plain":
            return "product"
        if published is None:
            names = ", ".join(name for name, family in FAMILIES.items() if family.published is not None)
            raise ValueError(f"`variant` must be 'plain' for a judge that is none of {names}, got 'published'")
        if published == "processed" and self.answer != self.family.answer:
            raise ValueError(
                f"`answer` must be {self.family.answer!r} with variant 'published' of this judge, got {self.answer!r}"
            )
        return published

    @functools.cached_property
    def opening(self) -> Template | None:
        """What a conversation opens with, for models that are asked as they were trained."""
        as_trained = self.variant == "published" and self.family.as_trained
        return find_template(VQASCORE_SYSTEM) if as_trained else None

    def about(self, prompt: str) -> str:
        """The question about one prompt."""
        return self.text.replace("{}", prompt)

    def query(self, image: Tensor, prompt: str) -> Query:
        """Parsed as the probability of the answer."""
        message = turn(IMAGE, self.about(prompt))
        if self.opening is None:
            return Query(Question((image,), (message,), self.answer, self.scoring), float)
        messages = turn(self.opening.text, role="system"), message
        return Query(Question((pad_to_square(image),), messages, self.answer, self.scoring), float)

    def signature(self, parameters: Mapping[str, Any]) -> dict[str, object]:
        """The parameters of a metric that asks this: without those of answers that are texts."""
        others = {name: x for name, x in parameters.items() if name not in ("max_tokens", "retries", "thinking")}
        thinking = {} if self.thinking is None else {"thinking": self.thinking}
        template = {} if self.opening is None else {"template": self.opening.origin}
        own = {"question": self.text, "answer": self.answer, "variant": self.variant}
        return {**own, **template, **thinking, **others}


def refuse_sampling(options: dict[str, Any]) -> None:
    """Take what a probability has no use for out of `options`; ValueError where it is set."""
    for name, only in (("retries", 0), ("repeats", 1), ("decoding", None)):
        if (value := options.pop(name, only)) != only:
            raise ValueError(f"`{name}` must be {only}, got {value!r}: a probability is the same every time")
