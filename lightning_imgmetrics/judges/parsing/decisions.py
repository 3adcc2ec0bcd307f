"""Decisions that a judge puts into words: which of two images is better, yes or no, one of several choices.

As in `answers`, what is not clear is None: never a tie, never the first choice, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lightning_imgmetrics.errors import ValueRangeError
from lightning_imgmetrics.judges.parsing.json_text import plain

_IMAGE = r"\b(?:the )?(?:edited )?(?P<image>(?:image|edit) ?#?[12]|(?:first|second) (?:edited )?(?:image|edit))\b"
_NOUN = r"(?: (?:image|edit|edited image|one|choice|option|of the two))*"
_END = (
    r"(?: overall)?(?: (?:than|over|to) (?:the )?(?:edited )?(?:(?:image|edit) ?#?[12]|(?:first|second|other)"
    r"(?: (?:image|edit|one))?))?(?: overall)?$"
)
_ADVERBS = (
    r"(?: (?:is|was|looks|seems|appears|performs|to|be|the|a|clearly|slightly|much|far|significantly|definitely"
    r"|marginally|generally|considerably|noticeably|somewhat|overall|still|also|therefore|thus)){0,5}"
)
_BETTER = re.compile(
    rf"{_IMAGE}{_ADVERBS} (?:better|best|superior|preferred|preferable|winner|wins|stronger){_NOUN}{_END}"
)
_CHOSEN = re.compile(
    rf"\b(?:(?:winner|better|best|preferred|superior|answer|choice|verdict){_NOUN} is|prefer|choose|pick|select)"
    rf" {_IMAGE}{_END}"
)
_TIE = re.compile(
    r"\b(?:both|the two) (?:edited )?(?:images|edits) (?:are|look|perform)(?: (?:about|roughly|nearly))?"
    r" (?:equal|tied|equally (?:good|bad|well|poor|strong|preferred|matched))(?: overall)?$"
    r"|\b(?:it|result|verdict)(?:'s| is) a (?:tie|draw)$"
)
_ALONE = re.compile(rf"(?:{_IMAGE}|(?:a )?(?:tie|draw))\W*")
_DECIDING = re.compile(
    r"(?:my |the )?(?:final )?(?:answer|verdict|conclusion|decision|choice|judge?ment|winner|result"
    r"|(?:better|preferred) (?:image|edit))"
)
_CONCLUSION = re.compile(
    r"(?:^|[.;!?\n])[\s#-]{0,9}(?:(?:in |to )?conclu(?:sion|de)|in summary|overall|therefore|thus|hence|final [a-z]+)\b"
    r"[\s:,]*"
)
_PARTIAL = re.compile(
    r"\b(?:if|unless|whether|could|might|may|would (?:be|have)|unclear|unsure|hard|difficult|in terms of(?! overall)"
    r"|regarding|with (?:respect|regard) to|when it comes to|as for)\b"
)
_NEGATED = re.compile(
    r"\b(?:no|not|never|nor|neither|cannot|hardly|barely|less|least|worse|worst|inferior|second[- ]best|fails?)\b|n't\b"
)
_REASON = re.compile(r"\b(?:because|since|due to|given that|as (?:it|the|its))\b.*", re.DOTALL)
_CLAUSE = re.compile(
    r",|\bbut\b|\bwhile\b|\bwhereas\b|\bhowever\b|\band (?=(?:the )?(?:edited )?(?:first |second )?(?:image|edit)\b)"
)
_YES_NO = re.compile(
    r"[\s'(]*(?:(?:the |my )?(?:final )?answer(?: is)?:?[\s'(]*)?(?P<word>yes|no)\b"
    r"(?=[\s')]*(?:$|[.,;:!\n—–]|- |\((?!y|n)|(?:there|it|this|that|the|they|he|she|its|i|you|we)\b))"
    r"(?![\s').,;:!/—–-]*(?:(?:and|or)\s+)?(?:yes|no)\b)"
)
_LETTER = re.compile(
    r"(?:(?:the |my )?(?:correct |best |right |final )?(?:answer|choice|option)(?: is)?\s*:?\s*)?"
    r"(?:\((?P<closed>[a-z])\)|(?P<open>[a-z])(?=$|[.):\n]))[.):]*\s*(?P<rest>.*)",
    re.DOTALL,
)


def preferred_image(text: str) -> int | None:
    """Which of two images an answer calls better: 1, 2, 0 where it says that they are equal, None where unclear.

    The part after the last "In conclusion", "Overall", "Therefore" and the like decides, if it says so, else the whole.
    Statements about one aspect, questions, conditions and negations do not count; two that differ are None.
    """
    answer = _plain(text)
    ends = [match.end() for match in _CONCLUSION.finditer(answer)]
    for part in (answer[ends[-1] :] if ends else "", answer):
        if match := _ALONE.fullmatch(part):
            return _image(match)
        verdicts = {verdict for clause in _clauses(part) if (verdict := _verdict(clause)) is not None}
        if verdicts:
            return verdicts.pop() if len(verdicts) == 1 else None
    return None


def yes_no(text: str) -> bool | None:
    """The yes or no that an English answer begins with, alone or before a full clause; None for anything else.

    "No doubt, yes", "not sure", "yes and no" and "no image was given" are None: a first word alone would misread them.
    """
    match = _YES_NO.match(_plain(text))
    return None if match is None else match["word"] == "yes"


def choice_of(text: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer names: by itself, by its letter ("(B)", "B.", "Answer: B") or within a sentence.

    Case and final punctuation do not matter. None where no choice or two are named, the letter and the words beside
    it differ, or a sentence has a negation. ValueRangeError unless `choices` differ in more than case.
    """
    by_words = {_words(choice): choice for choice in choices}
    if not choices or len(by_words) < len(choices) or "" in by_words:
        raise ValueRangeError(f"`choices` must be different texts, got {list(choices)!r}")
    answer = _plain(text)
    candidates = {by_words[_words(answer)]} if _words(answer) in by_words else set()
    if letter := _LETTER.fullmatch(answer):
        rest = _choices_in(letter["rest"], by_words)
        at = ord(letter["closed"] or letter["open"]) - ord("a")
        candidates |= {*choices[at : at + 1], *rest}
        if not choices[at : at + 1] or re.search(r"\([a-z]\)", letter["rest"]):
            return None
    elif not candidates and not _NEGATED.search(answer):
        candidates = _choices_in(answer, by_words)
    return candidates.pop() if len(candidates) == 1 else None


