"""Image-text-to-text models of transformers: texts that they generate, and how likely they find an answer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.judges.backends.chat import escape_special_tokens
from lightning_imgmetrics.judges.backends.question import IMAGE, Answer, Decoding, Message, Question

SCORINGS = ("product", "mean", "processed")
_IMAGE_BEFORE_TEXT = ("blip-2", "instructblip")  # model types whose processor places the one image itself


class ChatGenerator(nn.Module):
    """A model with its processor, which answers questions in one pass per batch."""

    model: Any

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__()
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer
        self.tokenizer.padding_side = "left"  # answers begin where questions end
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        text = self.model.config.get_text_config(decoder=True)
        self.penalty = self.model.generation_config.repetition_penalty or 1.0
        self.model.generation_config = self._generation_config({})  # the defaults of `generate`
        self.seq2seq = bool(self.model.config.is_encoder_decoder or text.is_encoder_decoder)
        self.special_tokens = _special_tokens(self.tokenizer)

    def problem(self, question: Question, decoding: Decoding) -> str:
        """Why a question does not fit: BLIP takes one image, its Q-Former a text of limited length; "" if it fits."""
        kind = self.model.config.model_type
        if kind in _IMAGE_BEFORE_TEXT and len(question.images) != 1:
            return f"a judge of type {kind!r} takes one image, the question has {len(question.images)}"
        config = getattr(self.model.config, "qformer_config", None)
        tokenizer = getattr(self.processor, "qformer_tokenizer", None)
        if config is None or tokenizer is None:
            return ""
        n = len(tokenizer(self.prompt(question.messages, decoding))["input_ids"])
        limit = config.max_position_embeddings
        return "" if n <= limit else f"the question has {n} tokens, and the judge reads {limit}"

    def generate(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        """Generated texts; an answer that `max_tokens` cut off is none. Sampling is seeded by the first question."""
        inputs = self.inputs(questions, decoding, device)
        options: dict[str, Any] = {"do_sample": False}
        if decoding.temperature:
            options = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}
        options |= {"max_new_tokens": decoding.max_tokens, "repetition_penalty": decoding.repetition_penalty}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if decoding.temperature:
                _seed_generators(_seed_of(questions[0], decoding.seed), device)
            tokens = self.model.generate(**inputs, generation_config=self._generation_config(options))
        return [self._answer(row, decoding) for row in self._continuation(tokens, inputs["input_ids"])]

    def probabilities(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        """The probabilities of the answers that the questions name."""
        values: dict[int, float] = {}
        single_tokens: dict[str, list[int]] = {}  # scoring -> questions answered by one token, which share a pass
        for i, q in enumerate(questions):
            if q.scoring not in SCORINGS:
                raise UnknownName("scoring", q.scoring, SCORINGS)
            if not self.seq2seq and q.scoring != "mean" and len(self._tokens(q.answer)) == 1:
                single_tokens.setdefault(q.scoring, []).append(i)
            else:
                values[i] = self._sequence_probability(q, decoding, device)
        for scoring, group in single_tokens.items():
            first = self._first_token_probabilities([questions[i] for i in group], scoring, decoding, device)
            values |= dict(zip(group, first, strict=True))
        return [_probability(values[i]) for i in range(len(questions))]

    def inputs(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> dict[str, Tensor]:
        """What the model takes, padded on the left."""
        texts = [self.prompt(q.messages, decoding) for q in questions]
        images = [[Image.fromarray(x.permute(1, 2, 0).cpu().numpy()) for x in q.images] for q in questions]
        options: dict[str, Any] = {"images": images} if any(images) else {}
        bos = self.tokenizer.bos_token
        if bos and all(text.startswith(bos) for text in texts):  # the chat template wrote it
            options["add_special_tokens"] = False
        inputs = self.processor(text=texts, padding=True, return_tensors="pt", **options).to(device)
        dtype = self.model.dtype
        return {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}

    def prompt(self, messages: Sequence[Message], decoding: Decoding) -> str:
        """The conversation as the checkpoint's chat template puts it, its texts without special tokens."""
        escaped = [{**m, "content": [self._escaped(part) for part in m["content"]]} for m in messages]
        if self.processor.chat_template is not None:
            thinking = decoding.thinking
            optional = thinking is not None and "enable_thinking" in str(self.processor.chat_template)
            options = {"enable_thinking": thinking} if optional else {}
            return self.processor.apply_chat_template(escaped, add_generation_prompt=True, tokenize=False, **options)
        parts = [part for message in escaped for part in message["content"]]
        n_places = 0 if self.model.config.model_type in _IMAGE_BEFORE_TEXT else sum(part == IMAGE for part in parts)
        places = str(self.processor.image_token) * n_places if n_places else ""
        return places + "\n".join(part["text"] for part in parts if part != IMAGE)

    def _first_token_probabilities(
        self, questions: Sequence[Question], scoring: str, decoding: Decoding, device: torch.device
    ) -> list[float]:
        """Of answers of one token: from the first step of `generate`, which accounts for padding."""
        inputs = self.inputs(questions, decoding, device)
        penalty = self.penalty if scoring == "processed" else 1.0
        options = {"max_new_tokens": 1, "do_sample": False, "repetition_penalty": penalty}
        config = self._generation_config({**options, "return_dict_in_generate": True, "output_scores": True})
        logits = self.model.generate(**inputs, generation_config=config).scores[0].double()
        tokens = torch.as_tensor([self._tokens(q.answer)[0] for q in questions], device=logits.device)
        return logits.softmax(1).gather(1, tokens[:, None])[:, 0].tolist()

    def _sequence_probability(self, q: Question, decoding: Decoding, device: torch.device) -> float:
        """Of an answer of several tokens, which are given to the model one after another (teacher forcing)."""
        inputs = self.inputs([q], decoding, device)
        end = [self._end_tokens()[0]] if q.scoring == "mean" else []
        tokens = torch.as_tensor([[*self._tokens(q.answer), *end]], device=device)
        k = tokens.shape[1]
        if self.seq2seq:
            logits = self.model(**inputs, labels=tokens).logits[:, :k]
        else:
            width = inputs["input_ids"].shape[1]
            sequences = {name: x for name, x in inputs.items() if x.shape == inputs["input_ids"].shape}
            fill = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
            zeros = torch.zeros_like(tokens)
            inputs |= {name: torch.cat([x, fill.get(name, zeros).to(x)], 1) for name, x in sequences.items()}
            logits = self.model(**inputs).logits[:, width - 1 : -1]
        log_probabilities = logits.double().log_softmax(2).gather(2, tokens[:, :, None])[0, :, 0]
        return float((log_probabilities.mean() if q.scoring == "mean" else log_probabilities.sum()).exp())

    def _answer(self, row: Tensor, decoding: Decoding) -> Answer:
        if torch.isin(row, torch.as_tensor(self._end_tokens(), device=row.device)).any():
            return Answer(self.tokenizer.decode(row, skip_special_tokens=True).strip())
        return Answer(problem=f"cut off after {decoding.max_tokens} tokens", answered=True)

    def _escaped(self, part: Message) -> Message:
        if part["type"] != "text":
            return part
        return {**part, "text": escape_special_tokens(part["text"], self.special_tokens)}

    def _tokens(self, answer: str | None) -> list[int]:
        return self.tokenizer.encode(answer, add_special_tokens=False)

    def _end_tokens(self) -> list[int]:
        ends = self.model.generation_config.eos_token_id
        ends = self.tokenizer.eos_token_id if ends is None else ends
        return ends if isinstance(ends, list) else [ends]

    def _generation_config(self, options: Mapping[str, Any]) -> Any:
        """The checkpoint's special tokens, and none of its other generation defaults."""
        from transformers import GenerationConfig

        own = self.model.generation_config
        start = {"decoder_start_token_id": own.decoder_start_token_id, "bos_token_id": own.bos_token_id}
        return GenerationConfig(
            eos_token_id=self._end_tokens(), pad_token_id=self.tokenizer.pad_token_id, **start, **options
        )

    def _continuation(self, tokens: Tensor, prompt: Tensor) -> Tensor:
        """The generated tokens without the prompt, which some models repeat."""
        width = prompt.shape[1]
        if self.seq2seq:
            return tokens[:, 1:]
        repeated = tokens.shape[1] > width and bool((tokens[:, :width] == prompt).all())
        return tokens[:, width:] if repeated else tokens


def _special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """The special tokens of a checkpoint. Words and runs of spaces that were added (Gemma's) are not among them."""
    added = tokenizer.added_tokens_decoder.values()
    tokens = {str(token) for token in added if token.special or str(token).startswith("<")}
    tokens |= set(tokenizer.all_special_tokens)
    return re.compile("|".join(map(re.escape, sorted(tokens - {""}, key=len, reverse=True))) or r"(?!)")


def _probability(value: float) -> Answer:
    if 0 <= value <= 1 + 1e-6:
        return Answer(probability=min(value, 1.0))
    return Answer(problem="the model's logits are not finite")  # NaN


def _seed_generators(seed: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def _seed_of(question: Question, seed: int) -> int:
    """Depends on the question, or all samples of a run would draw the same random numbers."""
    digest = hashlib.sha256(f"{seed} {question.messages}".encode("utf-8", "surrogatepass"))
    for image in question.images:
        digest.update(image.contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest()[:7], "big")
