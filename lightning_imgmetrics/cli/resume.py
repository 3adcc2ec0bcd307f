"""The folder of a run: the states of each rank, saved while it measures, from which it goes on to the same bits."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lightning_imgmetrics.cli.request import UsageError
from lightning_imgmetrics.errors import IncompatibleStates
from lightning_imgmetrics.metrics.base.state_file import read_about, read_states, save_states
from lightning_imgmetrics.suite import MetricSuite


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
        about = {"configuration": self.configuration, "position": asdict(position)}
        try:
            save_states(suite.named(), self.path, exact=True, about=about)
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
            self._refuse_changes(read_about(self.path)["configuration"])
            file = read_states(suite.named(), self.path)
        except (IncompatibleStates, KeyError) as error:
            raise IncompatibleStates(f"{error}. Delete {self.path} to begin this share again") from error
        file.restore(suite.named())
        position = Position(**file.about["position"])
        position.content = (position.content[0], position.content[1])
        return position

    def _refuse_changes(self, before: Mapping[str, Any]) -> None:
        now = self.configuration
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if changed:
            listed = "; ".join(f"{key}: {before.get(key)} before, {now.get(key)} now" for key in changed)
            raise UsageError(f"--resume: the command is not the one that {self.folder} was begun with ({listed})")
