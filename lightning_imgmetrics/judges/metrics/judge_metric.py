"""What all metrics share that ask a judge about samples and nothing else."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import Decoding
from lightning_imgmetrics.judges.backends.resolve import as_judge
from lightning_imgmetrics.judges.calibration.record import Calibration
from lightning_imgmetrics.judges.metrics.judge_protocol import JUDGES_TIMEOUT, JudgeProtocol
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.verdict_metric import VerdictMetric
from lightning_imgmetrics.judges.metrics.verdicts import Verdict


class JudgeMetric(VerdictMetric):
    """The mean of the scores that a judge's answers give samples.

    An answer that cannot be parsed is asked for again; then the sample has no score: it is left out and counted
    (`n_failed`). `parse_failure_rate`: of the answers that were given, the share that could not be parsed. A subclass
    says what is asked (`queries`), and what the answers come to (`conclude`).

    Args:
        judge: a `Judge`, a checkpoint folder or hub id, or "MODEL@URL" of an OpenAI-compatible server.
        retries: how often an answer that cannot be parsed is asked for again.
        repeats: how many answers, at a temperature above 0, the score of a sample is the mean of; `spread` is the mean
            of their standard deviations.
        decoding: how answers are drawn; default `default_decoding`.
        calibration: how far the judge agrees with people, from `JudgeCalibration`, for the signature.
        kwargs: those of `VerdictMetric`.
    """

    sync_timeout = JUDGES_TIMEOUT
    default_decoding: ClassVar[Decoding] = Decoding()

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
        decoding = self.default_decoding if decoding is None else decoding
        self.protocol = JudgeProtocol(as_judge(judge), retries, repeats, decoding, calibration)
        super().__init__(**kwargs)

    @abstractmethod
    def queries(self, sample: Sample) -> Sequence[Query]:
        """What is asked about one sample."""

    @abstractmethod
    def conclude(self, sample: Sample, answers: Sequence[Any]) -> Verdict:
        """The verdict from one parsed answer per query; None stands for those that could not be parsed."""

    def verdicts(self, samples: Sequence[Sample]) -> list[Verdict]:
        assert self.protocol is not None
        return self.protocol.verdicts(samples, self.queries, self.conclude, self.device)
