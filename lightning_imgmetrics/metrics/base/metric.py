"""What every metric is: streams of images, a network, a result that can be cited, and a signature."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_imgmetrics._compat.torchmetrics import (
    attribute_states,
    draw,
    forget_value,
    is_synced,
    note_update,
    reset_attributes,
    route_hooks,
    update_count,
)
from lightning_imgmetrics._distributed import sum_, world
from lightning_imgmetrics._images import Images, as_images
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics._version import __version__
from lightning_imgmetrics.errors import require
from lightning_imgmetrics.metrics.base.inputs import Ids, refuse_floats
from lightning_imgmetrics.metrics.base.stream_set import StreamSet
from lightning_imgmetrics.metrics.base.streams import Content, Stream
from lightning_imgmetrics.metrics.base.summary import Category, Column, Summary
from lightning_imgmetrics.models.base.extractor import BatchFeatures, Extractor, Features
from lightning_imgmetrics.models.base.network import Network
from lightning_imgmetrics.result import Result, Signature
from lightning_imgmetrics.states.hash import fingerprint

T = TypeVar("T")


@route_hooks
class ImageMetric(Metric):
    """A `torchmetrics.Metric` over streams of samples, with a network, a result that can be cited and a signature.

    A subclass registers streams (`add_stream`), says in `stage` what a batch adds to them, and reads them in
    `summarize`: one network pass per batch, a fixed number of collectives per sync.

    Args:
        value_range: what float images hold, (low, high).
        offload: free the device of the networks at each `compute`, until the next `update`.
        kwargs: those of `torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False
    name: ClassVar[str]
    unit: ClassVar[str] = ""
    inputs: ClassVar[tuple[str, ...]] = ()  # what `stage` takes beside features and ids
    sync_timeout: ClassVar[float | None] = None  # seconds that ranks wait at least, beyond IMGMETRICS_SYNC_TIMEOUT
    scores_samples: ClassVar[bool] = False  # whether each sample has a score, as of `ScoreMetric`
    score_is_partial: bool = False  # whether some samples have no score
    clamped: Tensor  # pixels outside the declared range
    channels: int = 3
    accepts_floats: bool = True
    extractor: Extractor | None = None
    layers: tuple[str, ...] = ()

    def __init__(self, *, value_range: tuple[float, float] = (0.0, 1.0), offload: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.value_range = value_range
        self.offload = offload
        self.streams = StreamSet(self)
        self.memo: dict[Hashable, tuple[object, Any]] = {}  # of `cached`; a suite has one for all
        self._summary: Summary | None = None
        self.synced_owners: list[ImageMetric] = []
        self.add_state("clamped", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        # torchmetrics' collections share states that are equal after one batch, whatever the metrics do with the next.
        mark = torch.frombuffer(bytearray(os.urandom(8)), dtype=torch.int32).double()
        self.add_state("instance", mark, dist_reduce_fx="max")
        self.all_columns = self.columns()
        for counter in self.counter_names:
            self.add_state(counter, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    # What a subclass says

    def columns(self) -> tuple[Column, ...]:
        """The further numbers of this metric; a subclass adds its own to those of its base."""
        return ()

    @abstractmethod
    def stage(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> Callable[[], None]:
        """Compute what one batch adds, refusing what cannot be added; the returned function changes the states."""

    @abstractmethod
    def summarize(self) -> Summary:
        """Read value and count off the (synced) state."""

    def output(self, summary: Summary) -> Any:
        """What `compute` returns."""
        return summary.value

    def signature_parameters(self) -> dict[str, object]:
        """Constructor arguments that change the value, for the signature."""
        return {}

    def check_inputs(self, n: int, **inputs: Any) -> None:
        """Raise if `stage` would refuse these inputs of n images: a suite asks before it extracts features."""

    # What a metric can do beyond its value

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks that this metric runs."""
        return () if self.extractor is None else (self.extractor,)

    @property
    def keeps_scores(self) -> bool:
        """Whether `scores` gives the scores of single samples."""
        return False

    def scores(self) -> tuple[Tensor, Tensor]:
        """(ids, scores) of this rank's samples sorted by id; NaN is the id of a sample that came without one."""
        raise ValueError(f"{self.name} keeps no scores of single samples")

    def records(self) -> list[dict[str, Any]]:
        """One record per sample of this process, for metrics that keep them: what was asked, answered and concluded."""
        return []

    @property
    def keeps_neighbors(self) -> bool:
        """Whether `neighbors` finds the reference images nearest to each generated one."""
        return False

    def neighbors(self, k: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Ids (n,) of generated images, and ids (n, k) and distances (n, k) of the nearest reference images."""
        raise ValueError(f"{self.name} keeps no features of single samples")

    def rationales(self) -> dict[int, str]:
        """id -> why the sample has its score, for metrics that give reasons."""
        return {}

    def categories(self) -> dict[str, Category]:
        """name -> mean, number and interval of the samples, or questions, of one kind, as of the last `compute`."""
        return {} if self._summary is None else dict(self._summary.categories)

    def missing(self) -> list[str]:
        """The names of the items of a benchmark of which no image had a score at the last `compute`."""
        return [] if self._summary is None else list(self._summary.missing)

    # Values

    def compute(self) -> Any:
        """The value over all samples of all ranks, the same on each: scalar, float64."""
        summary = self.summarize()
        self._summary = replace(summary, details={"n_clamped": float(self.clamped), **summary.details})
        return self.output(summary)

    def result(self) -> Result:
        """`compute` as a citable record; collective, as `compute` is."""
        self.compute()
        summary = self._summary
        assert summary is not None
        error = summary.standard_error
        return Result(
            name=self.name,
            value=summary.mean,
            n=summary.n,
            unit=self.unit,
            higher_is_better=self.higher_is_better,
            interval=summary.confidence_interval(),
            signature=str(Signature.of(**self.signature().fields, **summary.counts)),
            details={**({} if error is None else {"standard_error": error}), **summary.details},
            replicates=summary.replicates,
        )

    def signature(self) -> Signature:
        """Everything that changes the value, the samples aside."""
        return Signature.of(
            metric=self.name, **self.network_signature(), **self.signature_parameters(), version=__version__
        )

    def network_signature(self) -> dict[str, str]:
        """Which network, and which of its layers, the value comes from, for the signature."""
        return {} if self.extractor is None else {**self.extractor.signature(), "layer": "+".join(self.layers)}

    def set_precision(self, *, dtype: str | None, compiled: bool) -> None:
        """Run the network in `dtype`, None for its own, and compiled or not."""
        if self.extractor is not None:
            self.extractor = replace(self.extractor, dtype=dtype or self.extractor.dtype, compiled=compiled)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the current value, one given value or Result, or a history of them; returns (figure, axes)."""
        require("matplotlib", "plot")
        val = self.compute() if val is None else val
        points = [_point(x) for x in (val if isinstance(val, list) else [val])]
        return draw(self, points if isinstance(val, list) else points[0], ax)

    # Samples

    def validate_images(self, images: Images, name: str = "images") -> list[Tensor]:
        """Checked batches of `images`; the metric follows them onto an accelerator and counts clamped pixels."""
        if not self.accepts_floats:
            refuse_floats(images, name)
        batches, clamped = as_images(images, name=name, value_range=self.value_range, channels=self.channels)
        if batches[0].device.type != "cpu" and batches[0].device != self.device:
            self.to(batches[0].device)
        self.clamped += clamped
        return batches

    def extract(self, batches: Sequence[Tensor]) -> BatchFeatures:
        assert self.extractor is not None
        return BatchFeatures(self.extractor(batches, self.layers, self.device))

    def update_features(self, features: Features, **inputs: Any) -> None:
        """`update` with features that were extracted elsewhere."""
        with full_precision(self.device):
            self.begin_update(features, **inputs)()

    def begin_update(self, features: Features, **inputs: Any) -> Callable[[], None]:
        """`update_features` in two steps, inside `full_precision`: what is refused is refused in the first.

        What is returned changes the states.
        """
        commit = self.stage(features if isinstance(features, BatchFeatures) else BatchFeatures(features), **inputs)

        def finish() -> None:
            note_update(self)
            commit()

        return finish

    # States

    def add_state(self, name: str, default: Any, *args: Any, **kwargs: Any) -> None:
        """As torchmetrics'; a metric made inside inference mode can be updated outside of it."""
        with torch.inference_mode(False):
            super().add_state(name, default.clone() if isinstance(default, Tensor) else default, *args, **kwargs)

    def add_stream(self, name: str, stream: Stream) -> None:
        """Keep a stream of this kind."""
        self.streams[name] = stream.owned_by(self)

    @property
    def home(self) -> torch.device:
        """The device of the states: that of the metric, unless it has no float64."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    @property
    def contents(self) -> dict[str, Content]:
        """What the streams of this metric hold; setting it replaces that."""
        return self.streams.owned_contents()

    @contents.setter
    def contents(self, contents: Mapping[str, Content]) -> None:
        self.streams.restore(contents)

    @property
    def metric_state(self) -> dict[str, Any]:
        """As torchmetrics'; with the streams, also those that another metric owns."""
        return {**super().metric_state, **self.streams.states()}

    @property
    def counter_names(self) -> list[str]:
        """The columns that are one number in all."""
        return [column.name for column in self.all_columns if column.kind == "counter"]

    @property
    def logged_details(self) -> list[str]:
        """The details that the callback logs beside the value."""
        return [column.name for column in self.all_columns if column.logged]

    def counters(self) -> dict[str, Tensor]:
        """The states that are numbers, summed over ranks."""
        return {name: getattr(self, name) for name in attribute_states(self) if name != "instance"}

    def reset(self) -> None:
        with torch.inference_mode(False):
            super().reset()
        self.streams.clear_owned()
        self._summary = None

    def clear(self, *, keep_reference: bool = False) -> None:
        """Forget all samples; `keep_reference` spares those of a reference."""
        self.reset()

    def cached(self, key: Hashable, states: Sequence[Tensor], compute: Callable[[], T]) -> T:
        """`compute()`, kept until `states`, which it is made of, hold other numbers."""
        key = (key, self.extractor, self.layers, self.home, is_synced(self))
        prints = [fingerprint(state) for state in states]
        if key not in self.memo or self.memo[key][0] != prints:
            self.memo[key] = prints, compute()
        return self.memo[key][1]

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Merge a metric measured in the same way (another shard, rank or run); SignatureMismatch otherwise."""
        self.refuse_alone("merge")
        self.merge_member(incoming_state)

    def merge_member(self, incoming_state: dict[str, Any] | Metric) -> None:
        """`merge_state` by a suite, which merges all metrics that share their samples."""
        if isinstance(incoming_state, ImageMetric):
            self.signature().require_like(incoming_state.signature())
            self.streams.require_like(incoming_state.streams, self.name)
            note_update(self, update_count(incoming_state))
        forget_value(self)
        super().merge_state(incoming_state)

    def refuse_alone(self, action: str) -> None:
        """TypeError for a metric whose samples are those of a suite."""
        if self.streams.shared:
            raise TypeError(f"this {self.name} shares its samples with the rest of a MetricSuite: {action} the suite")

    # Ranks

    def over_ranks(self, kernel: Callable[..., Any]) -> Any:
        """`kernel(share=(rank, world size))`, summed over ranks: a tensor or a tuple of them, the same bits on each.

        Only a synced metric has the same samples on every rank; another one does all of the work.
        """
        rank, size = world(self.process_group) if is_synced(self) else (0, 1)
        out = kernel(share=(rank, size))
        if size > 1:
            for part in out if isinstance(out, tuple) else (out,):
                sum_(part, self.process_group)
        return out

    def pool(self) -> None:
        """Move the states of all ranks into rank 0; the others start empty. Collective."""
        rank, size = world(self.process_group)
        forget_value(self)
        if size > 1:
            self.streams.sync(self.process_group)
            if rank > 0:
                reset_attributes(self)
                self.streams.clear_owned()

    def release_networks(self) -> None:
        """Free the device of the networks if `offload` asks for it."""
        for network in self.networks if self.offload else ():
            network.offload(self.device)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "memo": {}}


def _point(value: Any) -> Tensor:
    """What is drawn of a value, a result, or what `compute` returns besides a value."""
    value = value[0] if isinstance(value, tuple) else value
    return torch.as_tensor(value.value if isinstance(value, Result) else value)
