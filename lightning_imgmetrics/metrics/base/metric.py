"""What every metric is: a stream metric with a border for images, a network, a result and a signature."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_imgmetrics._distributed import world
from lightning_imgmetrics._images import Images, as_images
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics._version import __version__
from lightning_imgmetrics.errors import IncompatibleStates, ShapeError, require
from lightning_imgmetrics.functional.intervals import mean_interval
from lightning_imgmetrics.metrics.base.streams import Ids
from lightning_imgmetrics.metrics.base.sync import StreamMetric
from lightning_imgmetrics.models.base.extractor import Extractor, Features
from lightning_imgmetrics.models.base.network import Network
from lightning_imgmetrics.result import Result, Signature
from lightning_imgmetrics.states.hash import fingerprint

T = TypeVar("T")


@dataclass(frozen=True)
class Summary:
    """What `compute` and `result` read off the state."""

    value: Tensor
    n: int
    standard_error: float | None = None
    units: int | None = None  # independent units behind the standard error, where they are not the n samples
    details: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, object] = field(default_factory=dict)  # sample sizes that bias the value, for the signature
    estimate: float | None = None  # what the interval is centred on, where it is not the value
    interval: tuple[float, float] | None = None  # the interval itself, where it is not Student's
    replicates: tuple[float, ...] = ()  # the value without each part of the samples, for paired comparisons


class ImageMetric(StreamMetric):
    """A `torchmetrics.Metric` over mergeable states.

    A subclass registers streams (`add_stream`), feeds them in `update_features` and reads them in `summarize`; one
    network pass per batch, a fixed number of collectives per sync. Streams: see `StreamMetric`. `offload=True` frees
    the device of the networks at each `compute`, until the next `update`.
    """

    full_state_update = False
    is_differentiable = False
    name: ClassVar[str]
    unit: ClassVar[str] = ""
    logged: ClassVar[tuple[str, ...]] = ()  # details that the callback logs beside the value
    inputs: ClassVar[tuple[str, ...]] = ()  # what `update_features` takes beside features and ids
    clamped: Tensor  # pixels outside the declared range
    channels: int = 3
    extractor: Extractor | None = None
    layers: tuple[str, ...] = ()

    def __init__(self, *, value_range: tuple[float, float] = (0.0, 1.0), offload: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.value_range = value_range
        self.offload = offload
        self._summary: Summary | None = None
        self._memo: dict[Hashable, tuple[object, Any]] = {}
        self.add_state("clamped", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks that this metric runs."""
        return () if self.extractor is None else (self.extractor,)

    @abstractmethod
    def update_features(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> None:
        """Feed the streams with what `extractor` returned for one batch."""

    def check_inputs(self, n: int, **inputs: Any) -> None:
        """Raise if `update_features` would refuse these inputs of n images: a suite asks before it feeds anyone."""

    @abstractmethod
    def summarize(self) -> Summary:
        """Read value and count off the (synced) state."""

    def compute(self) -> Tensor:
        """The value over all samples of all ranks, the same on each: scalar, float64."""
        summary = self.summarize()
        self._summary = replace(summary, details={"n_clamped": float(self.clamped), **summary.details})
        return summary.value

    def result(self) -> Result:
        """`compute` as a citable record; collective, as `compute` is."""
        self.compute()
        summary = self._summary
        assert summary is not None
        value, error, n = float(summary.value.double().mean()), summary.standard_error, summary.n
        centre = value if summary.estimate is None else summary.estimate
        interval = summary.interval
        if interval is None and error is not None:
            interval = mean_interval(centre, error, summary.units or n)
        return Result(
            name=self.name,
            value=value,
            n=n,
            unit=self.unit,
            higher_is_better=self.higher_is_better,
            interval=interval,
            signature=str(Signature.of(**self.signature().fields, **summary.counts)),
            details={**({} if error is None else {"standard_error": error}), **summary.details},
            replicates=summary.replicates,
        )

    def signature(self) -> Signature:
        """Everything that changes the value, the samples aside."""
        return Signature.of(
            metric=self.name, **self.network_signature(), **self.parameters_of_value(), version=__version__
        )

    def network_signature(self) -> dict[str, str]:
        """Which network, and which of its layers, the value comes from, for the signature."""
        return {} if self.extractor is None else {**self.extractor.signature(), "layer": "+".join(self.layers)}

    def set_precision(self, *, dtype: str | None, compiled: bool) -> None:
        """Run the network in `dtype`, None for its own, and compiled or not."""
        if self.extractor is not None:
            self.extractor = replace(self.extractor, dtype=dtype or self.extractor.dtype, compiled=compiled)

    def parameters_of_value(self) -> dict[str, object]:
        """Constructor arguments that change the value, for the signature."""
        return {}

    def prepared(self, features: Features, **inputs: Any) -> Callable[[], None]:
        """What `update_features` would do, done but for the change of states: what can be refused is refused here."""
        return functools.partial(self.update_features, features, **inputs)

    def feed(self, features: Features, **inputs: Any) -> None:
        """`update` with features that were extracted elsewhere, as a suite does for metrics that share a network."""
        self.feeding(features, **inputs)()

    def feeding(self, features: Features, **inputs: Any) -> Callable[[], None]:
        """`feed` in two steps: a batch that is refused is refused here; what is returned changes the states."""
        with full_precision(self.device):
            absorb = self.prepared(features, **inputs)

        def finish() -> None:
            with full_precision(self.device):
                self._computed = None
                self._update_count += 1
                absorb()

        return finish

    def cached(self, key: Hashable, states: Sequence[Tensor], compute: Callable[[], T]) -> T:
        """`compute()`, kept until `states`, which it is made of, hold other numbers."""
        key = (key, self.extractor, self.layers, self._home, self._is_synced)
        seen = [fingerprint(state) for state in states]
        if key not in self._memo or self._memo[key][0] != seen:
            self._memo[key] = seen, compute()
        return self._memo[key][1]

    def records(self) -> list[dict[str, Any]]:
        """One record per sample of this process, for metrics that keep them: what was asked, answered and concluded."""
        return []

    def rationales(self) -> dict[int, str]:
        """id -> why the sample has its score, for metrics that give reasons."""
        return {}

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the current value, one given value or Result, or a history of them; returns (figure, axes)."""
        require("matplotlib", "plot")
        results = val if isinstance(val, list | tuple) else [val]
        if val is not None:
            points = [torch.as_tensor(v.value if isinstance(v, Result) else v) for v in results]
            val = points if isinstance(val, list | tuple) else points[0]
        return self._plot(val, ax)

    def pool(self) -> None:
        """Move the states of all ranks into rank 0; the others start empty. Collective."""
        rank, size = world(self.process_group)
        self._computed = None
        if size > 1:
            self._sync_dist(process_group=self.process_group)
            for name in self._blanks:
                setattr(self, name, [self.table(name)])
            if rank > 0:
                Metric.reset(self)

    # What torchmetrics calls

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Merge a metric measured in the same way (another shard, rank or run); SignatureMismatch otherwise."""
        self._refuse_alone("merge")
        self.merge_member(incoming_state)

    def merge_member(self, incoming_state: dict[str, Any] | Metric) -> None:
        """`merge_state` by a suite, which merges all metrics that share their samples."""
        if isinstance(incoming_state, ImageMetric):
            self.signature().require_like(incoming_state.signature())
            self._require_states_like(incoming_state)
            self._update_count += incoming_state._update_count
        self._computed = None
        super().merge_state(incoming_state)

    def clear(self, *, keep_reference: bool = False) -> None:
        """Forget all samples; `keep_reference` spares those of a reference."""
        self.reset()

    def reset(self) -> None:
        super().reset()
        self._summary = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_memo": {}}

    def _wrap_update(self, update: Callable) -> Callable:
        wrapped = super()._wrap_update(update)

        @functools.wraps(update)
        def outside_inference(*args: Any, **kwargs: Any) -> None:
            self._refuse_alone("update")
            with full_precision(self.device):
                wrapped(*args, **kwargs)

        return outside_inference

    def _wrap_compute(self, compute: Callable) -> Callable:
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def outside_inference(*args: Any, **kwargs: Any) -> Any:
            updates, synced = self._update_count, self._is_synced
            self._update_count = max(updates, 1)  # a rank without data is no mistake; no data at all is an error below
            try:
                with full_precision(self.device):
                    return wrapped(*args, **kwargs)
            finally:
                self._update_count = updates
                for network in self.networks if self.offload else ():
                    network.offload(self.device)
                if self._is_synced and not synced:  # an error came between; this rank's own states must come back
                    self.unsync(self._should_unsync)

        return outside_inference

    def _refuse_alone(self, action: str) -> None:
        if self.shares:
            raise TypeError(f"this {self.name} shares its samples with the rest of a MetricSuite: {action} the suite")

    def _require_states_like(self, other: ImageMetric) -> None:
        for name, stream in self._streams.items():
            theirs = other._streams[name].state if name in other._streams else None
            if theirs != stream.state:
                raise IncompatibleStates(f"{self.name}: this metric keeps {stream.state}, the other one {theirs}")

    # Images

    def accept(self, images: Images, name: str = "images") -> list[Tensor]:
        """Checked batches of `images`; the metric follows them onto an accelerator and counts clamped pixels."""
        batches, clamped = as_images(images, name=name, value_range=self.value_range, channels=self.channels)
        if batches[0].device.type != "cpu" and batches[0].device != self.device:
            self.to(batches[0].device)
        self.clamped += clamped
        return batches

    def extract(self, batches: Sequence[Tensor]) -> Features:
        assert self.extractor is not None
        return self.extractor(batches, self.layers, self.device)


def as_texts(prompts: str | Sequence[str], n: int) -> list[str]:
    """One text per image; one string stands for all of them. ShapeError or TypeError unless they are n texts."""
    if isinstance(prompts, str):
        return [prompts] * n
    if not isinstance(prompts, Sequence):
        raise TypeError(f"`prompts` must be texts, one per image or one for all, got {type(prompts).__name__}")
    if len(prompts) != n:
        raise ShapeError(f"`prompts` must hold one entry per image, got {len(prompts)} for {n} images")
    if odd := {type(p).__name__ for p in prompts if not isinstance(p, str)}:
        raise TypeError(f"`prompts` must be texts, got {', '.join(sorted(odd))}")
    return list(prompts)
