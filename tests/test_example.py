"""The example trains, measures and writes what it says."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples/train_digits.py"


@pytest.mark.filterwarnings("ignore:.*sync_dist=True")
def test_train_digits(tmp_path: Path) -> None:
    main = runpy.run_path(str(EXAMPLE))["main"]
    rows = main(["--steps", "24", "--out", str(tmp_path)])
    assert rows["real digits"]["clip_score"] > 70
    assert rows["step 24"]["fd_digits_clip"] < rows["step 0"]["fd_digits_clip"]
    (table,) = tmp_path.rglob("metrics.csv")
    with table.open() as file:
        logged = [row for row in csv.DictReader(file) if row["val/fd_digits_clip"]]
    assert [f"step {row['step']}" for row in logged] == [*rows][:-1]
    for key in ("fd_digits_clip", "clip_score", "lpips_diversity"):
        assert [float(row[f"val/{key}"]) for row in logged] == [values[key] for values in [*rows.values()][:-1]]
    assert len(list(tmp_path.rglob("*.png"))) == len(logged)
    assert len(list(tmp_path.rglob("*.ckpt"))) == 1


def test_custom_extractor() -> None:
    """Each failure shows in the metric that is meant for it."""
    rows = runpy.run_path(str(EXAMPLE.parent / "custom_extractor.py"))["main"]()
    real, blurred, sevens, copies = rows.values()
    assert real["frechet"] < copies["frechet"] < blurred["frechet"] < sevens["frechet"]
    assert blurred["precision"] < 0.8 < real["precision"]
    assert sevens["recall"] < 0.3 < real["recall"]
    assert copies["authenticity"] < 0.01 < 0.4 < real["authenticity"]
    assert sevens["vendi"] < real["vendi"]


def test_digits_clip_is_made_from_training_digits_alone() -> None:
    """The split of the two examples is the same."""
    trained, held_out = runpy.run_path(str(EXAMPLE))["digits"]()
    assert (len(trained), len(held_out)) == (1348, 449)
    assert "% 4 == 3" in (EXAMPLE.parent / "make_digits_clip.py").read_text()
