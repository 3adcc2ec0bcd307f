"""JSON as language models write it: within prose and with common errors of syntax, but never completed."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

from lightning_imgmetrics.errors import require

LONGEST = 16_384  # characters; longer answers are loops
NUMBER = r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"

_DEEPEST = 16
_MOST_TOKENS = 2000  # of an object that is no strict JSON; JSON5 is parsed at about 10000 tokens a second
_DELIMITER = "||V^=^V||"
_THINKING = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_NUMBER = re.compile(NUMBER)
_OPENER = re.compile(r"""(?P<key>["']\s*:\s*)?(?P<bracket>[{\[])""")
_NESTED = re.compile(r"\[\s*[{\[]")
_TOKEN = re.compile(
    r"""\s*(?:(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<string>"[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*')
    |(?P<mark>[][{}:,])
    |(?P<word>(?!//|/\*)[^][{}:,"'\s](?:(?!//|/\*)[^][{}:,"\n])*))""",
    re.DOTALL | re.VERBOSE,
)
_ASCII = str.maketrans({"*": None, "`": None, "\u2019": "'", "\u2212": "-", "\uff1a": ":"})
_CONSTANTS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}


def after_thinking(text: str) -> str | None:
    """The answer without its chain of thought, stripped; None where that was cut off, or LONGEST is exceeded."""
    end, opened = 0, False
    for tag in _THINKING.finditer(text):
        end, opened = tag.end(), not tag[1]
    answer = text[end:].strip()
    return None if opened or len(answer) > LONGEST else answer


def plain(text: str) -> str:
    """The answer for patterns: single spaces, no blank lines or stars, ASCII apostrophes, colons and minus signs.

    "" where it was cut off.
    """
    lines = (after_thinking(text) or "").translate(_ASCII).splitlines()
    return "\n".join(line for line in (" ".join(line.split()) for line in lines) if line)


class Group(NamedTuple):
    """An object or a list of the answer: its tokens joined by spaces; not `whole` where no value can be read."""

    text: str
    whole: bool = True


def json_groups(text: str) -> list[Group] | None:
    """The outermost objects and lists in order; None where the answer ends inside of one, or nests more than 16.

    Malformed lists, and braces around no colon, are prose. Each character is looked at a bounded number of times.
    """
    answer = after_thinking(text)
    if answer is None:
        return None
    if answer.count(_DELIMITER) == 2:
        answer = answer.split(_DELIMITER)[1]
    closing = _closing(answer)
    groups, at = [], 0
    while opener := _OPENER.search(answer, at):
        start = opener.start("bracket")
        tokens, end, ended = _scan(answer, start)
        if tokens is not None:
            at = end
            if tokens.startswith("[") or ":" in tokens:
                groups.append(Group(tokens, whole=opener["key"] is None))  # after a key it lacks the braces around it
        elif opener["bracket"] == "[" and not (ended and _NESTED.match(answer, start)):
            at = start + 1
        elif ended or (at := closing.get(start, 0)) < end:
            return None
        elif ":" in answer[start:at]:
            groups.append(Group(answer[start:at], whole=False))
    return groups


def _scan(text: str, start: int) -> tuple[str | None, int, bool]:
    """Tokens from the bracket at `start` to its own closing one, where the scan ended, and whether the text had ended.

    Bare words become strings, comments spaces. The tokens are None where brackets do not match or the text ends first.
    """
    tokens: list[str] = []
    closers: list[str] = []
    at = start
    while not tokens or closers:
        token = _TOKEN.match(text, at)
        if token is None or len(closers) > _DEEPEST:
            return None, at, True
        at, kind = token.end(), token.lastgroup
        part = token[kind or 0]
        if kind == "word":
            part = _word(part.strip())
            if closers[-1] == "]" and part.startswith('"'):
                return None, at, False
        elif part in ("{", "["):
            closers.append("}" if part == "{" else "]")
        elif part in ("}", "]") and closers.pop() != part:
            return None, at, False
        tokens.append("" if kind == "comment" else part)
    return " ".join(tokens), at, False


def _word(word: str) -> str:
    """A number as it is, a constant as JSON spells it, anything else as a string."""
    return word if _NUMBER.fullmatch(word) else _CONSTANTS.get(word) or json.dumps(word)


def _closing(text: str) -> dict[int, int]:
    """Where each brace ends by count alone, strings or not: to pass over malformed objects."""
    ends, opened = {}, []
    for brace in re.finditer(r"[{}]", text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif opened:
            ends[opened.pop()] = brace.end()
    return ends


def value_of(group: Group) -> Any | None:
    """The value of a group; None for a malformed one."""
    json5 = require("json5", "judge")  # even where JSON does: a missing package shows at the first answer
    hooks: dict[str, Any] = dict(object_pairs_hook=_unique, parse_float=_finite, parse_int=_whole, strict=False)
    readers = (json.loads, json5.loads) if group.text.count(" ") < _MOST_TOKENS else (json.loads,)
    for loads in readers if group.whole else ():
        try:
            return loads(group.text, **hooks)
        except (ValueError, RecursionError):
            continue
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a duplicate key")
    return fields


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError("not finite")
    return value


def _whole(number: str) -> int:
    if len(number) > 17:
        raise ValueError("more than 16 digits and a sign")
    return int(number)
