"""The texts that prompts ask to be written in the image."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_imgmetrics.data.records import Row, json_rows, refuse_duplicates
from lightning_imgmetrics.errors import UnreadableQuestions

_LETTER = "0-9A-Za-z\u00c0-\u024f\u0370-\u04ff"  # of alphabets that write apostrophes; Chinese has no space at quotes
_QUOTED = re.compile(
    "|".join(
        (
            r'(?<!\d)"([^"]*)"',  # a digit before it: inches
            "[\u201c\u201e]([^\u201c\u201d]*)[\u201c\u201d]",
            "\u300c([^\u300d]*)\u300d",
            "\u300e([^\u300f]*)\u300f",
            "\u00ab([^\u00bb]*)\u00bb",
            "\uff02([^\uff02]*)\uff02",
            # single quotes are also apostrophes: none inside a word opens or closes, nor that of '90s opens
            rf"(?<![{_LETTER}])'(?!\s|\d\ds\b)([^\n]*?\S)'(?![{_LETTER}])",
            rf"\u2018(?!\s)([^\n]*?\S)\u2019(?![{_LETTER}])",
        )
    )
)


@dataclass(frozen=True)
class TextTarget:
    """A prompt, and the texts that its image must show, for `TextRendering`.

    Args:
        id: of the prompt.
        prompt: the text that the image is made from.
        texts: what must be legible in the image, in order.
        language: "zh" is compared by characters; "en" stands for every language written with spaces.

    Example:
        >>> from lightning_imgmetrics import TextTarget
        >>> TextTarget("0", 'a sign that says "Open"', ("Open",), "en").texts
        ('Open',)
    """

    id: str
    prompt: str
    texts: tuple[str, ...]
    language: str


def quoted_texts(prompt: str) -> list[str]:
    """The texts in quotes in a prompt, in order: straight, curly, angled and Chinese ones, the outer where they nest.

    Apostrophes ("it's", "the dogs' bowl") and inches (5") are none. Empty quotes are left out.
    """
    quotes = (next(text for text in match.groups() if text is not None) for match in _QUOTED.finditer(prompt))
    return [text.strip() for text in quotes if text.strip()]


def read_text_targets(path: str | Path) -> list[TextTarget]:
    """The targets in a .jsonl file: an object per line with "prompt" and, as they are wanted, the others.

    "text" or "texts" (a text or a list of them): else the quoted texts of the prompt; "id": else the place among the
    targets, from 0; "language": else "zh" where a text has Chinese characters and "en" where none has.
    UnreadableQuestions, with file and line, for lines without texts and for all that is not so.
    """
    path = Path(path).expanduser()
    rows = list(json_rows(path))
    if not rows:
        raise UnreadableQuestions(f"{path}: must hold at least one object, got an empty file")
    targets = [target_of(row, i) for i, row in enumerate(rows)]
    refuse_duplicates([(target.id,) for target in targets], rows, ("id",))
    return targets


def target_of(row: Row, position: int) -> TextTarget:
    prompt = row.text("prompt")
    key = next((key for key in ("text", "texts") if row.get(key) is not None), None)
    texts = tuple(quoted_texts(prompt)) if key is None else row.texts(key)
    if not texts:
        row.refuse("prompt", 'have a text in quotes where there is no "text"')
    for text in texts:
        if all(unicodedata.category(character)[0] in "PZC" for character in text):
            raise UnreadableQuestions(f"{row.where}: a text must hold a letter, digit or symbol, got {text!r}")
    name: Any = row.get("id")
    language = row.text("language") if row.get("language") is not None else _language(texts)
    return TextTarget(str(position) if name is None else row.name("id"), prompt, texts, language)


def _language(texts: Sequence[str]) -> str:
    chinese = ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH")
    return "zh" if any(unicodedata.name(c, "").startswith(chinese) for text in texts for c in text) else "en"
