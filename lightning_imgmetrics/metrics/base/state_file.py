"""The states of several metrics as one file: shards evaluated apart, interrupted runs, cached references."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_imgmetrics._compat.torchmetrics import note_update, update_count
from lightning_imgmetrics._files import write_atomically
from lightning_imgmetrics.errors import IncompatibleStates
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.base.streams import Content, Stream
from lightning_imgmetrics.result import Signature
from lightning_imgmetrics.states.hash import fingerprint

FORMAT = "lightning-imgmetrics states 2"
_PARTS = tuple(f.name for f in fields(Content) if f.name != "anonymous")
# What states of the first format, which had no name, were called: the stream's name with one of these behind it.
_FIRST_FORMAT = {"_late_ids": "pending_ids", "_late": "pending", "_ids": "ids"}


@dataclass
class StateFile:
    """The states in a file: what streams hold, and numbers, by metric and name."""

    about: dict[str, Any]
    contents: dict[str, dict[str, Content]] = field(default_factory=lambda: defaultdict(dict))
    counters: dict[str, dict[str, Tensor]] = field(default_factory=lambda: defaultdict(dict))

    def restore(self, metrics: Mapping[str, ImageMetric]) -> None:
        """Replace the states of `metrics` that the file holds."""
        for name, m in metrics.items():
            m.contents = {stream: self.contents[name][stream] for stream in m.contents if stream in self.contents[name]}
            for counter, value in self.counters[name].items():
                setattr(m, counter, value.to(m.home).clone())
            note_update(m, 0 if update_count(m) else 1)

    def state_of(self, name: str, m: ImageMetric) -> dict[str, Any]:
        """What `merge_state` of one metric takes; what the file does not hold is empty."""
        contents = {stream: self.contents[name].get(stream, s.empty()) for stream, s in m.streams.items()}
        zeros = {counter: torch.zeros_like(x) for counter, x in m.counters().items()}
        return {"instance": m.instance, **zeros, **self.counters[name], "contents": contents}


def save_states(
    metrics: Mapping[str, ImageMetric],
    path: Path,
    *,
    side: str | None = None,
    exact: bool = False,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write the states and signatures of `metrics` atomically, with a checksum.

    Args:
        metrics: by name. What several of them share is written once.
        path: the file; missing folders are made.
        side: "real" writes the reference alone.
        exact: keep the parts of sums that were not merged yet, so that going on from the file rounds as going on does.
        about: any JSON, which `read_states` gives back.
    """
    tensors: dict[str, Tensor] = {}
    written: set[int] = set()
    for key, x in _states(metrics, side, exact):
        value = x.detach().cpu().contiguous()
        # The format takes no tensor twice, and two tables of ids or filled references may be one.
        tensors[key] = value.clone() if value.data_ptr() in written else value
        written.add(value.data_ptr())
    described = {
        "signatures": {name: str(m.signature()) for name, m in metrics.items() if side is None or side in m.inputs},
        "shared": {f"{name}/{mine}": owner for name, m in metrics.items() for mine, owner in _shares(metrics, m)},
        "about": about or {},
    }
    metadata = {"format": FORMAT, "side": side or "all", "checksum": _checksum(tensors)}
    metadata |= {key: json.dumps(value) for key, value in described.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda part: save_file(tensors, part, metadata=metadata))


