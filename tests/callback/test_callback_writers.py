"""What each logger and the folder hold after a fit, read back from their files."""

from __future__ import annotations

import csv
import json
import math
import struct
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from callback_parts import PROMPTS, Painter, Pixels, events, loaders, monitor, trainer, values
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from lightning_imgmetrics import CLIPScore, FrechetDistance, ImageMetricsCallback, Result

STEPS = [3, 6]  # of the two evaluations of `fit`
TIMINGS = {
    "val/seconds_sampling",
    "val/seconds_networks",
    "val/seconds_compute",
    "val/sampled_images_per_second",
    "val/weights_ema",
}
SCALARS = {"val/fd", "val/clip", "val/clip_truncated_fraction", *TIMINGS}


def metrics() -> dict[str, Any]:
    return {"fd": FrechetDistance(Pixels()), "clip": CLIPScore("digits-clip")}


def fit(root: Path, logger: Any, **kwargs: Any) -> ImageMetricsCallback:
    callback = monitor(metrics(), **{"prompts": PROMPTS, **kwargs})
    trainer(root, callback, logger=logger).fit(Painter(), *loaders())
    return callback


class Numbers(Logger):
    """A logger that knows numbers alone."""

    name = "numbers"
    version = 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...


# TensorBoard


def test_tensorboard(tmp_path: Path) -> None:
    callback = fit(tmp_path, TensorBoardLogger(tmp_path, "", ""))
    board = events(tmp_path)
    assert set(board.Tags()["scalars"]) >= SCALARS
    for name in ("fd", "clip"):
        written = board.Scalars(f"val/{name}")
        assert [event.step for event in written] == STEPS
        assert [event.value for event in written] == pytest.approx(values(callback, name), rel=1e-6)
    pictures = board.Images("val/samples")
    assert [event.step for event in pictures] == STEPS
    captions = board.Tensors("val/samples/captions/text_summary")
    assert [event.step for event in captions] == STEPS
    text = captions[-1].tensor_proto.string_val[0].decode()
    assert [line.split(". ")[0] for line in text.splitlines()] == ["0", "1", "2", "3"]
    assert all(prompt in text for prompt in PROMPTS)
    score = callback.suite.scores()["clip"][2]
    assert f"{PROMPTS[2]}, #2, clip {score:.3g}" in text


def test_tensorboard_pictures_are_large_enough_to_see(tmp_path: Path) -> None:
    fit(tmp_path, TensorBoardLogger(tmp_path, "", ""), media=3)
    picture = events(tmp_path).Images("val/samples")[0]
    assert picture.width >= 3 * 56
    assert picture.height >= 56


# Weights & Biases


