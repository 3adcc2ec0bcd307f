"""VQAScore: how likely a model that sees the image is to say that it shows what the prompt says."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lightning_imgmetrics._images import Images, as_images
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import ShapeError, UnknownName
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.clip_flant5 import CLIP_FLANT5, pad_to_square
from lightning_imgmetrics.judges.backends.question import IMAGE, Decoding, Question, turn
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.queries import Ask, Sample, Verdict
from lightning_imgmetrics.judges.prompts.vqascore import VQASCORE_SYSTEM
from lightning_imgmetrics.metrics.base.inputs import as_texts
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


class VQAScore(JudgeMetric):
    """Mean probability, in [0, 1], that the judge says yes when asked whether the image shows the prompt.

    `question`, in which `{}` is the prompt, and `answer`: by default the authors' for the judge's kind. `variant`:
    "plain" is the product of the probabilities of the answer's tokens; "published" what the authors' code computes:
    for CLIP-FlanT5, InstructBLIP-FlanT5 and LLaVA-1.5 the geometric mean over the answer and its end (default there),
    for Qwen-VL, Gemma and PaliGemma the first token's after the checkpoint's own repetition penalty. Images go through
    the checkpoint's own processor, not qwen-vl-utils; prompts are not truncated. A server must give logprobs.
    `thinking`: for chat templates that ask; False for local judges unless given. Source: Lin et al. 2024.
    """

    name: ClassVar[str] = "vqa_score"
    default_decoding = Decoding(max_tokens=1)
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def __init__(
        self,
        judge: Judge | str = CLIP_FLANT5,
        *,
        question: str | None = None,
        answer: str | None = None,
        variant: str | None = None,
        thinking: bool | None = None,
        **kwargs: Any,
    ):
        for name, only in (("retries", 0), ("repeats", 1), ("decoding", None)):
            if (given := kwargs.pop(name, only)) != only:
                raise ValueError(f"`{name}` must be {only}, got {given!r}: a probability is the same every time")
        if variant not in (None, *VARIANTS):
            raise UnknownName("variant", variant, VARIANTS)
        if question is not None and question.count("{}") != 1:
            raise ValueError(f"`question` must have {{}} once, where the prompt goes, got {question!r}")
        if answer is not None and not answer.strip():
            raise ValueError(f"`answer` must be a text, got {answer!r}")
        super().__init__(judge, retries=0, **kwargs)
        self.thinking = thinking
        # Thoughts would come before the answer. A server may reject the option, so there the caller decides.
        silent = self.judge.ignores_thinking and thinking is None
        self.decoding = Decoding(max_tokens=1, thinking=False if silent else thinking)
        self._question, self._answer, self._variant = question, answer, variant
        if not self.judge.networks:  # without a checkpoint to read, bad arguments are refused at once
            _ = self.scoring

    @functools.cached_property
    def family(self) -> Family:
        """How models of the judge's kind are asked."""
        kind, language = self.judge.model_types()
        return FAMILIES.get(f"{kind}/{language}") or FAMILIES.get(kind) or _OTHERS

    @property
    def question(self) -> str:
        return self._question or self.family.question

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
            raise ValueError(
                f"`variant` must be 'plain' for a judge that is none of {', '.join(_published())}, got 'published'"
            )
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

    def asks(self, sample: Sample) -> Sequence[Ask]:
        asked = turn(IMAGE, self.question.replace("{}", sample.prompt))
        if self.opening is None:
            return [Ask(Question((sample.image,), (asked,), self.answer, self.scoring), float)]
        messages = turn(self.opening.text, role="system"), asked
        return [Ask(Question((pad_to_square(sample.image),), messages, self.answer, self.scoring), float)]

    def conclude(self, sample: Sample, readings: Sequence[Any]) -> Verdict:
        return Verdict(readings[0])

    def similarity(self, *, images: Images, prompts: str | Sequence[str]) -> Tensor:
        """The score of every prompt with every image: m prompts, n images -> (m, n), NaN where there is none.

        Nothing is added to the state.
        """
        texts = [prompts] if isinstance(prompts, str) else as_texts(prompts, len(prompts))
        if not texts:
            raise ShapeError("`prompts` must hold at least one text, got none")
        self.check_inputs(len(texts), prompts=texts)
        with full_precision(self.device):
            shown = self.extract(as_images(images, value_range=self.value_range)[0])["pixels"]
            pairs = {"pixels": [*shown] * len(texts)}, [text for text in texts for _ in shown]
            return self.scores_of(pairs[0], prompts=pairs[1])[:, 0].reshape(len(texts), len(shown))

    def signature_parameters(self) -> dict[str, object]:
        known = super().signature_parameters()
        kept = {name: x for name, x in known.items() if name not in ("max_tokens", "retries", "thinking")}
        thinking = {} if self.thinking is None else {"thinking": self.thinking}
        template = {} if self.opening is None else {"template": self.opening.origin}
        asked = {"question": self.question, "answer": self.answer, "variant": self.variant}
        return {**asked, **template, **thinking, **kept}


def _published() -> list[str]:
    return [name for name, family in FAMILIES.items() if family.published is not None]
