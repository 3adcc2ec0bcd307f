"""Tiny judges: checkpoints in public layouts, with random weights or made to say one thing, and a scripted one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from helpers.checkpoints import randomized, word_clip
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    GenerationConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    T5Config,
    T5ForConditionalGeneration,
)

from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import IMAGE, Answer, Decoding, Question, turn
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.verdicts import Verdict
from lightning_imgmetrics.metrics.base.summary import Column

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
CHAT = """{% for message in messages %}<|im_start|>{{ message.role }}
{% for part in message.content %}\
{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def byte_tokenizer(words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One token per byte, and one for each of `words`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token=SPECIAL[0], eos_token=SPECIAL[2])
    tokenizer.add_tokens(SPECIAL, special_tokens=True)
    tokenizer.add_tokens(list(words))
    return tokenizer


def qwen2_vl(folder: Path, answer: str | None = None, words: Sequence[str] = ("Yes", "No")) -> str:
    """A tiny Qwen2-VL. Random weights write noise; with `answer`, the model writes that text and ends."""
    tokenizer = byte_tokenizer([*words, *([] if answer is None else [answer])])
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    ids |= {name: tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>") for name in ("image", "video")}
    width = 16 if answer is None else 16 * -(-len(tokenizer) // 16)
    vision = dict(depth=1, embed_dim=16, hidden_size=width, mlp_ratio=2, num_heads=2, in_chans=3, patch_size=14)
    vision |= dict(spatial_merge_size=2, spatial_patch_size=14, temporal_patch_size=2)
    text = dict(hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=width // 8)
    text |= dict(
        num_key_value_heads=1, vocab_size=len(tokenizer), max_position_embeddings=32768, tie_word_embeddings=False
    )
    text |= dict(rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[1, 1, 2]))
    text |= dict(bos_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    config = Qwen2VLConfig(text_config=text, vision_config=vision, **{f"{k}_token_id": v for k, v in ids.items()})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomized(Qwen2VLForConditionalGeneration(config))
    if answer is not None:
        _teach(model, tokenizer, answer)
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=0.7, repetition_penalty=1.05
    )
    image = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=8 * 28 * 28)
    video = Qwen2VLVideoProcessor()
    Qwen2VLProcessor(image, tokenizer, video, chat_template=CHAT).save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def _teach(model: Any, tokenizer: Any, answer: str) -> None:
    """Blocks pass their input on; a line's end, as of the assistant's, leads to the answer, and that to the end."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        size = model.config.text_config.vocab_size
        embedding = model.get_input_embeddings().weight
        embedding.copy_(torch.eye(size, embedding.shape[1]))
        model.model.language_model.norm.weight.fill_(1)
        head = model.lm_head.weight
        head.zero_()
        newline = tokenizer.encode("\n")[0]
        token = tokenizer.convert_tokens_to_ids(answer)
        head[token, newline] = head[tokenizer.eos_token_id, token] = 1


def instructblip(folder: Path, answer: str | None = None) -> str:
    """A tiny InstructBLIP over a T5; "yes" is one token. Random weights write noise, or `answer` and the end."""
    tokenizer = byte_tokenizer(["yes", "no", "</s>", *([] if answer is None else [answer])])
    tokenizer.eos_token = "</s>"
    width = 16
    small = dict(hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    vision = {**small, "image_size": 28, "patch_size": 14}
    reader = {
        **small,
        "vocab_size": 400,
        "encoder_hidden_size": width,
        "cross_attention_frequency": 1,
        "max_position_embeddings": 4096,
    }
    text = dict(
        model_type="t5",
        d_model=width if answer is None else 400,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        vocab_size=400,
    )
    text |= dict(pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    text |= dict(decoder_start_token_id=tokenizer.pad_token_id, tie_word_embeddings=False)
    image_token = "<image>"
    tokenizer.add_tokens([image_token], special_tokens=True)
    config = InstructBlipConfig(
        vision_config=vision,
        qformer_config=reader,
        text_config=text,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids(image_token),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomized(InstructBlipForConditionalGeneration(config))
    if answer is not None:
        _teach_t5(model.language_model, tokenizer, answer)
    from transformers import BlipImageProcessor

    image = BlipImageProcessor(size={"height": 28, "width": 28})
    InstructBlipProcessor(image, tokenizer, byte_tokenizer(), num_query_tokens=4).save_pretrained(folder)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    return str(folder)


def _teach_t5(model: Any, tokenizer: Any, answer: str) -> None:
    """The decoder passes its input on, but for one layer, which leads from the start to the answer, and to the end."""
    token = tokenizer.convert_tokens_to_ids(answer)
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            if name.endswith((".o.weight", ".wo.weight")):
                parameter.zero_()
        model.shared.weight.copy_(torch.eye(*model.shared.weight.shape))  # the head, too, has these weights
        for norm in (model.decoder.final_layer_norm, model.decoder.block[-1].layer[-1].layer_norm):
            norm.weight.fill_(1)
        step = model.decoder.block[-1].layer[-1].DenseReluDense
        step.wi.weight.zero_()
        for i, (now, then) in enumerate(
            [(model.config.decoder_start_token_id, token), (token, tokenizer.eos_token_id)]
        ):
            step.wi.weight[i, now] = step.wo.weight[then, i] = 1


SIZES = [(28, 56), (56, 56), (28, 84), (56, 28)]


def picture(seed: int, size: tuple[int, int] = (28, 28)) -> Tensor:
    """Uint8 noise (3, h, w)."""
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def question(i: int, text: str = "what is it?", **kwargs: Any) -> Question:
    """A question about picture i."""
    return Question((picture(i, SIZES[i % 4]),), (turn(IMAGE, text),), **kwargs)


Script = Callable[[Question], "str | float | Answer | None"]


@dataclass(frozen=True)
class ScriptedJudge(Judge):
    """Says what `script` makes of a question, and counts what it was asked."""

    script: Script = field(kw_only=False, default=lambda q: "")
    name: str = ""
    asked: list[Question] = field(default_factory=list, compare=False)
    batch_size: int = 1
    concurrency: int = 1

    def identity(self) -> dict[str, object] | None:
        return {"name": self.name} if self.name else None

    def reply(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        self.asked.extend(questions)
        return [_answer(self.script(q), q) for q in questions]


def _answer(said: str | float | Answer | None, q: Question) -> Answer:
    if isinstance(said, Answer):
        return said
    if said is None:
        return Answer(problem="silent")
    return Answer(str(said)) if q.answer is None else Answer(probability=float(said))


def texts_of(question: Question) -> str:
    """All texts of a question."""
    return "\n".join(p["text"] for m in question.messages for p in m["content"] if p["type"] == "text")


def chance(question: Question) -> float:
    """A number in [0, 1) that depends on the images and texts of a question alone."""
    content = b"".join(x.contiguous().numpy().tobytes() for x in question.images) + texts_of(question).encode()
    return int(hashlib.sha256(content).hexdigest()[:8], 16) / 2**32


class Grade(JudgeMetric):
    """One number per image, asked for by prompt."""

    name = "grade"

    def columns(self) -> tuple[Column, ...]:
        return (Column("half"), *super().columns())

    def queries(self, sample: Sample) -> list[Query]:
        question = Question((sample.image,), (turn(IMAGE, f"grade: {sample.prompt}"),))
        return [Query(question, lambda text: float(text) if text.replace(".", "").isdigit() else None, "a number")]

    def conclude(self, sample: Sample, answers: Sequence[Any]) -> Verdict:
        (grade,) = answers
        return Verdict(grade, {"half": None if grade is None else grade / 2}, "" if grade is None else f"a {grade}")


# The chat template that published LLaVA-1.5 checkpoints carry: images first, a space after each text.
LLAVA_CHAT = """{% for message in messages %}\
{% if message.role != 'system' %}{{ message.role.upper() + ': ' }}{% endif %}\
{% for part in message.content if part.type == 'image' %}{{ '<image>\\n' }}{% endfor %}\
{% for part in message.content if part.type == 'text' %}{{ part.text + ' ' }}{% endfor %}\
{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama's: a space before each text, "▁Yes" one token, bytes for what has no token of its own."""
    letters = [*map(chr, range(33, 127)), "▁"]
    merges = [("▁", "Y"), ("▁Y", "e"), ("▁Ye", "s")]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *letters, *map("".join, merges)]
    vocabulary = {name: i for i, name in enumerate(names)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.add_tokens(["<image>", "<pad>"], special_tokens=True)
    tokenizer.pad_token = "<pad>"
    return tokenizer


def llava(folder: Path) -> str:
    """A tiny LLaVA-1.5: CLIP's tower, two layers between, a Llama; 28 pixels make 4 tokens."""
    tokenizer = llama_tokenizer()
    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    vision = dict(**small, model_type="clip_vision_model", image_size=28, patch_size=14, projection_dim=12)
    text = dict(**small, model_type="llama", num_key_value_heads=2, vocab_size=len(tokenizer))
    text |= dict(max_position_embeddings=32768, bos_token_id=1, eos_token_id=2, pad_token_id=tokenizer.pad_token_id)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>")
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomized(LlavaForConditionalGeneration(config))
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=tokenizer.pad_token_id)
    image = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    about = dict(patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1)
    LlavaProcessor(image, tokenizer, chat_template=LLAVA_CHAT, **about).save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def qwen3_vl(folder: Path) -> str:
    """A tiny Qwen3-VL whose chat template asks about thinking, which it does before the answer unless told not to."""
    tokenizer = byte_tokenizer(["Yes", "No"])
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    ids |= {name: tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>") for name in ("image", "video")}
    vision = dict(depth=2, hidden_size=16, intermediate_size=32, num_heads=2, patch_size=14, out_hidden_size=16)
    vision |= dict(
        spatial_merge_size=2, temporal_patch_size=2, num_position_embeddings=16, deepstack_visual_indexes=[0]
    )
    text = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=8)
    text |= dict(num_key_value_heads=1, vocab_size=len(tokenizer), max_position_embeddings=32768)
    text |= dict(rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[2, 1, 1]))
    text |= dict(bos_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **{f"{k}_token_id": v for k, v in ids.items()})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomized(Qwen3VLForConditionalGeneration(config))
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id], pad_token_id=tokenizer.pad_token_id, repetition_penalty=1.3
    )
    image = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=8 * 28 * 28)
    chat = CHAT + "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
    Qwen3VLProcessor(image, tokenizer, Qwen3VLVideoProcessor(), chat_template=chat).save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def flan_t5_tokenizer() -> PreTrainedTokenizerFast:
    """As T5's: words of their own, a space before each, an end behind each text."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁Yes", "▁yes", *map(chr, range(33, 127))]
    core = Tokenizer(models.Unigram([(piece, -0.1 * i) for i, piece in enumerate(pieces)], unk_id=2))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    names = dict(pad_token="<pad>", eos_token="</s>", unk_token="<unk>", extra_special_tokens=["<extra_id_0>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def clip_flant5(folder: Path, *, tower: bool = False) -> dict[str, str]:
    """A tiny CLIP-FlanT5 in the public layout, `tower`: with CLIP's, and folders of its CLIP and its tokenizer."""
    tokenizer = flan_t5_tokenizer()
    tokenizer.save_pretrained(folder / "flan-t5")
    vision = word_clip(folder / "clip")
    config = dict(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2)
    config |= dict(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    config |= dict(pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
    about = dict(mm_vision_tower=vision, mm_vision_select_layer=-2, mm_vision_select_feature="patch")
    about |= dict(mm_projector_type="mlp2x_gelu", mm_hidden_size=16, model_type="clip_t5")
    projector = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.GELU(), torch.nn.Linear(16, 16))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tensors = dict(randomized(T5ForConditionalGeneration(T5Config(**config))).state_dict())
        tensors["lm_head.weight"] = 0.4 * torch.randn(len(tokenizer), 16)  # untied, as FlanT5's
        tensors["embed_tokens.weight"] = tensors["shared.weight"]
        tensors |= {f"mm_projector.{k}": x for k, x in randomized(projector).state_dict().items()}
    if tower:
        seen = CLIPModel.from_pretrained(vision).vision_model.state_dict()
        tensors |= {f"vision_tower.vision_tower.vision_model.{k}": 0.9 * x for k, x in seen.items()}
        tensors["vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    (folder / "t5").mkdir()
    architectures = {"architectures": ["CLIPT5ForConditionalGeneration"]}
    (folder / "t5" / "config.json").write_text(json.dumps({**config, **about, **architectures}))
    torch.save(tensors, folder / "t5" / "pytorch_model.bin")
    return {"model": str(folder / "t5"), "vision": vision, "tokenizer": str(folder / "flan-t5")}
