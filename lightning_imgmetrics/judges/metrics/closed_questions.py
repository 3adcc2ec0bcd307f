"""Questions in words of this package whose answer is yes or no, one of several choices, or a few words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from lightning_imgmetrics.errors import ValueRangeError
from lightning_imgmetrics.judges.backends.question import IMAGE, Question, turn
from lightning_imgmetrics.judges.metrics.queries import Ask
from lightning_imgmetrics.judges.metrics.quoting import AGAIN, fenced
from lightning_imgmetrics.judges.parsing.decisions import choice_of, literal_choice, yes_no
from lightning_imgmetrics.judges.parsing.json_text import after_thinking
from lightning_imgmetrics.judges.parsing.refusals import is_refusal

_LOOK = "Look at the picture, and answer the question about it."
_READ = "Read the description, and answer the question by what it says and nothing else."
_YES_NO = "Answer yes or no, in one word."
_SHORT = "Answer in a few words and nothing else."
_CHOOSE = "Answer with one of the choices, word for word, and nothing else."


def yes_no_ask(question: str, image: Tensor) -> Ask:
    """Read as True for yes, False for no."""
    return _ask(question, image, _YES_NO, yes_no)


def short_ask(question: str, about: Tensor | str) -> Ask:
    """A question about an image, or about a description alone, that is answered in the judge's own words."""
    return _ask(question, about, _SHORT, _short)


def choice_ask(question: str, choices: Sequence[str], about: Tensor | str) -> Ask:
    """A question about an image, or about a description alone, whose answer is read as one of the choices."""

    def read(text: str) -> str | None:
        return chosen(text, choices)

    return _ask(f"{question}\nChoices: {', '.join(choices)}", about, _CHOOSE, read)


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


def _ask(question: str, about: Tensor | str, form: str, read: Callable[[str], bool | str | None]) -> Ask:
    asked = f"Question: {question}\n{form}"
    if isinstance(about, str):
        messages = turn(f"{_READ}\n{fenced(about, 'description')}\n{asked}")
        return Ask(Question((), (messages,)), read, AGAIN + form)
    return Ask(Question((about,), (turn(IMAGE, f"{_LOOK}\n{asked}"),)), read, AGAIN + form)


def _short(text: str) -> str | None:
    answer = after_thinking(text)
    return None if not answer or is_refusal(answer) else answer
