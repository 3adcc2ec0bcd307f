"""The states of several metrics as one file: shards evaluated apart, interrupted runs, cached references."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_imgmetrics._files import write_atomically
from lightning_imgmetrics.errors import IncompatibleStates
from lightning_imgmetrics.metrics.stateful import ImageMetric
from lightning_imgmetrics.result import Signature


def save_states(
    metrics: Mapping[str, ImageMetric], path: Path, *, side: str | None = None, about: Mapping[str, Any] | None = None
) -> None:
    """Write the states and signatures of `metrics` atomically; `side="real"` writes the reference alone."""
    tensors = {}
    for name, m in metrics.items():
        for state in own_states(m, side):
            value = m.table(state) if state in m._blanks else getattr(m, state)
            # Streams may hold one tensor of ids in common, which the format does not take; a bank is never shared.
            large = state in m._streams and m._streams[state].state.host
            tensors[f"{name}/{state}"] = value.cpu().contiguous() if large else value.cpu().contiguous().clone()
    signatures = {name: str(m.signature()) for name, m in metrics.items()}
    metadata = {"signatures": json.dumps(signatures), "side": side or "all", "about": json.dumps(about or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda part: save_file(tensors, part, metadata=metadata))


def read_states(metrics: Mapping[str, ImageMetric], path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """(name -> state -> tensor, about) of a file that `save_states` wrote for metrics like these.

    Raises IncompatibleStates (another set of metrics, a damaged file) and SignatureMismatch (measured otherwise).
    """
    metadata, tensors = _open(path)
    signatures = json.loads(metadata.get("signatures", "{}"))
    check_names(metrics, signatures)
    for name, m in metrics.items():
        Signature.parse(signatures[name]).require_like(m.signature())
    states: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in tensors.items():
        name, state = key.rsplit("/", 1)
        if state not in metrics[name]._defaults:
            raise IncompatibleStates(f"{path}: metric {name!r} keeps no state {state!r}")
        states[name][state] = value.to(metrics[name]._place(state))
    return states, json.loads(metadata.get("about", "{}"))


def read_about(path: Path) -> dict[str, Any]:
    """What `save_states` was told about the file, without its tensors."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get("about", "{}"))
    except SafetensorError as error:
        raise IncompatibleStates(f"{path} is not a saved suite: {error}") from error


def own_states(m: ImageMetric, side: str | None) -> list[str]:
    """The names of the states that `m` itself keeps, of one side or all."""
    lent = tuple(f"{name}{part}" for name in m._lenders for part in ("", "_ids", "_late_ids", "_late"))
    return [k for k in m._defaults if k not in lent and (side is None or k.startswith(f"{side}_"))]


def check_names(metrics: Mapping[str, ImageMetric], names: Iterable[str]) -> None:
    """IncompatibleStates unless both are the same metrics."""
    if set(names) != set(metrics):
        raise IncompatibleStates(f"the other suite measures {sorted(names)}, this one {sorted(metrics)}")


def _open(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise IncompatibleStates(f"{path} is not a saved suite: {error}") from error
