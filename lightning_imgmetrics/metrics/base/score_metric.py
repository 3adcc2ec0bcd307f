"""The base of every mean of one score per sample."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import NonFiniteFeatures, NotEnoughSamples
from lightning_imgmetrics.metrics.base.inputs import Ids
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.base.summary import Column, Summary
from lightning_imgmetrics.models.base.extractor import Features
from lightning_imgmetrics.states.moments import Moments
from lightning_imgmetrics.states.tables import Samples

_PER_SAMPLE = ("mean", "sum", "mark")


class ScoreMetric(ImageMetric):
    """The mean of one score per sample, with its standard error and interval.

    A subclass gives `scores_of`: features, and the inputs that it names, to scores (n,), or (n, 1 + k) with `columns`
    of k further numbers. Where some samples have no score, a class says what takes its place (`undefined_score`): they
    are counted, and are not part of the mean.

    Args:
        keep_scores: keep an (id, score) row of 16 bytes per sample, for `scores` and quantiles; otherwise a few sums.
        kwargs: those of `ImageMetric`.
    """

    scores_samples = True
    undefined_score: ClassVar[float | None] = None
    scores_are_binary: ClassVar[bool] = False

    def __init__(self, *, keep_scores: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.keep_scores = keep_scores
        self.row = tuple(column for column in self.all_columns if column.kind in _PER_SAMPLE)  # beside the score
        width = 1 + len(self.row)
        self.add_stream("score", Stream(Samples(d=width) if keep_scores else Moments(width), width))

    def columns(self) -> tuple[Column, ...]:
        undefined = () if self.undefined_score is None else (Column("undefined", "mark"),)
        return (*super().columns(), *undefined)

    @property
    def score_is_partial(self) -> bool:
        return self.undefined_score is not None

    @property
    def value_is_mean(self) -> bool:
        """Whether the value is the mean of the scores, not their sum or the scores themselves."""
        return True

    @property
    def keeps_scores(self) -> bool:
        return self.keep_scores

    def update(self, images: Images, ids: Ids | None = None) -> None:
        """Add images, (n, 3, h, w) uint8 or float in `value_range`, or a list of mixed sizes."""
        self.stage(self.extract(self.validate_images(images)), ids=ids)()

    @abstractmethod
    def scores_of(self, features: Features, **inputs: Any) -> Tensor:
        """The scores of one batch, (n,) or (n, 1 + k), higher or lower being better as the class says."""

    def scores_of_images(self, images: Sequence[Tensor], target: Sequence[Tensor] = (), **inputs: Any) -> Tensor:
        """`scores_of` batches of images, and of their targets where the metric takes some; nothing is added."""
        return self.scores_of(self.extract([*images, *target]), **inputs)

    def stage(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> Callable[[], None]:
        return partial(self.add_scores, self.scores_of(features, **inputs), ids)

    def range_of(self, name: str) -> tuple[float, float] | None:
        """The range of the score, by the name of the metric, or of one of `columns`; None where it is not known."""
        low, high = self.plot_lower_bound, self.plot_upper_bound
        return None if name != self.name or low is None or high is None else (low, high)

    def add_scores(self, scores: Tensor, ids: Ids | None = None) -> None:
        """Add scores (n,), or (n, 1 + k) with further numbers; what is not finite may be undefined."""
        scores = scores[:, None] if scores.ndim == 1 else scores
        if self.undefined_score is not None:
            defined = scores[:, :1].isfinite()
            scores = torch.cat([scores[:, :1].where(defined, 0), (~defined).to(scores), scores[:, 1:]], 1)
        self.streams["score"].add(scores, ids)

    def scores(self) -> tuple[Tensor, Tensor]:
        if not self.keep_scores:
            raise ValueError(f"{self.name} keeps no scores of single samples: construct it with keep_scores=True")
        rows = self.streams["score"].value()
        return rows[:, 0], self.scores_in(rows)

    def further_scores(self) -> dict[str, Tensor]:
        """The further numbers of this rank's samples by the name of the column, in the order of `scores`."""
        return dict(zip((column.name for column in self.row), self.streams["score"].value().T[2:], strict=True))

    def scores_in(self, rows: Tensor) -> Tensor:
        """The scores (n,) in rows of the table."""
        return rows[:, 1] if self.undefined_score is None else rows[:, 1].where(rows[:, 2] == 0, self.undefined_score)

    # Reading the state

    def summarize(self) -> Summary:
        return self.defined()[0]

    def defined(self) -> tuple[Summary, int]:
        """The summary of the samples that have a score, and how many have none."""
        state = self.streams["score"].read()
        moments = Moments(1 + len(self.row))
        count, mean, scatter = moments.unpack(moments.of(state[:, 1:]) if self.keep_scores else state)
        n = int(count)
        if n == 0:
            raise NotEnoughSamples(self.name, 0, 1, "call `update` first")
        if not mean.isfinite().all():  # an accelerator does not check what a network returns
            raise NonFiniteFeatures(f"{self.name}: the scores of some images are NaN or infinite")
        error = float((scatter[0, 0] / (n - 1) / n).sqrt()) if n > 1 else None
        means = {c.name: x for c, x in zip(self.row, mean[1:].tolist(), strict=True) if c.kind == "mean"}
        counts = {c.name: float(getattr(self, c.name)) for c in self.all_columns if c.kind == "counter"}
        details = {**means, **self.counter_details(counts), **self.score_details(state)}
        whole = Summary(mean[0], n, error, details=details)
        if self.undefined_score is None:
            return whole, 0
        missing = round(float(mean[1]) * n)
        return _of_the_defined(whole, missing), missing

    def undefined_details(self, undefined: int, n: int, *, name: str) -> dict[str, float]:
        """How many of n samples have no score, for the details of `name`; NonFiniteFeatures where all must have one."""
        if undefined and not self.score_is_partial:
            raise NonFiniteFeatures(f"{name}: {undefined} of {n} scores are NaN or infinity")
        return {"n_undefined": float(undefined)} if self.score_is_partial else {}

    def counter_details(self, counts: Mapping[str, float]) -> dict[str, float]:
        """What the counters say, for the details."""
        return dict(counts)

    def score_details(self, state: Tensor) -> dict[str, float]:
        """The extreme scores and their ids, and quantiles, where scores are kept."""
        if not self.keep_scores:
            return {}
        rows = state if self.undefined_score is None else state[state[:, 2] == 0]
        if not len(rows):
            return {}
        ids, scores = rows.T[:2]
        quantiles = scores.quantile(scores.new_tensor([0.05, 0.5, 0.95])).tolist()
        extremes = {"lowest_id": float(ids[scores.argmin()]), "highest_id": float(ids[scores.argmax()])}
        extremes = {name: i for name, i in extremes.items() if i == i}  # samples may have come without ids
        return {**dict(zip(("p05", "median", "p95"), quantiles, strict=True)), **extremes}


def _of_the_defined(whole: Summary, missing: int) -> Summary:
    """The summary without the samples that have no score, which are 0 in its value and in its spread."""
    n, m = whole.n, whole.n - missing
    if missing == 0 or m == 0:
        return replace(whole, n=m)
    mean = whole.value * (n / m)
    spread = float((whole.standard_error or 0) ** 2 * n * (n - 1) - mean.square() * (m * missing / n))
    error = math.sqrt(max(spread, 0) / (m - 1) / m) if m > 1 else None
    return Summary(mean, m, error, details=whole.details)
