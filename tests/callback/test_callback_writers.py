"""What each logger and the folder hold after a fit, read back from their files."""

from __future__ import annotations

import csv
import json
import math
import struct
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from callback_parts import PROMPTS, Painter, Pixels, events, loaders, monitor, trainer, values
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from lightning_imgmetrics import CLIPScore, FrechetDistance, ImageMetricsCallback, Result
from lightning_imgmetrics.callback.panel import Panel
from lightning_imgmetrics.callback.writers import Entry, FolderWriter, WandbWriter, writers_of

STEPS = [3, 6]  # of the two evaluations of a fit
FIGURES = {
    "seconds_sampling",
    "seconds_networks",
    "seconds_compute",
    "sampled_images_per_second",
    "weights_ema",
}
SCALARS = {"val/fd", "val/clip", "val/clip_truncated_fraction", *(f"imgmetrics/{name}" for name in FIGURES)}


class Numbers(Logger):
    """A logger that takes numbers alone."""

    name = "numbers"
    version = 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...


@dataclass
class Fit:
    """What a fit with every kind of logger left behind."""

    root: Path
    callback: ImageMetricsCallback
    numbers: Numbers
    warnings: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """Two evaluations of two metrics, written to TensorBoard, W&B, CSV, a logger of a user's own and a folder."""
    import wandb

    root = tmp_path_factory.mktemp("logged")
    metrics = {"fd": FrechetDistance(Pixels()), "clip": CLIPScore("digits-clip")}
    fit = Fit(root, monitor(metrics, prompts=PROMPTS, media=4, folder=str(root / "folder")), Numbers())
    loggers = [
        TensorBoardLogger(root, "board", ""),
        WandbLogger(save_dir=root, offline=True, project="test"),
        CSVLogger(root, "table", ""),
        fit.numbers,
    ]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer(root, fit.callback, logger=loggers).fit(Painter(), *loaders())
    finally:
        wandb.finish()
    fit.warnings = [str(w.message) for w in caught]
    return fit


# TensorBoard


def test_tensorboard(logged: Fit) -> None:
    board = events(logged.root / "board")
    assert set(board.Tags()["scalars"]) >= SCALARS
    for name in ("fd", "clip"):
        scalars = board.Scalars(f"val/{name}")
        assert [event.step for event in scalars] == STEPS
        assert [event.value for event in scalars] == pytest.approx(values(logged.callback, name), rel=1e-6)
    pictures = board.Images("val/samples")
    assert [event.step for event in pictures] == STEPS
    assert pictures[0].width >= 4 * 56  # large enough to see
    assert pictures[0].height >= 56
    captions = board.Tensors("val/samples/captions/text_summary")
    assert [event.step for event in captions] == STEPS
    text = captions[-1].tensor_proto.string_val[0].decode()
    assert [line.split(". ")[0] for line in text.splitlines()] == ["0", "1", "2", "3"]
    assert all(prompt in text for prompt in PROMPTS)
    score = logged.callback.suite.scores()["clip"][2]
    assert f"{PROMPTS[2]}, #2, clip {score:.3g}" in text


# Weights & Biases