def records(folder: Path) -> list[Any]:
    """The records of an offline run: LevelDB's log format, blocks of 32 KiB, the first after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, at, parts, found = path.read_bytes(), 7, b"", [wandb_internal_pb2.Record()]
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
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found


def history(found: list[Any]) -> list[dict[str, Any]]:
    rows = [record.history.item for record in found if record.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def wandb_run(tmp_path: Path, **kwargs: Any) -> tuple[ImageMetricsCallback, list[Any]]:
    import wandb

    logger = WandbLogger(save_dir=tmp_path, offline=True, project="test")
    try:
        callback = fit(tmp_path, logger, **kwargs)
    finally:
        wandb.finish()
    deadline = time.monotonic() + 30  # W&B's own process may close the file later
    while (found := records(tmp_path))[-1].WhichOneof("record_type") != "exit" and time.monotonic() < deadline:
        time.sleep(0.1)
    return callback, found


def test_wandb(tmp_path: Path) -> None:
    callback, found = wandb_run(tmp_path)
    rows = [row for row in history(found) if "val/fd" in row]
    assert [row["trainer/global_step"] for row in rows] == STEPS
    assert [row["val/fd"] for row in rows] == values(callback)
    for row in rows:
        assert set(row) >= SCALARS
        assert row["val/samples/count"] == 4
        assert row["val/samples/captions"][1].startswith(f"{PROMPTS[1]}, #1, clip ")
    files = list(tmp_path.glob("wandb/offline-run-*/files/media/images/val/*.png"))
    assert len(files) == 4 * len(STEPS)
    defined = {record.metric.name: record.metric for record in found if record.WhichOneof("record_type") == "metric"}
    assert defined["val/fd"].summary.min
    assert not defined["val/fd"].summary.max
    assert defined["val/clip"].summary.max
    assert defined["val/fd"].step_metric == "trainer/global_step"


def test_wandb_panels_are_capped(tmp_path: Path) -> None:
    _, found = wandb_run(tmp_path, num_samples=120, batch_size=120, media=120)
    assert {row["val/samples/count"] for row in history(found) if "val/fd" in row} == {108}


# Files


def test_csv(tmp_path: Path) -> None:
    callback = fit(tmp_path, CSVLogger(tmp_path, "", ""))
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/fd")]
    assert [int(row["step"]) for row in rows] == STEPS
    for name in ("fd", "clip"):
        assert [float(row[f"val/{name}"]) for row in rows] == pytest.approx(values(callback, name), rel=1e-6)
    assert all(row[key] for row in rows for key in SCALARS)
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_no_logger_writes_to_a_folder(tmp_path: Path) -> None:
    fit(tmp_path, False)
    folder = tmp_path / "imgmetrics"
    assert sorted(path.name for path in folder.iterdir()) == [
        "results.jsonl",
        "val-samples-step-0000003.png",
        "val-samples-step-0000006.png",
    ]


def test_folder_beside_a_logger(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    callback = fit(tmp_path, TensorBoardLogger(tmp_path, "", ""), folder=str(folder))
    assert [event.step for event in events(tmp_path).Scalars("val/fd")] == STEPS
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == STEPS
    assert all(set(row["scalars"]) - {"epoch"} == SCALARS for row in rows)
    parsed = {name: Result.from_json(json.dumps(result)) for name, result in rows[-1]["results"].items()}
    assert parsed == {f"val/{name}": result for name, result in callback.results.items()}
    assert parsed["val/fd"].n == 12
    assert "|n:12|seed:0|model_weights:raw" in parsed["val/fd"].signature


def test_without_panel(tmp_path: Path) -> None:
    fit(tmp_path, False, media=0)
    assert [path.name for path in (tmp_path / "imgmetrics").iterdir()] == ["results.jsonl"]


def test_pictures_have_large_tiles_with_gaps(tmp_path: Path) -> None:
    """Digits of 8 x 8 pixels are shown at 56 or more, apart from each other, captions below."""
    callback = monitor({"fd": FrechetDistance(Pixels())}, sampler=lambda ids: torch.zeros(len(ids), 3, 8, 8), media=3)
    trainer(tmp_path, callback, max_epochs=1).fit(Painter(), *loaders())
    picture = np.asarray(Image.open(next((tmp_path / "imgmetrics").glob("*.png"))).convert("L"))
    row = picture[picture.shape[0] // 3]
    edges = np.flatnonzero(np.diff((row < 128).astype(int)))
    starts, ends = edges[::2] + 1, edges[1::2] + 1
    assert len(starts) == len(ends) == 3
    assert ((ends - starts) >= 56).all()
    assert (starts[1:] - ends[:-1] >= 4).all()
    below = picture[-20:]
    assert (below < 128).any()


# Loggers without images


def test_a_logger_without_images_warns_once(tmp_path: Path) -> None:
    logger = Numbers()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback = fit(tmp_path, logger)
    told = [str(w.message) for w in caught if "cannot take images" in str(w.message)]
    assert len(told) == 1
    assert "Numbers" in told[0]
    rows = [(step, row) for step, row in logger.rows if "val/fd" in row]
    assert [step for step, _ in rows] == STEPS
    assert [row["val/fd"] for _, row in rows] == values(callback)
    assert len(list((tmp_path / "imgmetrics").glob("*.png"))) == 2


def test_every_attached_logger_is_written(tmp_path: Path) -> None:
    loggers = [TensorBoardLogger(tmp_path, "board", ""), CSVLogger(tmp_path, "table", "")]
    fit(tmp_path, loggers)
    assert [event.step for event in events(tmp_path / "board").Scalars("val/clip")] == STEPS
    with (tmp_path / "table" / "metrics.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file) if row.get("val/clip")] == STEPS
    assert not list(tmp_path.rglob("results.jsonl"))


def test_each_value_is_written_once(tmp_path: Path) -> None:
    """With a carried value and Lightning's own logging around."""
    logger = Numbers()
    callback = monitor(every=2, media=0)
    trainer(tmp_path, callback, logger=logger, max_epochs=4).fit(Painter(), *loaders())
    assert [step for step, row in logger.rows if "val/fd" in row] == [3, 9]


def test_a_second_trainer_is_written_to_its_own_loggers(tmp_path: Path) -> None:
    callback, first, second = monitor(media=0), Numbers(), Numbers()
    for logger in (first, second):
        trainer(tmp_path, callback, logger=logger, max_epochs=1).validate(Painter(), loaders()[1], verbose=False)
    assert [sum("val/fd" in row for _, row in logger.rows) for logger in (first, second)] == [1, 1]


def test_timings(tmp_path: Path) -> None:
    logger = Numbers()
    trainer(tmp_path, monitor(media=0, prefix="gen"), logger=logger).fit(Painter(), *loaders())
    rows = [row for _, row in logger.rows if "gen/fd" in row]
    assert len(rows) == 2
    for row in rows:
        assert set(row) - {"epoch"} == {"gen/fd", *(key.replace("val/", "gen/") for key in TIMINGS)}
        assert all(math.isfinite(value) for value in row.values())
        assert row["gen/seconds_sampling"] > 0
        assert row["gen/sampled_images_per_second"] == pytest.approx(12 / row["gen/seconds_sampling"])
        assert row["gen/weights_ema"] == 0


def test_weights_ema_is_logged(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import EMAWeightAveraging

    logger = Numbers()
    run = trainer(tmp_path, monitor(media=0), EMAWeightAveraging(update_starting_at_step=4), logger=logger)
    run.fit(Painter(), *loaders())
    assert [row["val/weights_ema"] for _, row in logger.rows if "val/fd" in row] == [0, 1]
