"""How a checkpoint of transformers is asked: messages to tokens, tokens to texts and probabilities."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.judges.backends.base import IMAGE, Answer, Decoding, Message, Question

_PLACES_ITSELF = ("blip-2", "instructblip")  # the processor puts the image before the text
SCORINGS = ("product", "mean", "processed")


class Speaker(nn.Module):
    """A model with its processor."""

    model: Any

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__()
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer
        self.tokenizer.padding_side = "left"  # answers begin where questions end
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        text = self.model.config.get_text_config(decoder=True)
        self.penalty = self.model.generation_config.repetition_penalty or 1.0
        self.model.generation_config = self._generation({})  # `generate` takes from there what it is not told
        self.seq2seq = bool(self.model.config.is_encoder_decoder or text.is_encoder_decoder)
        # Words and runs of spaces may be added tokens, too (Gemma's are): a text keeps those as it has them.
        added = self.tokenizer.added_tokens_decoder.values()
        marks = {str(token) for token in added if token.special or str(token).startswith("<")}
        marks |= set(self.tokenizer.all_special_tokens)
        self.marks = re.compile("|".join(map(re.escape, sorted(marks - {""}, key=len, reverse=True))) or r"(?!)")

    def refusal(self, q: Question, decoding: Decoding) -> str:
        """Why a question cannot be read: a BLIP sees one image, its Q-Former so many tokens of text, and no more."""
        kind = self.model.config.model_type
        if kind in _PLACES_ITSELF and len(q.images) != 1:
            return f"a judge of type {kind!r} is shown one image, the question has {len(q.images)}"
        reader = getattr(self.model.config, "qformer_config", None)
        tokenizer = getattr(self.processor, "qformer_tokenizer", None)
        if reader is None or tokenizer is None:
            return ""
        n, most = len(tokenizer(self._worded(q.messages, decoding))["input_ids"]), reader.max_position_embeddings
        return "" if n <= most else f"the question has {n} tokens, and the judge reads {most}"

    def write(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        """Generated texts; an answer that `max_tokens` cut off is none."""
        inputs = self._inputs(questions, decoding, device)
        draws: dict[str, Any] = {"do_sample": False}
        if decoding.temperature:
            draws = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}
        how = {"max_new_tokens": decoding.max_tokens, "repetition_penalty": decoding.repetition_penalty, **draws}
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            if decoding.temperature:  # by question, or all samples of a run would share their luck
                for generator in (
                    torch.default_generator,
                    *(torch.cuda.default_generators[d.index or 0] for d in cuda),
                ):
                    generator.manual_seed(_seed(questions[0], decoding.seed))
            tokens = self.model.generate(**inputs, generation_config=self._generation(how))
        tokens = self._new(tokens, inputs)
        ends = torch.as_tensor(self._ends(), device=tokens.device)
        answers = []
        for row in tokens:
            if torch.isin(row, ends).any():
                answers.append(Answer(self.tokenizer.decode(row, skip_special_tokens=True).strip()))
            else:
                answers.append(Answer(problem=f"cut off after {decoding.max_tokens} tokens", given=True))
        return answers

    def weigh(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        """The probabilities of the answers that the questions name."""
        found: dict[int, float] = {}
        at_once: dict[str, list[int]] = {}
        for i, q in enumerate(questions):
            if q.scoring not in SCORINGS:
                raise UnknownName("scoring", q.scoring, SCORINGS)
            if not self.seq2seq and q.scoring != "mean" and len(self._tokens(q.answer)) == 1:
                at_once.setdefault(q.scoring, []).append(i)
            else:
                found[i] = self._forced(q, decoding, device)
        for scoring, group in at_once.items():
            probabilities = self._first([questions[i] for i in group], scoring, decoding, device)
            found |= dict(zip(group, probabilities, strict=True))
        good = [0 <= found[i] <= 1 + 1e-6 for i in range(len(questions))]  # NaN where a network broke down
        return [
            Answer(probability=min(found[i], 1.0)) if good[i] else Answer(problem="the model's logits are not finite")
            for i in range(len(questions))
        ]

    def _first(
        self, questions: Sequence[Question], scoring: str, decoding: Decoding, device: torch.device
    ) -> list[float]:
        """Of single tokens that come first: read off the first step of generation, which knows about padding."""
        inputs = self._inputs(questions, decoding, device)
        penalty = self.penalty if scoring == "processed" else 1.0
        how = {"max_new_tokens": 1, "do_sample": False, "repetition_penalty": penalty}
        config = self._generation({**how, "return_dict_in_generate": True, "output_scores": True})
        logits = self.model.generate(**inputs, generation_config=config).scores[0].double()
        tokens = torch.as_tensor([self._tokens(q.answer)[0] for q in questions], device=logits.device)
        return logits.softmax(1).gather(1, tokens[:, None])[:, 0].tolist()

    def _forced(self, q: Question, decoding: Decoding, device: torch.device) -> float:
        """Of a whole answer, its tokens given to the model one after another (teacher forcing)."""
        inputs = self._inputs([q], decoding, device)
        end = [self._ends()[0]] if q.scoring == "mean" else []
        tokens = torch.as_tensor([[*self._tokens(q.answer), *end]], device=device)
        k = tokens.shape[1]
        if self.seq2seq:
            logits = self.model(**inputs, labels=tokens).logits[:, :k]
        else:
            width = inputs["input_ids"].shape[1]
            longer = {name: x for name, x in inputs.items() if x.shape == inputs["input_ids"].shape}
            fill = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
            zeros = torch.zeros_like(tokens)
            inputs |= {name: torch.cat([x, fill.get(name, zeros).to(x)], 1) for name, x in longer.items()}
            logits = self.model(**inputs).logits[:, width - 1 : -1]
        chances = logits.double().log_softmax(2).gather(2, tokens[:, :, None])[0, :, 0]
        return float((chances.mean() if q.scoring == "mean" else chances.sum()).exp())

    def _inputs(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> dict[str, Tensor]:
        texts = [self._worded(q.messages, decoding) for q in questions]
        images = [[Image.fromarray(x.permute(1, 2, 0).cpu().numpy()) for x in q.images] for q in questions]
        how: dict[str, Any] = {"images": images} if any(images) else {}
        bos = self.tokenizer.bos_token
        if bos and all(text.startswith(bos) for text in texts):  # the chat template wrote it
            how["add_special_tokens"] = False
        inputs = self.processor(text=texts, padding=True, return_tensors="pt", **how).to(device)
        floats = self.model.dtype
        return {name: x.to(floats) if x.is_floating_point() else x for name, x in inputs.items()}

    def _worded(self, messages: Sequence[Message], decoding: Decoding) -> str:
        safe = [{**m, "content": [self._literal(part) for part in m["content"]]} for m in messages]
        if self.processor.chat_template is not None:
            thinking = decoding.thinking
            told = thinking is None or "enable_thinking" not in str(self.processor.chat_template)
            asked = {} if told else {"enable_thinking": thinking}
            return self.processor.apply_chat_template(safe, add_generation_prompt=True, tokenize=False, **asked)
        parts = [part for message in safe for part in message["content"]]
        itself = self.model.config.model_type in _PLACES_ITSELF
        places = "" if itself else str(self.processor.image_token) * sum(part == IMAGE for part in parts)
        return places + "\n".join(part["text"] for part in parts if part != IMAGE)

    def _literal(self, part: Message) -> Message:
        """A text in which no special token can be read."""
        if part["type"] != "text":
            return part
        return {**part, "text": self.marks.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", part["text"])}

    def _tokens(self, answer: str | None) -> list[int]:
        return self.tokenizer.encode(answer, add_special_tokens=False)

    def _ends(self) -> list[int]:
        ends = self.model.generation_config.eos_token_id
        ends = self.tokenizer.eos_token_id if ends is None else ends
        return ends if isinstance(ends, list) else [ends]

    def _generation(self, how: Mapping[str, Any]) -> Any:
        """The checkpoint's special tokens, and none of its other habits."""
        from transformers import GenerationConfig

        own = self.model.generation_config
        start = {"decoder_start_token_id": own.decoder_start_token_id, "bos_token_id": own.bos_token_id}
        return GenerationConfig(eos_token_id=self._ends(), pad_token_id=self.tokenizer.pad_token_id, **start, **how)

    def _new(self, tokens: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """What was written: without the question, which some models repeat."""
        asked = inputs["input_ids"]
        width = asked.shape[1]
        if self.seq2seq:
            return tokens[:, 1:]
        repeated = tokens.shape[1] > width and bool((tokens[:, :width] == asked).all())
        return tokens[:, width:] if repeated else tokens


def _seed(q: Question, seed: int) -> int:
    told = hashlib.sha256(f"{seed} {q.messages}".encode("utf-8", "surrogatepass"))
    for image in q.images:
        told.update(image.contiguous().numpy().tobytes())
    return int.from_bytes(told.digest()[:7], "big")
