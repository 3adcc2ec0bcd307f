"""Questions as OpenAI-compatible servers take them: messages, images as data URLs, texts without special tokens."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from typing import Any

from PIL import Image
from torch import Tensor

from lightning_imgmetrics.judges.backends.base import IMAGE, Message, Question

IMAGE_FORMATS = {"png": {"compress_level": 1}, "jpeg": {"quality": 95}}

_MARKS = re.compile(
    r"<[|｜][^<>\s]{1,64}[|｜]>"  # <|im_end|> and its kin
    r"|</?(?:s|bos|eos|pad|unk)>"
    r"|</?\w*(?:image|img|video|audio)\w*>"  # places of media
    r"|<[a-z]+_of_[a-z]+>"  # <end_of_turn>
    r"|\[/?(?:INST|SYSTEM_PROMPT|IMG(?:_\w+)?)\]"
    r"|<</?SYS>>",
    re.IGNORECASE,
)


def defused(text: str) -> str:
    """A text in which the special tokens of common chat templates are letters: "< |im_end|>".

    The tokens of a server's own model cannot be known: this breaks those that mark turns, media and ends in public
    ones. Lone surrogates, which no request can carry, become "?".
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    return _MARKS.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text)


def data_url(image: Tensor, image_format: str) -> str:
    """An image, uint8 (3, h, w): lossless as "png", at quality 95 as "jpeg"."""
    file = io.BytesIO()
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    picture.save(file, image_format, **IMAGE_FORMATS[image_format])
    return f"data:image/{image_format};base64,{base64.b64encode(file.getvalue()).decode()}"


def chat_messages(question: Question, image_format: str) -> list[dict[str, Any]]:
    """The messages of a question, each place filled with the next image."""
    urls = (data_url(image, image_format) for image in question.images)
    return [{"role": m["role"], "content": _content(m, urls)} for m in question.messages]


def _content(message: Message, urls: Iterator[str]) -> str | list[dict[str, Any]]:
    parts = message["content"]
    if all(part != IMAGE for part in parts) and len(parts) == 1:
        return defused(parts[0]["text"])  # the form that every server takes, in every role
    return [
        {"type": "image_url", "image_url": {"url": next(urls)}}
        if part == IMAGE
        else {"type": "text", "text": defused(part["text"])}
        for part in parts
    ]
