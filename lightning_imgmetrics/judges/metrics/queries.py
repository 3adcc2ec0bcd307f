"""Queries to a judge about samples: what is asked, how an answer is parsed, and what follows one that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lightning_imgmetrics.judges.backends.question import Answer, Question, turn
from lightning_imgmetrics.metrics.base.inputs import Ids, check_ids


@dataclass(frozen=True)
class Sample:
    """One image, uint8 (3, h, w), and what came with it; `item`: the name of its item, in a benchmark."""

    image: Tensor
    prompt: str = ""
    source: tuple[Tensor, ...] = ()
    rivals: tuple[Tensor, ...] = ()
    label: int | None = None
    id: int | None = None
    position: int = 0  # among the samples of this process
    item: str = ""


def samples_of(images: Sequence[Tensor], inputs: Mapping[str, Any], *, ids: Ids | None, start: int) -> list[Sample]:
    """Images and what came with each; the first is the `start`-th of this process."""
    names = {"prompt": "prompts", "source": "source", "rivals": "rivals", "label": "labels"}
    columns = {name: inputs[key] for name, key in names.items() if inputs.get(key) is not None}
    if "label" in columns:
        columns["label"] = [int(x) for x in columns["label"]]
    if ids is not None:
        columns["id"] = check_ids(ids, len(images)).tolist()
    return [
        Sample(image, position=start + i, **{name: column[i] for name, column in columns.items()})
        for i, image in enumerate(images)
    ]


@dataclass(frozen=True)
class Query:
    """One question, and how its answer is parsed: a text, or a probability where `question.answer` is given.

    `parse` returns None for what it cannot read; `format_reminder` then tells the judge, once more, how it must answer.
    `name`: what reports call the question where its text is no name.
    """

    question: Question
    parse: Callable[[Any], Any]
    format_reminder: str = ""
    name: str = ""

    def parsed(self, answer: Answer, previous: ParsedAnswer) -> ParsedAnswer:
        """What an answer says, counted with those before it."""
        is_text = self.question.answer is None
        raw = answer.text if is_text else answer.probability
        value, problem = None, answer.problem
        if not problem and (raw is None or raw == ""):
            problem = "empty answer"
        elif not problem:
            value = self.parse(raw)
            problem = "" if value is not None else f"unreadable answer: {str(raw)[:200]!r}"
        is_answer = answer.answered or not answer.problem
        return ParsedAnswer(
            value,
            previous.answered + is_answer,
            previous.unparsed + (is_answer and value is None),
            problem,
            _after_thoughts(answer.text) if is_text and answer.text is not None else answer.probability,
            previous.tries + 1,
        )

    def retry(self, question: Question, text: str) -> Question:
        """The conversation with the answer that could not be read, and the reminder of the format."""
        reply = turn(_after_thoughts(text), role="assistant")
        return replace(question, messages=(*question.messages, reply, turn(self.format_reminder)))


@dataclass(frozen=True)
class ParsedAnswer:
    """The value of the answer to one query, None where nothing could be read, and what was wrong with the last one.

    `answered`: how many answers there were, and of these `unparsed` could not be read; `tries`: how often it was asked.
    Where no judge could be reached, there was no answer. `raw_answer`: the last one, a text without its chain of
    thought, or a probability.
    """

    value: Any = None
    answered: int = 0
    unparsed: int = 0
    problem: str = ""
    raw_answer: str | float | None = None
    tries: int = 0


def _after_thoughts(text: str) -> str:
    """The answer without its chain of thought."""
    return text.rpartition("</think>")[2].strip()
