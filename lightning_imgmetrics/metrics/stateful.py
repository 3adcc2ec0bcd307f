"""What every metric is: a torchmetrics.Metric over mergeable states, with a border, a network and a signature."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_imgmetrics._distributed import gather_rows, rendezvous, sum_, world
from lightning_imgmetrics._images import Images, as_images
from lightning_imgmetrics._version import __version__
from lightning_imgmetrics.errors import DuplicateSamples, ShapeError, require
from lightning_imgmetrics.functional.intervals import mean_interval
from lightning_imgmetrics.models.base import Extractor, Features
from lightning_imgmetrics.result import Result, Signature
from lightning_imgmetrics.states.base import State
from lightning_imgmetrics.states.moments import Moments, reduce_moments

Ids = Tensor | Sequence[int]
_MAX_ID = 1 << 53  # ids share float64 tables with scores
_PARTS = 64  # batches a table collects before they are merged


@dataclass(frozen=True)
class Summary:
    """What `compute` and `result` read off the state."""

    value: Tensor
    n: int
    standard_error: float | None = None
    units: int | None = None  # independent units behind the standard error, where they are not the n samples
    details: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)  # sample sizes that bias the value, for the signature


class ImageMetric(Metric):
    """A `torchmetrics.Metric` over mergeable states.

    A subclass registers streams (`add_stream`), feeds them in `update_features` and reads them in `summarize`; one
    network pass per batch, a fixed number of collectives per sync. `ids` are global sample ids in [0, 2^53): samples
    with one id count once, wherever they were seen. States are float64 on CPU and CUDA; MPS has none, there they stay
    on the CPU.
    """

    full_state_update = False
    is_differentiable = False
    name: ClassVar[str]
    unit: ClassVar[str] = ""
    inputs: ClassVar[tuple[str, ...]] = ()  # what `update_features` takes beside features and ids
    clamped: Tensor  # pixels outside the declared range
    channels: int = 3
    extractor: Extractor | None = None
    layers: tuple[str, ...] = ()

    def __init__(self, *, value_range: tuple[float, float] = (0.0, 1.0), **kwargs: Any):
        super().__init__(**kwargs)
        self.value_range = value_range
        self._streams: dict[str, State] = {}
        self._blanks: dict[str, Tensor] = {}
        self._summary: Summary | None = None
        self.add_state("clamped", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @abstractmethod
    def update_features(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> None:
        """Feed the streams with what `extractor` returned for one batch."""

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
        value = self.compute()
        summary = self._summary
        assert summary is not None
        error, n = summary.standard_error, summary.n
        return Result(
            name=self.name,
            value=float(value) if value.ndim == 0 else float(value.mean()),
            n=n,
            unit=self.unit,
            higher_is_better=self.higher_is_better,
            interval=None if error is None else mean_interval(float(value.mean()), error, summary.units or n),
            signature=str(Signature.of(**self.signature().fields, **summary.counts)),
            details={**({} if error is None else {"standard_error": error}), **summary.details},
        )

    def signature(self) -> Signature:
        """Everything that changes the value, the samples aside."""
        network = {} if self.extractor is None else {**self.extractor.signature(), "layer": "+".join(self.layers)}
        return Signature.of(metric=self.name, **network, **self.parameters_of_value(), version=__version__)

    def parameters_of_value(self) -> dict[str, object]:
        """Constructor arguments that change the value, for the signature."""
        return {}

    def feed(self, features: Features, **inputs: Any) -> None:
        """`update` with features that were extracted elsewhere, as a suite does for metrics that share a network."""
        with torch.inference_mode(False), torch.no_grad():
            self._computed = None
            self._update_count += 1
            self.update_features(features, **inputs)

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
        if size > 1:
            self._sync_dist(process_group=self.process_group)
            for name in self._blanks:
                setattr(self, name, [self.table(name)])
            if rank > 0:
                Metric.reset(self)

    # States

    def add_stream(self, name: str, state: State, width: int) -> None:
        """Register a state for rows of `width` numbers."""
        self._streams[name] = state
        if state.table:
            self._add_table(name, state.empty())
        else:
            self.add_state(name, state.empty(), dist_reduce_fx=state.merge)
        if not state.keyed:
            # Sums cannot forget a sample. The newest one therefore waits outside of them: what a DistributedSampler
            # pads with is the last of its rank, and can still be dropped when all ranks have met.
            self._add_table(f"{name}_ids", torch.zeros(0, dtype=torch.int64))
            self._add_table(f"{name}_late_ids", torch.zeros(0, dtype=torch.int64))
            self._add_table(f"{name}_late", torch.zeros(0, width, dtype=torch.float64))

    def absorb(self, name: str, rows: Tensor, ids: Ids | None = None) -> None:
        """Add rows (n, width) to a stream."""
        rows = rows.to(self._home, torch.float64)
        if ids is None or self._streams[name].keyed:
            self._add(name, rows)
            return
        self._settle(name)
        ids = self.check_ids(ids, len(rows))
        fresh = _unseen(ids, self.table(f"{name}_ids"))
        rows, ids = rows[fresh], ids[fresh]
        if len(ids) > 1:
            self._add(name, rows[:-1])
            self._append(f"{name}_ids", ids[:-1])
        self._append(f"{name}_late_ids", ids[-1:])
        self._append(f"{name}_late", rows[-1:])

    def read(self, name: str) -> Tensor:
        """The state of a stream with every sample counted once; DuplicateSamples when that is no longer possible."""
        state = self._streams[name]
        value = self.table(name) if state.table else getattr(self, name)
        if state.keyed:
            return value
        ids, late_ids = self.table(f"{name}_ids"), self.table(f"{name}_late_ids")
        if len(ids.unique()) < len(ids):
            raise DuplicateSamples(
                f"{self.name}: {len(ids) - len(ids.unique())} samples were counted on several ranks or in several"
                " states; give each rank its own share of the ids"
            )
        late = self.table(f"{name}_late")[_unseen(late_ids, ids)]
        return state.add(value.clone(), late) if len(late) else value

    def table(self, name: str) -> Tensor:
        """All rows of a table."""
        value = getattr(self, name)
        parts = [self._blanks[name], *([value] if isinstance(value, Tensor) else value)]
        parts = [part.to(self._home) for part in parts]
        return self._streams[name].merge(parts) if name in self._streams else torch.cat(parts)

    def check_ids(self, ids: Ids, n: int) -> Tensor:
        """Ids as int64 (n,) where the states are; ValueError or ShapeError where they are not `n` of them."""
        try:
            ids = torch.as_tensor(ids, device=self._home)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`ids` must be integers, got {ids!r}") from error
        if ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(f"`ids` must be integers, got {ids.dtype}")
        ids = ids.long()
        if ids.shape != (n,):
            raise ShapeError(f"`ids` must be ({n},), one per sample, got shape {tuple(ids.shape)}")
        if n and not 0 <= int(ids.min()) <= int(ids.max()) < _MAX_ID:
            raise ValueError(f"`ids` must lie in [0, 2^53), got {int(ids.min())}..{int(ids.max())}")
        return ids

    @property
    def _home(self) -> torch.device:
        return torch.device("cpu") if self.device.type == "mps" else self.device

    def add_state(self, name: str, default: Any, *args: Any, **kwargs: Any) -> None:
        """As torchmetrics'; a metric made inside inference mode can be updated outside of it."""
        with torch.inference_mode(False):
            super().add_state(name, default.clone() if isinstance(default, Tensor) else default, *args, **kwargs)

    def _add_table(self, name: str, blank: Tensor) -> None:
        self._blanks[name] = blank
        self.add_state(name, [], dist_reduce_fx="cat")

    def _add(self, name: str, rows: Tensor) -> None:
        state = self._streams[name]
        if state.table:
            self._append(name, state.of(rows))
        else:
            setattr(self, name, state.add(getattr(self, name), rows))

    def _append(self, name: str, rows: Tensor) -> None:
        parts = getattr(self, name)
        parts.append(rows)
        if len(parts) >= _PARTS or (name in self._streams and rows.numel() > 1 << 20):
            parts[:] = [self.table(name)]

    def _settle(self, name: str) -> None:
        """Let the samples that waited join the sums."""
        late_ids = self.table(f"{name}_late_ids")
        if len(late_ids):
            fresh = _unseen(late_ids, self.table(f"{name}_ids"))
            self._add(name, self.table(f"{name}_late")[fresh])
            self._append(f"{name}_ids", late_ids[fresh])
            getattr(self, f"{name}_late_ids").clear()
            getattr(self, f"{name}_late").clear()

    def _settle_all_but_newest(self, name: str) -> None:
        """After two states were joined, the newer of which comes last."""
        tables = [getattr(self, f"{name}_{part}") for part in ("late_ids", "late")]
        if len(tables[0]) > 1:
            newest = [table.pop() for table in tables]
            self._settle(name)
            for table, rows in zip(tables, newest, strict=True):
                table.append(rows)

    # What torchmetrics calls

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        with torch.inference_mode(False):
            super()._reduce_states(incoming_state)
            for name, state in self._streams.items():
                if not state.keyed:
                    self._settle_all_but_newest(name)
            for name in self._blanks:
                if len(getattr(self, name)) >= _PARTS:
                    setattr(self, name, [self.table(name)])

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Merge a metric measured in the same way (another shard, rank or run); SignatureMismatch otherwise."""
        if isinstance(incoming_state, ImageMetric):
            self.signature().require_like(incoming_state.signature())
            self._update_count += incoming_state._update_count
        self._computed = None
        super().merge_state(incoming_state)

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any = None) -> None:
        with torch.inference_mode(False):
            for name in self._blanks:  # a rank without data must still bring rows of the right shape and type
                setattr(self, name, [self.table(name)])
            if dist_sync_fn is not gather_all_tensors:
                super()._sync_dist(dist_sync_fn, process_group)
                return
            group = process_group or self.process_group
            rendezvous(f"{type(self).__name__}.compute()", group)
            reduce = functools.partial(sum_, group=group)
            for name, rows in zip(self._blanks, gather_rows([self.table(n) for n in self._blanks], group), strict=True):
                setattr(self, name, rows)
            sums = [name for name in self._defaults if name not in self._blanks and name not in self._streams]
            flat = torch.stack([getattr(self, name) for name in sums])
            reduce(flat)
            for name, value in zip(sums, flat, strict=True):
                setattr(self, name, value)
            moments = [(s, getattr(self, n)) for n, s in self._streams.items() if isinstance(s, Moments)]
            if moments:
                reduce_moments(moments, reduce)

    def _copy_state_dict(self) -> dict[str, Any]:
        with torch.inference_mode(False):
            return super()._copy_state_dict()

    def reset(self) -> None:
        with torch.inference_mode(False):
            super().reset()
        self._summary = None

    def _wrap_update(self, update: Callable) -> Callable:
        wrapped = super()._wrap_update(update)

        @functools.wraps(update)
        def outside_inference(*args: Any, **kwargs: Any) -> None:
            with torch.inference_mode(False), torch.no_grad():
                wrapped(*args, **kwargs)

        return outside_inference

    def _wrap_compute(self, compute: Callable) -> Callable:
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def outside_inference(*args: Any, **kwargs: Any) -> Any:
            updates = self._update_count
            self._update_count = max(updates, 1)  # a rank without data is no mistake; no data at all is an error below
            try:
                with torch.inference_mode(False), torch.no_grad():
                    return wrapped(*args, **kwargs)
            finally:
                self._update_count = updates

        return outside_inference

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = "") -> ImageMetric:
        """States move between devices and never change their dtype."""
        device = fn(torch.zeros(0, device=self.device)).device
        if device.type == "mps":
            self._device = device
            return self
        super()._apply(lambda x: x.to(device), exclude_state)
        return self

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


def check_texts(prompts: Sequence[str], n: int) -> None:
    """ShapeError or TypeError unless `prompts` are n texts."""
    if isinstance(prompts, str):
        raise ShapeError(f"`prompts` must be a list with one text per image, got one string; repeat it {n} times")
    if len(prompts) != n:
        raise ShapeError(f"`prompts` must hold one entry per image, got {len(prompts)} for {n} images")
    if odd := {type(p).__name__ for p in prompts if not isinstance(p, str)}:
        raise TypeError(f"`prompts` must be texts, got {', '.join(sorted(odd))}")


def _unseen(ids: Tensor, seen: Tensor) -> Tensor:
    """Mask of the first occurrence of each id (n,) that is not in `seen` (m,)."""
    order = ids.argsort(stable=True)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[order[1:]] = ids[order[1:]] != ids[order[:-1]]
    return first & ~torch.isin(ids, seen)
