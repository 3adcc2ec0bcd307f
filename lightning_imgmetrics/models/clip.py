"""CLIP and SigLIP through transformers: any checkpoint folder or hub id, and the embedded `digits-clip`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import quantize
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.models.base import Extractor, Features
from lightning_imgmetrics.models.pretrained import PretrainedExtractor
from lightning_imgmetrics.models.resize import bicubic_antialias_rounded, center_square, standardize
from lightning_imgmetrics.models.weights import ModelCard

DIGITS_CLIP = "digits-clip"
_RESIZE = ("processor", "crop-bicubic")


class _Clip(nn.Module):
    """A two-tower model with its tokenizer and image processor."""

    model: Any

    def __init__(self, model: nn.Module, tokenizer: Any, image_processor: Any):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor


@dataclass(frozen=True)
class ClipExtractor(PretrainedExtractor):
    """Image layers "embed" (the projected embedding, not normalized) and "maps" (hidden states); text by `embed_text`.

    `model`: "digits-clip", a checkpoint folder, a hub id, or a callable that returns (model, processor).
    Images are quantized to 8 bits and resized on their device: `resize="processor"` is the checkpoint's own image
    processor, "crop-bicubic" the middle square, by PIL's bicubic on 8 bits (the reference of CMMD, Jayasumana 2024).
    """

    model: str | Callable[[], tuple[Any, Any]] = DIGITS_CLIP
    resize: str = "processor"
    default_layer = "embed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize not in _RESIZE:
            raise UnknownName("resize", self.resize, _RESIZE)

    @property
    def card(self) -> ModelCard:  # type: ignore[override]
        if callable(self.model):
            return ModelCard(f"custom-{getattr(self.model, '__name__', 'clip')}", "user")
        return super().card

    @property
    def identified(self) -> bool:  # type: ignore[override]
        return not callable(self.model)

    def where(self) -> Path | None:
        return None if callable(self.model) else super().where()

    def prefetch(self) -> Path:
        return Extractor.prefetch(self) if callable(self.model) else super().prefetch()

    def load(self) -> nn.Module:
        if callable(self.model):
            model, processor = self.model()
            return _Clip(model.float(), processor.tokenizer, processor.image_processor)
        from transformers import AutoImageProcessor, AutoTokenizer

        model = self.pretrained_model()
        return _Clip(model, self.pretrained(AutoTokenizer), self.pretrained(AutoImageProcessor))

    def prepare(self, images: Tensor) -> Tensor:
        network = self.network(images.device)
        processor, images = network.image_processor, quantize(images)
        if self.resize == "crop-bicubic":
            x = bicubic_antialias_rounded(center_square(images).float(), network.model.config.vision_config.image_size)
            return standardize(x / 255, processor.image_mean, processor.image_std)
        pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
        return pixels.to(images.device, torch.float32)

    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        out = network.model.get_image_features(pixel_values=x, output_hidden_states="maps" in layers, return_dict=True)
        features: Features = {"embed": out if isinstance(out, Tensor) else out.pooler_output}
        if "maps" in layers:
            features["maps"] = [_as_map(hidden) for hidden in out.hidden_states]
        return features

    def embed_text(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, int]:
        """Texts -> (n, d) embeddings, not normalized, and how many texts were truncated.

        The tokenizer truncates, so the end-of-text token that CLIP pools at stays in place.
        """
        with full_precision(device), self.autocast(device):
            network = self.network(device)
            length = network.model.config.text_config.max_position_embeddings
            whole = network.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
            tokens = network.tokenizer(
                list(texts),
                padding="max_length" if "siglip" in network.model.config.model_type else True,
                truncation=True,
                max_length=length,
                return_tensors="pt",
            ).to(device)
            tokens.pop("token_type_ids", None)
            if "siglip" in network.model.config.model_type:
                tokens.pop("attention_mask", None)  # SigLIP was trained with its padding attended to
            out = network.model.get_text_features(**tokens)
        embeddings = (out if isinstance(out, Tensor) else out.pooler_output).float()
        if device.type == "cpu":
            self.check_finite(embeddings, "for texts")
        return embeddings, sum(len(ids) > length for ids in whole)

    def dim(self, layer: str) -> int:
        if layer not in ("embed", "maps"):
            raise UnknownName("layer", layer, ("embed", "maps"))
        config = self.network(torch.device("cpu")).model.config if callable(self.model) else self.config()
        if layer == "embed":
            return int(getattr(config, "projection_dim", None) or config.vision_config.hidden_size)
        vision = config.vision_config
        return (vision.num_hidden_layers + 1) * vision.hidden_size * (vision.image_size // vision.patch_size) ** 2

    def rules(self) -> dict[str, str]:
        weights = {"weights": self.revision or "main"} if callable(self.model) else super().rules()
        return {**weights, "resize": self.resize}


def _as_map(hidden: Tensor) -> Tensor:
    """Patch tokens (n, [1 +] s*s, c) -> (n, c, s, s); a leading class token is left out."""
    side = isqrt(hidden.shape[1])
    return hidden[:, -side * side :].mT.unflatten(2, (side, side))
