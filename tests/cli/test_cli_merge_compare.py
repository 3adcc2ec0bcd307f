"""Shards that are joined, and two evaluations against each other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_parts import DIGITS, METRICS, N, done, folder, load, make_inputs, refused, table, values
from conftest import random_images
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.stats import norm

from lightning_imgmetrics.cli.compare import compare
from lightning_imgmetrics.errors import SignatureMismatch
from lightning_imgmetrics.functional.intervals import mean_interval
from lightning_imgmetrics.functional.resampling import jackknife, paired_bootstrap
from lightning_imgmetrics.report.tables import Report
from lightning_imgmetrics.result import Result


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def command(inputs: list[Any]) -> list[Any]:
    return ["evaluate", *inputs, "--metrics", METRICS, *DIGITS, "--quiet"]


@pytest.fixture(scope="module")
def whole(command: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "a.json"
    done(*command, "--json", path)
    return path


def make_shards(command: list[Any], target: Path, k: int) -> list[Path]:
    paths = [target / f"{i}.safetensors" for i in range(1, k + 1)]
    for i, path in enumerate(paths, 1):
        done(*command, "--shard", f"{i}/{k}", "--save-state", path)
    return paths


@pytest.fixture(scope="module")
def shards(command: list[Any], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_shards(command, tmp_path_factory.mktemp("shards"), 3)


def same_numbers(one: Path, other: Path) -> None:
    a, b = load(one), load(other)
    assert values(one) == pytest.approx(values(other), rel=1e-5)
    assert {k: (r["n"], r["signature"]) for k, r in a["results"].items()} == {
        k: (r["n"], r["signature"]) for k, r in b["results"].items()
    }
    assert a["scores"]["clip_score"] == pytest.approx(b["scores"]["clip_score"], rel=1e-4, abs=1e-4)


def test_shards_are_one_run(shards: list[Path], whole: Path, tmp_path: Path) -> None:
    """In any order; `n` and `n_real` of the signatures say that images and reference count once."""
    for order in (shards, shards[::-1]):
        answer = done("merge", *order, "--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv")
        same_numbers(tmp_path / "a.json", whole)
        assert "n_real:26|n:22" in answer.out
    assert [row["metric"] for row in table(tmp_path / "a.csv")] == METRICS.split(",")


def test_more_shards_than_images(whole: Path, inputs: list[Any], tmp_path: Path) -> None:
    """Shards without any image write states that merge."""
    few = folder(tmp_path / "few", random_images(3, 12, 0))
    command = ["evaluate", few, *inputs[1:3], "--metrics", "fd_digits_clip", "--workers", 0, "--quiet"]
    paths = make_shards(command, tmp_path, 4)
    done("merge", *paths, "--json", tmp_path / "a.json", "--quiet")
    done(*command, "--json", tmp_path / "b.json")
    assert values(tmp_path / "a.json") == pytest.approx(values(tmp_path / "b.json"), rel=1e-5)


def test_statistics_count_once(inputs: list[Any], whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "reference.safetensors"
    done("stats", inputs[2], "-o", path, "--metrics", METRICS, *DIGITS, "--quiet")
    command = ["evaluate", inputs[0], "--reference", path, *inputs[3:], "--metrics", METRICS, *DIGITS, "--quiet"]
    done("merge", *make_shards(command, tmp_path, 2), "--json", tmp_path / "a.json", "--quiet")
    same_numbers(tmp_path / "a.json", whole)


def test_a_state_of_the_whole_prints_its_results_again(command: list[Any], whole: Path, tmp_path: Path) -> None:
    done(*command, "--save-state", tmp_path / "s.safetensors", "--json", tmp_path / "a.json")
    done("merge", tmp_path / "s.safetensors", "--json", tmp_path / "b.json", "--quiet")
    assert load(tmp_path / "a.json") == load(whole)
    assert load(tmp_path / "b.json") == load(whole)


def test_failures_of_all_shards_are_listed(inputs: list[Any], tmp_path: Path) -> None:
    broken = folder(tmp_path / "broken", random_images(8, 12, 0))
    for i in (2, 5):
        (broken / f"{i:03}.png").write_bytes(b"")
    command = ["evaluate", broken, *inputs[1:3], "--metrics", "fd_digits_clip", "--workers", 0, "--quiet"]
    paths = make_shards([*command, "--max-failed", 2], tmp_path, 2)
    done("merge", *paths, "--json", tmp_path / "a.json", "--quiet")
    assert [(f["id"], f["name"]) for f in load(tmp_path / "a.json")["failed"]] == [(2, "002.png"), (5, "005.png")]
    paths = make_shards([*command, "--max-failed", 1], tmp_path, 2)  # each may, both together may not
    assert "2 of 8 generated images could not be read" in refused("merge", *paths, code=1)


def test_what_is_no_whole_evaluation_is_refused(
    shards: list[Path], command: list[Any], inputs: list[Any], tmp_path: Path
) -> None:
    assert "the shards 2/3 are missing: 2 of 3 were given" in refused("merge", shards[0], shards[2], code=2)
    shutil.copy(shards[0], tmp_path / "again.safetensors")
    assert "each shard must come once" in refused("merge", shards[0], tmp_path / "again.safetensors", code=2)
    assert "each shard must come once" in refused("merge", *shards, shards[0], code=2)
    other = [*command, "--set", "precision.nearest_k=2", "--shard", "2/3", "--save-state", tmp_path / "2.safetensors"]
    done(*other)
    line = refused("merge", shards[0], tmp_path / "2.safetensors", shards[2], code=2)
    assert "are not shards of one evaluation (measures: " in line
    done(*command, "--shard", "2/2", "--save-state", tmp_path / "3.safetensors")
    assert "number of shards: 3 against 2" in refused("merge", shards[0], tmp_path / "3.safetensors", code=2)
    done("stats", inputs[2], "-o", tmp_path / "r.safetensors", "--metrics", "fd_digits_clip", "--workers", 0, "--quiet")
    assert "was not written by `imgmetrics evaluate" in refused("merge", tmp_path / "r.safetensors", code=2)
    (tmp_path / "cut.safetensors").write_bytes(shards[0].read_bytes()[:300])
    assert "is not a saved suite" in refused("merge", tmp_path / "cut.safetensors", code=2)
    assert "there is no file" in refused("merge", tmp_path / "none.safetensors", code=2)


def test_shards_of_another_version_are_refused_in_words(shards: list[Path], tmp_path: Path) -> None:
    copies = []
    for path in shards:
        with safe_open(path, "pt") as file:
            metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        about = json.loads(metadata["about"])
        about["measures"]["compiled"] = about["measures"].pop("compile")
        copies.append(tmp_path / path.name)
        save_file(tensors, copies[-1], metadata={**metadata, "about": json.dumps(about)})
    line = refused("merge", *copies, code=2)
    assert "written by another version, whose settings differ (compile, compiled). Evaluate its share again" in line


def test_a_shard_has_no_tables(command: list[Any], tmp_path: Path) -> None:
    shard = [*command, "--shard", "1/2"]
    assert "needs --save-state" in refused(*shard, code=2)
    line = refused(*shard, "--save-state", tmp_path / "s", "--json", tmp_path / "a.json", code=2)
    assert "`imgmetrics merge`" in line
    for wrong in ("0/2", "3/2", "2", "a/b", "-1/2"):
        assert "--shard must be I/K" in refused(*command, "--shard", wrong, code=2)


# Compare

SCORES_A = {i: 20 + (7 * i % 11) / 3 for i in range(12)}
SCORES_B = {i: x - 0.5 + (i % 3) / 10 for i, x in SCORES_A.items()}


def of_scores(scores: dict[int, float], **changes: Any) -> Report:
    mean = sum(scores.values()) / len(scores)
    result = Result("clip_score", mean, len(scores), "", True, None, "metric:clip_score|network:a")
    return Report({"clip_score": replace(result, **changes)}, {"clip_score": scores})


def of_value(value: float, **changes: Any) -> Report:
    return Report({"fid": replace(Result("fid", value, 50, "", False, None, "metric:fid|n_real:9|n:50"), **changes)})


def test_scores_are_paired_by_id() -> None:
    shuffled = dict(reversed(SCORES_B.items()))
    found = compare(of_scores(SCORES_A), of_scores(shuffled))[0]
    pair = [torch.tensor([s[i] for i in range(12)], dtype=torch.float64) for s in (SCORES_A, SCORES_B)]
    difference, low, high, p = paired_bootstrap(*pair, seed=0)
    assert (found.difference, found.interval, found.p) == (difference, (low, high), p)
    assert found.difference == pytest.approx(0.4)
    assert (found.better, found.by) == ("A", "bootstrap of 12 pairs")
    assert compare(of_scores(SCORES_B), of_scores(SCORES_A))[0].better == "B"
    same = compare(of_scores(SCORES_A), of_scores(SCORES_A))[0]
    assert (same.difference, same.interval, same.p, same.better) == (0, (0, 0), 1, "?")


def test_sums_of_scores_are_not_compared_as_means() -> None:
    found = compare(of_scores(SCORES_A, value=500.0), of_scores(SCORES_B, value=400.0))[0]
    assert (found.difference, found.interval, found.by) == (100, None, "no interval")


def test_replicates_are_paired_by_group() -> None:
    noise = torch.linspace(-1, 1, 6, dtype=torch.float64)
    left = [(5 + noise).tolist(), (4 + noise + 0.01 * noise**2).tolist()]
    reports = [of_value(v, replicates=tuple(x), interval=(v - 3, v + 3)) for v, x in zip((5.0, 4.0), left, strict=True)]
    found = compare(*reports)[0]
    estimate, error = jackknife(1.0, torch.tensor(left[0], dtype=torch.float64) - torch.tensor(left[1]))
    assert found.interval == pytest.approx(mean_interval(estimate, error, 6), rel=1e-6)
    assert found.interval is not None
    assert found.interval[1] - found.interval[0] < 0.2  # what both have in common cancels
    assert found.p is not None
    assert found.p < 1e-3
    assert (found.better, found.by) == ("B", "paired jackknife, 6 groups")  # lower is better


def test_independent_intervals_combine() -> None:
    found = compare(of_value(5.0, interval=(4.0, 6.0)), of_value(2.5, interval=(2.0, 3.0)))[0]
    half = (1 + 0.25) ** 0.5
    assert found.interval == pytest.approx((2.5 - half, 2.5 + half))
    assert found.p == pytest.approx(2 * norm.sf(2.5 / (half / norm.ppf(0.975))))
    assert found.better == "B"
    assert compare(of_value(5.0, interval=(4.0, 6.0)), of_value(2.0))[0].interval is None


def test_what_was_measured_differently_is_refused_unless_forced(tmp_path: Path) -> None:
    a, b = of_scores(SCORES_A), of_scores(SCORES_B, signature="metric:clip_score|network:b")
    with pytest.raises(SignatureMismatch, match=r"clip_score: network: a against b.*--force"):
        compare(a, b)
    assert compare(a, b, force=True)[0].mismatch == "network: a against b"
    fewer = of_scores({i: x for i, x in SCORES_B.items() if i < 9})
    with pytest.raises(SignatureMismatch, match="n: 12 against 9"):
        compare(a, fewer)
    assert compare(a, fewer, force=True)[0].by == "bootstrap of 9 pairs"
    for name, report in (("a", a), ("b", b)):
        (tmp_path / f"{name}.json").write_text(report.to_json())
    pair = [tmp_path / "a.json", tmp_path / "b.json"]
    assert "network: a against b" in refused("compare", *pair, code=2)
    answer = done("compare", *pair, "--force")
    assert "forced: clip_score was not measured in the same way (network: a against b)" in answer.err


def test_compare_from_the_command_line(whole: Path, inputs: list[Any], tmp_path: Path) -> None:
    darker = folder(tmp_path / "darker", (random_images(N, 12, 0) * 0.6).to(torch.uint8))
    command = ["evaluate", darker, *inputs[1:], "--metrics", METRICS.replace("precision,", ""), *DIGITS, "--quiet"]
    done(*command, "--json", tmp_path / "b.json")
    files = {name: tmp_path / f"c.{name}" for name in ("json", "csv", "markdown")}
    options = [x for name, path in files.items() for x in (f"--{name}", path)]
    answer = done("compare", whole, tmp_path / "b.json", *options)
    assert "bootstrap of 22 pairs" in " ".join(answer.out.split())
    assert "in one of the two only: precision" in answer.err
    rows = table(files["csv"])
    assert [row["metric"] for row in rows] == ["fd_digits_clip", "clip_score", "lpips_diversity"]
    assert [row["by"] for row in rows] == ["no interval", "bootstrap of 22 pairs", "independent intervals"]
    by_name = {c["name"]: c for c in load(files["json"])["comparisons"]}
    a, b = values(whole), values(tmp_path / "b.json")
    for name, found in by_name.items():
        assert found["difference"] == pytest.approx(a[name] - b[name])
    assert files["markdown"].read_text().startswith("| metric | A | B | A - B |")


def test_files_that_are_no_reports(whole: Path, tmp_path: Path) -> None:
    assert "there is no file" in refused("compare", whole, tmp_path / "none.json", code=2)
    (tmp_path / "x.json").write_text("{}")
    assert "is no JSON report" in refused("compare", whole, tmp_path / "x.json", code=2)
    (tmp_path / "y.json").write_text(of_value(1.0).to_json())
    assert "share no metric" in refused("compare", whole, tmp_path / "y.json", code=2)
