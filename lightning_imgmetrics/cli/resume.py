"""The folder of a run: the states of each rank, saved while it measures, from which it goes on to the same bits."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_imgmetrics._files import write_atomically
from lightning_imgmetrics.cli.request import UsageError
from lightning_imgmetrics.errors import IncompatibleStates
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.base.state_file import own_states
from lightning_imgmetrics.suite import MetricSuite

_FORMAT = "lightning-imgmetrics run 1"


@dataclass
class Position:
    """How far a rank has come: `batch` is the next one of `side`, `chunk` the images per network pass (0: not chosen).

    `failed`: {"side", "id", "name", "reason"}. `content`: hash sum and count of the reference's pixels so far.
    """

    side: str = "reference"
    batch: int = 0
    chunk: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)
    content: tuple[int, int] = (0, 0)


class RunFolder:
    """Saves the states of one rank in `folder`, at most every `every` seconds, and finds them again.

    `configuration`: all that decides the bits of the result. The states are kept as they are, parts that were not
    merged yet as parts, so that neither saving nor going on from a file changes the order of any sum.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rank: int,
        size: int,
        every: float,
        configuration: Mapping[str, Any],
        note: Callable[[str], None],
    ):
        self.folder, self.rank, self.size, self.every, self.note = folder, rank, size, every, note
        self.configuration = json.loads(json.dumps(configuration))
        self.path = folder / f"state-{rank}-of-{size}.safetensors"
        self._saved = time.monotonic()

    def open(self, suite: MetricSuite, *, resume: bool) -> Position | None:
        """Where the run stopped, its states now in `suite`; None where this rank has saved nothing yet.

        UsageError for a folder in use without `resume`, and for a command that has changed since, saying in what.
        """
        if not resume and self.folder.exists() and any(self.folder.iterdir()):
            raise UsageError(
                f"--run-dir {self.folder} is not empty: add --resume to go on with it, or name a new folder"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._refuse_other_world()
        for part in self.folder.glob(f".{self.path.stem}-*"):  # of a process that was killed while it wrote
            part.unlink(missing_ok=True)
        return self._read(suite) if self.path.exists() else None

    def save(self, suite: MetricSuite, position: Position, *, due: bool = False) -> None:
        """Write the states if the time has come or `due`; a full disk is reported and leaves the last file whole."""
        if not due and time.monotonic() - self._saved < self.every:
            return
        about = {"format": _FORMAT, "configuration": self.configuration, "position": asdict(position)}
        tensors = _states(suite.named())
        try:
            write_atomically(self.path, lambda part: save_file(tensors, part, {"about": json.dumps(about)}))
        except (OSError, SafetensorError) as error:
            self.note(f"the states could not be saved, the run goes on without: {error}")
        self._saved = time.monotonic()

    def _refuse_other_world(self) -> None:
        for path in self.folder.glob("state-*-of-*.safetensors"):
            found = re.fullmatch(r"state-\d+-of-(\d+)\.safetensors", path.name)
            if found and int(found[1]) != self.size:
                raise UsageError(f"--resume: the run in {self.folder} had {found[1]} ranks, this one has {self.size}")

    def _read(self, suite: MetricSuite) -> Position:
        try:
            with safe_open(self.path, "pt") as file:
                about = json.loads((file.metadata() or {}).get("about", "{}"))
                if about.get("format") != _FORMAT:
                    raise IncompatibleStates(f"{self.path} is not the state of a run")
                self._refuse_changes(about["configuration"])
                # Copies: the file may be mapped, and kernels may round by how their operands are aligned.
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, json.JSONDecodeError) as error:
            raise IncompatibleStates(f"{self.path} is damaged ({error}): delete it to begin this share anew") from error
        _restore(suite.named(), tensors)
        position = Position(**about["position"])
        position.content = (position.content[0], position.content[1])
        return position

    def _refuse_changes(self, before: Mapping[str, Any]) -> None:
        now = self.configuration
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if changed:
            listed = "; ".join(f"{key}: {before.get(key)} before, {now.get(key)} now" for key in changed)
            raise UsageError(f"--resume: the command is not the one that {self.folder} was begun with ({listed})")


def _states(metrics: Mapping[str, ImageMetric]) -> dict[str, Tensor]:
    """Every state by "metric/state", or "metric/state/part" where its parts wait to be merged."""
    tensors = {}
    for name, m in metrics.items():
        for state in own_states(m, None):
            value, stream = getattr(m, state), m._streams.get(state)
            if not isinstance(value, list):
                tensors[f"{name}/{state}"] = value.cpu().clone()
                continue
            # Rows that are only sorted may be joined; sums may not, as that would change how they round.
            summed = stream is not None and not stream.state.keyed
            parts = [part.cpu().contiguous() for part in (value if summed else [m.table(state)])]
            # Streams may hold one tensor of ids in common, which the format does not take; a bank is never shared.
            alone = stream is not None and stream.state.host
            tensors |= {f"{name}/{state}/{i}": x if alone else x.clone() for i, x in enumerate(parts) if len(x)}
    return tensors


def _restore(metrics: Mapping[str, ImageMetric], tensors: Mapping[str, Tensor]) -> None:
    found: dict[tuple[str, str], list[tuple[int, Tensor]]] = defaultdict(list)
    for key, value in tensors.items():
        name, state, *part = key.split("/")
        if name not in metrics or state not in metrics[name]._defaults:
            raise IncompatibleStates(f"the run holds a state {key!r} that this version does not know")
        found[name, state].append((int(part[0]) if part else 0, value.to(metrics[name]._place(state))))
    for name, m in metrics.items():
        for state in own_states(m, None):
            parts = [value for _, value in sorted(found[name, state], key=lambda item: item[0])]
            setattr(m, state, parts if isinstance(getattr(m, state), list) else parts[0])
        m._computed = None
        m._update_count = max(m._update_count, 1)
