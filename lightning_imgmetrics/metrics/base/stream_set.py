"""The streams of one metric: what it owns and what it shares, copied, merged, moved and joined over ranks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_imgmetrics._compat.torchmetrics import sync_attributes
from lightning_imgmetrics._distributed import gather_rows, rendezvous, sum_, sync_timeout
from lightning_imgmetrics.errors import IncompatibleStates
from lightning_imgmetrics.metrics.base.streams import Content, Stream
from lightning_imgmetrics.states.hash import uniform_hash
from lightning_imgmetrics.states.moments import reduce_moments


class StreamSet(dict[str, Stream]):
    """Streams by name. Those that another metric of a suite owns are only read here."""

    def __init__(self, metric: Any, streams: Mapping[str, Stream] | None = None):
        super().__init__(streams or {})
        self.metric = metric

    def owned(self) -> dict[str, Stream]:
        """The streams that this metric keeps itself."""
        return {name: stream for name, stream in self.items() if stream.owner is self.metric}

    def share(self, name: str, stream: Stream) -> None:
        """Read the equal stream of another metric from now on, and keep none."""
        self[name] = stream
        stream.shared = True

    def owners(self) -> list[Any]:
        """The other metrics whose streams this one reads, each once."""
        others = {id(s.owner): s.owner for s in self.values() if s.owner is not self.metric}
        return list(others.values())

    def of_side(self, side: str) -> dict[str, Stream]:
        """The streams of "real" or "fake" samples."""
        return {name: stream for name, stream in self.items() if stream.side == side}

    @property
    def shared(self) -> bool:
        """Whether other metrics read some of these."""
        return any(stream.shared for stream in self.values())

    @property
    def untouched(self) -> bool:
        """Whether no stream has a sample yet."""
        return all(stream.untouched for stream in self.values())

    def contents(self) -> dict[str, Content]:
        """What the streams hold, also those that another metric owns."""
        return {name: stream.content for name, stream in self.items()}

    def states(self) -> dict[str, Tensor | list[Tensor]]:
        """`contents` as torchmetrics has states: tensors and lists of them, by "stream" and "stream.part"."""
        parts = {name: content.parts() for name, content in self.contents().items()}
        return {name if part == "value" else f"{name}.{part}": x for name, c in parts.items() for part, x in c.items()}

    def contents_in(self, states: Mapping[str, Any]) -> dict[str, Content]:
        """The contents in `states` of a metric of this kind; ValueError where one is missing."""
        contents: dict[str, Content] = {}
        for name, content in self.owned_contents().items():
            keys = {part: name if part == "value" else f"{name}.{part}" for part in content.parts()}
            if missing := [key for key in keys.values() if key not in states]:
                raise ValueError(f"Expected state variable {missing[0]} to be present in incoming state {states}")
            contents[name] = Content(**{part: states[key] for part, key in keys.items()})
        return contents

    def owned_contents(self) -> dict[str, Content]:
        return {name: stream.content for name, stream in self.owned().items()}

    def restore(self, contents: Mapping[str, Content]) -> None:
        """Hold `contents`, as `owned_contents` gave them."""
        for name, content in contents.items():
            self[name].content = content

    def clear_owned(self) -> None:
        for stream in self.owned().values():
            stream.clear()

    def merge(self, contents: Mapping[str, Content]) -> None:
        """Take in what the streams of another metric of this kind hold."""
        for name, stream in self.owned().items():
            stream.merge(contents[name])

    def require_like(self, others: StreamSet, metric: str) -> None:
        """IncompatibleStates unless the other metric keeps the same, in the same form."""
        for name, stream in self.items():
            theirs = others[name].state if name in others else None
            if theirs != stream.state:
                raise IncompatibleStates(f"{metric}: this metric keeps {stream.state!r}, the other one {theirs!r}")

    def move(self, home: torch.device) -> None:
        for stream in self.owned().values():
            stream.move(home)

    def move_tables_to_cpu(self) -> None:
        """As torchmetrics does with lists of batches where `compute_on_cpu` is set."""
        for stream in self.owned().values():
            if stream.state.table:
                stream.content = stream.content.map(lambda part, x: x.cpu())

    # Ranks

    def sync(self, group: Any, gather: Callable[..., Sequence[Tensor]] | None = None) -> None:
        """Hold the samples of all ranks; by `gather`, a user's `dist_sync_fn`, or as fast as the states allow."""
        metric = self.metric
        if gather is not None:
            sync_attributes(metric, gather, group)
            self._sync_by(gather, group)
            return
        rendezvous(f"{type(metric).__name__}.compute()", group, timeout=sync_timeout(metric.sync_timeout))
        counters = metric.counters()
        totals = torch.stack(list(counters.values()))
        sum_(totals, group)
        for name, total in zip(counters, totals, strict=True):
            setattr(metric, name, total)
        self._sync_streams(group)

    def _sync_streams(self, group: Any) -> None:
        """One gather of all row counts, then one per table; sums are reduced in place."""
        streams = list(self.owned().values())
        contents = [stream.joined() for stream in streams]
        tables = [x for stream, content in zip(streams, contents, strict=True) for x in _tables(stream, content, group)]
        rows = iter(gather_rows(tables, group))
        moments = []
        for stream, content in zip(streams, contents, strict=True):
            value: Any = [next(rows)] if stream.state.table else content.value.clone()  # type: ignore[union-attr]
            if not stream.state.table:
                moments += stream.state.split(value)  # type: ignore[attr-defined]
            bookkeeping = () if stream.state.keyed else ([next(rows)] for _ in range(3))
            stream.content = Content(value, *bookkeeping)
        if moments:
            reduce_moments(moments, functools.partial(sum_, group=group))

    def _sync_by(self, gather: Callable[..., Sequence[Tensor]], group: Any) -> None:
        def over_ranks(part: str, x: Tensor, stream: Stream) -> Tensor:
            parts = list(gather(x, group=group))
            sums = part == "value" and not stream.state.table
            return stream.state.merge(torch.stack(parts)) if sums else torch.cat(parts)  # type: ignore[arg-type]

        for stream in self.owned().values():
            stream.content = stream.joined().map(functools.partial(over_ranks, stream=stream))


def _tables(stream: Stream, content: Content, group: Any) -> Iterator[Tensor]:
    """What is gathered of a stream; a rank without data brings no rows, of the right shape and type."""
    if stream.state.table:
        yield _rows_to_gather(stream, content.value[0], group)
    for part in (content.ids, content.pending_ids, content.pending):
        yield from part


def _rows_to_gather(stream: Stream, table: Tensor, group: Any) -> Tensor:
    """The rows of a table that other ranks need: of a bounded bank those that all ranks together will keep."""
    state = stream.state
    size = getattr(state, "size", None)
    if not state.host or size is None:
        return table
    ids = state.ids(table)  # type: ignore[attr-defined]
    every = gather_rows([ids], group)[0].unique()
    if len(every) <= size or bool((every < 0).any()):  # a negative one may stand for a sample on each rank
        return table
    return table[uniform_hash(ids) <= uniform_hash(every).kthvalue(size).values]
