"""Checkpoints of open_clip as transformers' `CLIPModel`: the keys and the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_imgmetrics.errors import WeightsMismatch

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TOP = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}
_TRANSPOSED = ("text_projection", "visual.proj")
_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def is_open_clip(tensors: dict[str, Tensor]) -> bool:
    """Whether these are the keys of an open_clip model."""
    return "visual.conv1.weight" in tensors


def clip_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's state dict -> that of `CLIPModel`; keys that are neither's keep their names, to be listed as such."""
    out: dict[str, Tensor] = {}
    for key, x in tensors.items():
        if key == "attn_mask":
            continue
        tower, block, rest = key.partition("transformer.resblocks.")
        if not block or tower not in ("", "visual."):
            out[_TOP.get(key, key)] = x.mT.contiguous() if key in _TRANSPOSED else x
            continue
        number, _, inner = rest.partition(".")
        layer = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}."
        module, _, kind = inner.rpartition(".")
        if module == "attn" and kind.startswith("in_proj_"):
            for name, part in zip("qkv", x.chunk(3), strict=True):
                out[f"{layer}self_attn.{name}_proj.{kind.removeprefix('in_proj_')}"] = part.contiguous()
        else:
            out[f"{layer}{_BLOCK.get(module, module)}.{kind}"] = x
    return out


def clip_config(path: Path) -> tuple[Any, dict[str, Any]]:
    """The `CLIPConfig` that an `open_clip_config.json` means, and its "preprocess_cfg" (mean, std).

    WeightsMismatch for towers other than open_clip's own transformers.
    """
    from transformers import CLIPConfig

    content = json.loads(path.read_text())
    model = content["model_cfg"]
    vision, text = model["vision_cfg"], model["text_cfg"]
    foreign = {"timm_model_name", "hf_model_name", "hf_tokenizer_name"} & {*vision, *text}
    if foreign or not isinstance(vision["layers"], int):
        raise WeightsMismatch(f"{path} must describe two plain transformers, got {sorted(foreign) or vision['layers']}")
    common = {"projection_dim": model["embed_dim"], "hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu"}
    vocabulary = text.get("vocab_size", 49408)
    config = CLIPConfig(
        projection_dim=model["embed_dim"],
        text_config={
            **common,
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text.get("context_length", 77),
            "vocab_size": vocabulary,
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": 0,
        },
        vision_config={
            **common,
            "hidden_size": vision["width"],
            "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4.0)),
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
    )
    return config, content.get("preprocess_cfg", {})
