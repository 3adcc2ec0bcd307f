"""CLIP and SigLIP through transformers: any checkpoint folder or hub id, and the embedded `digits-clip`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import quantize, to_float
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import MissingWeights, UnknownName, WeightsMismatch
from lightning_imgmetrics.models.base import open_clip
from lightning_imgmetrics.models.base.checkpoint import checkpoint_file, checkpoint_folder, checkpoint_id, files_digest
from lightning_imgmetrics.models.base.extractor import Extractor, Features
from lightning_imgmetrics.models.base.network import cached_by_text, run_in_batches
from lightning_imgmetrics.models.base.pretrained import PretrainedNetwork, build_pretrained
from lightning_imgmetrics.models.base.resize import (
    bicubic_antialias_rounded,
    center_square,
    short_side_bicubic,
    standardize,
)
from lightning_imgmetrics.models.base.weights import ModelCard, find_weights, load_tensors, local_weights, tensor_names

DIGITS_CLIP = "digits-clip"
_RESIZE = ("processor", "crop-bicubic", "float-bicubic-antialias", "float-bicubic")


class _Clip(nn.Module):
    """A two-tower model with its tokenizer and image processor; `clean`: texts are cleaned as by open_clip."""

    model: Any

    def __init__(self, model: nn.Module, tokenizer: Any, image_processor: Any, clean: bool = False):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.clean = clean


@dataclass(frozen=True)
class ClipExtractor(PretrainedNetwork, Extractor):
    """Image layers "embed" (the projected embedding, not normalized) and "maps" (hidden states); text by `embed_text`.

    `model`: "digits-clip", a checkpoint folder or hub id of transformers or of open_clip, or a callable that returns
    (model, processor). `weights`: a file, or the card of one, in either layout, in place of the checkpoint's own.
    `processor`: the checkpoint with tokenizer and image processor, if it is another one.
    Images are quantized to 8 bits and resized on their device: `resize="processor"` is the checkpoint's own image
    processor; "crop-bicubic" a center crop, then PIL's bicubic on 8 bits (the reference of CMMD, Jayasumana 2024);
    "float-bicubic-antialias" and "float-bicubic" bicubic of the short side without rounding, then a center crop.
    """

    model: str | Callable[[], tuple[Any, Any]] = DIGITS_CLIP
    resize: str = "processor"
    processor: str | None = None
    weights: str | ModelCard | None = None
    default_layer = "embed"
    max_batch = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize not in _RESIZE:
            raise UnknownName("resize", self.resize, _RESIZE)

    @property
    def card(self) -> ModelCard:
        if callable(self.model):
            return ModelCard(f"custom-{getattr(self.model, '__name__', 'clip')}", "user")
        if isinstance(self.weights, str | Path):
            return ModelCard(Path(self.weights).stem, str(self.weights))
        return super().card if self.weights is None else self.weights

    @functools.cached_property
    def key(self) -> Hashable:
        return *super().key, self.processor, self.weights

    @property
    def cacheable(self) -> bool:
        return not callable(self.model)

    def local_path(self) -> Path | None:
        if callable(self.model):
            return None
        return super().local_path() if self.weights is None else local_weights(self.card, self._path)

    def prefetch(self) -> Path:
        if callable(self.model):
            raise MissingWeights(f"{self.card.name} is the caller's own network: there is nothing to fetch")
        if self.weights is None:
            return super().prefetch()
        self.load()  # configuration, tokenizer and image processor, too
        return find_weights(self.card, self._path)

    @property
    def _path(self) -> str | None:
        return str(self.weights) if isinstance(self.weights, str | Path) else None

    def load(self) -> nn.Module:
        if callable(self.model):
            model, processor = self.model()
            return _Clip(model.float(), processor.tokenizer, processor.image_processor)
        from transformers import AutoImageProcessor, AutoTokenizer

        config, preprocess = self.layout()
        if not isinstance(getattr(getattr(config, "vision_config", None), "image_size", None), int):
            kind = config.model_type
            raise WeightsMismatch(f"{self.model!r} must be a CLIP or SigLIP of one image size, got {kind!r}")
        tokenizer = self.companion(AutoTokenizer, self.processor)
        if preprocess is None or self.processor is not None:
            images = self.companion(AutoImageProcessor, self.processor)
        else:
            images = open_clip.image_processor(config.vision_config.image_size, preprocess)
        if preprocess is not None:
            config.text_config.eos_token_id = tokenizer.eos_token_id  # open_clip's files do not name it
        if self.weights is None and preprocess is None:
            return _Clip(self.pretrained_model(), tokenizer, images)
        network, foreign = self._from_file(config)
        return _Clip(network, tokenizer, images, clean=foreign or preprocess is not None)

    def _from_file(self, config: Any) -> tuple[Any, bool]:
        """The network with the tensors of a file, and whether they are open_clip's."""
        from transformers import MODEL_MAPPING

        path = self._open_clip_weights() if self.weights is None else find_weights(self.card, self._path)
        tensors = load_tensors(self.card, path)
        kind, foreign = MODEL_MAPPING[type(config)], open_clip.is_open_clip(tensors)
        return build_pretrained(kind, config, open_clip.clip_keys(tensors) if foreign else tensors, str(path)), foreign

    def _open_clip_weights(self) -> Path:
        names = open_clip.WEIGHTS
        files = (checkpoint_file(str(self.model), name, self.revision) for name in names)
        path = next((path for path in files if path is not None), None)
        if path is None:
            raise MissingWeights(f"the open_clip checkpoint {self.model!r} holds none of {', '.join(names)}")
        return path

    def layout(self) -> tuple[Any, dict[str, Any] | None]:
        """The network's configuration, and that of open_clip's preprocessing, None for a checkpoint of transformers."""
        folder = checkpoint_folder(str(self.model), self.revision)
        for name in ("config.json", open_clip.CONFIG):  # in this order on the hub, too: some repositories have both
            path = checkpoint_file(str(self.model), name, self.revision) if folder is None else folder / name
            if path is not None and path.is_file():
                return (self.config(), None) if name == "config.json" else open_clip.clip_config(path)
        return self.config(), None  # raises, naming what is missing

    def prepare(self, images: Tensor) -> Tensor:
        network = self.network(images.device)
        processor, images = network.image_processor, quantize(images)
        size = network.model.config.vision_config.image_size
        if self.resize == "processor":
            inputs = processor(images=list(images), input_data_format="channels_first", return_tensors="pt")
            return inputs["pixel_values"].to(images.device, torch.float32)
        if self.resize == "crop-bicubic":
            x = bicubic_antialias_rounded(center_square(images).float(), size) / 255
        else:
            x = short_side_bicubic(to_float(images), size, antialias=self.resize.endswith("antialias"))
        return standardize(x, processor.image_mean, processor.image_std)

    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        options = {"output_hidden_states": "maps" in layers, "return_dict": True}
        output = network.model.get_image_features(pixel_values=x, **options)
        features: Features = {"embed": output if isinstance(output, Tensor) else output.pooler_output}
        if "maps" in layers:
            features["maps"] = [_as_map(hidden) for hidden in output.hidden_states]
        return features

    def embed_text(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, int]:
        """Texts -> (n, d) embeddings, not normalized, and the number of truncated texts.

        The tokenizer truncates before the end-of-text token, at which CLIP pools; special tokens in a text are read as
        plain characters. Texts for an open_clip network are cleaned as there. Embeddings are cached.
        """
        network = self.network(device)
        rows = cached_by_text(network, self.dtype, texts, lambda new: self._embed(network, new, device))
        embeddings = torch.stack([row for row, _ in rows])
        if device.type == "cpu":
            self.check_finite(embeddings, "for texts")
        return embeddings, sum(truncated for _, truncated in rows)

    def _embed(self, network: Any, texts: list[str], device: torch.device) -> list[tuple[Tensor, bool]]:
        """The embedding of each text, and whether the text was truncated."""
        length = network.model.config.text_config.max_position_embeddings
        siglip = "siglip" in network.model.config.model_type
        texts = [open_clip.clean_text(text) for text in texts] if network.clean else texts
        untruncated = network.tokenizer(texts, truncation=False, verbose=False, split_special_tokens=True)["input_ids"]
        tokens = network.tokenizer(
            texts,
            padding="max_length" if siglip else True,
            truncation=True,
            max_length=length,
            split_special_tokens=True,
            return_tensors="pt",
        ).to(device)
        tokens.pop("token_type_ids", None)
        if siglip:
            tokens.pop("attention_mask", None)  # SigLIP was trained without masking its padding

        def run(part: slice) -> Tensor:
            output = network.model.get_text_features(**{name: x[part] for name, x in tokens.items()})
            return (output if isinstance(output, Tensor) else output.pooler_output).float()

        with full_precision(device), self.autocast(device):
            embeddings = torch.cat(run_in_batches(run, len(texts), self.max_batch))
        # Copies: a cached view would keep the whole batch in memory.
        return [(row.clone(), len(ids) > length) for row, ids in zip(embeddings, untruncated, strict=True)]

    def logits(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The learned factor exp(logit_scale) of a cosine, and SigLIP's bias (0 for CLIP): scalars."""
        model = self.network(device).model
        scale = model.logit_scale.float().exp().squeeze()
        bias = getattr(model, "logit_bias", None)
        return scale, torch.zeros_like(scale) if bias is None else bias.float().squeeze()

    def dim(self, layer: str) -> int:
        if layer not in ("embed", "maps"):
            raise UnknownName("layer", layer, ("embed", "maps"))
        config = self.network(torch.device("cpu")).model.config if callable(self.model) else self.layout()[0]
        if layer == "embed":
            return int(getattr(config, "projection_dim", None) or config.vision_config.hidden_size)
        vision = config.vision_config
        return (vision.num_hidden_layers + 1) * vision.hidden_size * (vision.image_size // vision.patch_size) ** 2

    def signature_fields(self) -> dict[str, str]:
        if callable(self.model):
            return {"weights": self.revision or "main", "resize": self.resize}
        fields = {}
        if self.weights is not None:
            fields["config"] = checkpoint_id(str(self.model), images=True, config=True, revision=self.revision)
        if self.processor is not None:
            fields["processor"] = checkpoint_id(self.processor, images=True)
        if self._cleans_texts():
            fields["texts"] = open_clip.text_cleaning()
        if self.weights is None:
            return {**super().signature_fields(), **fields, "resize": self.resize}
        path = self.local_path()
        return {"weights": files_digest([path]) if path else self.card.revision, **fields, "resize": self.resize}

    def _cleans_texts(self) -> bool:
        """Whether texts are cleaned as by open_clip, according to the files on this machine."""
        folder = checkpoint_folder(str(self.model), self.revision)
        path = None if self.weights is None else self.local_path()
        layout = folder is not None and open_clip.is_folder(folder)
        return layout or (path is not None and open_clip.is_open_clip(tensor_names(self.card, path)))


def _as_map(hidden: Tensor) -> Tensor:
    """Patch tokens (n, [1 +] s*s, c) -> (n, c, s, s); a leading class token is left out."""
    side = isqrt(hidden.shape[1])
    return hidden[:, -side * side :].mT.unflatten(2, (side, side))
