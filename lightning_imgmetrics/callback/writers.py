"""Where evaluations are written: every attached logger, and a plain folder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from lightning_imgmetrics.callback.panel import Panel
from lightning_imgmetrics.report.tables import markdown_table
from lightning_imgmetrics.result import Result

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


@dataclass(frozen=True)
class Entry:
    """What is written of one evaluation: scalars and results by their full keys, and a panel if there is one."""

    step: int
    scalars: Mapping[str, float]
    results: Mapping[str, Result]
    panel: Panel | None
    panel_key: str


class Writer(Protocol):
    """Takes one evaluation at a time, on rank 0."""

    takes_images: bool

    def write(self, entry: Entry) -> None:
        """Write all of an entry at its step."""
        ...


class LoggerWriter:
    """Any Lightning logger: scalars; warns once that it cannot take images."""

    takes_images = False

    def __init__(self, logger: Logger):
        self.logger: Any = logger
        self._warned = isinstance(logger, CSVLogger)  # nobody expects images in a CSV file

    def write(self, entry: Entry) -> None:
        self.logger.log_metrics(dict(entry.scalars), step=entry.step)
        self.logger.save()
        if entry.panel is not None and not self.takes_images and not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self.logger).__name__} cannot take images: sample panels go to a folder", stacklevel=2
            )


class TensorBoardWriter(LoggerWriter):
    """Scalars, one picture and one table of captions."""

    takes_images = True

    def write(self, entry: Entry) -> None:
        super().write(entry)
        board: Any = self.logger.experiment
        panel, key, step = entry.panel, entry.panel_key, entry.step
        if panel is not None:
            board.add_image(key, np.asarray(panel.picture()), step, dataformats="HWC")
            board.add_text(f"{key}/captions", "\n".join(f"{i}. {text}" for i, text in enumerate(panel.captions)), step)
            if panel.rationales:
                board.add_text(f"{key}/rationales", _markdown(panel), step)
        board.flush()


class WandbWriter(LoggerWriter):
    """Scalars and captioned images in one commit, on the trainer's step axis."""

    takes_images = True
    most_images = 108  # W&B shows no more under one key

    def __init__(self, logger: Logger):
        super().__init__(logger)
        self._defined: set[str] = set()

    def write(self, entry: Entry) -> None:
        self._define(entry.results)
        images = {} if entry.panel is None else self._images(entry.panel, entry.panel_key)
        self.logger.log_metrics({**entry.scalars, **images}, step=entry.step)

    def _define(self, results: Mapping[str, Result]) -> None:
        """Have W&B's summary show the best value of each metric that has a direction."""
        run: Any = self.logger.experiment
        for name, result in results.items():
            if name not in self._defined and result.higher_is_better is not None:
                best = "max" if result.higher_is_better else "min"
                run.define_metric(name, step_metric="trainer/global_step", summary=best)
                self._defined.add(name)

    def _images(self, panel: Panel, key: str) -> dict[str, Any]:
        import wandb

        tiles = list(zip(panel.tiles(), panel.captions, strict=True))[: self.most_images]
        images: dict[str, Any] = {key: [wandb.Image(tile, caption=text) for tile, text in tiles]}
        if panel.rationales:
            names = list(dict.fromkeys(name for texts in panel.rationales for name in texts))
            rows = [
                [wandb.Image(tile), caption, *(texts.get(name, "") for name in names)]
                for (tile, caption), texts in zip(tiles, panel.rationales)
            ]
            images[f"{key}_rationales"] = wandb.Table(columns=["image", "caption", *names], data=rows)
        return images


class FolderWriter:
    """`results.jsonl` with every result and signature, appended to, and one PNG per evaluation."""

    takes_images = True

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def write(self, entry: Entry) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        panel = entry.panel
        record: dict[str, Any] = {
            "step": entry.step,
            "scalars": dict(entry.scalars),
            "results": {name: json.loads(result.to_json()) for name, result in entry.results.items()},
        }
        if panel is not None and panel.rationales:
            rows = zip(panel.captions, panel.rationales, strict=True)
            record["rationales"] = [{"caption": caption, **texts} for caption, texts in rows]
        with (self.folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        if panel is not None:
            panel.picture().save(self.folder / f"{entry.panel_key.replace('/', '-')}-step-{entry.step:07d}.png")


def writers_of(loggers: Sequence[Logger], folder: str | None, default_folder: Path) -> Sequence[Writer]:
    """One writer per logger; a folder when it is asked for, or when no logger takes images."""
    kinds = {TensorBoardLogger: TensorBoardWriter, WandbLogger: WandbWriter}
    writers: list[Writer] = []
    for logger in loggers:
        kind = next((w for cls, w in kinds.items() if isinstance(logger, cls)), LoggerWriter)
        writers.append(kind(logger))
    if folder is not None or not any(w.takes_images for w in writers):
        writers.append(FolderWriter(folder if folder is not None else default_folder))
    return writers


def _markdown(panel: Panel) -> str:
    """Judges' reasons, one row per image and metric."""
    rows = [
        (caption, name, text)
        for caption, texts in zip(panel.captions, panel.rationales, strict=True)
        for name, text in texts.items()
    ]
    return markdown_table(("sample", "metric", "rationale"), rows)
