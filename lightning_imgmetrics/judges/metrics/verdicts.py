"""Verdicts on samples: what the answers to all queries about one come to, and what a metric keeps of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_imgmetrics.judges.metrics.queries import ParsedAnswer, Query, Sample
from lightning_imgmetrics.metrics.base.summary import Column

_LONGEST_ANSWER = 2000  # characters of an answer in a record


@dataclass(frozen=True)
class Verdict:
    """What the answers to all queries about one sample say; a `score` of None: it has none.

    `extra`: the values of the metric's further columns. `rows`: one per question, for reports. `not_applicable`:
    nothing that was asked applies to the sample; that is no failure. `answered`, `unparsed`: as of `ParsedAnswer`.
    """

    score: float | None
    extra: Mapping[str, float | None] = field(default_factory=dict)
    rationale: str = ""
    rows: Sequence[Mapping[str, Any]] = ()
    not_applicable: bool = False
    answered: int = 0
    unparsed: int = 0

    def with_answers(self, queries: Sequence[Query], answers: Sequence[ParsedAnswer]) -> Verdict:
        """The verdict with the answers in its rows and counts; without a score, what was wrong is the rationale."""
        problems = "; ".join(dict.fromkeys(answer.problem for answer in answers if answer.problem))
        return replace(
            self,
            rationale=self.rationale if self.score is not None else problems or self.rationale,
            rows=_answer_rows(queries, answers, self.rows),
            answered=sum(answer.answered for answer in answers),
            unparsed=sum(answer.unparsed for answer in answers),
        )


def mean_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of several draws: means over those that have a score, and `spread`, their standard deviation."""
    if len(verdicts) == 1:
        return verdicts[0]
    counts = {name: sum(getattr(v, name) for v in verdicts) for name in ("answered", "unparsed")}
    scored = [v for v in verdicts if v.score is not None]
    if not scored:
        return replace(next((v for v in verdicts if not v.not_applicable), verdicts[0]), **counts)
    scores = torch.tensor([v.score for v in scored], dtype=torch.float64)
    extra = {name: _mean([v.extra.get(name) for v in scored]) for name in scored[0].extra}
    spread = float(scores.std()) if len(scored) > 1 else None
    rows = [_mean_row(column) for column in zip(*(v.rows for v in scored), strict=True)]
    return replace(scored[0], score=float(scores.mean()), extra={"spread": spread, **extra}, rows=rows, **counts)


@dataclass(frozen=True)
class VerdictTable:
    """The layout of rows (n, 1 + columns): the score of a sample, NaN for none, then a number for each column."""

    columns: tuple[Column, ...]

    def rows(self, scores: Sequence[float | None], values: Sequence[Mapping[str, float | None]]) -> Tensor:
        """Rows of scores and further numbers, NaN where there is none."""
        names = [column.name for column in self.columns]
        rows = [
            [_number(score), *(_number(numbers.get(name)) for name in names)]
            for score, numbers in zip(scores, values, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, 1 + len(names))

    def column(self, rows: Tensor, name: str) -> Tensor:
        """The numbers (n,) of one column."""
        return rows[:, 1 + [column.name for column in self.columns].index(name)]

    def of_kind(self, kind: str) -> list[str]:
        """The columns of a kind."""
        return [column.name for column in self.columns if column.kind == kind]

    def sums(self, rows: Tensor) -> dict[str, float]:
        """What is summed over all samples."""
        return {name: float(self.column(rows, name).sum()) for name in self.of_kind("sum")}

    def means(self, rows: Tensor) -> dict[str, float]:
        """The means of what is known, by column; none of a column that has no number."""
        names = self.of_kind("mean")
        means = torch.stack([self.column(rows, name) for name in names], 1).nanmean(0).tolist() if names else []
        return {name: mean for name, mean in zip(names, means, strict=True) if mean == mean}


@dataclass
class VerdictLog:
    """One record per sample that this process judged: id, prompt, score, columns, rationale, rows of questions."""

    records: list[dict[str, Any]] = field(default_factory=list)
    n_seen: int = 0  # samples, also those that were passed over

    def add(self, samples: Sequence[Sample], verdicts: Sequence[Verdict], *, n_seen: int) -> None:
        self.n_seen += n_seen
        for sample, verdict in zip(samples, verdicts, strict=True):
            record = {"id": sample.id, "prompt": sample.prompt, "score": verdict.score, **verdict.extra}
            item = {"item": sample.item} if sample.item else {}
            rows = [dict(row) for row in verdict.rows]
            self.records.append({**record, **item, "rationale": verdict.rationale, "rows": rows})

    def rationales(self) -> dict[int, str]:
        """id -> why it was decided so, or why there is no score."""
        return {r["id"]: r["rationale"] for r in self.records if r["id"] is not None and r["rationale"]}

    def failures(self) -> Counter[str]:
        """How often each reason left a sample without a score."""
        return Counter(record["rationale"] for record in self.records if record["score"] is None)

    def failed_questions(self) -> Counter[str]:
        """How often each problem left a question without an answer."""
        return Counter(row["problem"] for record in self.records for row in record["rows"] if "problem" in row)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _mean_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """One question in several draws: as in the first that has a score, with the mean of all that have one."""
    scored = [row for row in rows if row.get("score") is not None]
    return {**scored[0], "score": _mean([row["score"] for row in scored])} if scored else rows[0]


def _answer_rows(
    queries: Sequence[Query], answers: Sequence[ParsedAnswer], rows: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The rows of a verdict with the answer to each question, cut where it is long, and how often it was asked.

    Where the metric's rows are not one per question, rows of the questions come before them.
    """
    others: Sequence[Mapping[str, Any]] = ()
    if len(rows) != len(queries):
        rows, others = [_bare_row(*pair) for pair in zip(queries, answers, strict=True)], rows
    complete: list[Mapping[str, Any]] = []
    for row, answer in zip(rows, answers, strict=True):
        raw = answer.raw_answer[:_LONGEST_ANSWER] if isinstance(answer.raw_answer, str) else answer.raw_answer
        problem = {"problem": answer.problem} if answer.value is None else {}
        complete.append({**row, "answer": raw, "tries": answer.tries, **problem})
    return [*complete, *others]


def _bare_row(query: Query, answer: ParsedAnswer) -> dict[str, Any]:
    """A question in a few words, and the value of its answer, where that is a number."""
    parts = [part.get("text", "") for message in query.question.messages for part in message["content"]]
    value = answer.value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"question": query.name or " ".join(filter(None, parts))[:200], "score": value if is_number else None}


def _number(x: float | None) -> float:
    return math.nan if x is None else float(x)
