"""HPSv3: a Qwen2-VL that reads image and prompt, and a head that gives the mean and the spread of people's taste."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lightning_imgmetrics._images import quantize
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import UnknownName, WeightsMismatch
from lightning_imgmetrics.models.base import Extractor, Features, PixelExtractor, Scorer
from lightning_imgmetrics.models.network import FileNetwork, filled, in_parts
from lightning_imgmetrics.models.pretrained import PretrainedExtractor, assembled
from lightning_imgmetrics.models.smart_resize import FACTOR, smart_resized
from lightning_imgmetrics.models.templates import HPSV3_INSTRUCTION, HPSV3_SUFFIX, Template, find_template
from lightning_imgmetrics.models.weights import ModelCard, find_weights, load_tensors, sha256

QWEN2_VL = "Qwen/Qwen2-VL-7B-Instruct"
_IMAGE, _REWARD = "<|image_pad|>", "<|Reward|>"
_PIXELS = 256 * FACTOR**2  # every image has this area, as near as whole tokens allow
_POSITIONS = ("sequential", "mrope")
_MARK = "\ue000"  # stands for a turn's text where the chat template is asked what it puts around it


class _HPSv3(nn.Module):
    """Backbone and head, with the tokenizer and image processor that make their inputs."""

    backbone: Any

    def __init__(self, backbone: nn.Module, head: nn.Module, tokenizer: Any, image_processor: Any):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.tokenizer = tokenizer
        self.image_processor = image_processor

    def turns(self, prompts: Sequence[str], instruction: Template, suffix: Template) -> list[Tensor]:
        """The token ids of each chat, in which the image is still a single token.

        The reference tokenizes the whole chat. Tokens never span a special one, so its parts give the same; and apart,
        what looks like a special token in a prompt is read as letters.
        """
        content = [{"type": "image"}, {"type": "text", "text": _MARK}]
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        before, _, behind = chat.partition(_MARK)
        lead, _, trail = suffix.text.partition(_REWARD)
        first, last = self._ids([before, _REWARD + trail + behind], split_special_tokens=False)
        texts = [instruction.fill(text_prompt=prompt) + lead for prompt in prompts]
        return [torch.tensor(first + ids + last) for ids in self._ids(texts, split_special_tokens=True)]

    def _ids(self, texts: list[str], **kwargs: Any) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, verbose=False, **kwargs)["input_ids"]

    def forward(self, images: Sequence[Tensor], turns: Sequence[Tensor], positions: str) -> Tensor:
        """Prepared images and their chats, n each -> (n, 2): mean and logarithm of the spread."""
        device = images[0].device
        vision = self.image_processor(images=list(images), do_resize=False, return_tensors="pt")
        image_token, reward = self.tokenizer.convert_tokens_to_ids([_IMAGE, _REWARD])
        starts = [int((turn == image_token).nonzero()) for turn in turns]
        sizes = [(image.shape[1] // FACTOR, image.shape[2] // FACTOR) for image in images]
        ids = [_with_image(*parts) for parts in zip(turns, starts, sizes, strict=True)]
        places = [
            _mrope(len(row), start, *size) if positions == "mrope" else torch.arange(len(row)).expand(3, -1)
            for row, start, size in zip(ids, starts, sizes, strict=True)
        ]
        hidden = self.backbone(
            input_ids=pad_sequence(ids, batch_first=True).to(device),
            attention_mask=pad_sequence([torch.ones_like(row) for row in ids], batch_first=True).to(device),
            # Given always, so transformers neither derives them nor remembers those of another call.
            position_ids=pad_sequence([place.T for place in places], batch_first=True).permute(2, 0, 1).to(device),
            pixel_values=vision["pixel_values"].to(device),
            image_grid_thw=vision["image_grid_thw"].to(device),
            use_cache=False,
        ).last_hidden_state
        rewards = [int((row == reward).nonzero()) for row in ids]
        return self.head(hidden[range(len(ids)), rewards].float())


def _with_image(turn: Tensor, start: int, size: tuple[int, int]) -> Tensor:
    """Token ids in which the image at `start` has its rows * columns tokens."""
    return torch.cat([turn[:start], turn[start].expand(size[0] * size[1]), turn[start + 1 :]])


def _mrope(length: int, start: int, rows: int, columns: int) -> Tensor:
    """Positions (3, length) by time, row and column, of a text with an image of rows * columns tokens at `start`.

    What follows the image goes on behind its longer side (Wang et al. 2024).
    """
    image = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns)).T
    behind = torch.arange(length - start - rows * columns) + max(rows, columns)
    return torch.cat([torch.arange(start).expand(3, -1), start + image, start + behind.expand(3, -1)], 1)


def _head(width: int) -> nn.Module:
    """The ranking head; its dropout does nothing here but keep the places by which the file names the others."""
    layers = nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
    return nn.Sequential(*layers)


def hpsv3_keys(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of backbone and head, named as their modules are, from a file in either layout.

    Older versions of transformers wrote `visual.*` and `model.{embed_tokens,layers,norm}.*`, newer ones
    `model.visual.*` and `model.language_model.*`. The language head `lm_head.*` takes no part in the score.
    """
    backbone, head = {}, {}
    for key, x in tensors.items():
        if key.startswith("rm_head."):
            head[key.removeprefix("rm_head.")] = x
        elif key.startswith(("model.visual.", "model.language_model.")):
            backbone[key.removeprefix("model.")] = x
        elif key.startswith(("model.embed_tokens.", "model.layers.", "model.norm.")):
            backbone[key.replace("model.", "language_model.", 1)] = x
        elif not key.startswith("lm_head."):
            backbone[key] = x
    return backbone, head


