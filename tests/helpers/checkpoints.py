"""Tiny checkpoints with random weights, in the layouts of the public ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

WORDS = ["a", "photo", "of", "the", "red", "green", "blue", "small", "cat", "dog", "house", "by", "lake"]
SPECIAL = ["<pad>", "<unk>", "<bos>", "<eos>"]
LENGTH = 8  # tokens of a text, both ends included
SIDE = 16  # of a network's images
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]  # CLIP's


def word_tokenizer(bos: bool) -> PreTrainedTokenizerFast:
    """One token per word; with `bos` as CLIP has it, without as SigLIP."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    single = "<bos> $A <eos>" if bos else "$A <eos>"
    core.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<bos>", 2), ("<eos>", 3)])
    names = ["input_ids", "attention_mask"] if bos else ["input_ids"]  # SigLIP attends to its padding
    tokens = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=LENGTH, model_input_names=names, **tokens)


def bpe_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's kind of vocabulary: all bytes, all bytes that end a word, merges that make `WORDS` one token each."""
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            # from the end, so that words which begin alike do not take each other's pieces
            merges.append((parts[-2], parts[-1]))
            parts[-2:] = ["".join(parts[-2:])]
    merges = list(dict.fromkeys(merges))
    names = [*bytes_, *(f"{b}</w>" for b in bytes_), *("".join(pair) for pair in merges)]
    return {name: i for i, name in enumerate([*names, "<|startoftext|>", "<|endoftext|>"])}, merges


def bpe_tokenizer(length: int = LENGTH) -> CLIPTokenizer:
    """CLIP's own tokenizer; the end-of-text token has the largest id."""
    vocabulary, merges = bpe_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def randomized(model: nn.Module) -> Any:
    """Weights under which inputs can be told apart, which the usual initial ones do not do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "logit" in name:
                parameter.data.fill_(0.7 if "scale" in name else -0.3)
            elif "norm" in name or "layrnorm" in name:
                parameter.data.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.data.normal_(std=3 if "patch_emb" in name or "token_emb" in name else 0.4)
    return model.eval()


def clip_model(
    *, vocabulary: int, bos: int, eos: int, act: str = "quick_gelu", vision: int = 16, length: int = LENGTH
) -> CLIPModel:
    """CLIP: text 16 wide with 2 heads of 8, vision as wide as said with heads of 8, embeddings of 12."""
    layers = {"num_hidden_layers": 2, "hidden_act": act, "projection_dim": 12}
    text = {**layers, "hidden_size": 16, "intermediate_size": 64, "num_attention_heads": 2}
    text |= {"vocab_size": vocabulary, "max_position_embeddings": length}
    text |= {"pad_token_id": 0, "bos_token_id": bos, "eos_token_id": eos}
    images = {**layers, "hidden_size": vision, "intermediate_size": 4 * vision, "num_attention_heads": vision // 8}
    images |= {"image_size": SIDE, "patch_size": 8}
    return randomized(CLIPModel(CLIPConfig(text_config=text, vision_config=images, projection_dim=12)))


def siglip_model() -> SiglipModel:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(SPECIAL + WORDS), "max_position_embeddings": LENGTH, "projection_size": 16}
    text |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    vision = {**sizes, "image_size": SIDE, "patch_size": 8}
    return randomized(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)))


def clip_images() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def saved(folder: Path, *parts: Any) -> str:
    for part in parts:
        part.save_pretrained(folder)
    return str(folder)


def word_clip(folder: Path) -> str:
    """A folder of transformers: CLIP with one token per word, whose end-of-text token has not the largest id."""
    model = clip_model(vocabulary=len(SPECIAL + WORDS), bos=2, eos=3)
    return saved(folder, model, clip_images(), word_tokenizer(bos=True))


def siglip(folder: Path) -> str:
    """A folder of transformers: SigLIP, which resizes to a square."""
    images = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    return saved(folder, siglip_model(), images, word_tokenizer(bos=False))


def bpe_clip_model(*, act: str = "gelu", vision: int = 16, length: int = LENGTH) -> CLIPModel:
    n = len(bpe_vocabulary()[0])
    return clip_model(vocabulary=n, bos=n - 2, eos=n - 1, act=act, vision=vision, length=length)


def bpe_clip(folder: Path, *, act: str = "gelu", vision: int = 16, length: int = LENGTH) -> str:
    """A folder of transformers: CLIP with its own tokenizer."""
    model = bpe_clip_model(act=act, vision=vision, length=length)
    return saved(folder, model, clip_images(), bpe_tokenizer(length))


# What open_clip calls a parameter, by what transformers calls it.
_NAMES = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "visual_projection.weight": "visual.proj",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def open_clip_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The weights of transformers' CLIP as open_clip stores them, its stored mask included."""
    tensors: dict[str, Tensor] = {"attn_mask": torch.full((LENGTH, LENGTH), -torch.inf).triu(1)}
    for key, x in model.state_dict().items():
        if key.endswith("position_ids") or ".k_proj." in key or ".v_proj." in key:
            continue
        if ".q_proj." in key:
            x = torch.cat([model.state_dict()[key.replace("q_proj", f"{name}_proj")] for name in "qkv"])
            key = key.replace("self_attn.q_proj.", "attn.in_proj_")
        for theirs, ours in _NAMES.items():
            key = key.replace(theirs, ours)
        for tower, prefix in (("text_model", ""), ("vision_model", "visual.")):
            key = key.replace(f"{tower}.encoder.layers.", f"{prefix}transformer.resblocks.")
        tensors[key] = (x.T if key in ("text_projection", "visual.proj") else x).contiguous().clone()
    return tensors


def open_clip_folder(
    folder: Path,
    model: CLIPModel,
    *,
    model_cfg: Mapping[str, Any] | None = None,
    vision_cfg: Mapping[str, Any] | None = None,
    text_cfg: Mapping[str, Any] | None = None,
    preprocess_cfg: Mapping[str, Any] | None = None,
) -> str:
    """A folder as open_clip publishes them: its configuration and weights, CLIP's tokenizer, no config.json."""
    text, vision = model.config.text_config, model.config.vision_config
    about_images = {"image_size": vision.image_size, "layers": vision.num_hidden_layers, "width": vision.hidden_size}
    about_images |= {"patch_size": vision.patch_size, "head_width": vision.hidden_size // vision.num_attention_heads}
    about_texts = {"context_length": text.max_position_embeddings, "vocab_size": text.vocab_size}
    about_texts |= {"width": text.hidden_size, "heads": text.num_attention_heads, "layers": text.num_hidden_layers}
    content = {
        "model_cfg": {
            "embed_dim": model.config.projection_dim,
            "vision_cfg": {**about_images, **(vision_cfg or {})},
            "text_cfg": {**about_texts, **(text_cfg or {})},
            **({"quick_gelu": True} if text.hidden_act == "quick_gelu" else {}),
            **(model_cfg or {}),
        },
        "preprocess_cfg": {"mean": MEAN, "std": STD, **(preprocess_cfg or {})},
    }
    saved(folder, bpe_tokenizer())
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    save_file(open_clip_tensors(model), folder / "open_clip_model.safetensors")
    return str(folder)
