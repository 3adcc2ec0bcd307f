"""The three bases: two sets of images, one score per sample, outcomes of pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics._images import Images
from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import NonFiniteFeatures, NotEnoughSamples, ValueRangeError
from lightning_imgmetrics.metrics.base.metric import ImageMetric, Summary
from lightning_imgmetrics.metrics.base.streams import Ids, Stream
from lightning_imgmetrics.models.base.extractor import Extractor, Features
from lightning_imgmetrics.states.moments import Moments
from lightning_imgmetrics.states.tables import Reservoir, Samples


class DistributionMetric(ImageMetric):
    """A statistic of the features of generated images, or a comparison with those of a reference.

    `fake` and `real` say what is kept of either side, by kind; the state is called `<side>_<kind>`. With two sides,
    `update(images, real=True)` adds to the reference and `real=False` to the generated images.
    """

    inputs: ClassVar[tuple[str, ...]] = ("real",)

    def __init__(
        self,
        extractor: Extractor,
        fake: Mapping[str, Stream],
        real: Mapping[str, Stream],
        *,
        reset_real_features: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not isinstance(reset_real_features, bool):
            raise ValueError("Argument `reset_real_features` expected to be a bool")
        self.extractor: Extractor | None = extractor
        self.layers = tuple(dict.fromkeys(stream.layer for stream in fake.values()))
        self.reset_real_features = reset_real_features
        for side, streams in (("real", real), ("fake", fake)):
            for kind, stream in streams.items():
                self.add_stream(f"{side}_{kind}", stream)

    def update(self, images: Images, real: bool, ids: Ids | None = None) -> None:
        """Add images, (n, 3, h, w) uint8 or float in `value_range`, to the reference or to the generated set."""
        self.update_features(self.extract(self.accept(images)), real=real, ids=ids)

    def update_features(self, features: Features, *, real: bool = False, ids: Ids | None = None, **_: Any) -> None:
        if real not in (True, False):
            raise ValueError(f"`real` must be True for the reference or False for generated images, got {real!r}")
        for name in self.streams_of(real):
            self.absorb(name, self._streams[name].vectors(features), ids)

    def streams_of(self, real: bool) -> list[str]:
        """The names of the streams of one side."""
        return [name for name in self._streams if name.startswith("real_") == bool(real)]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """`update`, then the value over what this rank has seen so far; NaN while a set has fewer than 2 samples."""
        self.update(*args, **kwargs)
        to_sync, self._to_sync = self._to_sync, self.dist_sync_on_step
        try:
            value = self.compute()
        except NotEnoughSamples:
            value = torch.full((), torch.nan, dtype=torch.float64, device=self._home)
        finally:
            self._to_sync = to_sync
            self._computed: Any = None
        self._forward_cache: Any = value
        return value

    def clear(self, *, keep_reference: bool = False) -> None:
        """Forget the generated samples, and the reference unless it is kept, whatever `reset_real_features` says."""
        before, self.reset_real_features = self.reset_real_features, not keep_reference
        self.reset()
        self.reset_real_features = before

    def reset(self) -> None:
        """Clear both sets, or the generated one alone with `reset_real_features=False`."""
        kept = {} if self.reset_real_features else {n: getattr(self, n) for n in self._defaults if n.startswith("real")}
        for name, value in kept.items():
            setattr(self, name, [] if isinstance(value, list) else value)  # the base class clears lists in place
        super().reset()
        for name, value in kept.items():
            setattr(self, name, value)


class DeviationMetric(DistributionMetric):
    """A distribution metric whose `compute` returns (mean, standard deviation) over parts of the samples."""

    deviation: ClassVar[str]  # its name among the details, where it is left out if there is but one part

    def compute(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(mean, standard deviation): scalars, float64; the latter is NaN where there is but one part."""
        mean = super().compute()
        assert self._summary is not None
        return mean, mean.new_tensor(self._summary.details.get(self.deviation, torch.nan))

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        value = super().forward(*args, **kwargs)
        self._forward_cache = (value, value.clone()) if isinstance(value, Tensor) else value
        return self._forward_cache

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """As of any metric; of a pair that `compute` returned, the mean is drawn."""
        val = self.compute() if val is None else val
        means = [x[0] if isinstance(x, tuple) else x for x in (val if isinstance(val, list) else [val])]
        return super().plot(means if isinstance(val, list) else means[0], ax)


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


class PairwiseMetric(ImageMetric):
    """A table of comparisons: contestant `a` against `b`, outcome 1 (a wins), 0.5 (tie) or 0 (b wins)."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_stream("pairs", Stream(Reservoir(None, 3), 4))

    def update(self, a: Tensor, b: Tensor, outcome: Tensor, ids: Ids | None = None) -> None:
        """Add comparisons: contestants (n,) int and (n,) int, outcomes (n,) in {0, 0.5, 1}."""
        if any(torch.as_tensor(x).is_floating_point() for x in (a, b)):
            raise ValueRangeError("`a` and `b` must be integers that name contestants, got floats")
        a, b, outcome = (torch.as_tensor(x, device=self._home).double() for x in (a, b, outcome))
        bind_shapes(a=(a, "n"), b=(b, "n"), outcome=(outcome, "n"))
        if not torch.isin(outcome, outcome.new_tensor([0, 0.5, 1])).all():
            raise ValueRangeError(f"`outcome` must be 1, 0.5 or 0, got {outcome.unique().tolist()}")
        self.absorb("pairs", torch.stack([a, b, outcome], 1), ids)

    def update_features(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> None:
        raise TypeError(f"{self.name} compares ratings, not images: call `update`")
