"""Streams: samples folded into mergeable states, each counted once, by objects that several metrics can share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_imgmetrics.errors import DuplicateSamples, NonFiniteFeatures
from lightning_imgmetrics.metrics.base.inputs import Ids, check_ids
from lightning_imgmetrics.states.base import State

_PARTS = 64  # batches a table collects before they are merged
_CPU = torch.device("cpu")


@dataclass
class Content:
    """What a stream holds: a state, or the parts of a table; and the bookkeeping of sums.

    Sums cannot forget a sample. The newest one therefore waits outside of them (`pending`): what a DistributedSampler
    pads with is the last of its rank, and can still be dropped when all ranks have met.
    """

    value: Tensor | list[Tensor]
    ids: list[Tensor] = field(default_factory=list)  # of the samples in a sum, int64
    pending_ids: list[Tensor] = field(default_factory=list)
    pending: list[Tensor] = field(default_factory=list)
    anonymous: int = 0  # samples that came without an id

    def parts(self) -> dict[str, Any]:
        """The tensors, and lists of them, by name."""
        return {"value": self.value, "ids": self.ids, "pending_ids": self.pending_ids, "pending": self.pending}

    def map(self, function: Callable[[str, Tensor], Tensor]) -> Content:
        """A content of `function(name of the part, tensor)`."""
        moved: dict[str, Any] = {
            name: [function(name, x) for x in part] if isinstance(part, list) else function(name, part)
            for name, part in self.parts().items()
        }
        return Content(**moved, anonymous=self.anonymous)


class Stream:
    """One flow of samples: `transform` of the features of `layer`, kept in `state`.

    `width` is the length of a row. Metrics of a suite that share a network and have equal streams hold one object; its
    `owner` syncs, saves and resets it. `side`: "real", "fake" or "test" (held out) in a comparison.
    """

    def __init__(
        self,
        state: State,
        width: int,
        layer: str = "",
        transform: Callable[[Tensor], Tensor] | None = None,
        *,
        side: str = "",
        owner: Any = None,
    ):
        self.state, self.width, self.layer, self.transform, self.side = state, width, layer, transform, side
        self.owner = owner
        self.home = _CPU if owner is None else owner.home
        self.shared = False
        self.content = self.empty()

    @property
    def key(self) -> tuple[object, ...]:
        """Streams of one network that agree in this keep the same."""
        return self.state, self.width, self.layer, self.transform, self.side

    def owned_by(self, owner: Any, side: str = "") -> Stream:
        """An empty stream of the same kind."""
        return Stream(self.state, self.width, self.layer, self.transform, side=side or self.side, owner=owner)

    def empty(self) -> Content:
        """No samples; made outside of inference mode, so that it can be updated anywhere."""
        with torch.inference_mode(False):
            return Content([] if self.state.table else self.state.empty().to(self.home))

    def clear(self) -> None:
        """Forget all samples; who has kept the content still has them."""
        self.content = self.empty()

    @property
    def is_reference(self) -> bool:
        """Whether it holds real images, which a new evaluation keeps."""
        return self.side in ("real", "test")

    @property
    def untouched(self) -> bool:
        """Whether there is no sample yet."""
        content, value = self.content, self.content.value
        filled = value.any() if isinstance(value, Tensor) else any(map(len, value))
        return not (filled or any(map(len, content.ids)) or any(map(len, content.pending_ids)))

    def place(self, part: str) -> torch.device:
        """Where a part of the content is kept: ids and feature banks in host memory, all else with the metric."""
        host = part in ("ids", "pending_ids") or (part == "value" and self.state.host)
        return _CPU if host else self.home

    # Samples

    def vectors(self, features: Any) -> Tensor:
        """What is kept of the features of a batch, (n, width)."""
        x = features[self.layer]
        x = x.cpu() if x.device.type == "mps" else x  # which has no float64
        return x if self.transform is None else self.transform(x)

    def add(self, vectors: Tensor, ids: Ids | None = None) -> None:
        """Add vectors (n, width); samples whose id was seen before do not count again."""
        state, content = self.state, self.content
        if ids is None:
            checked = -1 - torch.arange(content.anonymous, content.anonymous + len(vectors))
            content.anonymous += len(vectors)
        else:
            checked = check_ids(ids, len(vectors))
        if not state.host:
            vectors = vectors.to(self.home, torch.float64)
        rows = state.rows(vectors, checked)
        if ids is None or state.keyed:
            self._fold(rows)
            return
        self._flush()
        fresh = _unseen(checked, self._ids())
        if not fresh.all():  # indexing with a mask would wait for the device
            rows, checked = rows[fresh.to(rows.device)], checked[fresh]
        if len(checked) > 1:
            self._fold(rows[:-1])
            self._append(content.ids, checked[:-1])
        content.pending_ids.append(checked[-1:])
        content.pending.append(rows[-1:])

    def read(self) -> Tensor:
        """The state with every sample counted once; DuplicateSamples when that is no longer possible."""
        value, name = self.value(), self.owner.name if self.owner else self.layer
        if self.state.keyed:
            return value
        ids = self._ids()
        if repeated := len(ids) - len(ids.unique()):
            raise DuplicateSamples(
                f"{name}: {repeated} samples were counted on several ranks or in several"
                " states; give each rank its own share of the ids"
            )
        pending_ids, pending = self._pending()
        rows = pending[_unseen(pending_ids, ids).to(pending.device)]
        value = self.state.add(value.clone(), rows) if len(rows) else value
        if not value.isfinite().all():
            raise NonFiniteFeatures(f"{name}: the network returned NaN or infinity for some images")
        return value

    def value(self) -> Tensor:
        """The state as it is: without the sample that waits, the parts of a table merged."""
        value = self.content.value
        if isinstance(value, Tensor):
            return value
        whole = self._merged(value)
        if self.state.host:
            value[:] = [whole]  # a bank is large: the batches it came in are let go
        return whole

    # Contents of several streams: ranks, shards, runs

    def joined(self) -> Content:
        """The content with its parts merged: what travels between ranks and goes into files."""
        pending_ids, pending = self._pending()
        value = [self.value()] if self.state.table else self.content.value
        if self.state.keyed:
            return Content(value, anonymous=self.content.anonymous)
        return Content(value, [self._ids()], [pending_ids], [pending], self.content.anonymous)

    def merge(self, earlier: Content) -> None:
        """Take in what a stream of the same kind has seen before this one."""
        content, state = self.content, self.state
        if isinstance(content.value, Tensor):
            parts = torch.stack([earlier.value.to(content.value), content.value])  # type: ignore[union-attr]
            value: Any = state.merge(parts)  # type: ignore[arg-type]
        else:
            value = [*earlier.value, *content.value]
        lists = {name: [*getattr(earlier, name), *getattr(content, name)] for name in ("ids", "pending_ids", "pending")}
        self.content = Content(value, **lists, anonymous=content.anonymous)
        if not state.keyed:
            self._flush_all_but_newest()
        if state.table and self._due([*value, state.empty()]):
            value[:] = [self._merged(value)]

    def move(self, home: torch.device) -> None:
        """Follow the metric to another device, but for what stays in host memory."""
        self.home = home
        self.content = self.content.map(lambda part, x: x.to(self.place(part)))

    # Parts

    def _fold(self, rows: Tensor) -> None:
        value, state = self.content.value, self.state
        if isinstance(value, Tensor):
            self.content.value = state.add(value, rows)
        else:
            self._append(value, rows if state.host else state.of(rows), table=True)

    def _append(self, parts: list[Tensor], rows: Tensor, *, table: bool = False) -> None:
        parts.append(rows)
        if self._due(parts) if table else len(parts) >= _PARTS:
            parts[:] = [self._merged(parts) if table else torch.cat(parts)]
        elif table and self.state.host and sum(part.device.type != "cpu" for part in parts) >= _PARTS:
            parts[:] = [part.cpu() for part in parts]  # seldom, as each copy waits for the device

    def _merged(self, parts: Sequence[Tensor]) -> Tensor:
        parts = [part.to(self.place("value")) for part in parts if len(part)]
        return self.state.merge(parts or [self.state.empty().to(self.place("value"))])

    def _due(self, parts: Sequence[Tensor]) -> bool:
        """Whether the parts of a table should be merged: often enough to bound it, seldom enough to cost nothing."""
        if self.state.host:  # merging copies the whole bank
            size = getattr(self.state, "size", None)
            return size is not None and sum(map(len, parts)) >= 2 * max(size, 256)
        return len(parts) >= _PARTS or (len(parts) > 0 and parts[-1].numel() > 1 << 20)

    def _ids(self) -> Tensor:
        ids = self.content.ids
        if len(ids) != 1:
            ids[:] = [torch.cat(ids) if ids else torch.zeros(0, dtype=torch.int64)]
        return ids[0]

    def _pending(self) -> tuple[Tensor, Tensor]:
        """Ids and rows of the samples that wait; several after contents were joined."""
        blank = torch.zeros(0, self.width, dtype=torch.float64, device=self.home)
        rows = torch.cat([blank, *(x.to(self.home) for x in self.content.pending)])
        return torch.cat([torch.zeros(0, dtype=torch.int64), *self.content.pending_ids]), rows

    def _flush(self) -> None:
        """Let the samples that waited join the sums."""
        pending_ids, pending = self._pending()
        self.content.pending_ids.clear()
        self.content.pending.clear()
        if len(pending_ids):
            fresh = _unseen(pending_ids, self._ids())
            self._fold(pending if fresh.all() else pending[fresh.to(pending.device)])
            self._append(self.content.ids, pending_ids[fresh])

    def _flush_all_but_newest(self) -> None:
        """After two contents were joined, the newer of which comes last."""
        parts = self.content.pending_ids, self.content.pending
        if len(parts[0]) > 1:
            newest = [part.pop() for part in parts]
            self._flush()
            for part, rows in zip(parts, newest, strict=True):
                part.append(rows)


def _unseen(ids: Tensor, seen: Tensor) -> Tensor:
    """Mask of the first occurrence of each id (n,) that is not in `seen` (m,)."""
    order = ids.argsort(stable=True)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[order[1:]] = ids[order[1:]] != ids[order[:-1]]
    if not len(seen) or not len(ids) or ids.min() > seen.max():  # the usual order, and far cheaper
        return first
    return first & ~torch.isin(ids, seen)
