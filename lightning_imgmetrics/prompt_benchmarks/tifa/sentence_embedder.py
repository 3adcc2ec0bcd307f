"""Sentence embeddings: which of several short texts is closest in meaning to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import WeightsMismatch
from lightning_imgmetrics.models.base.network import cached_by_text, run_in_batches
from lightning_imgmetrics.models.base.pretrained import PretrainedNetwork

_LONGEST = 384  # tokens, as the published checkpoint reads them


class _Reader(nn.Module):
    """An encoder of texts with its tokenizer."""

    model: Any

    def __init__(self, model: nn.Module, tokenizer: Any):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Texts (n) -> (n, d): the mean over tokens of the last layer, with length 1."""
        how = {"padding": True, "truncation": True, "max_length": _LONGEST, "return_tensors": "pt"}
        inputs = self.tokenizer(list(texts), **how).to(self.model.device)
        states = self.model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][:, :, None].to(states)
        return normalize((states * mask).sum(1) / mask.sum(1).clamp(min=1), dim=1)


@dataclass(frozen=True)
class SentenceEmbedder(PretrainedNetwork):
    """An encoder of sentences: a checkpoint folder or hub id that transformers reads. It is shown no images.

    The embedding is the mean over tokens, of length 1, as all-mpnet-base-v2 is published with. Source: Reimers &
    Gurevych 2019.
    """

    model: str = "sentence-transformers/all-mpnet-base-v2"
    max_batch = 64

    def load(self) -> nn.Module:
        from transformers import AutoTokenizer

        model = self.pretrained_model()
        if model.config.is_encoder_decoder or not hasattr(model, "embeddings"):
            raise WeightsMismatch(
                f"`model` must be an encoder of texts, got {self.model!r} of type {model.config.model_type!r}"
            )
        return _Reader(model, self.pretrained(AutoTokenizer))

    def embed(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Texts (n) -> (n, d), float32; recent ones are cached."""
        with full_precision(device):
            reader = self.network(device)

            def compute(new: list[str]) -> list[Tensor]:
                return list(torch.cat(run_in_batches(lambda part: reader.embed(new[part]), len(new), self.max_batch)))

            embeddings = torch.stack(cached_by_text(reader, "sentence", texts, compute))
        if device.type == "cpu":
            self.check_finite(embeddings, "for texts")
        return embeddings

    def signature(self) -> dict[str, str]:
        return {"embedder": f"{self.card.name}@{self.signature_fields()['weights']}"}