def read_states(metrics: Mapping[str, ImageMetric], path: Path) -> StateFile:
    """The states in a file that `save_states` wrote for metrics like these, also by the first release.

    Each metric gets what it keeps itself, whether or not the same was shared where it was saved. Raises
    IncompatibleStates (other metrics, another version, a damaged file) and SignatureMismatch (measured differently).
    """
    metadata, tensors = _open(path)
    signatures, side = json.loads(metadata["signatures"]), metadata.get("side", "all")
    saved = {name: m for name, m in metrics.items() if side == "all" or side in m.inputs}
    check_names(saved, signatures)
    for name, m in saved.items():
        Signature.parse(signatures[name]).require_like(m.signature())
    file = StateFile(json.loads(metadata.get("about", "{}")))
    parts: dict[tuple[str, str], dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for key in sorted(tensors, key=_order):
        name, state, *part = key.split("/")
        if name not in metrics or state not in {**metrics[name].streams, **metrics[name].counters()}:
            raise IncompatibleStates(f"{path}: metric {name!r} keeps no state {state!r}")
        if part:
            parts[name, state][part[0]].append(tensors[key])
        else:
            file.counters[name][state] = _like(tensors[key], metrics[name].counters()[state], f"{path}: {key!r}")
    for shared, owner in json.loads(metadata.get("shared", metadata.get("lent", "{}"))).items():
        (name, state), (holder, theirs) = shared.split("/"), owner.split("/")
        if (holder, theirs) in parts:
            parts[name, state] = parts[holder, theirs]
    for (name, state), lists in parts.items():
        stream = metrics[name].streams[state]
        file.contents[name][state] = _content(stream, lists, f"{path}: metric {name!r} keeps {state!r}")
    require_equal_shares(metrics, file.contents)
    return file


def read_about(path: Path) -> dict[str, Any]:
    """What `save_states` was given to keep with the file, without its tensors."""
    return json.loads(_metadata(path).get("about", "{}"))


def check_names(metrics: Mapping[str, ImageMetric], names: Iterable[str]) -> None:
    """IncompatibleStates unless both are the same metrics."""
    if set(names) != set(metrics):
        raise IncompatibleStates(f"the other suite measures {sorted(names)}, this one {sorted(metrics)}")


def require_equal_shares(metrics: Mapping[str, ImageMetric], contents: Mapping[str, Mapping[str, Content]]) -> None:
    """IncompatibleStates unless metrics that share a stream here have seen the same in `contents`."""
    for name, m in metrics.items():
        for mine, owner in _shares(metrics, m):
            holder, theirs = owner.split("/")
            pair = contents.get(name, {}).get(mine), contents.get(holder, {}).get(theirs)
            if pair[0] is not pair[1] and _prints(pair[0]) != _prints(pair[1]):
                raise IncompatibleStates(
                    f"metrics {holder!r} and {name!r} share their samples in this suite, those to be"
                    " taken over saw different ones"
                )


def _states(metrics: Mapping[str, ImageMetric], side: str | None, exact: bool) -> Iterator[tuple[str, Tensor]]:
    """(metric/counter, number) and (metric/stream/part, tensor), or metric/stream/part/i for parts not merged yet."""
    for name, m in metrics.items():
        if side is None:
            yield from ((f"{name}/{counter}", value) for counter, value in m.counters().items())
        for title, stream in m.streams.owned().items():
            if side is not None and not stream.is_reference:
                continue
            content = stream.joined()
            if exact and isinstance(stream.content.value, list) and not stream.state.keyed:
                content.value = stream.content.value
            for part in _PARTS:
                value = getattr(content, part)
                if isinstance(value, Tensor):
                    yield f"{name}/{title}/{part}", value
                elif len(value) == 1:
                    yield f"{name}/{title}/{part}", value[0]
                else:
                    yield from ((f"{name}/{title}/{part}/{i}", x) for i, x in enumerate(value))


def _shares(metrics: Mapping[str, ImageMetric], m: ImageMetric) -> Iterator[tuple[str, str]]:
    """(name of a stream that another metric owns, "owner/name there")."""
    names = {id(other): name for name, other in metrics.items()}
    for title, stream in m.streams.items():
        if stream.owner is not m and id(stream.owner) in names:
            yield title, f"{names[id(stream.owner)]}/{title}"


def _prints(content: Content | None) -> list[object]:
    """What tells contents apart; nothing where there are no samples."""
    if content is None:
        return []
    lists = [x if isinstance(x, list) else [x] for x in (getattr(content, part) for part in _PARTS)]
    tensors = [torch.cat([x.cpu() for x in parts]) for parts in lists if parts]
    return [fingerprint(x) for x in tensors if len(x) and x.any()]


def _content(stream: Stream, parts: Mapping[str, list[Tensor]], where: str) -> Content:
    """The content of a stream, on its device; a copy, as sums change in place and files are mapped."""
    ids, rows = torch.zeros(0, dtype=torch.int64), torch.zeros(0, stream.width, dtype=torch.float64)
    wanted = {"value": stream.state.empty(), "ids": ids, "pending_ids": ids, "pending": rows}

    def placed(part: str) -> list[Tensor]:
        table = part != "value" or stream.state.table
        tensors = (_like(x, wanted[part], where, rows=table) for x in parts.get(part, ()))
        return [x.to(stream.place(part)).clone() for x in tensors]

    value = placed("value")
    whole = value if stream.state.table else value[0] if value else stream.empty().value
    return Content(whole, placed("ids"), placed("pending_ids"), placed("pending"))


def _like(value: Tensor, wanted: Tensor, where: str, *, rows: bool = False) -> Tensor:
    """IncompatibleStates unless a tensor has the dtype and the shape, or with `rows` the shape of rows, of another."""
    shapes = [tuple(x.shape[1:] if rows else x.shape) for x in (wanted, value)]
    if shapes[0] != shapes[1] or wanted.dtype != value.dtype:
        raise IncompatibleStates(f"{where} as {shapes[0]} {wanted.dtype}, the file has {shapes[1]} {value.dtype}")
    return value


def _order(key: str) -> tuple[str, int]:
    """Parts in the order of their numbers."""
    head, _, last = key.rpartition("/")
    return (head, int(last)) if last.isdigit() else (key, 0)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        x = tensors[key]
        digest.update(f"{key} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise IncompatibleStates(f"{path} is not a saved suite: {error}") from error


def _open(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    metadata = _metadata(path)
    if metadata.get("format", FORMAT) != FORMAT:
        raise IncompatibleStates(
            f"{path} was written by another version ({metadata['format']}), this one reads {FORMAT}: evaluate again"
        )
    if "signatures" not in metadata:
        raise IncompatibleStates(
            f"{path} is not a saved suite: it names no metrics. If it is from a run of an earlier version, start the"
            " run again"
        )
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise IncompatibleStates(f"{path} is not a whole suite: {error}") from error
    if "format" not in metadata:
        return metadata, {_renamed(key, x): x for key, x in tensors.items()}
    if _checksum(tensors) != metadata.get("checksum"):
        raise IncompatibleStates(f"{path} is damaged: its tensors are not those that were written")
    return metadata, tensors


def _renamed(key: str, x: Tensor) -> str:
    """The key of a tensor of the first format in this one."""
    name, state = key.rsplit("/", 1)
    for suffix, part in _FIRST_FORMAT.items():
        if state.endswith(suffix):
            return f"{name}/{state.removesuffix(suffix)}/{part}"
    return f"{name}/{state}/value" if x.ndim else key
