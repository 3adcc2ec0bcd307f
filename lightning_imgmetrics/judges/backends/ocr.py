"""Engines that read the text in images, as judges."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import Answer, Decoding, Question

Read = Callable[[list[Tensor]], Sequence["str | None"]]


@dataclass(frozen=True, kw_only=True)
class TextReader(Judge):
    """A function that reads the text in images, such as an OCR engine, as a judge for `TextRendering`.

    It takes images alone, so it gives the same answer to every question about an image.

    Args:
        read: Uint8 images (3, h, w) -> a text for each: "" where there is none, None where reading failed.
        name: Cached answers are found under it, so it should tell the engine, its version and its settings; without a
            name, nothing is cached.
        batch_size: Images of one call.
        cache: Keep answers on disk (see `Judge`).

    Raises:
        ShapeError: When it is asked, if `read` returns another number of texts.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import TextReader, TextRendering
        >>> engine = TextReader(lambda images: ["OPEN" for image in images])
        >>> metric = TextRendering(['a door with the sign "OPEN"'], engine)
        >>> metric.update(images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8), prompts='a door with the sign "OPEN"')
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
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
