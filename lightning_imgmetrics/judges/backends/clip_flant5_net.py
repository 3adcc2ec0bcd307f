"""CLIP-FlanT5's network: its three parts, how a conversation becomes its input, and the names of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.judges.backends.question import IMAGE, Answer, Decoding, Message, Question

CONTEXT = 2048  # tokens of a conversation in training, each image counted as one
_LAYER = -2  # of the tower, whose patches are what is projected
_ROLES = {"system": "", "user": " USER: ", "assistant": " ASSISTANT: "}
_SCORINGS = ("product", "mean")


class ClipFlanT5(nn.Module):
    """A FlanT5, the tower of a CLIP, the projector between them, and what makes their inputs."""

    language: Any
    tower: Any

    def __init__(self, language: nn.Module, project: nn.Module, tower: nn.Module, tokenizer: Any, image_processor: Any):
        super().__init__()
        self.language, self.project, self.tower = language, project, tower
        self.tokenizer, self.image_processor = tokenizer, image_processor

    def probabilities(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        """The probabilities of the answers that the questions name."""
        for q in questions:
            if q.scoring not in _SCORINGS:
                raise UnknownName("scoring", q.scoring, _SCORINGS)
        return self._forced_probabilities(questions, self._inputs(questions, device), device) if questions else []

    def generate(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        """Generated texts; an answer that `max_tokens` cut off is none."""
        options: dict[str, Any] = {"do_sample": False}
        if decoding.temperature:
            options = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}
        options |= {"max_new_tokens": decoding.max_tokens, "repetition_penalty": decoding.repetition_penalty}
        inputs = self._inputs(questions, device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if decoding.temperature:
                torch.manual_seed(decoding.seed)
            return [self._text(row, decoding) for row in self.language.generate(**inputs, **options)[:, 1:]]

    def _text(self, row: Tensor, decoding: Decoding) -> Answer:
        if not (row == self.tokenizer.eos_token_id).any():
            return Answer(problem=f"cut off after {decoding.max_tokens} tokens", answered=True)
        return Answer(self.tokenizer.decode(row, skip_special_tokens=True).strip())

    def _forced_probabilities(
        self, questions: Sequence[Question], inputs: Mapping[str, Tensor], device: torch.device
    ) -> list[Answer]:
        """Of answers given to the decoder one token after another (teacher forcing)."""
        tokens = [torch.tensor(self._ids(str(q.answer))) for q in questions]
        labels = pad_sequence(tokens, batch_first=True).to(device)
        start = torch.full_like(labels[:, :1], self.language.config.decoder_start_token_id)
        logits = self.language(**inputs, decoder_input_ids=torch.cat([start, labels[:, :-1]], 1)).logits
        log_probabilities = logits.double().log_softmax(2).gather(2, labels[:, :, None])[:, :, 0]
        answers = []
        for q, row, own in zip(questions, log_probabilities, tokens, strict=True):
            # The last token is the end of the answer: "mean" counts it, "product" does not.
            p = float((row[: len(own)].mean() if q.scoring == "mean" else row[: len(own) - 1].sum()).exp())
            answers.append(Answer(probability=p) if p == p else Answer(problem="the model's logits are not finite"))
        return answers

    def problem(self, question: Question, decoding: Decoding) -> str:
        """Why a question does not fit the model: it is longer than the context; "" if it fits."""
        pieces = self._pieces(question)
        n = sum(map(len, pieces)) + len(pieces) - 1
        return "" if n <= CONTEXT else f"the question has {n} tokens, and CLIP-FlanT5 reads {CONTEXT}"

    def _pieces(self, q: Question) -> list[list[int]]:
        return [self._ids(text) for text in texts_between(q.messages)]

    def _inputs(self, questions: Sequence[Question], device: torch.device) -> dict[str, Tensor]:
        """Embedded conversations, the patches of an image between each two pieces of text."""
        embed = self.language.get_input_embeddings()
        patches = iter(self._patches([image for q in questions for image in q.images], device))
        rows = []
        for q in questions:
            first, *rest = (embed(torch.tensor(ids, device=device)) for ids in self._pieces(q))
            rows.append(torch.cat([first, *(x for part in rest for x in (next(patches), part))]))
        mask = pad_sequence([torch.ones(len(row), dtype=torch.long, device=device) for row in rows], batch_first=True)
        return {"inputs_embeds": pad_sequence(rows, batch_first=True), "attention_mask": mask}

    def _patches(self, images: Sequence[Tensor], device: torch.device) -> list[Tensor]:
        """Images, uint8 (3, s, s) -> (patches, d) each."""
        if not images:
            return []
        inputs = self.image_processor(images=list(images), input_data_format="channels_first", return_tensors="pt")
        pixels = inputs["pixel_values"].to(device, self.tower.dtype)
        hidden = self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states[_LAYER]
        return list(self.project(hidden[:, 1:]))  # without the class token

    def _ids(self, text: str) -> list[int]:
        """Token ids, with an end; special tokens in the text are read as letters."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        return [*ids, self.tokenizer.eos_token_id]


def texts_between(messages: Sequence[Message]) -> list[str]:
    """The texts of a conversation before, between and after its images, in the format of the training."""
    texts = [""]
    for message in messages:
        texts[-1] += _ROLES[message["role"]]
        for i, part in enumerate(message["content"]):
            texts[-1] += "\n" if i else ""
            if part == IMAGE:
                texts.append("")
            else:
                texts[-1] += part["text"]
    texts[-1] += _ROLES["assistant"]
    return texts


def projector(width: int, d: int) -> nn.Module:
    """From CLIP's patches (n, width) to FlanT5's embeddings (n, d)."""
    return nn.Sequential(nn.Linear(width, d), nn.GELU(), nn.Linear(d, d))


def clip_flant5_keys(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of language model, projector and tower, each named as its module has them.

    The tower, which is CLIP's own, need not be there; `embed_tokens` is `shared` under another name.
    """
    parts: tuple[dict[str, Tensor], ...] = ({}, {}, {})
    for key, x in tensors.items():
        if key.startswith("mm_projector."):
            parts[1][key.removeprefix("mm_projector.")] = x
        elif key.startswith("vision_tower."):
            name = key.removeprefix("vision_tower.").removeprefix("vision_tower.").removeprefix("vision_model.")
            if not name.endswith("position_ids"):  # older versions stored them
                parts[2][name] = x
        elif not key.startswith("embed_tokens."):
            parts[0][key] = x
    return parts[0], parts[1], parts[2]
