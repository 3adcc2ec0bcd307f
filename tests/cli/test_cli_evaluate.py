"""`imgmetrics evaluate` and `stats`: the numbers of the library, from files, with all that can be asked for."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_parts import DIGITS, METRICS, N_REAL, N, done, folder, imgmetrics, load, make_inputs, refused, table, values
from conftest import random_images
from PIL import Image

from lightning_imgmetrics import CLIPScore, FrechetDistance, LPIPSDiversity, MetricSuite, PrecisionRecall
from lightning_imgmetrics.cli.build import build, expand
from lightning_imgmetrics.cli.listing import default_network
from lightning_imgmetrics.cli.request import MetricSpec, UsageError
from lightning_imgmetrics.data.images import ImageBatches, content_hash
from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.metrics.distribution.reference_statistics import ReferenceStatistics
from lightning_imgmetrics.registry import METRICS as TABLE


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def report(inputs: list[Any]) -> Path:
    path = inputs[0].parent / "report.json"
    done("evaluate", *inputs, "--metrics", METRICS, *DIGITS, "--json", path, "--quiet")
    return path


def test_numbers_are_those_of_the_library(inputs: list[Any], report: Path) -> None:
    suite = MetricSuite(
        {
            "fd_digits_clip": FrechetDistance("digits-clip"),
            "precision": PrecisionRecall("precision", "digits-clip"),
            "clip_score": CLIPScore("digits-clip"),
            "lpips_diversity": LPIPSDiversity("digits-clip"),
        }
    )
    prompts = inputs[-1].read_text().splitlines()
    for side, real in (("reference", True), ("generated", False)):
        for ids, images in ImageBatches(inputs[0].parent / side, 4):
            texts = None if real else [prompts[i] for i in ids or ()]
            suite.update(images, real=real, prompts=texts, ids=ids)
    found = load(report)
    expected = suite.results()
    assert values(report) == {name: result.value for name, result in expected.items()}
    assert {name: r["signature"] for name, r in found["results"].items()} == {
        name: r.signature for name, r in expected.items()
    }
    assert found["scores"]["clip_score"] == {str(i): x for i, x in suite.scores()["clip_score"].items()}
    assert (found["failed"], found["n_failed"]) == ([], 0)
    assert found["generated"] == str(inputs[0])


def test_every_output(inputs: list[Any], tmp_path: Path) -> None:
    names = ("csv", "markdown", "scores", "neighbors")
    files = {name: tmp_path / "made" / f"{name}.txt" for name in names}
    options = [x for name, path in files.items() for x in (f"--{name}", path)]
    answer = done("evaluate", *inputs, "--metrics", METRICS, *DIGITS, *options)
    assert all(name in answer.out for name in METRICS.split(","))
    assert "metric:clip_score|network:digits-clip" in answer.out
    tables = {name: table(files[name]) for name in names if name != "markdown"}
    assert [row["metric"] for row in tables["csv"]] == METRICS.split(",")
    assert [(row["id"], row["name"]) for row in tables["scores"]] == [(str(i), f"{i:03}.png") for i in range(N)]
    mean = sum(float(row["clip_score"]) for row in tables["scores"]) / N
    assert mean == pytest.approx(float(tables["csv"][2]["value"]))
    assert len(tables["neighbors"]) == N
    distances = [float(row["distance"]) for row in tables["neighbors"]]
    assert distances == sorted(distances)
    assert all(row["nearest_name"] == f"{int(row['nearest_id']):03}.png" for row in tables["neighbors"])
    assert files["markdown"].read_text().startswith("| metric | value | 95 % interval | n | better |\n| --- |")


def test_a_copied_image_is_its_own_nearest_neighbor(inputs: list[Any], tmp_path: Path) -> None:
    mixed = folder(tmp_path / "mixed", random_images(4, 12, 9))
    copied = inputs[0].parent / "reference" / "007.png"
    (mixed / "002.png").write_bytes(copied.read_bytes())
    arguments = [mixed, "--reference", copied.parent, "--metrics", "prdc", *DIGITS[:2], "--set", "prdc.nearest_k=2"]
    done("evaluate", *arguments, "--workers", 0, "--neighbors", tmp_path / "n.csv", "--quiet")
    first = table(tmp_path / "n.csv")[0]
    assert (first["name"], first["nearest_name"]) == ("002.png", "007.png")
    assert float(first["distance"]) == pytest.approx(0, abs=1e-3)


def test_workers_and_batch_size_change_nothing(inputs: list[Any], report: Path, tmp_path: Path) -> None:
    options = [*DIGITS[:2], "--workers", 2, "--batch-size", "auto", "--json", tmp_path / "other.json"]
    done("evaluate", *inputs, "--metrics", METRICS, *options, "--quiet")
    assert values(tmp_path / "other.json") == pytest.approx(values(report), rel=1e-4)


def test_limit_takes_the_first_images(inputs: list[Any], report: Path, tmp_path: Path) -> None:
    arguments = [
        "--metrics",
        "clip_score",
        *DIGITS[:2],
        *DIGITS[2:],
        "--limit",
        5,
        "--json",
        tmp_path / "a.json",
        "--quiet",
    ]
    done("evaluate", *inputs, *arguments)
    found, every = (load(path)["scores"]["clip_score"] for path in (tmp_path / "a.json", report))
    assert found == pytest.approx({str(i): every[str(i)] for i in range(5)})


def test_targets_are_paired_by_name(tmp_path: Path) -> None:
    images = [random_images(1, size, i)[0] for i, size in enumerate((8, 16, 16, 8))]
    for name in ("generated", "target"):
        for i, x in enumerate(images):
            folder(tmp_path / name, x[None], [f"{i}.png"])
    folder(tmp_path / "target", random_images(1, 8, 7), ["3.png"])
    arguments = [tmp_path / "generated", "--target", tmp_path / "target", "--metrics", "lpips", "--workers", 0]
    done("evaluate", *arguments, "--set", "lpips.network=digits-clip", "--json", tmp_path / "a.json", "--quiet")
    scores = load(tmp_path / "a.json")["scores"]["lpips"]
    assert [scores[str(i)] for i in range(3)] == pytest.approx([0, 0, 0], abs=1e-9)
    assert scores["3"] > 0.01
    (tmp_path / "target" / "2.png").unlink()
    assert "'2.png'" in refused("evaluate", *arguments, "--set", "lpips.network=digits-clip", code=2)


def test_intervals_and_settings(inputs: list[Any], tmp_path: Path) -> None:
    arguments = [*inputs[:3], "--metrics", "fd_digits_clip", "--workers", 0, "--json", tmp_path / "a.json", "--quiet"]
    done("evaluate", *arguments, "--set", "fd_digits_clip.groups=3")
    result = load(tmp_path / "a.json")["results"]["fd_digits_clip"]
    assert len(result["replicates"]) == 3
    assert result["interval"][0] < result["details"]["bias_corrected"] < result["interval"][1]
    done("evaluate", *arguments, "--intervals")  # some of the 20 groups stay empty: the value, without an interval
    few = load(tmp_path / "a.json")["results"]["fd_digits_clip"]
    assert (few["value"], few["interval"]) == (pytest.approx(result["value"], rel=1e-9), None)


def test_one_failing_metric_takes_nothing_from_the_others(inputs: list[Any], tmp_path: Path) -> None:
    arguments = [
        *inputs,
        "--metrics",
        "precision,clip_score",
        *DIGITS[:2],
        *DIGITS[2:],
        "--set",
        "precision.nearest_k=90",
    ]
    answer = imgmetrics("evaluate", *arguments, "--json", tmp_path / "a.json")
    assert answer.code == 1
    assert "error: no precision: " in answer.err
    assert list(values(tmp_path / "a.json")) == ["clip_score"]


def test_bfloat16_says_what_it_costs(inputs: list[Any]) -> None:
    arguments = [*inputs[:3], "--metrics", "fd_digits_clip", "--workers", 0, "--dtype", "bfloat16"]
    answer = done("evaluate", *arguments)
    assert (
        "digits-clip (bfloat16): features of the first 26 images deviate from plain float32 by at most 0.0"
        in answer.err
    )
    assert "dtype:bfloat16" in answer.out


# References


def test_statistics_stand_in_for_the_reference(inputs: list[Any], report: Path, tmp_path: Path) -> None:
    path = tmp_path / "reference.safetensors"
    answer = done("stats", inputs[2], "-o", path, "--metrics", METRICS, *DIGITS)
    assert f"{N_REAL} images, content " in answer.out
    content = content_hash(ImageBatches(inputs[2], 8), (0, 1)).tolist()
    assert ReferenceStatistics.load(path).content == f"{content[0] % (1 << 64):016x}-{N_REAL}"
    arguments = [inputs[0], "--reference", path, *inputs[3:], "--metrics", METRICS, *DIGITS]
    done("evaluate", *arguments, "--json", tmp_path / "a.json", "--neighbors", tmp_path / "n.csv", "--quiet")
    assert values(tmp_path / "a.json") == values(report)
    rows = table(tmp_path / "n.csv")
    assert all(row["nearest_id"] and not row["nearest_name"] for row in rows)


def test_statistics_of_another_network_are_refused(inputs: list[Any], tmp_path: Path, inception_weights: str) -> None:
    path = tmp_path / "reference.safetensors"
    done("stats", inputs[2], "-o", path, "--metrics", "fd_digits_clip", "--workers", 0)
    arguments = [inputs[0], "--reference", path, "--metrics", "fid", "--weights", inception_weights]
    line = refused("evaluate", *arguments, code=2)
    assert "needs moments (d = 2048) of network:inception-v3-2015" in line


def test_an_npz_is_told_by_its_content(inputs: list[Any], report: Path, tmp_path: Path) -> None:
    images = random_images(N_REAL, 12, 1).permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "images.npz", arr_0=images)
    np.savez(tmp_path / "adm.npz", arr_0=images, mu=np.zeros(2048), sigma=np.eye(2048))
    np.savez(tmp_path / "moments.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    rest = ["--metrics", "fd_digits_clip", "--workers", 0, "--batch-size", 4, "--quiet"]
    done("evaluate", inputs[0], "--reference", tmp_path / "images.npz", *rest, "--json", tmp_path / "a.json")
    assert values(tmp_path / "a.json")["fd_digits_clip"] == values(report)["fd_digits_clip"]
    line = refused("evaluate", inputs[0], "--reference", tmp_path / "adm.npz", *rest, code=2)
    assert "holds images and statistics: --protocol adm" in line
    line = refused("evaluate", inputs[0], "--reference", tmp_path / "moments.npz", *rest, code=2)
    assert "does not say which tool made it" in line
    arguments = [inputs[0], "--reference", tmp_path / "moments.npz", *rest, "--protocol", "pytorch-fid"]
    assert "the reference statistics hold moments (d = 2048) of network:inception" in refused(
        "evaluate", *arguments, code=2
    )


def test_generated_images_in_an_archive(inputs: list[Any], report: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "generated.zip", "w") as archive:
        for path in sorted(inputs[0].iterdir()):
            archive.write(path, path.name)
    done(
        "evaluate",
        tmp_path / "generated.zip",
        *inputs[1:],
        "--metrics",
        METRICS,
        *DIGITS,
        "--json",
        tmp_path / "a.json",
    )
    assert values(tmp_path / "a.json") == values(report)


# Classes


@pytest.fixture
def classes(tmp_path: Path, inception_weights: str) -> list[Any]:
    """Arguments of `evaluate` for two sides of two classes each, in subfolders."""
    for side, seed in (("generated", 0), ("reference", 4)):
        for i, title in enumerate(("cat 10", "cat 9")):
            folder(tmp_path / side / title, random_images(2, 10, seed + i))
    metric = ["--metrics", "intra_fid", "--weights", inception_weights, "--set", "intra_fid.feature=64", "--workers", 0]
    return [tmp_path / "generated", "--reference", tmp_path / "reference", *metric, "--json", tmp_path / "a.json"]


def test_classes_from_folders_a_table_and_an_npz(classes: list[Any], tmp_path: Path) -> None:
    done("evaluate", *classes, "--quiet")
    expected = load(tmp_path / "a.json")["results"]["intra_fid"]
    assert [name for name in expected["details"] if name.startswith("cat")] == ["cat 9", "cat 10"]
    file = tmp_path / "labels.csv"
    rows = [f"a cat,{title}/{i:03}.png,{title}" for title in ("cat 9", "cat 10") for i in range(2)]
    file.write_text("\n".join(["prompt,file,category", *rows]))
    for option in ("--labels", "--prompts"):
        done("evaluate", *classes, option, file, "--quiet")
        assert load(tmp_path / "a.json")["results"]["intra_fid"]["value"] == expected["value"]
    for side, seed in (("generated", 0), ("reference", 4)):
        images = torch.cat([random_images(2, 10, seed), random_images(2, 10, seed + 1)]).permute(0, 2, 3, 1)
        np.savez(tmp_path / f"{side}.npz", arr_0=images.numpy(), arr_1=np.array([10, 10, 9, 9]))
    arrays = [tmp_path / "generated.npz", "--reference", tmp_path / "reference.npz", *classes[3:]]
    done("evaluate", *arrays, "--quiet")
    result = load(tmp_path / "a.json")["results"]["intra_fid"]
    assert result["value"] == pytest.approx(expected["value"], rel=1e-6)
    assert "10" in result["details"]


def test_missing_classes_are_refused(classes: list[Any], inputs: list[Any]) -> None:
    line = refused("evaluate", inputs[0], *classes[1:], code=2)
    assert "the classes of the generated images are needed" in line


# Metrics


def test_keys_and_aliases() -> None:
    assert expand(["prdc", "is", "precision"]) == ("precision", "recall", "density", "coverage", "inception_score")
    with pytest.raises(UnknownName, match="'prdc', 'is', 'reconstruction', 'photometry'; got 'psnrr'"):
        expand(["psnrr"])
    with pytest.raises(UsageError, match="at least one metric"):
        expand([])


def test_the_network_of_a_key_where_no_other_is_named() -> None:
    by_pixels = {"mse", "psnr", "ssim", "ms_ssim", "vif", "blank_rate", *expand(["photometry"])}
    by_judges = {"vie_score", "rubric", "pairwise_judge", "ranking_judge", "tifa", "dpg_bench", "gedit_bench"}
    by_judges |= {"text_rendering"}
    assert {key for key in TABLE if not default_network(key)} == {"win_rate", "artifact_rate", *by_pixels, *by_judges}


def test_one_network_for_all_of_one_protocol(inception_weights: str) -> None:
    keys = expand(["fid", "kid", "is", "prdc", "vendi"])
    made = build(MetricSpec(metrics=keys, protocol="pytorch-fid", weights=inception_weights), command="evaluate")
    assert len({m.extractor for m in made.values()}) == 1


def test_unreadable_images_are_counted(inputs: list[Any], tmp_path: Path) -> None:
    broken = folder(tmp_path / "broken", random_images(8, 12, 0))
    (broken / "001.png").write_bytes(b"no image")
    Image.new("RGB", (4, 4)).save(broken / "005.png")
    for i in (4, 6, 7):  # a batch of four without an image would be skipped: the position must not slip
        (broken / f"{i:03}.png").write_bytes(b"")
    arguments = [broken, *inputs[1:3], "--metrics", "fd_digits_clip", "--workers", 0, "--batch-size", 2]
    answer = done("evaluate", *arguments, "--max-failed", 4, "--json", tmp_path / "a.json")
    found = load(tmp_path / "a.json")
    assert (found["n_failed"], found["results"]["fd_digits_clip"]["n"]) == (4, 4)
    assert [(f["side"], f["id"], f["name"]) for f in found["failed"]] == [
        ("generated", i, f"{i:03}.png") for i in (1, 4, 6, 7)
    ]
    assert "left out, as they could not be read: 4 (001.png: " in answer.err
    for allowed in (3, 0, 0.4):
        line = refused("evaluate", *arguments, "--max-failed", allowed, code=1)
        assert "of 8 generated images could not be read" in line
    assert done("evaluate", *arguments, "--max-failed", 0.5).code == 0