def wandb_records(folder: Path) -> list[Any]:
    """The records of an offline run: LevelDB's log format, blocks of 32 KiB, the first after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, at, parts, records = path.read_bytes(), 7, b"", [wandb_internal_pb2.Record()]
    assert data[:4] in (b":W&B", b"")
    while at + 7 <= len(data):
        if -at % 32768 < 7 and at % 32768:  # too little room for a header: padding
            at += -at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + length > len(data):  # still being written
            break
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return records


def wandb_history(records: list[Any]) -> list[dict[str, Any]]:
    rows = [record.history.item for record in records if record.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def test_wandb(logged: Fit) -> None:
    deadline = time.monotonic() + 30  # W&B's own process may close the file later
    while (records := wandb_records(logged.root))[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < deadline, "W&B has not closed its file"
        time.sleep(0.1)
    rows = [row for row in wandb_history(records) if "val/fd" in row]
    assert [row["trainer/global_step"] for row in rows] == STEPS
    assert [row["val/fd"] for row in rows] == values(logged.callback)
    for row in rows:
        assert set(row) >= SCALARS
        assert row["val/samples/count"] == 4
        assert row["val/samples/captions"][1].startswith(f"{PROMPTS[1]}, #1, clip ")
    files = list(logged.root.glob("wandb/offline-run-*/files/media/images/val/*.png"))
    assert len(files) == 4 * len(STEPS)
    metrics = {record.metric.name: record.metric for record in records if record.WhichOneof("record_type") == "metric"}
    assert metrics["val/fd"].summary.min
    assert not metrics["val/fd"].summary.max
    assert metrics["val/clip"].summary.max
    assert metrics["val/fd"].step_metric == "trainer/global_step"


class Run:
    """Stands for a `WandbLogger` and its run: keeps what it is given."""

    def __init__(self) -> None:
        self.experiment = SimpleNamespace(define_metric=lambda name, **kwargs: self.metrics.append(name))
        self.metrics: list[str] = []
        self.rows: list[dict[str, Any]] = []

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        self.rows.append(metrics)


def panel(n: int, rationales: bool = False) -> Panel:
    texts = [{"grade": f"a {i}"} for i in range(n)] if rationales else ()
    return Panel([torch.zeros(3, 8, 8, dtype=torch.uint8)] * n, [f"#{i}" for i in range(n)], rationales=texts)


def test_wandb_panels_are_capped() -> None:
    run: Any = Run()
    WandbWriter(run).write(Entry(1, {}, {}, panel(120), "val/samples"))
    assert len(run.rows[0]["val/samples"]) == 108


def test_rationales_in_wandb() -> None:
    import wandb

    run: Any = Run()
    WandbWriter(run).write(Entry(1, {"val/grade": 0.5}, {}, panel(3, rationales=True), "val/samples"))
    (row,) = run.rows
    assert row["val/grade"] == 0.5
    table = row["val/samples_rationales"]
    assert table.columns == ["image", "caption", "grade"]
    assert len(table.data) == 3
    assert all(isinstance(cells[0], wandb.Image) for cells in table.data)
    assert [cells[1:] for cells in table.data] == [[f"#{i}", f"a {i}"] for i in range(3)]


def test_wandb_defines_the_direction_of_a_metric_once() -> None:
    run: Any = Run()
    writer = WandbWriter(run)
    results = {"val/fd": Result("fd", 1.0, 2, higher_is_better=False), "val/mean": Result("mean", 1.0, 2)}
    for step in (1, 2):
        writer.write(Entry(step, {}, results, None, "val/samples"))
    assert run.metrics == ["val/fd"]
    assert run.rows == [{}, {}]


# Files


def test_csv(logged: Fit) -> None:
    with (logged.root / "table" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/fd")]
    assert [int(row["step"]) for row in rows] == STEPS
    for name in ("fd", "clip"):
        assert [float(row[f"val/{name}"]) for row in rows] == pytest.approx(values(logged.callback, name), rel=1e-6)
    assert all(row[key] for row in rows for key in SCALARS)


def test_folder_beside_loggers(logged: Fit) -> None:
    folder = logged.root / "folder"
    pngs = ["val-samples-step-0000003.png", "val-samples-step-0000006.png"]
    assert sorted(path.name for path in folder.iterdir()) == ["results.jsonl", *pngs]
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == STEPS
    assert all(set(row["scalars"]) - {"epoch"} == SCALARS for row in rows)
    results = {name: Result.from_json(json.dumps(result)) for name, result in rows[-1]["results"].items()}
    assert results == {f"val/{name}": result for name, result in logged.callback.results.items()}
    assert results["val/fd"].n == 12
    assert "|n:12|seed:0|model_weights:raw" in results["val/fd"].signature


def test_a_folder_is_written_where_no_logger_takes_images(tmp_path: Path) -> None:
    board, table = TensorBoardLogger(tmp_path, "board"), CSVLogger(tmp_path, "table")

    def folders(loggers: list[Logger], folder: str | None = None) -> list[Path]:
        writers = writers_of(loggers, folder, tmp_path / "default")
        assert len(writers) >= len(loggers)
        return [w.folder for w in writers if isinstance(w, FolderWriter)]

    assert folders([board, table]) == []
    assert folders([table]) == folders([]) == [tmp_path / "default"]
    assert folders([board], "mine") == [Path("mine")]


@pytest.mark.parametrize("media", [0, 2])
def test_no_logger_writes_to_a_folder(tmp_path: Path, media: int) -> None:
    trainer(tmp_path, monitor(media=media), max_epochs=1).fit(Painter(), *loaders())
    names = sorted(path.name for path in (tmp_path / "imgmetrics").iterdir())
    assert names == ["results.jsonl", *(["val-samples-step-0000003.png"] if media else [])]


def test_pictures_have_large_tiles_with_gaps(tmp_path: Path) -> None:
    """Digits of 8 x 8 pixels are shown at 56 or more, apart from each other, captions below."""
    writer = FolderWriter(tmp_path)
    writer.write(Entry(7, {}, {}, panel(3), "val/samples"))
    picture = np.asarray(Image.open(tmp_path / "val-samples-step-0000007.png").convert("L"))
    row = picture[picture.shape[0] // 3]
    edges = np.flatnonzero(np.diff((row < 128).astype(int)))
    starts, ends = edges[::2] + 1, edges[1::2] + 1
    assert len(starts) == len(ends) == 3
    assert ((ends - starts) >= 56).all()
    assert (starts[1:] - ends[:-1] >= 4).all()
    below = picture[-20:]
    assert (below < 128).any()


# Other loggers, and what is logged when


def test_a_logger_without_images_warns_once(logged: Fit) -> None:
    messages = [text for text in logged.warnings if "cannot take images" in text]
    assert messages == ["Numbers cannot take images: sample panels go to a folder"]
    rows = [(step, row) for step, row in logged.numbers.rows if "val/fd" in row]
    assert [step for step, _ in rows] == STEPS
    assert [row["val/fd"] for _, row in rows] == values(logged.callback)


def test_each_value_is_written_once(tmp_path: Path) -> None:
    """Between evaluations monitors see the last value, loggers do not; keys begin with the prefix."""
    logger = Numbers()
    callback = monitor(every=2, prefix="gen")
    trainer(tmp_path, callback, logger=logger, max_epochs=4).fit(Painter(), *loaders())
    rows = [(step, row) for step, row in logger.rows if "gen/fd" in row]
    assert [step for step, _ in rows] == [3, 9]
    for _, row in rows:
        assert set(row) - {"epoch"} == {"gen/fd", *(f"imgmetrics/gen/{name}" for name in FIGURES)}
        assert all(math.isfinite(value) for value in row.values())
        seconds = row["imgmetrics/gen/seconds_sampling"]
        assert seconds > 0
        assert row["imgmetrics/gen/sampled_images_per_second"] == pytest.approx(12 / seconds)


def test_a_second_trainer_is_written_to_its_own_loggers(tmp_path: Path) -> None:
    callback, first, second = monitor(), Numbers(), Numbers()
    for logger in (first, second):
        trainer(tmp_path, callback, logger=logger, max_epochs=1).validate(Painter(), loaders()[1], verbose=False)
    assert [sum("val/fd" in row for _, row in logger.rows) for logger in (first, second)] == [1, 1]


def test_the_weights_are_logged(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import EMAWeightAveraging

    logger = Numbers()
    run = trainer(tmp_path, monitor(), EMAWeightAveraging(update_starting_at_step=4), logger=logger)
    run.fit(Painter(), *loaders())
    assert [row["imgmetrics/weights_ema"] for _, row in logger.rows if "val/fd" in row] == [0, 1]
