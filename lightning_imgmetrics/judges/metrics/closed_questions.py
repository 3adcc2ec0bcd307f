"""Questions in words of this package whose answer is yes or no, one of several choices, or a few words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from lightning_imgmetrics.errors import ValueRangeError
from lightning_imgmetrics.judges.backends.question import IMAGE, Question, turn
from lightning_imgmetrics.judges.metrics.queries import Query
from lightning_imgmetrics.judges.metrics.quoting import RETRY_PREFIX, quote_untrusted
from lightning_imgmetrics.judges.parsing.decisions import choice_of, literal_choice, yes_no
from lightning_imgmetrics.judges.parsing.json_text import after_thinking
from lightning_imgmetrics.judges.parsing.refusals import is_refusal

_LOOK = "Look at the picture, and answer the question about it."
_READ = "Read the description, and answer the question by what it says and nothing else."
_YES_NO = "Answer yes or no, in one word."
_SHORT = "Answer in a few words and nothing else."
_CHOOSE = "Answer with one of the choices, word for word, and nothing else."


def yes_no_query(question: str, image: Tensor) -> Query:
    """Parsed as True for yes, False for no."""
    return _query(question, image, _YES_NO, yes_no)


def short_query(question: str, about: Tensor | str) -> Query:
    """A question about an image, or about a description alone, that is answered in the judge's own words."""
    return _query(question, about, _SHORT, _short)


def choice_query(question: str, choices: Sequence[str], about: Tensor | str) -> Query:
    """A question about an image, or about a description alone, whose answer is parsed as one of the choices."""
    return _query(f"{question}\nChoices: {', '.join(choices)}", about, _CHOOSE, partial(chosen, choices=choices))


def chosen(text: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer is, or names; None where it names none or several."""
    answer = after_thinking(text)
    if answer is None or is_refusal(answer):
        return None
    position = literal_choice(answer.strip("\"'.*` \n"), choices)
    if position is not None:
        return choices[position]
    try:
        return choice_of(answer, choices)
    except ValueRangeError:  # choices that punctuation tells apart must be answered to the letter
        return None


def _query(question: str, about: Tensor | str, answer_format: str, parse: Callable[[str], bool | str | None]) -> Query:
    text = f"Question: {question}\n{answer_format}"
    if isinstance(about, str):
        messages = turn(f"{_READ}\n{quote_untrusted(about, 'description')}\n{text}")
        return Query(Question((), (messages,)), parse, RETRY_PREFIX + answer_format)
    return Query(Question((about,), (turn(IMAGE, f"{_LOOK}\n{text}"),)), parse, RETRY_PREFIX + answer_format)


def _short(text: str) -> str | None:
    answer = after_thinking(text)
    return None if not answer or is_refusal(answer) else answer
