"""HPSv3: a Qwen2-VL that reads image and prompt, with a head for the mean and spread of human preference."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import quantize
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import MissingWeights, UnknownName, WeightsMismatch
from lightning_imgmetrics.models.base.checkpoint import checkpoint_id, files_digest, vocabulary_files, weights_files
from lightning_imgmetrics.models.base.extractor import Features, PixelExtractor
from lightning_imgmetrics.models.base.network import DTYPES, run_in_batches
from lightning_imgmetrics.models.base.parameters import set_parameters
from lightning_imgmetrics.models.base.pretrained import build_pretrained, load_pretrained
from lightning_imgmetrics.models.base.resize import TOKEN_SIDE, smart_resize_image
from lightning_imgmetrics.models.base.weights import ModelCard, find_weights, load_tensors, local_weights
from lightning_imgmetrics.models.prompt_templates.hpsv3 import HPSV3_INSTRUCTION, HPSV3_SUFFIX
from lightning_imgmetrics.models.prompt_templates.templates import (
    Template,
    find_template,
)
from lightning_imgmetrics.models.scorers.hpsv3_net import IMAGE, REWARD, HPSv3Network, hpsv3_keys, ranking_head

QWEN2_VL = "Qwen/Qwen2-VL-7B-Instruct"
_PIXELS = 256 * TOKEN_SIDE**2  # the area of every image, as closely as whole tokens allow
_POSITIONS = ("sequential", "mrope")


@dataclass(frozen=True)
class HPSv3Extractor(PixelExtractor):
    """Layer "pixels": 8-bit images (3, h, w) of about 200704 pixels. `score`: mean and spread of the preference.

    `weights`: a file in place of the published one, or a folder of safetensors with their index. `processor`: the
    folder or hub id with the backbone's configuration, tokenizer and image processor. `positions`: "sequential" numbers
    an image's tokens like those of a text, as in training; "mrope" by rows and columns, as in Qwen2-VL. `template`: a
    copy of the prompt's Python source, or a folder that contains it as hpsv3.py. `dtype` is that of the weights and of
    everything before the head, as in the published code (bfloat16), not autocast; the head is float32.
    Source: Ma et al. 2025.
    """

    weights: str | None = None
    processor: str = QWEN2_VL
    positions: str = "sequential"
    template: str | None = None
    revision: str = "main"
    columns = ("sigma",)
    max_batch = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions not in _POSITIONS:
            raise UnknownName("positions", self.positions, _POSITIONS)

    @property
    def card(self) -> ModelCard:
        return ModelCard.on_hub("HPSv3", "MizzenAI/HPSv3", "HPSv3.safetensors", revision=self.revision, license="MIT")

    @functools.cached_property
    def key(self) -> Hashable:
        return "hpsv3", self.revision, self.weights, self.processor, self.dtype

    @functools.cached_property
    def prompt_template(self) -> tuple[Template, Template]:
        """The instruction, and the text after the prompt; read once, so that signature and scores agree."""
        return find_template(HPSV3_INSTRUCTION, self.template), find_template(HPSV3_SUFFIX, self.template)

    def signature_fields(self) -> dict[str, str]:
        return {
            "weights": files_digest(self._local_files()) or self.card.revision,
            "positions": self.positions,
            "processor": checkpoint_id(self.processor, images=True, config=True),
            "template": "+".join(dict.fromkeys(text.origin for text in self.prompt_template)),
        }

    def local_path(self) -> Path | None:
        """The weights' file or folder; None if it, or the tokenizer, is absent."""
        if not (files := self._local_files()) or not vocabulary_files(self.processor):
            return None
        return files[0] if self._folder is None else self._folder

    def prefetch(self) -> Path:
        files = self._files()
        self._parts()
        _ = self.prompt_template
        return files[0] if self._folder is None else self._folder

    @property
    def _folder(self) -> Path | None:
        """`weights` if it is a folder."""
        path = None if self.weights is None else Path(self.weights).expanduser()
        return path if path is not None and path.is_dir() else None

    def _local_files(self) -> list[Path]:
        """The weights on this machine: a file, or the shards of a folder; empty if they are absent."""
        if self._folder is not None:
            return weights_files(self._folder)
        path = local_weights(self.card, self.weights)
        return [] if path is None else [path]

    def _files(self) -> list[Path]:
        if self._folder is None:
            return [find_weights(self.card, self.weights)]
        if not (files := self._local_files()):
            raise MissingWeights(
                f"`weights` for HPSv3 must be a file, or a folder with model.safetensors.index.json and all shards that"
                f" it names, got {self.weights!r}"
            )
        return files

    def _parts(self) -> tuple[Any, Any, Any]:
        """Configuration, tokenizer and image processor of the backbone."""
        from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, Qwen2VLConfig

        loaders = (AutoConfig, AutoTokenizer, AutoImageProcessor)
        config, tokenizer, image_processor = (load_pretrained(loader, self.processor) for loader in loaders)
        if not isinstance(config, Qwen2VLConfig) or IMAGE not in (tokenizer.chat_template or ""):
            raise WeightsMismatch(
                f"`processor` must be a Qwen2-VL whose tokenizer has a chat template with {IMAGE}, got"
                f" {self.processor!r} of type {config.model_type!r}"
            )
        tokenizer.add_tokens([REWARD], special_tokens=True)
        return config, tokenizer, image_processor

    def load(self) -> nn.Module:
        from transformers import Qwen2VLModel

        config, tokenizer, image_processor = self._parts()
        files = self._files()
        path = self._folder or files[0]
        backbone, head = hpsv3_keys({key: x for file in files for key, x in load_tensors(self.card, file).items()})
        embeddings = backbone.get("language_model.embed_tokens.weight")
        if embeddings is not None and len(embeddings) != len(tokenizer):
            raise WeightsMismatch(
                f"{path} embeds {len(embeddings)} tokens, and the tokenizer of {self.processor!r} has {len(tokenizer)},"
                f" {REWARD} included"
            )
        config.text_config.vocab_size = len(tokenizer)
        dtype = DTYPES[self.dtype]
        return HPSv3Network(
            build_pretrained(Qwen2VLModel, config, backbone, str(path), dtype=dtype),
            set_parameters(ranking_head(config.text_config.hidden_size), head, f"{path} (rm_head)"),
            tokenizer,
            image_processor,
        )

    def prepare(self, images: Tensor) -> list[Tensor]:
        return [smart_resize_image(image, min_pixels=_PIXELS, max_pixels=_PIXELS) for image in quantize(images)]

    def score(self, features: Features, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, int]:
        """Scores (n, 2): mean and spread of the preference. ValueError for a prompt beyond the context length."""
        images = features["pixels"]
        with full_precision(device):
            network = self.network(device)
            turns = network.turns(prompts, *self.prompt_template)
            context = network.backbone.config.text_config.max_position_embeddings
            for i, (image, turn) in enumerate(zip(images, turns, strict=True)):
                length = len(turn) - 1 + image[0].numel() // TOKEN_SIDE**2
                if length > context:
                    raise ValueError(
                        f"`prompts[{i}]` makes a chat of {length} tokens, and HPSv3 reads at most {context}"
                    )
            parts = run_in_batches(
                lambda part: network(images[part], turns[part], self.positions), len(turns), self.max_batch
            )
            mean, log_spread = torch.cat(parts).T
            scores = torch.stack([mean, log_spread.exp()], 1)
        if device.type == "cpu":
            self.check_finite(scores, "for images and prompts")
        return scores, 0
