"""What all metrics share that ask a judge: questions, second tries, several draws."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar

from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import Decoding
from lightning_imgmetrics.judges.backends.resolve import as_judge
from lightning_imgmetrics.judges.calibration.record import Calibration
from lightning_imgmetrics.judges.metrics.queries import (
    Ask,
    ReadAnswer,
    Sample,
    Verdict,
    answer_rows,
    mean_verdict,
    read_answers,
)
from lightning_imgmetrics.judges.metrics.verdict_metric import VerdictMetric
from lightning_imgmetrics.models.base.extractor import Uint8Pixels
from lightning_imgmetrics.models.base.network import Network
from lightning_imgmetrics.result import Signature


class JudgeMetric(VerdictMetric):
    """The mean of what a judge says of each sample.

    `judge`: a `Judge`, a checkpoint folder or hub id, or "MODEL@URL" of an OpenAI-compatible server. An answer that
    cannot be read is asked for again, `retries` times at most; then the sample has no score: it is left out and counted
    (`n_failed`), and where their share is above `max_failed`, JudgeFailed. `parse_failure_rate`: of the
    answers that were given, the share that could not be read. `repeats` > 1 at a temperature above 0 scores each sample
    by the mean of as many answers; `spread` is their mean standard deviation. `limit`: only samples with ids below it
    are judged. `calibration`: how far the judge agrees with people, for the signature. Scores are kept, as are the
    rationales of this process (`rationales`).
    """

    logged: tuple[str, ...] = (*VerdictMetric.logged, "parse_failure_rate")
    counts = ("answers", "unread")  # that the judge gave, and those of them of which nothing could be read
    fault = "the judge gave no usable answer"
    patience = 3600.0  # answers come at unlike speeds, and from the cache on some ranks alone
    default_decoding: ClassVar[Decoding] = Decoding()
    extractor = Uint8Pixels()  # one for all judges: a suite hands the same images to each
    judge: Judge

    def __init__(
        self,
        judge: Judge | str,
        *,
        retries: int = 1,
        repeats: int = 1,
        decoding: Decoding | None = None,
        calibration: Calibration | None = None,
        **kwargs: Any,
    ):
        self.decoding = self.default_decoding if decoding is None else decoding
        if retries < 0 or repeats < 1:
            raise ValueError(f"`retries` must be at least 0 and `repeats` at least 1, got {retries} and {repeats}")
        if repeats > 1 and self.decoding.temperature == 0:
            raise ValueError(
                "`repeats` above 1 needs a `decoding` with a temperature above 0: greedy answers are equal"
            )
        if not isinstance(calibration, Calibration | None):
            told = type(calibration).__name__
            raise TypeError(f"`calibration` must be what `JudgeCalibration.compute` returns, got {told}")
        if repeats > 1:
            self.marks = (*self.marks, "spread")
        super().__init__(**kwargs)
        self.judge = as_judge(judge)
        self.retries, self.repeats, self.calibration = retries, repeats, calibration

    @property
    def networks(self) -> tuple[Network, ...]:
        return self.judge.networks

    def set_precision(self, *, dtype: str | None, compiled: bool) -> None:
        if dtype is not None and any(field.name == "dtype" for field in fields(self.judge)):
            self.judge = replace(self.judge, dtype=dtype)  # type: ignore[call-arg]

    def network_signature(self) -> dict[str, str]:
        return {**self.judge.signature(), **super().network_signature()}

    @abstractmethod
    def asks(self, sample: Sample) -> Sequence[Ask]:
        """What is asked about one sample."""

    @abstractmethod
    def conclude(self, sample: Sample, readings: Sequence[Any]) -> Verdict:
        """The verdict from one reading per question; None stands for those that could not be read."""

    def verdicts(self, samples: Sequence[Sample]) -> tuple[list[Verdict], list[tuple[int, ...]]]:
        asks = [list(self.asks(sample)) for sample in samples]
        rounds, counts = [], [[0, 0] for _ in samples]
        for k in range(self.repeats):
            decoding = replace(self.decoding, seed=self.decoding.seed + k)
            flat = [(i, ask) for i, some in enumerate(asks) for ask in some]
            readings = read_answers(
                self.judge, [ask for _, ask in flat], decoding, retries=self.retries, device=self.device
            )
            for (i, _), reading in zip(flat, readings, strict=True):
                counts[i][0] += reading.given
                counts[i][1] += reading.unread
            ordered = iter(readings)
            rounds.append([self._verdict_with_answers(s, some, ordered) for s, some in zip(samples, asks, strict=True)])
        merged = [mean_verdict(list(column)) for column in zip(*rounds, strict=True)]
        return merged, [(a, b) for a, b in counts]

    def _verdict_with_answers(self, sample: Sample, asks: Sequence[Ask], readings: Iterator[ReadAnswer]) -> Verdict:
        own = [next(readings) for _ in asks]
        verdict = self._verdict(sample, own)
        return replace(verdict, rows=answer_rows(asks, own, verdict.rows))

    def _verdict(self, sample: Sample, readings: Sequence[ReadAnswer]) -> Verdict:
        verdict = self.conclude(sample, [reading.value for reading in readings])
        if verdict.score is not None:
            return verdict
        told = "; ".join(dict.fromkeys(reading.problem for reading in readings if reading.problem))
        return replace(verdict, rationale=told or verdict.rationale)

    def details_of_counts(self, counts: Mapping[str, float]) -> dict[str, float]:
        return {"parse_failure_rate": counts["unread"] / counts["answers"] if counts["answers"] else 0.0}

    def signature_parameters(self) -> dict[str, object]:
        d = self.decoding
        drawn = {"temperature": f"{d.temperature:g}", "repeats": self.repeats, "seed": d.seed} if d.temperature else {}
        penalty = {} if d.repetition_penalty == 1 else {"repetition_penalty": f"{d.repetition_penalty:g}"}
        thinking = {} if d.thinking is None else {"thinking": d.thinking}
        agreed = {} if self.calibration is None else dict(Signature.parse(self.calibration.citation()).fields)
        return {
            "max_tokens": d.max_tokens,
            "retries": self.retries,
            **drawn,
            **penalty,
            **thinking,
            **super().signature_parameters(),
            **agreed,
        }
