"""Engines that read the text in images, as judges."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.judges.backends.base import Answer, Decoding, Judge, Question

Read = Callable[[list[Tensor]], Sequence["str | None"]]


@dataclass(frozen=True, kw_only=True)
class TextReader(Judge):
    """A function as a judge: uint8 images (3, h, w) -> the text in each, "" for none, None where it cannot be told.

    It sees images alone and answers all questions alike. What it said is kept on disk under its `name`, with whatever
    tells its version and settings from others; without one, nothing is.
    """

    read: Read = field(kw_only=False)
    name: str = ""
    batch_size: int = 1

    can_refuse = False  # it returns what it reads

    def identity(self) -> Mapping[str, object] | None:
        return {"reader": self.name} if self.name else None

    def signature(self) -> dict[str, str]:
        return {"network": self.name or getattr(self.read, "__name__", type(self.read).__name__)}

    def reply(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        texts = self.read([image for question in questions for image in question.images])
        if isinstance(texts, str) or len(texts) != len(questions):
            raise ShapeError(f"`read` must return {len(questions)} texts, one per image, got {texts!r:.200}")
        return [
            Answer(problem="the reader gave no text") if text is None else Answer(json.dumps({"text": text}))
            for text in texts
        ]
