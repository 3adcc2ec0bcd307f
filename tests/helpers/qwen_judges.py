"""Tiny checkpoints of the Qwen-VL generations that judges are made of, each taught one answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from helpers.checkpoints import randomized
from helpers.judges import CHAT, byte_tokenizer
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

# As Qwen3.5's: thinking is begun for the model, or is begun and ended.
THINKING = """{% if add_generation_prompt %}<think>
{% if enable_thinking is defined and not enable_thinking %}
</think>

{% endif %}{% endif %}"""
_PATCH = {"qwen2_5_vl": 14, "qwen3_vl": 16, "qwen3_5": 16}


def qwen_vl(kind: str, folder: Path, answer: str) -> str:
    """A tiny "qwen2_5_vl", "qwen3_vl" or "qwen3_5" with random towers that writes `answer` and ends."""
    tokenizer = byte_tokenizer([answer])
    width, patch = 16 * -(-len(tokenizer) // 16), _PATCH[kind]
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")
    }
    ids |= {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>") for name in ("image", "video")}
    vision = dict(depth=2, hidden_size=16, intermediate_size=32, num_heads=2, patch_size=patch, out_hidden_size=width)
    text = dict(hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=width // 8)
    text |= dict(num_key_value_heads=1, vocab_size=len(tokenizer), max_position_embeddings=32768)
    text |= dict(rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[1, 1, 2]))
    text |= dict(bos_token_id=None, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    chat: str = CHAT
    image = Qwen2VLImageProcessor(patch_size=patch, min_pixels=4 * patch**2, max_pixels=32 * patch**2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "qwen2_5_vl":
            vision |= dict(fullatt_block_indexes=[1], window_size=56)
            config: Any = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
            model = randomized(Qwen2_5_VLForConditionalGeneration(config))
            processor: Any = Qwen2_5_VLProcessor(image, tokenizer, Qwen2VLVideoProcessor(), chat_template=chat)
        else:
            vision |= dict(num_position_embeddings=16)
            if kind == "qwen3_vl":
                vision |= dict(deepstack_visual_indexes=[0, 1])
                config = Qwen3VLConfig(text_config={**text, "head_dim": 8}, vision_config=vision, **ids)
                model = randomized(Qwen3VLForConditionalGeneration(config))
            else:
                linear = dict(linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2)
                text |= dict(head_dim=32, linear_num_value_heads=2, layer_types=["linear_attention", "full_attention"])
                config = Qwen3_5Config(text_config={**text, **linear}, vision_config=vision, **ids)
                model = randomized(Qwen3_5ForConditionalGeneration(config))
                chat += THINKING
            processor = Qwen3VLProcessor(image, tokenizer, Qwen3VLVideoProcessor(), chat_template=chat)
    _teach(model, tokenizer, answer)
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id], pad_token_id=tokenizer.pad_token_id
    )
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def _teach(model: Any, tokenizer: Any, answer: str) -> None:
    """Blocks of the language model pass their input on; a line's end leads to the answer, and that to the end."""
    text = model.model.language_model
    with torch.no_grad():
        for name, parameter in text.named_parameters():
            if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")):
                parameter.zero_()
        text.embed_tokens.weight.copy_(torch.eye(*text.embed_tokens.weight.shape))
        text.norm.weight.fill_(1)
        model.lm_head.weight.zero_()
        token = tokenizer.convert_tokens_to_ids(answer)
        model.lm_head.weight[token, tokenizer.encode("\n")[0]] = 1
        model.lm_head.weight[tokenizer.eos_token_id, token] = 1
