"""TIFA for captions of one's own: a language model writes the questions, and reads the caption to check them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from lightning_imgmetrics._files import write_atomically
from lightning_imgmetrics.errors import JudgeFailed
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import Decoding, Question, turn
from lightning_imgmetrics.judges.backends.resolve import as_judge
from lightning_imgmetrics.judges.metrics.closed_questions import choice_ask, short_ask
from lightning_imgmetrics.judges.metrics.queries import Ask, read_answers
from lightning_imgmetrics.judges.metrics.quoting import AGAIN
from lightning_imgmetrics.models.prompt_templates.templates import find_template
from lightning_imgmetrics.prompt_benchmarks.base.question_files import TifaQuestion
from lightning_imgmetrics.prompt_benchmarks.tifa.generated import (
    GeneratedQuestions,
    filtered_questions,
    parse_generated,
)
from lightning_imgmetrics.prompt_benchmarks.tifa.prompts import TIFA_FEW_SHOT

_FORM = """Write nothing but blocks of this form, the answer being one of the choices:
About an element (its type):
Q: a question
Choices: one, another
A: one"""
_WRITING, _CHECKS = Decoding(max_tokens=2048), Decoding(max_tokens=256)


class GeneratedTifa(NamedTuple):
    """Questions for `TIFA`, the captions that got none with the reason, and how many were not taken, and why."""

    questions: list[TifaQuestion]
    failed: dict[str, str]
    n_malformed: int
    n_other_type: int
    n_rejected: int


def generate_questions(
    captions: Sequence[str] | Mapping[str, str],
    judge: Judge | str,
    *,
    template: str | Path | None = None,
    retries: int = 1,
    decoding: Decoding = _WRITING,
    device: torch.device | str = "cpu",
) -> GeneratedTifa:
    """Questions about what captions say, by a judge that is shown no image; `captions`: id -> text, or texts.

    It follows TIFA's few-shot prompt (`template`: a copy of its source). A question stays where the same judge, told
    the caption, chooses its answer, and unless that is yes or no, gives much the same in its own words; TIFA asks
    UnifiedQA for that. JudgeFailed where no caption gets a question. Source: Hu et al. 2023.
    """
    named = _named(captions)
    judge, device = as_judge(judge), torch.device(device)
    text = find_template(TIFA_FEW_SHOT, template)
    asks = [
        Ask(Question((), (turn(text.fill(caption=caption)),)), _parsed, AGAIN + _FORM) for caption in named.values()
    ]
    readings = read_answers(judge, asks, decoding, retries=retries, device=device)
    written = {name: reading.value for name, reading in zip(named, readings, strict=True) if reading.value is not None}
    failed = {name: reading.problem for name, reading in zip(named, readings, strict=True) if reading.value is None}
    kept = _confirmed(named, written, judge, retries, device)
    failed |= {name: "no question was confirmed" for name, questions in kept.items() if not questions}
    if len(failed) == len(named):
        told = "; ".join(f"{why} ({n}x)" for why, n in Counter(failed.values()).most_common(3))
        raise JudgeFailed(f"none of {len(named)} captions got a question: {told}")
    questions = [question for of in kept.values() for question in of]
    counts = [sum(getattr(x, count) for x in written.values()) for count in ("n_malformed", "n_other_type")]
    rejected = sum(len(x.questions) for x in written.values()) - len(questions)
    return GeneratedTifa(questions, failed, counts[0], counts[1], rejected)


def write_tifa(path: str | Path, questions: Sequence[TifaQuestion]) -> None:
    """Questions as TIFA publishes them: a JSON list of records, for `TIFA(path, ...)` and other tools."""
    rows = [{**question.__dict__, "choices": list(question.choices)} for question in questions]
    told = json.dumps(rows, ensure_ascii=False, indent=1)
    write_atomically(path, lambda temporary: temporary.write_text(told, encoding="utf-8"))


def _confirmed(
    captions: Mapping[str, str],
    written: Mapping[str, GeneratedQuestions],
    judge: Judge,
    retries: int,
    device: torch.device,
) -> dict[str, list[TifaQuestion]]:
    """The questions whose answer the judge finds in the caption, by caption."""
    asked = [(captions[name], question) for name, of in written.items() for question in of.questions]
    asks = [choice_ask(question.question, question.choices, caption) for caption, question in asked]
    asks += [short_ask(question.question, caption) for caption, question in asked]
    said = [reading.value or "" for reading in read_answers(judge, asks, _CHECKS, retries=retries, device=device)]
    chosen, own_words = iter(said[: len(asked)]), iter(said[len(asked) :])
    kept = {}
    for name, of in written.items():
        answers = [(next(chosen), next(own_words)) for _ in of.questions]
        good = filtered_questions(of.questions, [a for a, _ in answers], [b for _, b in answers])
        kept[name] = [
            TifaQuestion(name, captions[name], x.question, x.choices, x.answer, x.element_type, x.element) for x in good
        ]
    return kept


def _named(captions: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    if isinstance(captions, str):
        raise TypeError("`captions` must be texts, or a mapping of ids to texts, got one text")
    named = dict(captions) if isinstance(captions, Mapping) else {str(i): text for i, text in enumerate(captions)}
    for name, text in named.items():
        if not isinstance(name, str) or not isinstance(text, str) or not name.strip() or not text.strip():
            raise ValueError(f"`captions` must hold an id and a text that are not blank, got {name!r}: {text!r}")
    if not named:
        raise ValueError("`captions` must hold at least one text, got none")
    return named


def _parsed(response: str) -> GeneratedQuestions | None:
    found = parse_generated(response)
    return found if found.questions else None
