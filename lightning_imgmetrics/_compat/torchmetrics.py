"""Every private name of torchmetrics that this package uses, and the hooks that torchmetrics calls by private names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_imgmetrics._precision import full_precision

M = TypeVar("M", bound=type)


def route_hooks(cls: M) -> M:
    """Class decorator: torchmetrics' private hooks call the public methods of `ImageMetric`.

    A state of torchmetrics is an attribute; what a metric of this package keeps is in its streams, whose `contents`
    are copied, restored, merged, moved and saved beside the attributes.
    """
    hooks = (
        sync,
        unsync,
        _sync_dist,
        _copy_state_dict,
        _reduce_states,
        _apply,
        _move_list_states_to_cpu,
        _load_from_state_dict,
        state_dict,
        _wrap_update,
        _wrap_compute,
    )
    for hook in hooks:
        setattr(cls, hook.__name__, hook)
    return cls


def _sync_dist(self: Any, dist_sync_fn: Callable = gather_all_tensors, process_group: Any = None) -> None:
    own_gather = None if dist_sync_fn is gather_all_tensors else dist_sync_fn
    with torch.inference_mode(False):
        self.streams.sync(process_group or self.process_group, own_gather)


def sync_attributes(metric: Metric, gather: Callable, group: Any) -> None:
    """torchmetrics' own sync of the states that are attributes."""
    Metric._sync_dist(metric, gather, group)


def sync(self: Any, *args: Any, **kwargs: Any) -> None:
    """As torchmetrics'; the metrics whose streams this one reads are synced with it."""
    Metric.sync(self, *args, **kwargs)
    for owner in self.streams.owners() if self._is_synced else ():
        if not owner._is_synced:
            owner.sync(*args, **kwargs)
            self.synced_owners.append(owner)


def unsync(self: Any, should_unsync: bool = True) -> None:
    """As torchmetrics'; with the metrics that `sync` synced."""
    Metric.unsync(self, should_unsync)
    while should_unsync and self.synced_owners:
        self.synced_owners.pop().unsync()


def _copy_state_dict(self: Any) -> dict[str, Any]:
    with torch.inference_mode(False):
        return {**Metric._copy_state_dict(self), "contents": self.contents}


def _reduce_states(self: Any, incoming_state: dict[str, Any]) -> None:
    contents = incoming_state.get("contents")  # of `forward`, which keeps what `_copy_state_dict` gave
    with torch.inference_mode(False):
        contents = self.streams.contents_in(incoming_state) if contents is None else contents
        Metric._reduce_states(self, incoming_state)
        self.streams.merge(contents)


def _apply(self: Any, fn: Callable, exclude_state: Sequence[str] = "") -> Any:
    """States move between devices and never change their dtype."""
    device = fn(torch.zeros(0, device=self.device)).device
    if device.type == "mps":  # which has no float64
        self._device = device
        return self
    Metric._apply(self, lambda x: x.to(device), [*exclude_state, "instance"])
    self.streams.move(device)
    return self


def _move_list_states_to_cpu(self: Any) -> None:
    self.streams.move_tables_to_cpu()


def _load_from_state_dict(self: Any, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    if (key := f"{prefix}contents") in state_dict:
        self.contents = state_dict.pop(key)
    Metric._load_from_state_dict(self, state_dict, prefix, *args)


def state_dict(self: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> dict[str, Any]:
    """As torchmetrics'; with the streams, where `persistent(True)` asks for states."""
    state = Metric.state_dict(self, destination=destination, prefix=prefix, keep_vars=keep_vars)
    if any(self._persistent.values()):
        state[f"{prefix}contents"] = deepcopy(self.contents)
    return state


def _wrap_update(self: Any, update: Callable) -> Callable:
    wrapped = Metric._wrap_update(self, update)

    @functools.wraps(update)
    def in_full_precision(*args: Any, **kwargs: Any) -> None:
        self.refuse_alone("update")
        with full_precision(self.device):
            wrapped(*args, **kwargs)

    return in_full_precision


def _wrap_compute(self: Any, compute: Callable) -> Callable:
    wrapped = Metric._wrap_compute(self, compute)

    @functools.wraps(compute)
    def in_full_precision(*args: Any, **kwargs: Any) -> Any:
        updates, synced = self._update_count, self._is_synced
        self._update_count = max(updates, 1)  # a rank without data is no mistake; no data at all is an error below
        try:
            with full_precision(self.device):
                return wrapped(*args, **kwargs)
        finally:
            self._update_count = updates
            self.release_networks()
            if self._is_synced and not synced:  # an error came between; this rank's own states must come back
                self.unsync(self._should_unsync)

    return in_full_precision


# The states of a metric


def attribute_states(metric: Metric) -> list[str]:
    """The names of the states that are attributes, in the order in which they were added."""
    return list(metric._defaults)


def is_synced(metric: Metric) -> bool:
    """Whether the states are those of all ranks at present."""
    return metric._is_synced


def sync_configuration(metric: Metric) -> tuple[object, ...]:
    """How `compute` syncs: metrics that differ in it cannot share states."""
    return metric._to_sync, metric.dist_sync_fn, metric.process_group


def syncs_on_compute(metric: Metric) -> bool:
    return metric._to_sync


def update_count(metric: Metric) -> int:
    return metric._update_count


def note_update(metric: Metric, times: int = 1) -> None:
    """Count updates that went past `update`; a value computed before is forgotten."""
    metric._update_count += times
    metric._computed = None


def forget_value(metric: Metric) -> None:
    """Have the next `compute` compute."""
    metric._computed = None


def reset_attributes(metric: Metric) -> None:
    """torchmetrics' own reset: of attributes and counts, not of streams."""
    Metric.reset(metric)


def draw(metric: Metric, value: Any, ax: Any) -> Any:
    """torchmetrics' plot of values of a metric: (figure, axes)."""
    return metric._plot(value, ax)


@contextmanager
def this_rank_alone(metric: Metric) -> Iterator[None]:
    """Inside, `compute` is of this rank, unless the metric syncs at every step; the value is not kept."""
    to_sync, metric._to_sync = metric._to_sync, metric.dist_sync_on_step
    try:
        yield
    finally:
        metric._to_sync = to_sync
        metric._computed = None


def keep_forward_value(metric: Metric, value: Any) -> Any:
    """What Lightning logs of a `forward` that is our own."""
    metric._forward_cache = value
    return value


@contextmanager
def synced_together(metrics: Iterable[Any]) -> Iterator[None]:
    """Sync the states of all `metrics`; their `compute` does not sync again inside."""
    flags = [(m, m._to_sync, m._should_unsync) for m in metrics if not m._is_synced]
    try:
        for m, to_sync, _ in flags:
            if to_sync and not m._is_synced:  # it may have been synced with a metric that reads it
                m.sync(dist_sync_fn=m.dist_sync_fn)
                if m._is_synced:  # other ranks may have added samples
                    m._computed = None
            m._to_sync = m._should_unsync = False
        yield
    finally:
        for m, to_sync, should_unsync in flags:
            m._to_sync, m._should_unsync = to_sync, should_unsync
            if m._is_synced:
                m.unsync()


def prefixed(collection: MetricCollection, name: str) -> str:
    """The name of a metric with the prefix and postfix of its collection."""
    return collection._set_name(name)
