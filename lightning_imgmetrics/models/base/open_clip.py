"""Checkpoints of open_clip as transformers' `CLIPModel`: keys, configuration, and text cleaning."""

from __future__ import annotations

import html
import json
from collections.abc import Container
from importlib.util import find_spec
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
# The fields of a configuration that are supported, and their defaults.
_MODEL: dict[str, Any] = dict.fromkeys(("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale"))
_VISION: dict[str, Any] = {"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16}
_VISION |= {"image_size": 224, "pool_type": "tok", "patch_dropout": 0.0}
_TEXT: dict[str, Any] = {"layers": 12, "width": 512, "heads": 8, "mlp_ratio": 4.0, "pool_type": "argmax"}
_TEXT |= {"context_length": 77, "vocab_size": 49408}
_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def is_open_clip(tensors: Container[str]) -> bool:
    """Whether these are the keys of an open_clip model."""
    return "visual.conv1.weight" in tensors


def is_folder(folder: Path) -> bool:
    """Whether a checkpoint folder has open_clip's layout; one with both configurations is read as transformers'."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def clip_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's state dict -> that of `CLIPModel`; unknown keys keep their names, to be reported as such."""
    renamed: dict[str, Tensor] = {}
    for key, x in tensors.items():
        if key == "attn_mask":
            continue
        tower, block, rest = key.partition("transformer.resblocks.")
        if not block or tower not in ("", "visual."):
            renamed[_TOP.get(key, key)] = x.mT.contiguous() if key in _TRANSPOSED else x
            continue
        number, _, inner = rest.partition(".")
        layer = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}."
        module, _, kind = inner.rpartition(".")
        if module == "attn" and kind.startswith("in_proj_"):
            for name, part in zip("qkv", x.chunk(3), strict=True):
                renamed[f"{layer}self_attn.{name}_proj.{kind.removeprefix('in_proj_')}"] = part.contiguous()
        else:
            renamed[f"{layer}{_BLOCK.get(module, module)}.{kind}"] = x
    return renamed


def clip_config(path: Path) -> tuple[Any, dict[str, Any]]:
    """The `CLIPConfig` equivalent to an `open_clip_config.json`, and its "preprocess_cfg" (mean, std).

    WeightsMismatch for towers other than open_clip's own transformers, and for a file that is not a configuration.
    """
    from transformers import CLIPConfig

    try:
        content = json.loads(path.read_text())
        model = _MODEL | content["model_cfg"]
        vision, text = _VISION | model["vision_cfg"], _TEXT | model["text_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsMismatch(f"{path} cannot be read as a configuration of open_clip: {error!r}") from error
    _require_supported(path, model, vision, text)
    common = {"projection_dim": model["embed_dim"], "hidden_act": "quick_gelu" if model["quick_gelu"] else "gelu"}
    config = CLIPConfig(
        projection_dim=model["embed_dim"],
        text_config={
            **common,
            **_sizes(text, text["heads"]),
            "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"],
            "bos_token_id": text["vocab_size"] - 2,
            "eos_token_id": text["vocab_size"] - 1,
            "pad_token_id": 0,
        },
        vision_config={
            **common,
            **_sizes(vision, vision["width"] // vision["head_width"]),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
    )
    return config, content.get("preprocess_cfg") or {}


def _sizes(tower: dict[str, Any], heads: int) -> dict[str, int]:
    return {
        "hidden_size": tower["width"],
        "intermediate_size": int(tower["width"] * tower["mlp_ratio"]),
        "num_hidden_layers": tower["layers"],
        "num_attention_heads": heads,
    }


def _require_supported(path: Path, model: dict[str, Any], vision: dict[str, Any], text: dict[str, Any]) -> None:
    """WeightsMismatch for options that may change the outputs without changing any key or shape."""
    unsupported: dict[str, Any] = {}
    for part, defaults in ((model, _MODEL), (vision, _VISION), (text, _TEXT)):
        unsupported |= {name: x for name, x in part.items() if x and name not in defaults}
        unsupported |= {name: x for name, x in part.items() if name == "pool_type" and x != defaults[name]}
        unsupported |= {name: part[name] for name in ("layers", "image_size") if not isinstance(part.get(name, 0), int)}
    if unsupported or not isinstance(model["embed_dim"], int):
        raise WeightsMismatch(f"{path} must describe two plain transformers, got {unsupported or 'no embed_dim'}")


def image_processor(size: int, preprocess: dict[str, Any]) -> Any:
    """open_clip's: bicubic, short side to `size`, center crop, mean and std; WeightsMismatch for any other."""
    from transformers import CLIPImageProcessor

    standard = {"resize_mode": "shortest", "interpolation": "bicubic", "mode": "RGB", "size": size}
    other = {name: x for name, x in preprocess.items() if name in standard and x not in (standard[name], [size, size])}
    if other:
        raise WeightsMismatch(f"open_clip's preprocessing must be {standard}, got {other}")
    moments = {f"image_{name}": preprocess[name] for name in ("mean", "std") if name in preprocess}
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}, **moments)


def clean_text(text: str) -> str:
    """A text as open_clip's tokenizer cleans it: mojibake fixed, HTML unescaped twice, whitespace collapsed.

    Mojibake is fixed by the optional package ftfy (extra "clip"), and left as it is without; see `text_cleaning`.
    """
    if text_cleaning() == "ftfy":
        from ftfy import fix_text

        text = fix_text(text)
    return " ".join(html.unescape(html.unescape(text)).split())


def text_cleaning() -> str:
    """What `clean_text` does here, for signatures: "ftfy" or "unescaped"."""
    return "ftfy" if find_spec("ftfy") else "unescaped"
