"""Judges that run here: image-text-to-text checkpoints of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jinja2 import TemplateError
from torch import nn

from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import ImgMetricsError, UnknownName, WeightsMismatch
from lightning_imgmetrics.judges.backends.base import Answer, Decoding, Judge, Question
from lightning_imgmetrics.judges.backends.generation import Speaker
from lightning_imgmetrics.models.base.checkpoint import checkpoint_file, cited
from lightning_imgmetrics.models.base.network import Network
from lightning_imgmetrics.models.base.pretrained import PretrainedNetwork

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_OTHERS = ("generation_config.json", "chat_template.json", "qformer_tokenizer/tokenizer.json")  # that change answers
_ASKED = 2  # raised whenever questions are put otherwise: what was answered to the old way is asked anew


@dataclass(frozen=True)
class LocalJudge(PretrainedNetwork, Judge):
    """A checkpoint folder or hub id that transformers reads as image-text-to-text: Qwen-VL, LLaVA, PaliGemma, BLIP.

    Messages go through the checkpoint's own chat template, images through its own processor; what looks like one of
    its special tokens in a text is read as letters. `dtype`: that of the weights; bfloat16 is what judges are published
    in. `batch_size` questions are answered in one pass. In bfloat16 an answer may hang on who shares its pass, where
    two tokens are about as likely; `batch_size=1` rules that out. WeightsMismatch: a checkpoint of another kind.
    """

    dtype: str = field(default="bfloat16", kw_only=True)
    batch_size: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype not in _DTYPES:
            raise UnknownName("dtype", self.dtype, _DTYPES)

    ignores_thinking = True  # as the chat templates that do not ask for it

    @property
    def key(self) -> Any:
        return *super().key, self.dtype  # type: ignore[misc]

    def load(self) -> nn.Module:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        processor = self.pretrained(AutoProcessor)
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise WeightsMismatch(f"`model` must have a processor of images and texts, {self.model!r} has none")
        return Speaker(self.pretrained_model(AutoModelForImageTextToText, dtype=_DTYPES[self.dtype]), processor)

    def ready(self, device: torch.device) -> None:
        if self.where() is None:  # only then can its files be told from others
            self.network(device)

    @property
    def networks(self) -> tuple[Network, ...]:
        return (self,)

    def identity(self) -> Mapping[str, object]:
        import transformers

        return {**self.signature(), "transformers": transformers.__version__, "asked": _ASKED}

    def model_types(self) -> tuple[str, str]:
        """Read from the configuration. Raises MissingWeights where there is none, WeightsMismatch for a broken one."""
        path = checkpoint_file(self.model, "config.json", self.revision)
        try:
            config = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
            return config.get("model_type", ""), (config.get("text_config") or {}).get("model_type", "")
        except (ValueError, AttributeError) as error:
            raise WeightsMismatch(f"{path} cannot be read as the configuration of a checkpoint: {error}") from error

    def rules(self) -> dict[str, str]:
        processor = cited(self.model, images=True, config=True, revision=self.revision, others=_OTHERS)
        return {**super().rules(), "processor": processor.rpartition("@")[2]}

    def signature(self) -> dict[str, str]:
        dtype = {} if self.dtype == "float32" else {"dtype": self.dtype}
        return {"network": self.card.name, **self.rules(), **dtype}

    def reply(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        with full_precision(device):
            speaker = self.network(device)
            # Draws are keyed by seed and question: it is answered alike whoever would share its batch.
            alone = decoding.temperature > 0
            answers: dict[int, Answer] = {}
            readable = []
            for i, q in enumerate(questions):
                if told := speaker.refusal(q, decoding):
                    answers[i] = Answer(problem=told)
                else:
                    readable.append(i)
            texts = [i for i in readable if questions[i].answer is None]
            weighed = [i for i in readable if questions[i].answer is not None]
            groups = [([i], speaker.write) for i in texts] if alone else [(texts, speaker.write)]
            for group, way in [*groups, (weighed, speaker.weigh)]:
                found = _each(way, [questions[i] for i in group], decoding, device) if group else []
                answers |= dict(zip(group, found, strict=True))
        return [answers[i] for i in range(len(questions))]


def _each(way: Callable[..., list[Answer]], questions: list[Question], *how: Any) -> list[Answer]:
    """The answers; where the processor or the chat template refuses some question, that one alone has a problem."""
    try:
        return way(questions, *how)
    except ImgMetricsError:
        raise
    except (ValueError, TemplateError) as error:
        if len(questions) == 1:
            return [Answer(problem=f"the question cannot be put: {error}")]
    return [answer for question in questions for answer in _each(way, [question], *how)]
