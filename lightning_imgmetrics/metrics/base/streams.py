"""A torchmetrics.Metric whose state is a set of mergeable streams: every sample counted once, shared in a suite."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_imgmetrics.errors import DuplicateSamples, NonFiniteFeatures, ShapeError
from lightning_imgmetrics.states.base import State

Ids = Tensor | Sequence[int]
_MAX_ID = 1 << 53  # ids share float64 tables with scores
_PARTS = 64  # batches a table collects before they are merged
PARTS_OF_STREAM = ("", "_ids", "_late_ids", "_late")  # what the names of its states end with


@dataclass(frozen=True)
class Stream:
    """What is kept of one flow of samples: `transform` of the features of `layer`, in `state`.

    `width` is the length of a row. Streams of metrics that share a network, and are equal, are kept once by a suite.
    """

    state: State
    width: int
    layer: str = ""
    transform: Callable[[Tensor], Tensor] | None = None

    def vectors(self, features: Any) -> Tensor:
        x = features[self.layer]
        x = x.cpu() if x.device.type == "mps" else x  # which has no float64
        return x if self.transform is None else self.transform(x)


class Streams(Metric):
    """Registers streams (`add_stream`), feeds them (`absorb`) and reads them (`read`).

    `ids` are global sample ids in [0, 2^53): samples with one id count once, wherever they were seen. States are
    float64 on CPU and CUDA; MPS has none, there they stay on the CPU. Ids and feature banks stay in host memory.
    """

    name: str

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._streams: dict[str, Stream] = {}
        self._blanks: dict[str, Tensor] = {}
        self._anonymous: dict[str, int] = {}  # samples without an id, by stream
        self._lenders: dict[str, tuple[Streams, str]] = {}  # streams that another metric of the suite keeps
        self._lends = False  # whether other metrics read streams of this one
        self._synced_lenders: list[Streams] = []
        # torchmetrics' collections share states that are equal after one batch, whatever the metrics do with the next.
        mark = torch.frombuffer(bytearray(os.urandom(8)), dtype=torch.int32).double()
        self.add_state("instance", mark, dist_reduce_fx="max")

    def add_stream(self, name: str, stream: Stream) -> None:
        """Register a stream."""
        state = stream.state
        self._streams[name] = stream
        if state.table:
            self._add_table(name, state.empty())
        else:
            self.add_state(name, state.empty(), dist_reduce_fx=state.merge)
        if not state.keyed:
            # Sums cannot forget a sample. The newest one therefore waits outside of them: what a DistributedSampler
            # pads with is the last of its rank, and can still be dropped when all ranks have met.
            self._add_table(f"{name}_ids", torch.zeros(0, dtype=torch.int64))
            self._add_table(f"{name}_late_ids", torch.zeros(0, dtype=torch.int64))
            self._add_table(f"{name}_late", torch.zeros(0, stream.width, dtype=torch.float64))

    def borrow(self, name: str, lender: Streams, theirs: str) -> None:
        """Read the equal stream of another metric from now on, and keep none: as a suite does."""
        self._lenders[name], lender._lends = (lender, theirs), True
        for state in _states_of(name, self._defaults):
            self._blanks.pop(state, None)
            for kept in (self._defaults, self._reductions, self._persistent):
                del kept[state]
            delattr(self, state)

    @property
    def shares(self) -> bool:
        """Whether a suite keeps streams of this metric and of others together."""
        return bool(self._lenders) or self._lends

    @property
    def untouched(self) -> bool:
        """Whether no stream has a sample yet."""
        owners = [self._lenders.get(name, (self, name)) for name in self._streams]
        states = [getattr(owner, state) for owner, name in owners for state in _states_of(name, owner._defaults)]
        return not any(x.any() if isinstance(x, Tensor) else any(map(len, x)) for x in states)

    @property
    def metric_state(self) -> dict[str, Any]:
        """As torchmetrics'; with the streams that another metric keeps for this one."""
        lent = {
            name + state.removeprefix(theirs): value
            for name, (lender, theirs) in self._lenders.items()
            for state, value in lender.metric_state.items()
            if state in _states_of(theirs, lender._defaults)
        }
        return {**super().metric_state, **lent}

    def absorb(self, name: str, vectors: Tensor, ids: Ids | None = None) -> None:
        """Add vectors (n, w) to a stream."""
        if name in self._lenders:
            return
        state = self._streams[name].state
        if ids is None:
            seen = self._anonymous.get(name, 0)
            self._anonymous[name] = seen + len(vectors)
            checked = -1 - torch.arange(seen, seen + len(vectors))
        else:
            checked = self.check_ids(ids, len(vectors))
        if not state.host:
            vectors = vectors.to(self._home, torch.float64)
        rows = state.rows(vectors, checked)
        if ids is None or state.keyed:
            self._add(name, rows)
            return
        self._settle(name)
        fresh = _unseen(checked, self.table(f"{name}_ids"))
        if not fresh.all():  # indexing with a mask would wait for the device
            rows, checked = rows[fresh.to(rows.device)], checked[fresh]
        if len(checked) > 1:
            self._add(name, rows[:-1])
            self._append(f"{name}_ids", checked[:-1])
        self._append(f"{name}_late_ids", checked[-1:])
        self._append(f"{name}_late", rows[-1:])

    def read(self, name: str) -> Tensor:
        """The state of a stream with every sample counted once; DuplicateSamples when that is no longer possible."""
        if name in self._lenders:
            lender, theirs = self._lenders[name]
            return lender.read(theirs)
        state = self._streams[name].state
        value = self.table(name) if state.table else getattr(self, name)
        if not state.keyed:
            ids, late_ids = self.table(f"{name}_ids"), self.table(f"{name}_late_ids")
            if len(ids.unique()) < len(ids):
                raise DuplicateSamples(
                    f"{self.name}: {len(ids) - len(ids.unique())} samples were counted on several ranks or in several"
                    " states; give each rank its own share of the ids"
                )
            fresh = _unseen(late_ids, ids)
            late = self.table(f"{name}_late")[fresh.to(self._home)]
            value = state.add(value.clone(), late) if len(late) else value
            if not value.isfinite().all():
                raise NonFiniteFeatures(f"{self.name}: the network returned NaN or infinity for some images")
        return value

    def table(self, name: str) -> Tensor:
        """All rows of a table."""
        value = getattr(self, name)
        parts = [self._blanks[name], *([value] if isinstance(value, Tensor) else value)]
        parts = [part.to(self._place(name)) for part in parts if len(part)] or parts[:1]
        if name not in self._streams:
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        whole = self._streams[name].state.merge(parts)
        if isinstance(value, list) and self._streams[name].state.host:
            value[:] = [whole]  # a bank is large: the batches it came in are let go
        return whole

    def check_ids(self, ids: Ids, n: int) -> Tensor:
        """Ids as int64 (n,) on the CPU; ValueError or ShapeError where they are not `n` of them."""
        try:
            ids = torch.as_tensor(ids, device="cpu")
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

    def _place(self, name: str) -> torch.device:
        return torch.device("cpu") if name in self._hosted else self._home

    @property
    def _hosted(self) -> list[str]:
        own = [name for name in self._streams if name not in self._lenders]
        banks = [name for name in own if self._streams[name].state.host]
        return banks + [name for name in self._blanks if name.endswith("_ids")]

    def add_state(self, name: str, default: Any, *args: Any, **kwargs: Any) -> None:
        """As torchmetrics'; a metric made inside inference mode can be updated outside of it."""
        with torch.inference_mode(False):
            super().add_state(name, default.clone() if isinstance(default, Tensor) else default, *args, **kwargs)

    def _add_table(self, name: str, blank: Tensor) -> None:
        self._blanks[name] = blank
        self.add_state(name, [], dist_reduce_fx="cat")

    def _add(self, name: str, rows: Tensor) -> None:
        state = self._streams[name].state
        if state.table:
            self._append(name, rows if state.host else state.of(rows))
        else:
            setattr(self, name, state.add(getattr(self, name), rows))

    def _append(self, name: str, rows: Tensor) -> None:
        parts = getattr(self, name)
        parts.append(rows)
        if self._due(name, parts):
            parts[:] = [self.table(name)]
        elif name in self._hosted and sum(part.device.type != "cpu" for part in parts) >= _PARTS:
            parts[:] = [part.cpu() for part in parts]  # seldom, as each copy waits for the device

    def _due(self, name: str, parts: list[Tensor]) -> bool:
        """Whether the parts of a table should be merged: often enough to bound it, seldom enough to cost nothing."""
        state = self._streams[name].state if name in self._streams else None
        if state is not None and state.host:  # merging copies the whole bank
            size = getattr(state, "size", None)
            return size is not None and sum(map(len, parts)) >= 2 * max(size, 256)
        return len(parts) >= _PARTS or (state is not None and parts[-1].numel() > 1 << 20)

    def _settle(self, name: str) -> None:
        """Let the samples that waited join the sums."""
        late_ids = self.table(f"{name}_late_ids")
        if len(late_ids):
            fresh = _unseen(late_ids, self.table(f"{name}_ids"))
            late = self.table(f"{name}_late")
            self._add(name, late if fresh.all() else late[fresh.to(late.device)])
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


def _states_of(stream: str, states: Iterable[str]) -> list[str]:
    """The names among `states` that belong to a stream."""
    return [f"{stream}{part}" for part in PARTS_OF_STREAM if f"{stream}{part}" in states]


def _unseen(ids: Tensor, seen: Tensor) -> Tensor:
    """Mask of the first occurrence of each id (n,) that is not in `seen` (m,)."""
    order = ids.argsort(stable=True)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[order[1:]] = ids[order[1:]] != ids[order[:-1]]
    if not len(seen) or not len(ids) or ids.min() > seen.max():  # the usual order, and far cheaper
        return first
    return first & ~torch.isin(ids, seen)