@dataclass(frozen=True)
class HPSv3Extractor(FileNetwork, PretrainedExtractor, Scorer, PixelExtractor):
    """Layer "pixels": 8-bit images (3, h, w) of about 200704 pixels. `score`: mean and spread of the preference.

    `weights`: a file in place of the published one. `processor`: the folder or hub id with the backbone's
    configuration, tokenizer and image processor. `positions`: "sequential" counts an image's tokens as those of a text,
    as the network was trained; "mrope" by rows and columns, as Qwen2-VL itself. `template`: a copy of the Python
    source of the prompt. `dtype` is that of the weights and of all up to the head, as in the published code
    (bfloat16), not autocast; the head is float32. Source: Ma et al. 2025.
    """

    model: str = field(default="MizzenAI/HPSv3", init=False)
    weights: str | None = None
    processor: str = QWEN2_VL
    positions: str = "sequential"
    template: str | None = None
    columns = ("sigma",)
    most = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions not in _POSITIONS:
            raise UnknownName("positions", self.positions, _POSITIONS)

    @property
    def card(self) -> ModelCard:  # type: ignore[override]
        return ModelCard.on_hub(
            "HPSv3", self.model, "HPSv3.safetensors", revision=self.revision or "main", license="MIT"
        )

    @property
    def key(self) -> Hashable:
        return *super().key, self.weights, self.processor, self.dtype  # type: ignore[misc]

    @functools.cached_property
    def wording(self) -> tuple[Template, Template]:
        """The instruction, and what follows the prompt; found once, so that signature and scores agree."""
        return find_template(HPSV3_INSTRUCTION, self.template), find_template(HPSV3_SUFFIX, self.template)

    def rules(self) -> dict[str, str]:
        path = self.where()
        return {
            "weights": sha256(path)[:8] if path else self.card.revision,
            "positions": self.positions,
            "template": "+".join(dict.fromkeys(text.origin for text in self.wording)),
        }

    def signature(self) -> dict[str, str]:
        return Extractor.signature(self)

    def prefetch(self) -> Path:
        path = super().prefetch()
        self._parts()
        _ = self.wording
        return path

    def _parts(self) -> tuple[Any, Any, Any]:
        """Configuration, tokenizer and image processor of the backbone."""
        from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, Qwen2VLConfig

        parts = [
            self.pretrained(kind, model=self.processor) for kind in (AutoConfig, AutoTokenizer, AutoImageProcessor)
        ]
        config, tokenizer, image_processor = parts
        if not isinstance(config, Qwen2VLConfig) or _IMAGE not in (tokenizer.chat_template or ""):
            raise WeightsMismatch(
                f"`processor` must be a Qwen2-VL whose tokenizer has a chat template with {_IMAGE}, got"
                f" {self.processor!r} of type {config.model_type!r}"
            )
        tokenizer.add_tokens([_REWARD], special_tokens=True)
        return config, tokenizer, image_processor

    def load(self) -> nn.Module:
        from transformers import Qwen2VLModel

        config, tokenizer, image_processor = self._parts()
        path = find_weights(self.card, self.weights)
        backbone, head = hpsv3_keys(load_tensors(self.card, path))
        embeddings = backbone.get("language_model.embed_tokens.weight")
        if embeddings is not None and len(embeddings) != len(tokenizer):
            raise WeightsMismatch(
                f"{path} embeds {len(embeddings)} tokens, and the tokenizer of {self.processor!r} has {len(tokenizer)},"
                f" {_REWARD} included"
            )
        config.text_config.vocab_size = len(tokenizer)
        dtype = getattr(torch, self.dtype)
        return _HPSv3(
            assembled(Qwen2VLModel, config, backbone, str(path), dtype=dtype),
            filled(_head(config.text_config.hidden_size), head, f"{path} (rm_head)"),
            tokenizer,
            image_processor,
        )

    def prepare(self, images: Tensor) -> list[Tensor]:  # type: ignore[override]
        return [smart_resized(image, min_pixels=_PIXELS, max_pixels=_PIXELS) for image in quantize(images)]

    def score(self, features: Features, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, int]:
        """Scores (n, 2): mean and spread of the preference. ValueError for a prompt beyond the network's context."""
        images = features["pixels"]
        with full_precision(device):
            network = self.network(device)
            turns = network.turns(prompts, *self.wording)
            most = network.backbone.config.text_config.max_position_embeddings
            for i, (image, turn) in enumerate(zip(images, turns, strict=True)):
                length = len(turn) - 1 + image[0].numel() // FACTOR**2
                if length > most:
                    raise ValueError(f"`prompts[{i}]` makes a chat of {length} tokens, and HPSv3 reads at most {most}")
            parts = in_parts(lambda part: network(images[part], turns[part], self.positions), len(turns), self.most)
            mean, log_spread = torch.cat(parts).T
            scores = torch.stack([mean, log_spread.exp()], 1)
        if device.type == "cpu":
            self.check_finite(scores, "for images and prompts")
        return scores, 0
