"""What metrics share that give each sample a verdict, or none: failures are counted, reasons are kept."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics._compat.torchmetrics import keep_forward_value, this_rank_alone
from lightning_imgmetrics._images import Images, ImageSets, as_image_sets
from lightning_imgmetrics.errors import JudgeFailed, NotEnoughSamples, NothingToJudge, ShapeError
from lightning_imgmetrics.functional.intervals import bounded_interval
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.metrics.judge_protocol import JudgeProtocol
from lightning_imgmetrics.judges.metrics.queries import Sample, samples_of
from lightning_imgmetrics.judges.metrics.verdicts import Verdict, VerdictLog, VerdictTable
from lightning_imgmetrics.metrics.base.inputs import Ids, as_texts
from lightning_imgmetrics.metrics.base.score_metric import ScoreMetric
from lightning_imgmetrics.metrics.base.stream_set import StreamSet
from lightning_imgmetrics.metrics.base.summary import Column, Summary
from lightning_imgmetrics.models.base.extractor import Extractor, Features, Uint8Pixels
from lightning_imgmetrics.models.base.network import Network


class VerdictMetric(ScoreMetric):
    """The mean of the scores that `verdicts` gives samples.

    A sample whose verdict has no score is left out and counted (`n_failed`); where their share is above `max_failed`,
    JudgeFailed. One to which nothing applies is no failure: it is counted apart (`n_not_applicable`). One whose id this
    process has met is not judged again. Scores are kept, as are the verdicts of this process (`records`, `rationales`).

    Args:
        limit: judge only the samples with ids below it.
        max_failed: the largest share of samples that may have no score, in [0, 1].
        kwargs: those of `ImageMetric`.
    """

    inputs: tuple[str, ...] = ("prompts",)
    layers = ("pixels",)
    extractor: Extractor | None = Uint8Pixels()  # one for all: a suite hands the same images to each judge
    higher_is_better = True
    score_is_partial = True
    failure_message: ClassVar[str] = "the judge gave no usable answer"
    images_per_sample: Mapping[str, int] = {}  # how many `source` or `rivals` of a sample there must be
    protocol: JudgeProtocol | None = None  # how a judge is asked, where one decides

    def __init__(self, *, limit: int | None = None, max_failed: float = 0.2, **kwargs: Any):
        if not kwargs.pop("keep_scores", True):
            raise ValueError(
                f"`keep_scores` must be True: {self.name} tells failed samples from others by their scores"
            )
        if (limit is not None and limit < 1) or not 0 <= max_failed <= 1:
            raise ValueError(f"`limit` at least 1 and `max_failed` in [0, 1] are needed, got {limit} and {max_failed}")
        super().__init__(**kwargs)
        self.limit, self.max_failed = limit, max_failed
        self.table = VerdictTable(self.row)
        self.log = VerdictLog()

    def columns(self) -> tuple[Column, ...]:
        judge_columns = () if self.protocol is None else self.protocol.columns()
        own = Column("not_applicable", "mark"), Column("n_failed", "detail", logged=True)
        return (*judge_columns, *own, *super().columns())

    @abstractmethod
    def verdicts(self, samples: Sequence[Sample]) -> list[Verdict]:
        """The verdicts on n samples."""

    # The judge, where there is one

    @property
    def judge(self) -> Judge:
        """The judge that is asked; another may be put in its place."""
        if self.protocol is None:
            raise AttributeError(f"{self.name} asks no judge")
        return self.protocol.judge

    @judge.setter
    def judge(self, judge: Judge) -> None:
        assert self.protocol is not None
        self.protocol = replace(self.protocol, judge=judge)

    @property
    def networks(self) -> tuple[Network, ...]:
        return super().networks if self.protocol is None else self.protocol.judge.networks

    def set_precision(self, *, dtype: str | None, compiled: bool) -> None:
        if self.protocol is None:
            super().set_precision(dtype=dtype, compiled=compiled)
        else:
            self.protocol = self.protocol.with_dtype(dtype)

    def network_signature(self) -> dict[str, str]:
        judge = {} if self.protocol is None else self.protocol.judge.signature()
        return {**judge, **super().network_signature()}

    def signature_parameters(self) -> dict[str, object]:
        limit: dict[str, object] = {} if self.limit is None else {"limit": self.limit}
        if self.protocol is None:
            return limit
        return {**self.protocol.signature(), **limit, **self.protocol.citation()}

    # Samples

    def update(
        self,
        *,
        images: Images,
        prompts: str | Sequence[str] | None = None,
        source: ImageSets | None = None,
        rivals: ImageSets | None = None,
        labels: Tensor | Sequence[int] | None = None,
        ids: Ids | None = None,
    ) -> None:
        """Add images, (n, 3, h, w) uint8 or float in `value_range` or a list, with what the metric takes.

        `prompts`: n texts, or one for all. `source`, `rivals`: one image, or a list of images, for each of the n.
        """
        batches = self.validate_images(images)
        n = sum(map(len, batches))
        inputs: dict[str, Any] = {"labels": labels, "prompts": None if prompts is None else as_texts(prompts, n)}
        for name, sets in (("source", source), ("rivals", rivals)):
            inputs[name] = None if sets is None else as_image_sets(sets, n, name=name, value_range=self.value_range)
        for name in self.inputs:
            if inputs[name] is None:
                raise TypeError(f"{self.name} needs `{name}=` in update")
        self.check_inputs(n, **inputs)
        self.stage(self.extract(batches), ids=ids, **inputs)()

    def forward(self, **inputs: Any) -> Tensor:
        """`update`, then the value of this batch alone; NaN where too little of it has a score. Nothing is reset."""
        before = len(self.log.records)
        self.update(**inputs)
        batch = copy(self)
        batch.streams = StreamSet(batch, self.streams)
        batch.streams["score"] = self.streams["score"].owned_by(batch)
        batch.streams["score"].content.value = [self._rows_of(inputs.get("ids"), len(self.log.records) - before)]
        with this_rank_alone(batch):
            try:
                value = batch.compute()
            except (JudgeFailed, NotEnoughSamples):
                value = torch.full((), torch.nan, dtype=torch.float64, device=self.home)
        return keep_forward_value(self, value)

    def _rows_of(self, ids: Ids | None, n: int) -> Tensor:
        """The rows with these ids, or of the last n samples without one."""
        rows = self.streams["score"].value()
        if ids is None:
            return rows[len(rows) - n :]
        return rows[torch.isin(rows[:, 0], torch.as_tensor(ids).to(rows))]

    def check_inputs(self, n: int, **inputs: Any) -> None:
        for i, prompt in enumerate(inputs.get("prompts") or ()):
            if "prompts" in self.inputs and not prompt.strip():
                raise ValueError(f"`prompts[{i}]` is empty: {self.name} has nothing to ask about")
        for name in ("source", "rivals", "labels"):
            if inputs.get(name) is not None and len(inputs[name]) != n:
                raise ShapeError(f"`{name}` must hold one entry per image, got {len(inputs[name])} for {n} images")
        for name, count in self.images_per_sample.items():
            for i, images in enumerate(inputs.get(name) or ()):
                if len(images) != count:
                    raise ShapeError(f"`{name}[{i}]` must hold {count} image(s) for {self.name}, got {len(images)}")

    def stage(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> Callable[[], None]:
        samples = samples_of(features["pixels"], inputs, ids=ids, start=self.log.n_seen)
        if self.limit is not None and ids is None:
            raise TypeError(f"{self.name} has a `limit`: it needs `ids=` in update")
        selection = self._selected(samples)
        verdicts = self.verdicts(selection)
        rows = self._rows(selection, verdicts)
        own_ids = None if ids is None else torch.tensor([sample.id for sample in selection], dtype=torch.int64)

        def commit() -> None:
            self.add_scores(rows, own_ids)
            self.log.add(selection, verdicts, n_seen=len(samples))

        return commit

    def scores_of(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> Tensor:
        samples = samples_of(features["pixels"], inputs, ids=ids, start=self.log.n_seen)
        below = [i for i, sample in enumerate(samples) if self._below_limit(sample)]
        selection = [self.identified(samples[i]) for i in below]
        rows = torch.full((len(samples), 1 + len(self.row)), torch.nan, dtype=torch.float64)
        rows[below] = self._rows(selection, self.verdicts(selection))
        return rows

    def identified(self, sample: Sample) -> Sample:
        """The sample with the name of its item, in a benchmark."""
        return sample

    def is_judged(self, sample: Sample) -> bool:
        """Whether a sample that is `identified` is judged, and not passed over."""
        return True

    def _selected(self, samples: Sequence[Sample]) -> list[Sample]:
        """Those that are judged, each `identified`: of one id the first, and none whose id this process has met."""
        met = set(self.streams["score"].value()[:, 0].tolist())
        selection = []
        for sample in samples:
            if self._below_limit(sample) and (sample.id is None or sample.id not in met):
                selection.append(self.identified(sample))
            met.add(sample.id)
        return [sample for sample in selection if self.is_judged(sample)]

    def _below_limit(self, sample: Sample) -> bool:
        return self.limit is None or (sample.id is not None and sample.id < self.limit)

    # Rows and records

    def values(self, sample: Sample, verdict: Verdict) -> Mapping[str, float | None]:
        """The numbers of a sample beside its score, by column."""
        counts = {"answers": verdict.answered, "unparsed": verdict.unparsed}
        return {**verdict.extra, **counts, "not_applicable": verdict.not_applicable}

    def _rows(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Tensor:
        return self.table.rows([verdict.score for verdict in verdicts], list(map(self.values, samples, verdicts)))

    def records(self) -> list[dict[str, Any]]:
        """What this process judged: id, prompt, score (None where it failed), columns, rationale, rows of questions."""
        return [dict(record) for record in self.log.records]

    def rationales(self) -> dict[int, str]:
        """id -> why it was decided so, or why there is no score, of this process' samples."""
        return self.log.rationales()

    def reset(self) -> None:
        super().reset()
        self.log = VerdictLog()

    # Reading the state

    def summarize(self) -> Summary:
        rows = self.streams["score"].read()[:, 1:]
        if not len(rows):
            raise NotEnoughSamples(self.name, 0, 1, "call `update` first")
        applicable = rows[self.table.column(rows, "not_applicable") == 0]
        n_not_applicable = float(len(rows) - len(applicable))
        if not len(applicable):
            raise NothingToJudge(self.name, 0, 1, f"there was nothing to judge in all {n_not_applicable:.0f}")
        scored = applicable[applicable[:, 0].isfinite()]
        failed = len(applicable) - len(scored)
        if not len(scored) or failed / len(applicable) > self.max_failed:
            what = f"{self.failure_message} for {failed} of {len(applicable)} samples"
            raise self.failure(what, self.log.failures())
        summary = self.over_samples(scored)
        details = {**summary.details, "n_failed": float(failed)}
        details |= {} if self.protocol is None else self.protocol.details(self.table.sums(rows))
        details |= {"n_not_applicable": n_not_applicable} if n_not_applicable else {}
        return replace(summary, details=details)

    def failure(self, what: str, problems: Counter[str]) -> JudgeFailed:
        """The error for more failures than `max_failed` allows, with the most common problems of this process."""
        reasons = "; ".join(f"{reason} ({n}x)" for reason, n in problems.most_common(3))
        return JudgeFailed(
            f"{self.name}: {what}, `max_failed` is {self.max_failed:g}. {reasons or 'The other ranks know why'}"
        )

    def undefined_details(self, undefined: int, n: int, *, name: str) -> dict[str, float]:
        if undefined > self.max_failed * n:
            raise JudgeFailed(
                f"{name}: {self.failure_message} for {undefined} of {n} samples, `max_failed` is {self.max_failed:g}"
            )
        return {"n_failed": float(undefined)}

    def over_samples(self, rows: Tensor) -> Summary:
        """Value and details of the samples that have a score, (n, 1 + columns)."""
        n = len(rows)
        error = float(rows[:, 0].std() / math.sqrt(n)) if n > 1 else None
        mean = rows[:, 0].mean()
        details = self.table.means(rows)
        return Summary(mean, n, error, details=details, interval=self.interval_of(float(mean), error, n))

    def interval_of(self, mean: float, error: float | None, n: int) -> tuple[float, float] | None:
        """The interval of a mean of n scores that lie in a known range; None where there is no error, or no range."""
        bounds = self.range_of(self.name)
        return None if error is None or bounds is None else bounded_interval(mean, error, n, bounds)
