"""Questions in the format of OpenAI-compatible servers: messages, images as data URLs, texts without special tokens."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from typing import Any

from PIL import Image
from torch import Tensor

from lightning_imgmetrics.judges.backends.question import IMAGE, Message, Question

IMAGE_FORMATS = {"png": {"compress_level": 1}, "jpeg": {"quality": 95}}

# Which tokens a server's model has is not known: these mark turns, media and ends in public chat templates.
PUBLIC_TOKENS = re.compile(
    r"<[|｜][^<>\s]{1,64}[|｜]>"  # <|im_end|> and the like
    r"|</?(?:s|bos|eos|pad|unk)>"
    r"|</?\w*(?:image|img|video|audio)\w*>"  # places of media
    r"|<[a-z]+_of_[a-z]+>"  # <end_of_turn>
    r"|\[/?(?:INST|SYSTEM_PROMPT|IMG(?:_\w+)?)\]"
    r"|<</?SYS>>",
    re.IGNORECASE,
)


def escape_special_tokens(text: str, tokens: re.Pattern[str]) -> str:
    """A text in which special tokens are read as letters: "< |im_end|>"."""
    return tokens.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)


def escape_public_tokens(text: str) -> str:
    """A text without `PUBLIC_TOKENS`, also where one contains another: "<|[INST]|>" becomes "< |[ INST]|>"."""
    while (escaped := escape_special_tokens(text, PUBLIC_TOKENS)) != text:
        text = escaped
    return text


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
        return _text(parts[0])  # the form that every server accepts, in every role
    return [
        {"type": "image_url", "image_url": {"url": next(urls)}}
        if part == IMAGE
        else {"type": "text", "text": _text(part)}
        for part in parts
    ]


def _text(part: Message) -> str:
    """The text, without special tokens; lone surrogates, which no request can carry, become "?"."""
    return escape_public_tokens(part["text"].encode("utf-8", "replace").decode("utf-8"))
