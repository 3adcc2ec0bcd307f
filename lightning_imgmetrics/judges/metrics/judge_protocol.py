"""How a judge is asked about samples: second tries, several draws, and what of it belongs in a signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import Decoding
from lightning_imgmetrics.judges.calibration.record import Calibration
from lightning_imgmetrics.judges.metrics.queries import ParsedAnswer, Query, Sample
from lightning_imgmetrics.judges.metrics.verdicts import Verdict, mean_verdict
from lightning_imgmetrics.metrics.base.summary import Column
from lightning_imgmetrics.result import Signature

JUDGES_TIMEOUT = 3600.0  # answers come at different speeds, and from the cache on some ranks alone
Queries = Callable[[Sample], Sequence[Query]]
Conclude = Callable[[Sample, Sequence[Any]], Verdict]


@dataclass(frozen=True)
class JudgeProtocol:
    """A judge, and how it is asked.

    What cannot be read of an answer is asked for again, `retries` times at most. With `repeats` above 1, each query is
    answered as many times, by seeds of their own, and a sample's verdict is the mean. `calibration`: how far the judge
    agrees with people, for the signature.
    """

    judge: Judge
    retries: int = 1
    repeats: int = 1
    decoding: Decoding = field(default_factory=Decoding)
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if self.retries < 0 or self.repeats < 1:
            raise ValueError(
                f"`retries` must be at least 0 and `repeats` at least 1, got {self.retries} and {self.repeats}"
            )
        if self.repeats > 1 and self.decoding.temperature == 0:
            raise ValueError(
                "`repeats` above 1 needs a `decoding` with a temperature above 0: greedy answers are equal"
            )
        if not isinstance(self.calibration, Calibration | None):
            kind = type(self.calibration).__name__
            raise TypeError(f"`calibration` must be what `JudgeCalibration.compute` returns, got {kind}")

    def columns(self) -> tuple[Column, ...]:
        """The columns of a metric that asks so."""
        spread = (Column("spread"),) if self.repeats > 1 else ()
        counts = Column("answers", "sum"), Column("unparsed", "sum")
        return (*spread, *counts, Column("parse_failure_rate", "detail", logged=True))

    def ask(self, queries: Sequence[Query], device: torch.device, *, draw: int = 0) -> list[ParsedAnswer]:
        """One parsed answer per query."""
        decoding = replace(self.decoding, seed=self.decoding.seed + draw)
        answers = [ParsedAnswer() for _ in queries]
        pending = {i: query.question for i, query in enumerate(queries)}
        for _ in range(self.retries + 1):
            if not pending:
                break
            replies = self.judge.ask(list(pending.values()), decoding, device)
            again = {}
            for (i, question), reply in zip(pending.items(), replies, strict=True):
                answers[i] = queries[i].parsed(reply, answers[i])
                if answers[i].value is None and reply.text and queries[i].format_reminder:
                    again[i] = queries[i].retry(question, reply.text)
            pending = again
        return answers

    def verdicts(
        self, samples: Sequence[Sample], queries: Queries, conclude: Conclude, device: torch.device
    ) -> list[Verdict]:
        """One verdict per sample: `conclude(sample, values)` of one value per query, None where there is none."""
        every = [list(queries(sample)) for sample in samples]
        draws: list[list[Verdict]] = []
        for draw in range(self.repeats):
            answers = iter(self.ask([query for some in every for query in some], device, draw=draw))
            draws.append([])
            for sample, some in zip(samples, every, strict=True):
                own = [next(answers) for _ in some]
                verdict = conclude(sample, [answer.value for answer in own])
                draws[-1].append(verdict.with_answers(some, own))
        return [mean_verdict(of_sample) for of_sample in zip(*draws, strict=True)]

    def details(self, sums: Mapping[str, float]) -> dict[str, float]:
        """What the sums of `columns` say, for the details."""
        return {"parse_failure_rate": sums["unparsed"] / sums["answers"] if sums["answers"] else 0.0}

    def signature(self) -> dict[str, object]:
        """How answers are drawn."""
        d = self.decoding
        sampling = {"temperature": f"{d.temperature:g}", "repeats": self.repeats, "seed": d.seed}
        return {
            "max_tokens": d.max_tokens,
            "retries": self.retries,
            **(sampling if d.temperature else {}),
            **({} if d.repetition_penalty == 1 else {"repetition_penalty": f"{d.repetition_penalty:g}"}),
            **({} if d.thinking is None else {"thinking": d.thinking}),
        }

    def citation(self) -> dict[str, object]:
        """How far the judge agrees with people, where that is known."""
        return {} if self.calibration is None else dict(Signature.parse(self.calibration.citation()).fields)

    def with_dtype(self, dtype: str | None) -> JudgeProtocol:
        """The same judge in another precision, if it has one to choose."""
        if dtype is None or all(option.name != "dtype" for option in fields(self.judge)):
            return self
        return replace(self, judge=replace(self.judge, dtype=dtype))  # type: ignore[call-arg]
