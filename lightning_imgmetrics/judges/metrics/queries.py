"""Questions to a judge about samples: how they are asked, asked again, read and put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import Answer, Decoding, Question, turn

_LONGEST_TOLD = 2000  # characters of an answer in a record


@dataclass(frozen=True)
class Sample:
    """One image, uint8 (3, h, w), and what came with it."""

    image: Tensor
    prompt: str = ""
    source: tuple[Tensor, ...] = ()
    rivals: tuple[Tensor, ...] = ()
    label: int | None = None
    id: int | None = None
    place: int = 0  # among the samples of this process


@dataclass(frozen=True)
class Ask:
    """One question, and how its answer is read: a text, or a probability where `question.answer` is given.

    `read` returns None for what it cannot read; `form` then tells the judge, once more, how it must answer. `name`:
    what reports call the question where its text is no name.
    """

    question: Question
    read: Callable[[Any], Any]
    form: str = ""
    name: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the answers to all questions about one sample say; a `score` of None: it has none.

    `void`: not for want of an answer, but as nothing that was asked applies to it; that is no failure.
    """

    score: float | None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    rationale: str = ""
    rows: Sequence[Mapping[str, Any]] = ()  # one per question, for reports
    void: bool = False


@dataclass(frozen=True)
class ReadAnswer:
    """What was read of the answers to one question, None for nothing; how many there were, and of how many nothing was
    read; what was wrong with the last one. Where nobody answered, as none could be reached, there was none. `said`: the
    last one as it was given, a text without its chain of thought, or a probability; `tries`: how often it was asked.
    """

    value: Any = None
    given: int = 0
    unread: int = 0
    problem: str = ""
    said: str | float | None = None
    tries: int = 0


def read_answers(
    judge: Judge, asks: Sequence[Ask], decoding: Decoding, *, retries: int, device: torch.device
) -> list[ReadAnswer]:
    """One reading per question; what cannot be read is asked for again, `retries` times at most."""
    readings = [ReadAnswer() for _ in asks]
    questions = {i: ask.question for i, ask in enumerate(asks)}
    for _ in range(retries + 1):
        if not questions:
            break
        answers = judge.ask(list(questions.values()), decoding, device)
        again = {}
        for (i, question), answer in zip(questions.items(), answers, strict=True):
            value, problem = _read(asks[i], answer)
            before, given = readings[i], answer.answered or not answer.problem
            unread = before.unread + (given and value is None)
            said = _said(asks[i], answer)
            readings[i] = ReadAnswer(value, before.given + given, unread, problem, said, before.tries + 1)
            if value is None and answer.text and asks[i].form:
                again[i] = _once_more(question, answer.text, asks[i].form)
        questions = again
    return readings


def _read(ask: Ask, answer: Answer) -> tuple[Any, str]:
    if answer.problem:
        return None, answer.problem
    said = answer.text if ask.question.answer is None else answer.probability
    if said is None or said == "":
        return None, "empty answer"
    reading = ask.read(said)
    return reading, "" if reading is not None else f"unreadable answer: {str(said)[:200]!r}"


def _said(ask: Ask, answer: Answer) -> str | float | None:
    return answer.probability if ask.question.answer is not None or answer.text is None else _spoken(answer.text)


def _once_more(question: Question, text: str, form: str) -> Question:
    return replace(question, messages=(*question.messages, turn(_spoken(text), role="assistant"), turn(form)))


def _spoken(text: str) -> str:
    """What was said after thinking."""
    return text.rpartition("</think>")[2].strip()


def answer_rows(asks: Sequence[Ask], readings: Sequence[ReadAnswer], rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The rows of a verdict with the answer to each question, cut where it is long, and how often it was asked.

    Where the metric's rows are not one per question, rows of the questions come before them.
    """
    if len(rows) != len(asks):
        return [*answer_rows(asks, readings, [_bare_row(*pair) for pair in zip(asks, readings, strict=True)]), *rows]
    told = []
    for row, reading in zip(rows, readings, strict=True):
        said = reading.said[:_LONGEST_TOLD] if isinstance(reading.said, str) else reading.said
        problem = {"problem": reading.problem} if reading.value is None else {}
        told.append({**row, "answer": said, "tries": reading.tries, **problem})
    return told


def _bare_row(ask: Ask, reading: ReadAnswer) -> dict[str, Any]:
    """A question in a few words, and what was read of its answer, where that is a number."""
    parts = [part.get("text", "") for message in ask.question.messages for part in message["content"]]
    value = reading.value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"question": ask.name or " ".join(filter(None, parts))[:200], "score": value if number else None}


def mean_verdict(verdicts: list[Verdict]) -> Verdict:
    """One verdict of several draws: means of what is known, and the spread of the scores."""
    if len(verdicts) == 1:
        return verdicts[0]
    known = [v for v in verdicts if v.score is not None]
    if not known:
        return next((v for v in verdicts if not v.void), verdicts[0])
    scores = torch.tensor([v.score for v in known], dtype=torch.float64)
    figures: dict[str, float | None] = {"spread": float(scores.std()) if len(known) > 1 else None}
    for name in known[0].figures:
        values = [v.figures[name] for v in known if v.figures.get(name) is not None]
        figures[name] = sum(values) / len(values) if values else None  # type: ignore[arg-type]
    rows = [_mean_row(column) for column in zip(*(v.rows for v in known), strict=True)]
    return replace(known[0], score=float(scores.mean()), figures=figures, rows=rows)


def _mean_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """One question in several draws: as in the first that has a score, with the mean of all that have one."""
    answered = [row for row in rows if row.get("score") is not None]
    if not answered:
        return rows[0]
    return {**answered[0], "score": sum(row["score"] for row in answered) / len(answered)}