def _clauses(text: str) -> Iterator[str]:
    """Clauses without their reasons; those of questions, conditions and single aspects are left out."""
    pieces = re.split(r"([.;!?\n]+)", text)
    for sentence, stop in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        if "?" not in stop and not _PARTIAL.search(sentence):
            yield from (_REASON.sub("", clause).strip(" \t-—–()[]\"'#>:") for clause in _CLAUSE.split(sentence))


def _verdict(clause: str) -> int | None:
    """1, 2 or 0 where the clause says so of the images as a whole; a label before a colon must be of a decision."""
    label, colon, rest = (part.strip() for part in clause.rpartition(":"))
    if _NEGATED.search(clause) or (colon and not _DECIDING.fullmatch(label)):
        return None
    if _TIE.search(rest):
        return 0
    match = _BETTER.search(rest) or _CHOSEN.search(rest) or (_ALONE.fullmatch(rest) if colon else None)
    return None if match is None else _image(match)


def _image(match: re.Match[str]) -> int:
    if match["image"] is None:
        return 0
    return 1 if re.search("1|first", match["image"]) else 2


def _choices_in(text: str, by_words: dict[str, str]) -> set[str]:
    """The choices whose words the text contains; a choice within a longer one that it contains does not count."""
    rest, choices = f" {_words(text)} ", set()
    for words in sorted(by_words, key=len, reverse=True):
        if f" {words} " in rest:
            choices.add(by_words[words])
            rest = rest.replace(f" {words} ", " | ")
    return choices


def _words(text: str) -> str:
    return " ".join(re.findall(r"(?:[+-](?=[0-9]))?[^\W_]+(?:[.'-][^\W_]+)*[+#]*", text.lower()))


def _plain(text: str) -> str:
    """The answer in lower case without quotation marks and emphasis; "" where it was cut off."""
    return re.sub(r"[_\u201c\u201d\"]", "", plain(text)).lower().strip()


def literal_choice(answer: str, choices: Sequence[str]) -> int | None:
    """Position of the choice that equals the answer, exactly or else up to case and outer spaces; None if none does.

    The published code compares exactly and leaves the rest to an uncased embedding.
    """
    if answer in choices:
        return list(choices).index(answer)
    folded = answer.strip().casefold()
    return next((i for i, choice in enumerate(choices) if choice.strip().casefold() == folded), None)
