"""The states of several metrics as one file: shards evaluated apart, interrupted runs, cached references."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_imgmetrics._files import write_atomically
from lightning_imgmetrics.errors import IncompatibleStates
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.base.streams import PARTS_OF_STREAM
from lightning_imgmetrics.result import Signature
from lightning_imgmetrics.states.hash import fingerprint


def save_states(
    metrics: Mapping[str, ImageMetric], path: Path, *, side: str | None = None, about: Mapping[str, Any] | None = None
) -> None:
    """Write the states and signatures of `metrics` atomically; `side="real"` writes the reference alone.

    What several metrics share is written once; `lent` says whose it is.
    """
    tensors: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, m in metrics.items():
        for state in own_states(m, side):
            value = (m.table(state) if state in m._blanks else getattr(m, state)).cpu().contiguous()
            # The format takes no tensor twice, and two tables of ids or filled references may be one.
            tensors[f"{name}/{state}"] = value.clone() if value.data_ptr() in written else value
            written.add(value.data_ptr())
    names = {id(m): name for name, m in metrics.items()}
    lent = {
        f"{name}/{stream}": f"{names[id(lender)]}/{theirs}"
        for name, m in metrics.items()
        for stream, (lender, theirs) in m._lenders.items()
    }
    signatures = {name: str(m.signature()) for name, m in metrics.items() if side is None or side in m.inputs}
    described = {"signatures": signatures, "lent": lent, "about": about or {}}
    metadata = {"side": side or "all", **{key: json.dumps(value) for key, value in described.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda part: save_file(tensors, part, metadata=metadata))


def read_states(metrics: Mapping[str, ImageMetric], path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """(name -> state -> tensor, about) of a file that `save_states` wrote for metrics like these.

    Each metric gets the states that it keeps itself, whether or not the same ones were shared where they were saved.
    Raises IncompatibleStates (another set of metrics, a damaged file) and SignatureMismatch (measured otherwise).
    """
    metadata, tensors = _open(path)
    signatures = json.loads(metadata.get("signatures", "{}"))
    side = metadata.get("side", "all")
    held = {name: m for name, m in metrics.items() if side == "all" or side in m.inputs}
    check_names(held, signatures)
    for name, m in held.items():
        Signature.parse(signatures[name]).require_like(m.signature())
    for stream, lender in json.loads(metadata.get("lent", "{}")).items():
        tensors |= {stream + part: tensors[lender + part] for part in PARTS_OF_STREAM if lender + part in tensors}
    states: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in tensors.items():
        name, state = key.rsplit("/", 1)
        states[name][state] = value
    require_shared(metrics, states)
    for name, m in metrics.items():
        lent = [f"{stream}{part}" for stream in m._lenders for part in PARTS_OF_STREAM]
        kept = {state: value for state, value in states[name].items() if state not in lent}
        for state, value in kept.items():
            _check(m, state, value, f"{path}: metric {name!r}")
        # A stream that was shared and is not here comes twice, and sums change in place.
        states[name] = {state: value.to(m._place(state)).clone() for state, value in kept.items()}
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
    states = [state for state in m._defaults if state != "instance"]
    return [state for state in states if side is None or state.startswith(f"{side}_")]


def require_shared(metrics: Mapping[str, ImageMetric], states: Mapping[str, Mapping[str, Any]]) -> None:
    """IncompatibleStates unless metrics that share a stream here have equal ones in `states`."""
    names = {id(m): name for name, m in metrics.items()}
    for name, m in metrics.items():
        for stream, (lender, theirs) in m._lenders.items():
            for part in PARTS_OF_STREAM:
                pair = states[name].get(stream + part), states[names[id(lender)]].get(theirs + part)
                mine, other = (torch.cat(x) if isinstance(x, list) and x else x for x in pair)
                if mine is not other and not (_empty(mine) and _empty(other)) and not _equal(mine, other):
                    raise IncompatibleStates(
                        f"metrics {names[id(lender)]!r} and {name!r} share their samples in this suite, those to be"
                        " taken over saw different ones"
                    )


def _empty(x: Any) -> bool:
    return x is None or len(x) == 0


def _equal(x: Any, y: Any) -> bool:
    both = isinstance(x, Tensor) and isinstance(y, Tensor) and not _empty(x) and not _empty(y)
    return both and fingerprint(x) == fingerprint(y)


def _check(m: ImageMetric, state: str, value: Tensor, where: str) -> None:
    if state not in m._defaults:
        raise IncompatibleStates(f"{where} keeps no state {state!r}")
    wanted = m._blanks[state] if state in m._blanks else torch.as_tensor(m._defaults[state])
    shape, found = (x.shape[1:] if state in m._blanks else x.shape for x in (wanted, value))
    if shape != found or wanted.dtype != value.dtype:
        raise IncompatibleStates(
            f"{where} keeps {state!r} as {tuple(shape)} {wanted.dtype}, the file has {tuple(found)} {value.dtype}"
        )


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
