"""What a judge is asked and what it answers: conversations over images, how answers are decoded, the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_imgmetrics.errors import ShapeError

Message = Mapping[str, Any]  # {"role": ..., "content": [{"type": "image"} | {"type": "text", "text": ...}]}

IMAGE: Message = {"type": "image"}
"""The place in a message that the next image of the question takes."""


def turn(*parts: str | Message, role: str = "user") -> Message:
    """One message of a conversation.

    Args:
        parts: Texts and `IMAGE`s, in order.
        role: Who speaks: "user", "assistant" or "system".

    Returns:
        The message in the form that chat templates read.

    Example:
        >>> from lightning_imgmetrics import IMAGE, turn
        >>> turn(IMAGE, "Is this a cat?")
        {'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': 'Is this a cat?'}]}
    """
    return {"role": role, "content": [{"type": "text", "text": p} if isinstance(p, str) else dict(p) for p in parts]}


@dataclass(frozen=True)
class Decoding:
    """How an answer is generated: greedily, or sampled at a `temperature` above 0.

    Args:
        max_tokens: Most tokens of an answer, at least 1; an answer that is cut off counts as none.
        temperature: 0 decodes greedily; above 0, tokens are sampled from the tempered distribution.
        seed: Seed of the sampling; a judge that runs locally combines it with the question.
        repetition_penalty: Above 0, applied to tokens that occurred before; 1 changes nothing.
        thinking: For chat templates with an `enable_thinking` option; None leaves it to the template.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> from lightning_imgmetrics import Decoding
        >>> Decoding(max_tokens=16, temperature=0.7, seed=1).temperature
        0.7
    """

    max_tokens: int = 1024
    temperature: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    thinking: bool | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"`max_tokens` must be at least 1, got {self.max_tokens}")
        if not (self.temperature >= 0 and self.repetition_penalty > 0):
            raise ValueError(
                "`temperature` must be at least 0 and `repetition_penalty` above 0, got"
                f" {self.temperature} and {self.repetition_penalty}"
            )


@dataclass(frozen=True, eq=False)
class Question:
    """A conversation over images, to be continued by a text; or, with `answer`, a request for its probability.

    Args:
        images: Each uint8 (3, h, w), in the order of their places.
        messages: The conversation (see `turn`), with one `IMAGE` for each image.
        answer: The text whose probability is asked for; None asks for a text.
        scoring: Which probability: "product" of the answer's tokens; "mean", their geometric mean with the end of the
            answer, as in VQAScore; "processed", the product after the checkpoint's own repetition penalty.

    Raises:
        ShapeError: There is not one place per image.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import IMAGE, Question, turn
        >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
        >>> Question((image,), (turn(IMAGE, "Is this a cat?"),), answer="Yes").scoring
        'product'
    """

    images: tuple[Tensor, ...]
    messages: tuple[Message, ...]
    answer: str | None = None
    scoring: str = "product"

    def __post_init__(self) -> None:
        places = sum(part == IMAGE for message in self.messages for part in message["content"])
        if places != len(self.images):
            raise ShapeError(f"`messages` must have one place per image, got {places} for {len(self.images)} images")


@dataclass(frozen=True)
class Answer:
    """A text or a probability; or neither, for the reason that `problem` gives.

    Args:
        text: What the judge wrote.
        probability: Of the answer that the question names, in [0, 1].
        problem: Why there is no usable answer; "" if there is one.
        answered: There was an answer, but none that can be used: cut off, refused or empty.

    Example:
        >>> from lightning_imgmetrics import Answer
        >>> Answer("Yes"), Answer(probability=0.5).probability
        (Answer(text='Yes', probability=None, problem='', answered=False), 0.5)
    """

    text: str | None = None
    probability: float | None = None
    problem: str = ""
    answered: bool = False
