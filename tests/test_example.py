"""The examples train, measure and write what they say."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples/train_digits.py"


@pytest.mark.filterwarnings("ignore:.*sync_dist=True")
def test_train_digits(tmp_path: Path) -> None:
    main = runpy.run_path(str(EXAMPLE))["main"]
    rows = main(["--steps", "24", "--samples", "100", "--out", str(tmp_path)])
    assert rows["real digits"]["clip_score"] > 70
    assert rows["step 24"]["fd_digits_clip"] < rows["step 0"]["fd_digits_clip"]
    (table,) = tmp_path.rglob("metrics.csv")
    with table.open() as file:
        logged = [row for row in csv.DictReader(file) if row["val/fd_digits_clip"]]
    assert [f"step {row['step']}" for row in logged] == [*rows][:-1]
    for key in ("fd_digits_clip", "clip_score", "lpips_diversity", "pickscore_per_prompt"):
        assert [float(row[f"val/{key}"]) for row in logged] == [values[key] for values in [*rows.values()][:-1]]
    worst_mean_best = [
        [float(row[f"val/pickscore_per_prompt{x}"]) for x in ("_worst_of_n", "", "_best_of_n")] for row in logged
    ]
    assert all(worst < mean < best for worst, mean, best in worst_mean_best)
    assert len(list(tmp_path.rglob("samples/**/*.png"))) == len(logged)
    assert len(list(tmp_path.rglob("curves.png"))) == 1
    assert len(list(tmp_path.rglob("*.ckpt"))) == 1


def test_train_autoencoder(tmp_path: Path) -> None:
    """Reconstructions get better by every measure; paired ones rate shifted digits below blurs, rFID does not."""
    main = runpy.run_path(str(EXAMPLE.parent / "train_autoencoder.py"))["main"]
    rows = main(["--steps", "120", "--out", str(tmp_path)])
    first, last, shifted = rows["step 0"], rows["step 120"], rows["shifted by a pixel"]
    assert all(last[key] > first[key] for key in ("psnr", "ssim"))
    assert all(last[key] < first[key] for key in ("lpips", "rfd"))
    blurs = [rows[f"step {step}"] for step in (13, 30)]
    assert all(blur["psnr"] > shifted["psnr"] and blur["ssim"] > shifted["ssim"] for blur in blurs)
    assert all(blur["lpips"] < shifted["lpips"] and blur["rfd"] > 5 * shifted["rfd"] for blur in blurs)
    assert shifted["psnr"] < last["psnr"]
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        logged = [float(row["val/rfd"]) for row in csv.DictReader(file) if row["val/rfd"]]
    assert logged == [values["rfd"] for values in [*rows.values()][:-1]]
    assert len(list(tmp_path.rglob("curves.png"))) == 1


def test_custom_extractor() -> None:
    """Each failure shows in the metric that is meant for it."""
    rows = runpy.run_path(str(EXAMPLE.parent / "custom_extractor.py"))["main"]()
    real, blurred, sevens, copies = rows.values()
    assert real["frechet"] < copies["frechet"] < blurred["frechet"] < sevens["frechet"]
    assert blurred["precision"] < 0.8 < real["precision"]
    assert sevens["recall"] < 0.3 < real["recall"]
    assert copies["authenticity"] < 0.01 < 0.4 < real["authenticity"]
    assert sevens["vendi"] < real["vendi"]


def test_custom_judge() -> None:
    """Half of the captions are right, and the judge knows which."""
    results, calibration = runpy.run_path(str(EXAMPLE.parent / "custom_judge.py"))["main"]()
    for name in ("vqa_score", "tifa"):
        assert results[name].value == pytest.approx(0.5, abs=0.05)
        assert results[name].details["n_failed"] == 0
        assert "network:digit-judge" in results[name].signature
    assert calibration["overall"].pairwise_accuracy.value > 0.97


def test_digits_clip_is_made_from_training_digits_alone() -> None:
    """The split of the two examples is the same."""
    trained, held_out = runpy.run_path(str(EXAMPLE))["digits"]()
    assert (len(trained), len(held_out)) == (1348, 449)
    assert "% 4 == 3" in (EXAMPLE.parent / "make_digits_clip.py").read_text()
