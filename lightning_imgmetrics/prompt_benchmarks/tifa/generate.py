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
from lightning_imgmetrics.judges.metrics.closed_questions import choice_query, short_query
from lightning_imgmetrics.judges.metrics.judge_protocol import JudgeProtocol
from lightning_imgmetrics.judges.metrics.queries import Query
from lightning_imgmetrics.judges.metrics.quoting import RETRY_PREFIX
from lightning_imgmetrics.models.prompt_templates.templates import find_template
from lightning_imgmetrics.prompt_benchmarks.base.question_files import TifaQuestion
from lightning_imgmetrics.prompt_benchmarks.tifa.generated import (
    GeneratedQuestions,
    filtered_questions,
    parse_generated,
)
from lightning_imgmetrics.prompt_benchmarks.tifa.prompts import TIFA_FEW_SHOT

_FORMAT = """Write nothing but blocks of this form, the answer being one of the choices:
About an element (its type):
Q: a question
Choices: one, another
A: one"""
_WRITING, _CHECKING = Decoding(max_tokens=2048), Decoding(max_tokens=256)


class GeneratedTifa(NamedTuple):
    """Questions for `TIFA`, the captions that got none with the reason, and how many were left out, by reason."""

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
    """Questions about what captions say, by a judge that is shown no image.

    It follows TIFA's few-shot prompt. A question stays where the same judge, shown the caption, chooses its answer, and
    unless that is yes or no, gives much the same in its own words; TIFA asks UnifiedQA for that. Reference: Hu et al.
    2023.

    Args:
        captions: texts, or id -> text.
        judge: see `JudgeMetric`.
        template: a copy of the published source of the prompt, or a folder with it.
        retries: how often an answer that cannot be parsed is asked for again.
        decoding: how questions are drawn.
        device: where a local judge runs.

    Returns:
        The questions, the captions without any, and counts of what was left out.

    Raises:
        JudgeFailed: no caption got a question.
        ValueError: no caption, or a blank one.

    Example:
        >>> from lightning_imgmetrics import Answer, Judge, generate_questions
        >>> class Idle(Judge):
        ...     def reply(self, questions, decoding, device):
        ...         return [Answer("I will not.") for _ in questions]
        >>> generate_questions([" "], Idle())
        Traceback (most recent call last):
        ValueError: `captions` must hold an id and a text that are not blank, got '0': ' '
    """
    named = _named(captions)
    judge, device = as_judge(judge), torch.device(device)
    text = find_template(TIFA_FEW_SHOT, template)
    questions = [Question((), (turn(text.fill(caption=caption)),)) for caption in named.values()]
    queries = [Query(question, _parse, RETRY_PREFIX + _FORMAT) for question in questions]
    answers = dict(zip(named, JudgeProtocol(judge, retries, decoding=decoding).ask(queries, device), strict=True))
    written = {name: answer.value for name, answer in answers.items() if answer.value is not None}
    failed = {name: answer.problem for name, answer in answers.items() if answer.value is None}
    confirmed = _confirmed(named, written, JudgeProtocol(judge, retries, decoding=_CHECKING), device)
    failed |= {name: "no question was confirmed" for name, some in confirmed.items() if not some}
    if len(failed) == len(named):
        reasons = "; ".join(f"{reason} ({n}x)" for reason, n in Counter(failed.values()).most_common(3))
        raise JudgeFailed(f"none of {len(named)} captions got a question: {reasons}")
    return _result(confirmed, written, failed)


def write_tifa(path: str | Path, questions: Sequence[TifaQuestion]) -> None:
    """Write questions as TIFA publishes them: a JSON list of records, for `TIFA(path, ...)` and other tools.

    Args:
        path: the file, which is replaced as a whole.
        questions: of any number of captions.

    Example:
        >>> import tempfile
        >>> from lightning_imgmetrics import TifaQuestion, write_tifa
        >>> question = TifaQuestion("0", "a cat", "is there a cat?", ("yes", "no"), "yes", "animal", "cat")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_tifa(f"{folder}/questions.json", [question])
    """
    rows = [{**question.__dict__, "choices": list(question.choices)} for question in questions]
    text = json.dumps(rows, ensure_ascii=False, indent=1)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _confirmed(
    captions: Mapping[str, str],
    written: Mapping[str, GeneratedQuestions],
    protocol: JudgeProtocol,
    device: torch.device,
) -> dict[str, list[TifaQuestion]]:
    """The questions whose answer the judge finds in the caption, by caption."""
    pairs = [(captions[name], question) for name, of in written.items() for question in of.questions]
    queries = [choice_query(question.question, question.choices, caption) for caption, question in pairs]
    queries += [short_query(question.question, caption) for caption, question in pairs]
    answers = [answer.value or "" for answer in protocol.ask(queries, device)]
    choices, own_words = iter(answers[: len(pairs)]), iter(answers[len(pairs) :])
    confirmed = {}
    for name, of in written.items():
        checks = [(next(choices), next(own_words)) for _ in of.questions]
        good = filtered_questions(of.questions, [a for a, _ in checks], [b for _, b in checks])
        confirmed[name] = [
            TifaQuestion(name, captions[name], x.question, x.choices, x.answer, x.element_type, x.element) for x in good
        ]
    return confirmed


def _result(
    confirmed: Mapping[str, list[TifaQuestion]], written: Mapping[str, GeneratedQuestions], failed: dict[str, str]
) -> GeneratedTifa:
    questions = [question for of in confirmed.values() for question in of]
    return GeneratedTifa(
        questions,
        failed,
        n_malformed=sum(of.n_malformed for of in written.values()),
        n_other_type=sum(of.n_other_type for of in written.values()),
        n_rejected=sum(len(of.questions) for of in written.values()) - len(questions),
    )


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


def _parse(response: str) -> GeneratedQuestions | None:
    generated = parse_generated(response)
    return generated if generated.questions else None
