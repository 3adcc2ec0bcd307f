"""`imgmetrics pairs`, and `evaluate` with scores by prompt, preference models and rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_parts import done, folder, load, refused, table, values
from conftest import random_images
from helpers.classifiers import save_classifier

import lightning_imgmetrics
from lightning_imgmetrics import PeakSignalNoiseRatio, score
from lightning_imgmetrics.functional.photometry import saturation

N = 9
QUIET = ("--workers", 0, "--device", "cpu", "--quiet")
DIGITS = Path(lightning_imgmetrics.__file__).parent / "models/digits_clip"
PROMPTS = [f"a handwritten {word}" for word in ("one", "two", "three")]


def numbered(n: int) -> list[str]:
    return [f"{i:02}.png" for i in range(n)]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images and their targets in two sizes; the last pair is equal."""
    root = tmp_path_factory.mktemp("pairs")
    for name, seed in (("a", 0), ("b", 1)):
        folder(root / name, random_images(5, 24, seed), numbered(5))
        folder(root / name, random_images(4, (30, 20), 2 * seed), [f"1{i}.png" for i in range(3)] + ["z.png"])
        folder(root / name, random_images(1, (30, 20), 7), ["z.png"])
    return root / "a", root / "b"


def test_pairs(sides: tuple[Path, Path], tmp_path: Path) -> None:
    done(
        "pairs",
        *sides,
        "--metrics",
        "psnr,ssim,mse",
        "--json",
        tmp_path / "p.json",
        "--scores",
        tmp_path / "s.csv",
        *QUIET,
    )
    report = load(tmp_path / "p.json")
    psnr = report["results"]["psnr"]
    assert psnr["value"] == "Infinity"
    assert psnr["details"]["n_infinite"] == 1
    assert psnr["n"] == N
    rows = {row["name"]: row for row in table(tmp_path / "s.csv")}
    assert len(rows) == N
    first = [random_images(5, 24, seed)[:1].double() / 255 for seed in (0, 1)]
    error = float((first[0] - first[1]).square().mean())
    assert float(rows["00.png"]["mse"]) == pytest.approx(error, rel=1e-6)
    assert float(rows["z.png"]["mse"]) == 0
    assert float(rows["z.png"]["ssim"]) == pytest.approx(1)
    one = PeakSignalNoiseRatio(dim=(1, 2, 3))
    one.update(*(random_images(5, 24, seed)[:1] for seed in (0, 1)))
    assert float(rows["00.png"]["psnr"]) == pytest.approx(float(one.compute()), rel=1e-6)


def test_equal_pairs_are_told_and_compared_without_an_interval(sides: tuple[Path, Path], tmp_path: Path) -> None:
    for name, target in (("a", sides[1]), ("b", sides[0])):
        told = done("pairs", sides[0], target, "--metrics", "psnr", "--json", tmp_path / f"{name}.json", *QUIET[:-1])
        assert "psnr: 1 of 9 pairs are equal, the mean of the others is" in told.err or name == "b"
    assert "psnr: 9 of 9 pairs are equal" in told.err
    done("compare", tmp_path / "a.json", tmp_path / "b.json", "--csv", tmp_path / "c.csv", "--quiet")
    (row,) = table(tmp_path / "c.csv")
    assert (row["low"], row["p"], row["by"]) == ("", "", "no interval: infinite values")


def test_pairs_do_not_depend_on_batches(sides: tuple[Path, Path], tmp_path: Path) -> None:
    found = []
    for size in (1, 3, 16):
        path = tmp_path / f"{size}.json"
        network = ("--set", "rfid.network=digits-clip", "--set", "lpips.network=digits-clip")
        done("pairs", *sides, "--metrics", "reconstruction", *network, "--batch-size", size, "--json", path, *QUIET)
        found.append(values(path))
    assert list(found[0]) == ["psnr", "ssim", "lpips", "rfid"]
    for other in found[1:]:
        assert {k: float(v) for k, v in other.items()} == pytest.approx(
            {k: float(v) for k, v in found[0].items()}, rel=1e-5
        )


