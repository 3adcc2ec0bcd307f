"""The base of every mean of one score per sample."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_imgmetrics.errors import NonFiniteFeatures, NotEnoughSamples
from lightning_imgmetrics.metrics.base.metric import ImageMetric, Summary
from lightning_imgmetrics.metrics.base.streams import Ids, Stream
from lightning_imgmetrics.models.base.extractor import Features
from lightning_imgmetrics.states.moments import Moments
from lightning_imgmetrics.states.tables import Samples


class ScoreMetric(ImageMetric):
    """The mean of one score per sample, with its standard error and interval.

    A subclass gives `scores_of`: features, and the inputs that it names, to scores (n,), or (n, 1 + k) with `columns`
    of k further figures, whose means are among the details. Keeps an (id, score) row of 16 bytes per sample, for
    `scores` and quantiles; `keep_scores=False` keeps a few sums in all, for endless streams.
    """

    columns: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()  # numbers that `scores_of` counts up, summed over ranks

    def __init__(self, *, keep_scores: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        for name in self.counters:
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.keep_scores = keep_scores
        width = 1 + len(self.columns)
        self.add_stream("score", Stream(Samples(d=width) if keep_scores else Moments(width), width))

    @abstractmethod
    def scores_of(self, features: Features, **inputs: Any) -> Tensor:
        """The scores of one batch, (n,) or (n, 1 + k), higher or lower being better as the class says."""

    def prepared(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> Callable[[], None]:
        return partial(self.add_scores, self.scores_of(features, **inputs), ids)

    def update_features(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> None:
        self.prepared(features, ids=ids, **inputs)()

    def range_of(self, name: str) -> tuple[float, float] | None:
        """The range of the score, by the name of the metric, or of one of `columns`; None where it is not known."""
        low, high = self.plot_lower_bound, self.plot_upper_bound
        return None if name != self.name or low is None or high is None else (low, high)

    def add_scores(self, scores: Tensor, ids: Ids | None = None) -> None:
        """Add scores (n,), or (n, 1 + k) with further figures."""
        self.absorb("score", scores[:, None] if scores.ndim == 1 else scores, ids)

    def scores(self) -> tuple[Tensor, Tensor]:
        """(ids, scores) of this rank's samples sorted by id; NaN is the id of a sample that came without one."""
        if not self.keep_scores:
            raise ValueError(f"{self.name} keeps no scores of single samples: construct it with keep_scores=True")
        return tuple(self.table("score").T[:2])  # type: ignore[return-value]

    def summarize(self) -> Summary:
        state = self.read("score")
        moments = Moments(1 + len(self.columns))
        count, mean, scatter = moments.unpack(moments.of(state[:, 1:]) if self.keep_scores else state)
        n = int(count)
        if n == 0:
            raise NotEnoughSamples(self.name, 0, 1, "call `update` first")
        if not mean.isfinite().all():  # an accelerator does not check what a network returns
            raise NonFiniteFeatures(f"{self.name}: the scores of some images are NaN or infinite")
        error = float((scatter[0, 0] / (n - 1) / n).sqrt()) if n > 1 else None
        figures = dict(zip(self.columns, mean[1:].tolist(), strict=True))
        figures |= self.counted({name: float(getattr(self, name)) for name in self.counters})
        return Summary(mean[0], n, error, details={**figures, **self.score_details(state)})

    def counted(self, counts: Mapping[str, float]) -> dict[str, float]:
        """What the counters say, for the details."""
        return dict(counts)

    def score_details(self, state: Tensor) -> dict[str, float]:
        """Further figures: the extreme scores and their ids where scores are kept."""
        if not self.keep_scores:
            return {}
        ids, scores = state.T[:2]
        quantiles = scores.quantile(scores.new_tensor([0.05, 0.5, 0.95])).tolist()
        extremes = {"lowest_id": float(ids[scores.argmin()]), "highest_id": float(ids[scores.argmax()])}
        extremes = {name: i for name, i in extremes.items() if i == i}  # samples may have come without ids
        return {**dict(zip(("p05", "median", "p95"), quantiles, strict=True)), **extremes}
