"""How well the text that was read in an image is the text that was asked for; what is read comes from elsewhere.

Texts are compared after `normalized`. `language` "zh" or "cn" (also "zh-Hans", ...) compares by characters, as Chinese
has no spaces; every other language by words between spaces.
"""

from __future__ import annotations

import unicodedata
from collections import Counter

from lightning_imgmetrics.errors import ValueRangeError, require

_APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}\N{MODIFIER LETTER APOSTROPHE}"


def normalized(text: str, language: str = "en") -> str:
    """The text without differences that do not count: width and ligatures (NFKC), case, punctuation, spaces.

    Punctuation separates words ("ice-cream" is two), but for apostrophes ("don't" is one); symbols such as + and $
    stay. Runs of white space are one space, and none is left in Chinese. Simplified and traditional characters differ.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = "".join(_separated(character) for character in folded).split()
    joined = ("" if _by_characters(language) else " ").join(words)
    return unicodedata.normalize("NFC", joined)  # an accent may have met a letter only now


def word_accuracy(target: str, read: str, language: str = "en") -> float:
    """Share of the target's words (characters in Chinese) that were read, in [0, 1]; a word twice must be read twice.

    What was read besides costs nothing, nor does the order. ValueRangeError for a target without a word.
    """
    target_words, read_words = (Counter(_units(text, language)) for text in (target, read))
    if not target_words:
        raise ValueRangeError(f"`target` must hold a letter, digit or symbol, got {target!r}")
    return (target_words & read_words).total() / target_words.total()


def normalized_edit_distance(target: str, read: str, language: str = "en") -> float:
    """Insertions, deletions and substitutions of code points over the length of the longer text, in [0, 1]; 0 is equal.

    Needs rapidfuzz. Source: Levenshtein 1966.
    """
    distance = require("rapidfuzz", "judge").distance.Levenshtein
    return float(distance.normalized_distance(normalized(target, language), normalized(read, language)))


def exact_match(target: str, read: str, language: str = "en") -> bool:
    """Whether what was read is the target and nothing else."""
    return normalized(target, language) == normalized(read, language)


def _separated(character: str) -> str:
    kind = unicodedata.category(character)
    if character in _APOSTROPHES or kind == "Cf":  # zero-width joiners and marks of direction
        return ""
    return " " if kind[0] in "PZ" or kind == "Cc" else character


def _by_characters(language: str) -> bool:
    return language.lower().replace("_", "-").split("-")[0] in ("zh", "cn")


def _units(text: str, language: str) -> list[str]:
    plain = normalized(text, language)
    return list(plain) if _by_characters(language) else plain.split()
