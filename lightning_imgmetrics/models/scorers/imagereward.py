"""ImageReward v1.0: BLIP's image and text towers, and a head that maps the class token of a pair to a reward."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import quantize
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import MissingWeights, ShapeError, WeightsMismatch
from lightning_imgmetrics.models.base.checkpoint import checkpoint_id, local_checkpoint, vocabulary_files
from lightning_imgmetrics.models.base.extractor import Extractor, Features
from lightning_imgmetrics.models.base.network import run_in_batches
from lightning_imgmetrics.models.base.parameters import require_fit, set_parameters
from lightning_imgmetrics.models.base.pretrained import build_pretrained, silence_transformers
from lightning_imgmetrics.models.base.resize import CLIP_MEAN, CLIP_STD, short_side_rounded, standardize
from lightning_imgmetrics.models.base.weights import ModelCard, find_weights, load_tensors, offline, sha256

TOKENIZER = "bert-base-uncased"
_REWARD_MEAN, _REWARD_STD = 0.16717362830052426, 1.0333394966054072
_LENGTH, _HEAD_WIDTH = 35, 64  # tokens of a text, with [CLS] and [SEP]; width of an attention head
_MLP = {"0": 1024, "2": 128, "4": 64, "6": 16, "7": 1}  # output widths by index; dropout between, no activation
_UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
# Prefixes of the names of each part, here and in the file; then the names that differ within the image tower.
_PARTS = {"vision.": "blip.visual_encoder.", "text.": "blip.text_encoder.", "mlp.": "mlp.layers."}
_VISION = {
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding": "pos_embed",
    "embeddings.patch_embedding": "patch_embed.proj",
    "post_layernorm": "norm",
    "encoder.layers": "blocks",
    "layer_norm": "norm",
    "self_attn": "attn",
    "projection": "proj",
}
_PATCHES, _POSITIONS = "blip.visual_encoder.patch_embed.proj.weight", "blip.visual_encoder.pos_embed"
_VISION_MLP = "blip.visual_encoder.blocks.0.mlp.fc1.weight"
_WORDS = "blip.text_encoder.embeddings.word_embeddings.weight"
_TEXT_POSITIONS = "blip.text_encoder.embeddings.position_embeddings.weight"
_TEXT_MLP = "blip.text_encoder.encoder.layer.0.intermediate.dense.weight"
_AXES = {_PATCHES: 4, _POSITIONS: 3, _VISION_MLP: 2, _WORDS: 2, _TEXT_POSITIONS: 2, _TEXT_MLP: 2}


class _ImageReward(nn.Module):
    """The two towers, the head, and the tokenizer."""

    def __init__(self, vision: nn.Module, text: nn.Module, mlp: nn.Module, tokenizer: Any = None):
        super().__init__()
        self.vision, self.text, self.mlp = vision, text, mlp
        self.tokenizer = tokenizer


@dataclass(frozen=True)
class ImageRewardExtractor(Extractor):
    """Layer "tokens": the image tokens (n, 1 + patches, d), which the text tower reads together with a prompt.

    `weights`: a file in the layout of `ImageReward.pt`; sizes follow from its tensors. `tokenizer`: the folder or hub
    id of BERT's uncased tokenizer. Images are quantized to 8 bits, resized as by PIL (short side, bicubic), and center
    cropped. Texts are truncated to 35 tokens, and special tokens in them are read as plain characters. `dtype` is that
    of the towers; the head runs in float32. Source: Xu et al. 2023.
    """

    weights: str | None = None
    tokenizer: str = TOKENIZER
    card = ModelCard.on_hub("ImageReward-v1.0", "THUDM/ImageReward", "ImageReward.pt", license="Apache-2.0")
    default_layer = "tokens"
    max_batch = 64

    @functools.cached_property
    def key(self) -> Hashable:
        return "imagereward", self.weights, self.tokenizer

    def load(self) -> nn.Module:
        from transformers import BlipTextModel, BlipVisionModel

        path = find_weights(self.card, self.weights)
        tensors = {k: x for k, x in load_tensors(self.card, path).items() if not k.startswith(_UNUSED)}
        vision, text = blip_configs({key: x.shape for key, x in tensors.items()}, str(path))
        with torch.device("meta"):
            skeleton = _ImageReward(BlipVisionModel(vision), BlipTextModel(text, False), _mlp(text.hidden_size))
        parts = _by_part(tensors, skeleton, str(path))
        eager = {"attn_implementation": "eager"}
        return _ImageReward(
            build_pretrained(BlipVisionModel, vision, parts["vision."], str(path), **eager),
            build_pretrained(BlipTextModel, text, parts["text."], str(path), add_pooling_layer=False, **eager),
            set_parameters(skeleton.mlp, parts["mlp."], str(path)),
            _tokenizer(self.tokenizer, text.vocab_size),
        )

    def local_path(self) -> Path | None:
        return super().local_path() if vocabulary_files(self.tokenizer) else None

    def prefetch(self) -> Path:
        _tokenizer(self.tokenizer)
        return super().prefetch()

    def prepare(self, images: Tensor) -> Tensor:
        size = self.network(images.device).vision.config.image_size
        return standardize(short_side_rounded(quantize(images).float(), size) / 255, CLIP_MEAN, CLIP_STD)

    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        return {"tokens": network.vision(pixel_values=x, return_dict=True).last_hidden_state}

    def dim(self, layer: str) -> int:
        raise ShapeError("ImageReward's image tokens are not feature vectors: choose another network")

    def score(self, features: Features, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, int]:
        """Image tokens (n, t, d) and n prompts -> rewards (n,), about N(0, 1), and the number of truncated prompts."""
        network, images = self.network(device), features["tokens"]
        tokenize = functools.partial(network.tokenizer, list(prompts), split_special_tokens=True, verbose=False)
        texts = tokenize(padding="max_length", truncation=True, max_length=_LENGTH, return_tensors="pt").to(device)

        def run(part: slice) -> Tensor:
            with self.autocast(device):
                hidden = network.text(
                    input_ids=texts["input_ids"][part],
                    attention_mask=texts["attention_mask"][part],
                    encoder_hidden_states=images[part],
                    return_dict=True,
                ).last_hidden_state
            return network.mlp(hidden[:, 0].float())[:, 0]

        with full_precision(device):
            rewards = (torch.cat(run_in_batches(run, len(prompts), self.max_batch)) - _REWARD_MEAN) / _REWARD_STD
        return rewards, sum(len(ids) > _LENGTH for ids in tokenize(truncation=False)["input_ids"])

    def signature_fields(self) -> dict[str, str]:
        path = super().local_path()
        weights = sha256(path)[:8] if path else "main"
        return {"weights": weights, "resize": "short-side-bicubic-rounded", "tokenizer": checkpoint_id(self.tokenizer)}


def blip_configs(shapes: Mapping[str, Sequence[int]], source: str) -> tuple[Any, Any]:
    """The `BlipVisionConfig` and `BlipTextConfig` of a file whose tensors have these `shapes`; heads are 64 wide.

    WeightsMismatch if the tensors that determine the sizes are missing or have other axes.
    """
    from transformers import BlipTextConfig, BlipVisionConfig

    _require_sizes(shapes, source)
    hidden, width = shapes[_POSITIONS][-1], shapes[_WORDS][-1]
    vision = BlipVisionConfig(
        hidden_size=hidden,
        intermediate_size=shapes[_VISION_MLP][0],
        num_hidden_layers=_depth(shapes, "blip.visual_encoder.blocks."),
        num_attention_heads=hidden // _HEAD_WIDTH,
        image_size=isqrt(shapes[_POSITIONS][1] - 1) * shapes[_PATCHES][-1],
        patch_size=shapes[_PATCHES][-1],
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )
    text = BlipTextConfig(
        vocab_size=shapes[_WORDS][0],
        hidden_size=width,
        encoder_hidden_size=hidden,
        intermediate_size=shapes[_TEXT_MLP][0],
        num_hidden_layers=_depth(shapes, "blip.text_encoder.encoder.layer."),
        num_attention_heads=width // _HEAD_WIDTH,
        max_position_embeddings=shapes[_TEXT_POSITIONS][0],
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        pad_token_id=0,
        is_decoder=True,  # for cross-attention; each call still masks as an encoder does
    )
    return vision, text


def _require_sizes(shapes: Mapping[str, Sequence[int]], source: str) -> None:
    require_fit(source, missing=_AXES.keys() - shapes.keys(), unexpected=(), misshaped=())
    wrong = [f"{key} is {tuple(shapes[key])}" for key, axes in _AXES.items() if len(shapes[key]) != axes]
    widths = shapes[_POSITIONS][-1], shapes[_WORDS][-1]
    if wrong or any(width % _HEAD_WIDTH for width in widths):
        problem = "; ".join(wrong) or f"widths {widths}, which must be multiples of {_HEAD_WIDTH}"
        raise WeightsMismatch(f"{source} does not fit BLIP's two towers: {problem}")


def _mlp(width: int) -> nn.Sequential:
    widths = [width, *_MLP.values()]
    return nn.Sequential(OrderedDict((name, nn.Linear(d, _MLP[name])) for name, d in zip(_MLP, widths)))


def _depth(shapes: Mapping[str, Sequence[int]], prefix: str) -> int:
    return len({key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)})


def _by_part(tensors: Mapping[str, Tensor], skeleton: nn.Module, source: str) -> dict[str, dict[str, Tensor]]:
    """The tensors of a file by part of `skeleton`, renamed; WeightsMismatch lists the file's own names."""
    named = {_published_name(key): (key, x.shape) for key, x in skeleton.state_dict().items()}
    require_fit(
        source,
        missing=named.keys() - tensors.keys(),
        unexpected=tensors.keys() - named.keys(),
        misshaped=[
            (name, tensors[name].shape, shape)
            for name, (_, shape) in named.items()
            if name in tensors and tensors[name].shape != shape
        ],
    )
    return {
        part: {key.removeprefix(part): tensors[name] for name, (key, _) in named.items() if key.startswith(part)}
        for part in _PARTS
    }


def _published_name(key: str) -> str:
    """The name in the file of a parameter of `_ImageReward`."""
    part, dot, rest = key.partition(".")
    for ours, theirs in _VISION.items() if part == "vision" else ():
        rest = rest.replace(ours, theirs)
    return _PARTS[part + dot] + rest


def _tokenizer(name: str, vocabulary: int | None = None) -> Any:
    from transformers import AutoTokenizer

    try:
        with silence_transformers():
            tokenizer = AutoTokenizer.from_pretrained(local_checkpoint(name), local_files_only=offline())
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise MissingWeights(
            f"the tokenizer {name!r} cannot be loaded ({reason}). Fetch https://huggingface.co/{name} and put its files"
            f" into $IMGMETRICS_WEIGHTS/{name}, or pass a folder as `tokenizer`"
        ) from error
    if tokenizer.cls_token_id is None or (vocabulary is not None and len(tokenizer) > vocabulary):
        limit = "" if vocabulary is None else f", with at most {vocabulary} tokens"
        raise WeightsMismatch(f"`tokenizer` must be BERT's{limit}, got {name!r} with {len(tokenizer)}")
    return tokenizer