def test_pairs_that_do_not_pair_are_listed(sides: tuple[Path, Path], tmp_path: Path) -> None:
    lacking = folder(tmp_path / "b", random_images(2, 24, 0), ["00.png", "other.png"])
    told = refused("pairs", sides[0], lacking, "--metrics", "psnr", *QUIET, code=2)
    assert "9 images and 2 partners must pair one to one, 8 and 1 do not" in told
    assert "'01.png'" in told
    small = folder(tmp_path / "c", random_images(9, 24, 0), [p.name for p in sorted(sides[0].iterdir())])
    assert "images of the same sizes" in refused("pairs", sides[0], small, "--metrics", "psnr", *QUIET, code=1)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Three samples of each of three prompts, one of them black."""
    root = tmp_path_factory.mktemp("generated")
    images = random_images(N, 16, 3)
    images[4] = 0
    folder(root / "images", images, numbered(N))
    lines = [json.dumps({"prompt": PROMPTS[i % 3], "file": f"{i:02}.png"}) for i in range(N)]
    (root / "prompts.jsonl").write_text("\n".join(lines))
    return [root / "images", "--prompts", root / "prompts.jsonl"]


def test_preference_models(generated: list[Any], tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1, 32), "bias": torch.zeros(1)}, tmp_path / "head.pth")
    settings = {
        "clip_score.network": "digits-clip",
        "pickscore.network": "digits-clip",
        "hpsv2.network": "digits-clip",
        "hpsv2.weights": DIGITS / "model.safetensors",
        "hpsv2.scale": 100,
        "aesthetic.version": "v1",
        "aesthetic.network": "digits-clip",
        "aesthetic.head": tmp_path / "head.pth",
    }
    given = [x for key, value in settings.items() for x in ("--set", f"{key}={value}")]
    command = ("--metrics", "clip_score,pickscore,hpsv2,aesthetic,saturation", *given, "--per-prompt", *QUIET)
    done("evaluate", *generated, *command, "--json", tmp_path / "r.json", "--scores", tmp_path / "s.csv")
    shown = " ".join(done("evaluate", *generated, *command[:-1]).err.split())
    assert "pickscore_per_prompt: 3 prompts of 3 samples, best of n " in shown
    found, rows = values(tmp_path / "r.json"), table(tmp_path / "s.csv")
    images = random_images(N, 16, 3)
    images[4] = 0
    assert [float(row["saturation"]) for row in rows] == pytest.approx(saturation(images / 255).tolist(), rel=1e-6)
    prompts = [PROMPTS[i % 3] for i in range(N)]
    for key, arguments in (
        ("clip_score", {"network": "digits-clip"}),
        ("pickscore", {"network": "digits-clip"}),
    ):
        expected = score(key, images=images, prompts=prompts, **arguments)
        assert [float(row[key]) for row in rows] == pytest.approx(expected.tolist(), rel=1e-5)
        assert found[f"{key}_per_prompt"] == pytest.approx(float(expected.view(3, 3).mean()), rel=1e-5)
        best = load(tmp_path / "r.json")["results"][f"{key}_per_prompt"]["details"]["best_of_n"]
        assert best == pytest.approx(float(expected.view(3, 3).amax(0).mean()), rel=1e-5)
    assert list(found)[5:] == [f"{key}_per_prompt" for key in list(found)[:5]]


def test_rates(generated: list[Any], tmp_path: Path) -> None:
    checker = save_classifier(tmp_path / "checker", ["normal", "nsfw", "gore"], bias=[5.0, 0.0, 0.0])
    given = ("--set", f"safety_rate.network={checker}", "--set", "safety_rate.labels=nsfw,gore")
    command = ("--metrics", "safety_rate,blank_rate", *given, "--json", tmp_path / "r.json", *QUIET)
    done("evaluate", generated[0], *command)
    results = load(tmp_path / "r.json")["results"]
    assert results["safety_rate"]["value"] == results["blank_rate"]["value"] == pytest.approx(1 / N)
    assert results["safety_rate"]["details"]["black_fraction"] == pytest.approx(1 / N)
    assert "labels:nsfw+gore" in results["safety_rate"]["signature"]
    assert "artifact_rate requires `--network`" in refused(
        "evaluate", generated[0], "--metrics", "artifact_rate", *QUIET, code=2
    )


def test_labels_by_number_and_a_target(generated: list[Any], tmp_path: Path) -> None:
    checker = save_classifier(tmp_path / "checker", ["normal", "nsfw", "gore"], bias=[5.0, 0.0, 0.0])
    for labels, names in (("1,2", "nsfw+gore"), ("2", "gore"), ("nsfw,2", "nsfw+gore"), ("0, gore", "normal+gore")):
        given = ("--set", f"artifact_rate.network={checker}", "--set", f"artifact_rate.labels={labels}")
        path = tmp_path / "rate.json"
        done("evaluate", generated[0], "--metrics", "artifact_rate", *given, "--json", path, *QUIET)
        assert f"labels:{names}|" in load(path)["results"]["artifact_rate"]["signature"]
    balance = ("--set", "attribute_balance.labels=normal,nsfw", "--set", f"attribute_balance.classifier={checker}")
    command = ("evaluate", *generated, "--metrics", "attribute_balance", *balance, *QUIET)
    for target, kept in (("0.25,0.75", "0.25+0.75"), ("none", "0.5+0.5")):
        done(*command, "--set", f"attribute_balance.target={target}", "--json", tmp_path / "balance.json")
        assert f"target:{kept}|" in load(tmp_path / "balance.json")["results"]["attribute_balance"]["signature"]
    assert "must be shares that sum to 1" in refused(*command, "--set", "attribute_balance.target=1,3", code=2)
    told = refused(*command, "--set", "attribute_balance.target=0.5,half", code=2)
    assert (
        "--set attribute_balance.target must be {name: value, ...} or a list of float or none, got '0.5,half'" in told
    )


def test_sizes_of_a_window(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """One number or one for each axis."""
    uniform = ("--set", "ssim.gaussian_kernel=false")
    for sizes, kept in (("7", "7"), ("7,5", "[7, 5]")):
        given = (*uniform, "--set", f"ssim.kernel_size={sizes}", "--json", tmp_path / "s.json", *QUIET)
        done("pairs", *sides, "--metrics", "ssim", *given)
        assert f"kernel_size:{kept}|" in load(tmp_path / "s.json")["results"]["ssim"]["signature"]
    axes = ("--set", "psnr.dim=1,2,3", "--json", tmp_path / "p.json", *QUIET)
    done("pairs", *sides, "--metrics", "psnr", *axes)
    assert "dim:1+2+3" in load(tmp_path / "p.json")["results"]["psnr"]["signature"]


def test_precision_is_that_of_networks(generated: list[Any]) -> None:
    given = ("--set", "clip_score.network=digits-clip", "--dtype", "bfloat16")
    command = ("--metrics", "saturation,clip_score", *given, "--workers", 0, "--device", "cpu")
    told = [line for line in done("evaluate", *generated, *command).err.splitlines() if "deviate" in line]
    assert len(told) == 1
    assert "digits-clip (bfloat16)" in told[0]


def test_per_prompt_of_sums_is_refused(generated: list[Any]) -> None:
    command = ("--target", generated[0], "--metrics", "mse", "--set", "mse.reduction=sum", "--per-prompt", *QUIET)
    told = refused("evaluate", *generated, *command, code=2)
    assert "--per-prompt: `metric` must have a mean as its reduction, got 'sum'" in told


def test_what_is_missing_is_said(generated: list[Any], tmp_path: Path) -> None:
    told = refused("evaluate", generated[0], "--metrics", "saturation", "--per-prompt", *QUIET, code=2)
    assert "saturation_per_prompt requires `--prompts`" in told
    frechet = ("--metrics", "fd_digits_clip", "--reference", generated[0], "--per-prompt")
    assert "scores single images" in refused("evaluate", *generated, *frechet, *QUIET, code=2)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n".join(json.dumps({"prompt": "  ", "file": f"{i:02}.png"}) for i in range(N)))
    assert "line 1: no text" in refused(
        "evaluate", generated[0], "--prompts", empty, "--metrics", "pickscore", *QUIET, code=2
    )
