"""CLIP's ResNet-50 without positional embedding, the network of CLIP-IQA."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import to_float
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import ShapeError, UnknownName, WeightsMismatch, require
from lightning_imgmetrics.models.base.checkpoint import checkpoint_id, vocabulary_files
from lightning_imgmetrics.models.base.extractor import Extractor, Features
from lightning_imgmetrics.models.base.network import cached_by_text
from lightning_imgmetrics.models.base.parameters import set_parameters
from lightning_imgmetrics.models.base.pretrained import load_pretrained
from lightning_imgmetrics.models.base.resize import CLIP_MEAN, CLIP_STD, standardize
from lightning_imgmetrics.models.base.weights import ModelCard, find_weights, load_tensors, sha256

_REPO, _FILE = "timm/resnet50_clip.openai", "open_clip_model.safetensors"
_REVISION = "ec3d92cf63a5f9d591f0d611b736895966c73076"
CLIP_RN50 = ModelCard(
    "clip-rn50-openai",
    f"https://huggingface.co/{_REPO}/resolve/{_REVISION}/{_FILE}",
    _FILE,
    "da0baa37fb2211eee5729ab69ed587eb10d48f5b7076ceeed01552fc3d4cb4ee",
    "MIT",
    _REPO,
    _REVISION,
)
_TOKENIZER = "openai/clip-vit-base-patch16"
_SMALLEST = 32  # pixels, the stride of the last maps


class _ClipResNet(nn.Module):
    """The two towers with their tokenizer."""

    model: Any

    def __init__(self, model: nn.Module, tokenizer: Any):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer


@dataclass(frozen=True)
class ClipResNetExtractor(Extractor):
    """Layer "embed": OpenAI's CLIP RN50 of images of any size from 32 x 32, neither resized nor quantized.

    Without the positional embedding of its attention pooling it takes any size. The architecture is from `piq` (extra
    "iqa"). `weights`: a file in open_clip's layout, in place of OpenAI's tensors as published by timm. `processor`:
    another checkpoint with CLIP's tokenizer. Source: Wang, Chan & Loy 2023.
    """

    weights: str | None = None
    processor: str | None = None
    card = CLIP_RN50
    default_layer = "embed"
    max_batch = 64

    @functools.cached_property
    def key(self) -> Hashable:
        return "clip-resnet", self.weights, self.processor

    def load(self) -> nn.Module:
        require("piq", "iqa")
        path = find_weights(self.card, self.weights)
        tensors = load_tensors(self.card, path)
        network = _build(tensors, str(path))
        counters = {k: x for k, x in network.state_dict().items() if k.endswith("num_batches_tracked")}  # unused
        network = set_parameters(network, {**counters, **tensors}, str(path))
        return _ClipResNet(network, self._tokenizer())

    def local_path(self) -> Path | None:
        return super().local_path() if vocabulary_files(self.processor or _TOKENIZER) else None

    def prefetch(self) -> Path:
        self._tokenizer()
        return super().prefetch()

    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return load_pretrained(AutoTokenizer, self.processor or _TOKENIZER, whole=True)

    def prepare(self, images: Tensor) -> Tensor:
        if min(images.shape[2:]) < _SMALLEST:
            size = tuple(images.shape[2:])
            raise ShapeError(f"{self.card.name} needs images of at least {_SMALLEST} x {_SMALLEST} pixels, got {size}")
        return standardize(to_float(images), CLIP_MEAN, CLIP_STD)

    def __call__(self, batches: Sequence[Tensor], layers: Sequence[str], device: torch.device) -> Features:
        parts = [super(ClipResNetExtractor, self).__call__([batch], layers, device) for batch in batches]  # any sizes
        return {layer: torch.cat([part[layer] for part in parts]) for layer in layers}

    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        return {"embed": network.model.encode_image(x, pos_embedding=False).float()}

    def embed_text(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, int]:
        """Texts -> (n, d) embeddings, not normalized, and the number of truncated texts."""
        network = self.network(device)
        rows = cached_by_text(network, self.dtype, texts, lambda new: self._embed(network, new, device))
        return torch.stack([row for row, _ in rows]), sum(truncated for _, truncated in rows)

    def _embed(self, network: Any, texts: list[str], device: torch.device) -> list[tuple[Tensor, bool]]:
        length = network.model.context_length
        tokenize = functools.partial(network.tokenizer, texts, split_special_tokens=True, verbose=False)
        untruncated = tokenize(truncation=False)["input_ids"]
        truncated = tokenize(truncation=True, max_length=length)["input_ids"]
        tokens = torch.zeros(len(texts), length, dtype=torch.int64)  # pooled at the largest id, end of text
        for row, ids in zip(tokens, truncated, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        with full_precision(device), self.autocast(device):
            embeddings = network.model.encode_text(tokens.to(device)).float()
        # Copies: a cached view would keep the whole batch in memory.
        return [(row.clone(), len(ids) > length) for row, ids in zip(embeddings, untruncated, strict=True)]

    def dim(self, layer: str) -> int:
        if layer != "embed":
            raise UnknownName("layer", layer, ("embed",))
        return int(self.network(torch.device("cpu")).model.text_projection.shape[1])

    def signature_fields(self) -> dict[str, str]:
        path = super().local_path()
        tokenizer = {} if self.processor is None else {"processor": checkpoint_id(self.processor)}
        return {"weights": (sha256(path) if path else self.card.sha256)[:8], "resize": "none", **tokenizer}


def _build(tensors: dict[str, Tensor], source: str) -> Any:
    """piq's CLIP with the sizes of the tensors."""
    from piq.feature_extractors.clip import CLIP

    def blocks(prefix: str) -> int:
        depth = prefix.count(".")
        return len({key.split(".")[depth] for key in tensors if key.startswith(prefix)})

    try:
        positions, width = tensors["visual.attnpool.positional_embedding"], len(tensors["ln_final.weight"])
        return CLIP(
            embed_dim=tensors["text_projection"].shape[1],
            image_resolution=32 * math.isqrt(len(positions) - 1),
            vision_layers=tuple(blocks(f"visual.layer{i}.") for i in (1, 2, 3, 4)),
            vision_width=len(tensors["visual.layer1.0.conv1.weight"]),
            vision_patch_size=0,  # of vision transformers
            context_length=len(tensors["positional_embedding"]),
            vocab_size=len(tensors["token_embedding.weight"]),
            transformer_width=width,
            transformer_heads=width // 64,
            transformer_layers=blocks("transformer.resblocks."),
        )
    except KeyError as error:
        raise WeightsMismatch(f"{source} is no CLIP with a ResNet in open_clip's layout: it lacks {error}") from error
