"""CLIP and SigLIP through transformers: any checkpoint folder or hub id, and the embedded `digits-clip`."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import quantize
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import MissingWeights, NonFiniteFeatures, UnknownName, WeightsMismatch
from lightning_imgmetrics.models.base import Extractor, Features, ModelCard, offline, sha256

DIGITS_CLIP = "digits-clip"


class _Clip(nn.Module):
    """A two-tower model with its tokenizer and image processor."""

    model: Any

    def __init__(self, model: nn.Module, tokenizer: Any, image_processor: Any):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor


@dataclass(frozen=True)
class ClipExtractor(Extractor):
    """Image layers "embed" (the projected embedding, not normalized) and "maps" (hidden states); text by `embed_text`.

    `model`: "digits-clip", a checkpoint folder, a hub id, or a callable that returns (model, processor).
    Images are quantized to 8 bits and go through the checkpoint's own image processor on their device.
    """

    model: str | Callable[[], tuple[Any, Any]] = DIGITS_CLIP
    revision: str | None = None

    @property
    def card(self) -> ModelCard:  # type: ignore[override]
        if callable(self.model):
            return ModelCard(f"custom-{getattr(self.model, '__name__', 'clip')}", "user")
        return ModelCard(Path(self.model).name if Path(self.model).is_dir() else self.model, self.model)

    @property
    def key(self) -> Hashable:
        return "clip", self.model, self.revision

    @property
    def identified(self) -> bool:  # type: ignore[override]
        return not callable(self.model)

    @property
    def path(self) -> str:
        """Folder or hub id to load from: an existing folder, then `IMGMETRICS_WEIGHTS`, then the hub."""
        if self.model == DIGITS_CLIP:
            return str(Path(__file__).parent / "digits_clip")
        model = str(self.model)
        folder = os.environ.get("IMGMETRICS_WEIGHTS")
        if not Path(model).is_dir() and folder and (Path(folder).expanduser() / model).is_dir():
            return str(Path(folder).expanduser() / model)
        return model

    def load(self) -> nn.Module:
        if callable(self.model):
            model, processor = self.model()
            return _Clip(model.float(), processor.tokenizer, processor.image_processor)
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        model, loaded = self._pretrained(AutoModel, dtype=torch.float32, output_loading_info=True)
        if unfit := {k: sorted(loaded[k]) for k in ("missing_keys", "mismatched_keys") if loaded[k]}:
            raise WeightsMismatch(f"the checkpoint {self.model!r} does not fill its network: {unfit}")
        return _Clip(model, self._pretrained(AutoTokenizer), self._pretrained(AutoImageProcessor))

    def _pretrained(self, loader: Any, **kwargs: Any) -> Any:
        from transformers.utils import logging

        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # it would break up the trainer's own
        try:
            return loader.from_pretrained(
                self.path, revision=self.revision or "main", local_files_only=offline(), **kwargs
            )
        except OSError as error:
            raise MissingWeights(
                f"the checkpoint {self.model!r} is neither a folder nor in the hub cache, and cannot be downloaded"
                f" ({str(error).splitlines()[0]}). Fetch https://huggingface.co/{self.model} (revision"
                f" {self.revision or 'main'}) and put its files into $IMGMETRICS_WEIGHTS/{self.model}, or pass a folder"
            ) from error
        finally:
            if shown:
                logging.enable_progress_bar()

    def prepare(self, images: Tensor) -> Tensor:
        processor = self.network(images.device).image_processor
        pixels = processor(images=list(quantize(images)), return_tensors="pt")["pixel_values"]
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
        with full_precision(device):
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
        embeddings = out if isinstance(out, Tensor) else out.pooler_output
        if not embeddings.isfinite().all():
            raise NonFiniteFeatures(f"{self.card.name} returned NaN or infinity for texts")
        return embeddings, sum(len(ids) > length for ids in whole)

    def dim(self, layer: str) -> int:
        if layer not in ("embed", "maps"):
            raise UnknownName("layer", layer, ("embed", "maps"))
        config: Any
        if callable(self.model):
            config = self.network(torch.device("cpu")).model.config
        else:
            from transformers import AutoConfig

            config = self._pretrained(AutoConfig)
        if layer == "embed":
            return int(getattr(config, "projection_dim", None) or config.vision_config.hidden_size)
        vision = config.vision_config
        return (vision.num_hidden_layers + 1) * vision.hidden_size * (vision.image_size // vision.patch_size) ** 2

    def signature(self) -> dict[str, str]:
        folder = Path() if callable(self.model) else Path(self.path)
        files = sorted(p for p in folder.glob("*") if p.suffix in (".safetensors", ".bin")) if folder != Path() else []
        digest = "+".join(sha256(file)[:8] for file in files) or self.revision or "main"
        return {"network": self.card.name, "weights": digest, "resize": "processor"}


def _as_map(hidden: Tensor) -> Tensor:
    """Patch tokens (n, [1 +] s*s, c) -> (n, c, s, s); a leading class token is left out."""
    side = isqrt(hidden.shape[1])
    return hidden[:, -side * side :].mT.unflatten(2, (side, side))
