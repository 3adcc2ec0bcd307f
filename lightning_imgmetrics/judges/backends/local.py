"""Judges that run in this process: image-text-to-text checkpoints of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jinja2 import TemplateError
from torch import nn

from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import ImgMetricsError, WeightsMismatch
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.generation import ChatGenerator
from lightning_imgmetrics.judges.backends.question import Answer, Decoding, Question
from lightning_imgmetrics.models.base.checkpoint import checkpoint_file, checkpoint_id
from lightning_imgmetrics.models.base.network import DTYPES, Network, check_dtype
from lightning_imgmetrics.models.base.pretrained import PretrainedNetwork

_FILES = ("generation_config.json", "chat_template.json", "qformer_tokenizer/tokenizer.json")  # that change answers
_PROMPTING = 2  # version of how questions become prompts: raising it invalidates all cached answers


@dataclass(frozen=True)
class LocalJudge(PretrainedNetwork, Judge):
    """A checkpoint that transformers reads as image-text-to-text: Qwen-VL, LLaVA, PaliGemma, BLIP.

    Messages go through the checkpoint's own chat template, images through its own processor. Special tokens in a text
    are read as letters.

    Args:
        model: A checkpoint folder, a name below `IMGMETRICS_WEIGHTS`, or a hub id.
        revision: Branch, tag or commit on the hub; default "main".
        dtype: Of the weights: "bfloat16", in which most judges are published, or "float32".
        batch_size: Questions of one pass. In bfloat16, an answer may depend on the other questions of its batch where
            two tokens are about equally likely; 1 rules that out.
        cache: Keep answers on disk (see `Judge`).

    Raises:
        UnknownName: For another `dtype`.
        WeightsMismatch: When it is first used: the checkpoint is of another kind.
        MissingWeights: When it is first used: the checkpoint is neither here nor can it be downloaded.

    Example:
        >>> from lightning_imgmetrics import LocalJudge
        >>> judge = LocalJudge("Qwen/Qwen3-VL-8B-Instruct", batch_size=8)  # nothing is loaded before the first question
        >>> judge.dtype
        'bfloat16'
    """

    dtype: str = field(default="bfloat16", kw_only=True)
    batch_size: int = field(default=1, kw_only=True)

    ignores_thinking = True  # as the chat templates without such an option

    def __post_init__(self) -> None:
        super().__post_init__()
        check_dtype(self.dtype)

    @property
    def key(self) -> Any:
        return *super().key, self.dtype

    def load(self) -> nn.Module:
        """A module with `problem`, `generate` and `probabilities`, as `ChatGenerator` has them."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        processor = self.pretrained(AutoProcessor)
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise WeightsMismatch(f"`model` must have a processor of images and texts, {self.model!r} has none")
        return ChatGenerator(self.pretrained_model(AutoModelForImageTextToText, dtype=DTYPES[self.dtype]), processor)

    def ready(self, device: torch.device) -> None:
        if self.local_path() is None:  # its files must be here to be digested
            self.network(device)

    @property
    def networks(self) -> tuple[Network, ...]:
        return (self,)

    def identity(self) -> Mapping[str, object]:
        import transformers

        return {**self.signature(), "transformers": transformers.__version__, "asked": _PROMPTING}

    def model_types(self) -> tuple[str, str]:
        """Read from the configuration. Raises MissingWeights where there is none, WeightsMismatch for a broken one."""
        path = checkpoint_file(self.model, "config.json", self.revision)
        try:
            config = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
            return config.get("model_type", ""), (config.get("text_config") or {}).get("model_type", "")
        except (ValueError, AttributeError) as error:
            raise WeightsMismatch(f"{path} cannot be read as the configuration of a checkpoint: {error}") from error

    def signature_fields(self) -> dict[str, str]:
        processor = checkpoint_id(self.model, images=True, config=True, revision=self.revision, others=_FILES)
        return {**super().signature_fields(), "processor": processor.rpartition("@")[2]}

    def reply(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        with full_precision(device):
            network = self.network(device)
            answers: dict[int, Answer] = {}
            texts: list[int] = []
            probabilities: list[int] = []
            for i, q in enumerate(questions):
                if problem := network.problem(q, decoding):
                    answers[i] = Answer(problem=problem)
                else:
                    (texts if q.answer is None else probabilities).append(i)
            # Sampling is seeded by the question, so each is sampled alone: its answer does not depend on its batch.
            groups = [[i] for i in texts] if decoding.temperature > 0 else [texts]
            passes = [*((group, network.generate) for group in groups), (probabilities, network.probabilities)]
            for group, method in passes:
                replies = _isolated(method, [questions[i] for i in group], decoding, device) if group else []
                answers |= dict(zip(group, replies, strict=True))
        return [answers[i] for i in range(len(questions))]


def _isolated(method: Callable[..., list[Answer]], questions: list[Question], *options: Any) -> list[Answer]:
    """The answers; where the processor or the chat template refuses a question, that one alone has a problem."""
    try:
        return method(questions, *options)
    except ImgMetricsError:
        raise
    except (ValueError, TemplateError) as error:
        if len(questions) == 1:
            return [Answer(problem=f"the question cannot be processed: {error}")]
    return [answer for question in questions for answer in _isolated(method, [question], *options)]
