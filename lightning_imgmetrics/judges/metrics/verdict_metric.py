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
from lightning_imgmetrics.judges.metrics.queries import Sample, Verdict
from lightning_imgmetrics.metrics.base.inputs import Ids, as_texts, check_ids
from lightning_imgmetrics.metrics.base.score_metric import ScoreMetric
from lightning_imgmetrics.metrics.base.stream_set import StreamSet
from lightning_imgmetrics.metrics.base.summary import Column, Summary
from lightning_imgmetrics.models.base.extractor import Features


class VerdictMetric(ScoreMetric):
    """The mean of the scores that `verdicts` gives samples.

    A sample whose verdict has no score is left out and counted (`n_failed`); where their share is above `max_failed`,
    JudgeFailed. What a verdict calls void is no failure: it is counted apart (`n_void`). `limit`: only samples with ids
    below it are judged; one whose id this process has met is not judged again. Scores are kept, as are the verdicts of
    this process (`records`, `rationales`).
    """

    inputs: tuple[str, ...] = ("prompts",)
    logged: tuple[str, ...] = ("n_failed",)
    layers = ("pixels",)
    higher_is_better = True
    figures: tuple[str, ...] = ()  # what a verdict holds beside the score
    marks: tuple[str, ...] = ()  # further ones, which a base adds
    counts: ClassVar[tuple[str, ...]] = ()  # what is summed over all samples, failed ones too
    fault: ClassVar[str] = "there is no verdict"

    def __init__(self, *, limit: int | None = None, max_failed: float = 0.2, **kwargs: Any):
        if not kwargs.pop("keep_scores", True):
            raise ValueError(
                f"`keep_scores` must be True: {self.name} tells failed samples from others by their scores"
            )
        if (limit is not None and limit < 1) or not 0 <= max_failed <= 1:
            raise ValueError(f"`limit` at least 1 and `max_failed` in [0, 1] are needed, got {limit} and {max_failed}")
        super().__init__(**kwargs)
        self.limit, self.max_failed = limit, max_failed
        self._records: list[dict[str, Any]] = []
        self._seen = 0  # samples of this process, also those that were passed over

    def columns(self) -> tuple[Column, ...]:
        means = (Column(name) for name in (*self.figures, *self.marks))
        sums = (Column(name, "sum") for name in self.counts)
        logged = (Column(name, "detail", logged=True) for name in self.logged)
        return (*super().columns(), *means, *sums, Column("void", "mark"), *logged)

    @abstractmethod
    def verdicts(self, samples: Sequence[Sample]) -> tuple[list[Verdict], list[tuple[int, ...]]]:
        """The verdicts on n samples, and the `counts` of each."""

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
        given: dict[str, Any] = {"labels": labels, "prompts": None if prompts is None else as_texts(prompts, n)}
        for name, sets in (("source", source), ("rivals", rivals)):
            given[name] = None if sets is None else as_image_sets(sets, n, name=name, value_range=self.value_range)
        for name in self.inputs:
            if given[name] is None:
                raise TypeError(f"{self.name} needs `{name}=` in update")
        self.check_inputs(n, **given)
        self.stage(self.extract(batches), ids=ids, **given)()

    def forward(self, **inputs: Any) -> Tensor:
        """`update`, then the value of this batch alone; NaN where too little of it has a score. Nothing is reset."""
        judged = len(self._records)
        self.update(**inputs)
        batch = copy(self)
        batch.streams = StreamSet(batch, self.streams)
        batch.streams["score"] = self.streams["score"].owned_by(batch)
        batch.streams["score"].content.value = [self._fed(inputs.get("ids"), len(self._records) - judged)]
        with this_rank_alone(batch):
            try:
                value = batch.compute()
            except (JudgeFailed, NotEnoughSamples):
                value = torch.full((), torch.nan, dtype=torch.float64, device=self.home)
        return keep_forward_value(self, value)

    def _fed(self, ids: Ids | None, n: int) -> Tensor:
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

    def stage(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> Callable[[], None]:
        numbers = None if ids is None else check_ids(ids, len(features["pixels"]))
        if self.limit is not None and numbers is None:
            raise TypeError(f"{self.name} has a `limit`: it needs `ids=` in update")
        samples = self._samples(features, numbers, inputs)
        new = self._new(samples)
        taken = [i for i, sample in enumerate(samples) if new[i] and self.wanted(sample)]
        verdicts, counts = self.verdicts([samples[i] for i in taken])
        rows = self._rows(verdicts, counts)
        kept = None if numbers is None else numbers[taken]

        def finish() -> None:
            self._seen += len(samples)
            self.add_scores(rows, kept)
            self._records += [self._record(samples[i], v) for i, v in zip(taken, verdicts, strict=True)]

        return finish

    def wanted(self, sample: Sample) -> bool:
        """Whether a sample is judged."""
        return self.below_limit(sample)

    def below_limit(self, sample: Sample) -> bool:
        """Whether a sample's id is below `limit`, if there is one."""
        return self.limit is None or (sample.id is not None and sample.id < self.limit)

    def scores_of(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> Tensor:
        numbers = None if ids is None else check_ids(ids, len(features["pixels"]))
        samples = self._samples(features, numbers, inputs)
        asked = [i for i, sample in enumerate(samples) if self.below_limit(sample)]
        rows = torch.full((len(samples), 1 + len(self.row)), torch.nan, dtype=torch.float64)
        rows[asked] = self._rows(*self.verdicts([samples[i] for i in asked]))
        return rows

    # Samples and rows

    def _samples(self, features: Features, ids: Tensor | None, inputs: Mapping[str, Any]) -> list[Sample]:
        given = {"prompt": "prompts", "source": "source", "rivals": "rivals", "label": "labels"}
        columns = {name: inputs[key] for name, key in given.items() if inputs.get(key) is not None}
        if "label" in columns:
            columns["label"] = [int(x) for x in columns["label"]]
        if ids is not None:
            columns["id"] = ids.tolist()
        return [
            Sample(image, place=self._seen + i, **{name: column[i] for name, column in columns.items()})
            for i, image in enumerate(features["pixels"])
        ]

    def _new(self, samples: Sequence[Sample]) -> list[bool]:
        """Which samples have an id that this process has not met, also not earlier in the batch, or have none."""
        met = set(self.streams["score"].value()[:, 0].tolist())
        new = []
        for sample in samples:
            new.append(sample.id is None or sample.id not in met)
            met.add(sample.id)
        return new

    def _rows(self, verdicts: Sequence[Verdict], counts: Sequence[tuple[int, ...]]) -> Tensor:
        names = (*self.figures, *self.marks)
        rows = [
            [_number(v.score), *(_number(v.figures.get(name)) for name in names), *map(float, some), float(v.void)]
            for v, some in zip(verdicts, counts, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, 1 + len(self.row))

    # Reading the state

    def summarize(self) -> Summary:
        rows = self.streams["score"].read()[:, 1:]
        if not len(rows):
            raise NotEnoughSamples(self.name, 0, 1, "call `update` first")
        *counts, void = rows[:, -1 - len(self.counts) :].sum(0).tolist()
        rows = rows[rows[:, -1] == 0]
        if not len(rows):
            raise NothingToJudge(self.name, 0, 1, f"there was nothing to judge in all {void:.0f}")
        known = rows[rows[:, 0].isfinite()]
        failed = len(rows) - len(known)
        if not len(known) or failed / len(rows) > self.max_failed:
            problems = Counter(record["rationale"] for record in self._records if record["score"] is None)
            reasons = "; ".join(f"{reason} ({n}x)" for reason, n in problems.most_common(3))
            raise JudgeFailed(
                f"{self.name}: {self.fault} for {failed} of {len(rows)} samples, `max_failed` is"
                f" {self.max_failed:g}. {reasons or 'The other ranks know why'}"
            )
        summary = self.over_samples(known)
        told = {"n_failed": float(failed), **self.details_of_counts(dict(zip(self.counts, counts, strict=True)))}
        told |= {"n_void": void} if void else {}
        return replace(summary, details={**summary.details, **told})

    def details_of_counts(self, counts: Mapping[str, float]) -> dict[str, float]:
        """What the sums of `counts` over all samples say, for the details."""
        return {}

    def over_samples(self, rows: Tensor) -> Summary:
        """Value and details of the samples that have a score, (n, 1 + columns)."""
        n = len(rows)
        error = float(rows[:, 0].std() / math.sqrt(n)) if n > 1 else None
        mean = rows[:, 0].mean()
        means = rows[:, 1 : -1 - len(self.counts)].nanmean(0).tolist()
        named = dict(zip((*self.figures, *self.marks), means, strict=True))
        details = {k: x for k, x in named.items() if x == x}
        return Summary(mean, n, error, details=details, interval=self.interval_of(float(mean), error, n))

    def interval_of(self, mean: float, error: float | None, n: int) -> tuple[float, float] | None:
        """The interval of a mean of n scores that lie in a known range; None where there is no error, or no range."""
        bounds = self.range_of(self.name)
        return None if error is None or bounds is None else bounded_interval(mean, error, n, bounds)

    def score_details(self, state: Tensor) -> dict[str, float]:
        return {}

    def records(self) -> list[dict[str, Any]]:
        """What this process judged: id, prompt, score (None where it failed), figures, rationale, rows of questions."""
        return [dict(record) for record in self._records]

    def rationales(self) -> dict[int, str]:
        """id -> why it was decided so, or why there is no score, of this process' samples."""
        return {r["id"]: r["rationale"] for r in self._records if r["id"] is not None and r["rationale"]}

    def _record(self, sample: Sample, verdict: Verdict) -> dict[str, Any]:
        shown = {"id": sample.id, "prompt": sample.prompt, "score": verdict.score, **verdict.figures}
        return {**shown, "rationale": verdict.rationale, "rows": [dict(row) for row in verdict.rows]}

    def reset(self) -> None:
        super().reset()
        self._records, self._seen = [], 0

    def signature_parameters(self) -> dict[str, object]:
        return {} if self.limit is None else {"limit": self.limit}


def _number(x: float | None) -> float:
    return math.nan if x is None else float(x)
