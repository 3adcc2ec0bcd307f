"""Streams over ranks: one rendezvous, sums reduced in place, tables gathered, and what other metrics lend."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_imgmetrics._distributed import gather_rows, rendezvous, sum_, sync_timeout, world
from lightning_imgmetrics.metrics.base.streams import Streams
from lightning_imgmetrics.states.bank import Bank
from lightning_imgmetrics.states.hash import uniform_hash
from lightning_imgmetrics.states.moments import GroupedMoments, Moments, reduce_moments


class StreamMetric(Streams):
    """`Streams` that sync, move and merge as torchmetrics asks of a metric.

    `patience`: seconds that a rank waits at least for the others at a sync, beyond `IMGMETRICS_SYNC_TIMEOUT`.
    """

    patience: ClassVar[float | None] = None

    def over_ranks(self, kernel: Callable[..., Any]) -> Any:
        """`kernel(share=(rank, world size))`, summed over ranks: a tensor or a tuple of them, the same bits on each.

        Only a synced metric has the same samples on every rank; another one does all of the work.
        """
        rank, size = world(self.process_group) if self._is_synced else (0, 1)
        out = kernel(share=(rank, size))
        if size > 1:
            for part in out if isinstance(out, tuple) else (out,):
                sum_(part, self.process_group)
        return out

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        with torch.inference_mode(False):
            super()._reduce_states(incoming_state)
            for name, stream in self._streams.items():
                if not stream.state.keyed and name not in self._lenders:
                    self._settle_all_but_newest(name)
            for name in self._blanks:
                if self._due(name, [*getattr(self, name), self._blanks[name]]):
                    setattr(self, name, [self.table(name)])

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As torchmetrics'; the metrics whose streams this one reads are synced with it."""
        super().sync(*args, **kwargs)
        if self._is_synced:
            for lender, _ in self._lenders.values():
                if not lender._is_synced:
                    lender.sync(*args, **kwargs)
                    self._synced_lenders.append(lender)

    def unsync(self, should_unsync: bool = True) -> None:
        super().unsync(should_unsync)
        if should_unsync:
            while self._synced_lenders:
                self._synced_lenders.pop().unsync()

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any = None) -> None:
        with torch.inference_mode(False):
            for name in self._blanks:  # a rank without data must still bring rows of the right shape and type
                setattr(self, name, [self.table(name)])
            if dist_sync_fn is not gather_all_tensors:
                super()._sync_dist(dist_sync_fn, process_group)
                return
            group = process_group or self.process_group
            rendezvous(f"{type(self).__name__}.compute()", group, timeout=sync_timeout(self.patience))
            reduce = functools.partial(sum_, group=group)
            tables = [self._travelling(name, group) for name in self._blanks]
            for name, rows in zip(self._blanks, gather_rows(tables, group), strict=True):
                setattr(self, name, [rows])
            kept = {*self._blanks, *self._streams, "instance"}
            sums = [name for name in self._defaults if name not in kept]
            flat = torch.stack([getattr(self, name) for name in sums])
            reduce(flat)
            for name, value in zip(sums, flat, strict=True):
                setattr(self, name, value)
            own = {name: stream for name, stream in self._streams.items() if name not in self._lenders}
            states = [(stream.state, getattr(self, name)) for name, stream in own.items()]
            moments = [pair for s, x in states if isinstance(s, Moments | GroupedMoments) for pair in s.split(x)]
            if moments:
                reduce_moments(moments, reduce)

    def _travelling(self, name: str, group: Any) -> Tensor:
        """The rows of a table that other ranks need: of a bounded bank those that all ranks together will keep."""
        table = self.table(name)
        state = self._streams[name].state if name in self._streams else None
        if not isinstance(state, Bank) or state.size is None:
            return table
        ids = state.ids(table)
        every = gather_rows([ids], group)[0].unique()
        if len(every) <= state.size or bool((every < 0).any()):  # a negative one may stand for a sample on each rank
            return table
        return table[uniform_hash(ids) <= uniform_hash(every).kthvalue(state.size).values]

    def _copy_state_dict(self) -> dict[str, Any]:
        # What a sync replaces: sums change in place, the batches of a table never do.
        with torch.inference_mode(False):
            for name in self._hosted:
                self.table(name)  # its batches become one, which the copy then holds too
            values = {name: getattr(self, name) for name in self._defaults}
            return {k: v.detach().clone() if isinstance(v, Tensor) else list(v) for k, v in values.items()}

    def reset(self) -> None:
        with torch.inference_mode(False):
            super().reset()
        self._anonymous.clear()

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = "") -> StreamMetric:
        """States move between devices and never change their dtype."""
        device = fn(torch.zeros(0, device=self.device)).device
        if device.type == "mps":
            self._device = device
            return self
        super()._apply(lambda x: x.to(device), [*exclude_state, *self._hosted, "instance"])
        return self
