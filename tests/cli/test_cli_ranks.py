"""Several ranks are one evaluation: in a pool of gloo ranks, and started by torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_parts import DIGITS, METRICS, done, folder, load, make_inputs, values
from conftest import Worlds, random_images

from lightning_imgmetrics.cli.build import expand
from lightning_imgmetrics.cli.console import Terminal
from lightning_imgmetrics.cli.evaluate import evaluate, measure_statistics
from lightning_imgmetrics.cli.ranks import default_workers, process_group
from lightning_imgmetrics.cli.request import MetricSpec, Request
from lightning_imgmetrics.errors import ImgMetricsError


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def alone(inputs: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alone") / "a.json"
    done("evaluate", *inputs, "--metrics", METRICS, *DIGITS, "--json", path, "--quiet")
    return path


def request_for(inputs: list[Any], **changes: Any) -> Request:
    spec = MetricSpec(metrics=expand(METRICS.split(",")), network="digits-clip")
    texts = {"generated": str(inputs[0]), "reference": str(inputs[2]), "prompts": str(inputs[4])}
    return replace(Request(command="evaluate", spec=spec, batch_size=4, workers=0, device="cpu", **texts), **changes)


def outcome(rank: int, size: int, request: Request) -> Any:
    """The report of this rank as JSON, its neighbors, or the error."""
    try:
        found = evaluate(request, Terminal(rank=rank, quiet=True))
    except ImgMetricsError as error:
        return f"{type(error).__name__}: {error}"
    return (found.report and found.report.to_json()), found.neighbors


def test_ranks_give_the_numbers_of_one(worlds: Worlds, inputs: list[Any], alone: Path, tmp_path: Path) -> None:
    request = request_for(inputs, neighbors=True, save_state=str(tmp_path / "s.safetensors"))
    answers = worlds(2, outcome, request)
    assert answers[0] == answers[1]
    (tmp_path / "a.json").write_text(answers[0][0])
    assert values(tmp_path / "a.json") == pytest.approx(values(alone), rel=1e-5)
    found, expected = load(tmp_path / "a.json")["scores"]["clip_score"], load(alone)["scores"]["clip_score"]
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert len(answers[0][1]) == 22
    done("merge", tmp_path / "s.safetensors", "--json", tmp_path / "b.json", "--quiet")
    assert values(tmp_path / "b.json") == pytest.approx(values(alone), rel=1e-5)


def test_ranks_without_data_and_a_reference_in_a_file(worlds: Worlds, inputs: list[Any], tmp_path: Path) -> None:
    few = folder(tmp_path / "few", random_images(2, 12, 0))
    stats = tmp_path / "r.safetensors"
    rest = ["--metrics", "fd_digits_clip", "--workers", 0, "--quiet"]
    done("stats", inputs[2], "-o", stats, *rest)
    done("evaluate", few, "--reference", stats, *rest, "--json", tmp_path / "a.json")
    spec = MetricSpec(metrics=("fd_digits_clip",))
    request = Request(command="evaluate", spec=spec, generated=str(few), reference=str(stats), workers=0, device="cpu")
    answers = worlds(3, outcome, request)
    assert answers[0] == answers[1] == answers[2]
    (tmp_path / "b.json").write_text(answers[0][0])
    assert values(tmp_path / "b.json") == pytest.approx(values(tmp_path / "a.json"), rel=1e-5)
    assert load(tmp_path / "b.json")["results"]["fd_digits_clip"]["signature"].endswith("n_real:26|n:2")


def test_a_failure_on_one_rank_ends_all(worlds: Worlds, inputs: list[Any], tmp_path: Path) -> None:
    broken = folder(tmp_path / "broken", random_images(6, 12, 0))
    (broken / "003.png").write_bytes(b"")  # a sample of rank 1
    spec = MetricSpec(metrics=("fd_digits_clip",))
    request = Request(
        command="evaluate", spec=spec, generated=str(broken), reference=str(inputs[2]), workers=0, device="cpu"
    )
    first, second = worlds(2, outcome, request)
    assert second.startswith("UnreadableImage: 1 of 6 generated images could not be read, --max-failed allows 0")
    assert first.startswith("MissingRanks: measuring the images was aborted")
    assert "003.png" in first
    answers = worlds(2, outcome, replace(request, max_failed=1))
    assert answers[0] == answers[1]
    assert '"n_failed": 1' in answers[0][0]


def test_each_rank_resumes_its_own_share(worlds: Worlds, inputs: list[Any], tmp_path: Path) -> None:
    request = request_for(inputs, run=str(tmp_path / "run"), save_every=0)
    expected = worlds(2, outcome, request)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [f"state-{i}-of-2.safetensors" for i in (0, 1)]
    (tmp_path / "run" / "state-1-of-2.safetensors").unlink()  # as if rank 1 had not come to its first save
    assert worlds(2, outcome, replace(request, resume=True)) == expected
    refused = worlds(2, outcome, request)
    assert all("is not empty" in answer for answer in refused)
    other = worlds(3, outcome, replace(request, resume=True))
    assert all("had 2 ranks, this one has 3" in answer for answer in other)


def content_of(rank: int, size: int, request: Request) -> Any:
    found = measure_statistics(request, Terminal(rank=rank, quiet=True))
    return None if found is None else (found.n, found.content)


def test_statistics_over_ranks(worlds: Worlds, inputs: list[Any]) -> None:
    request = replace(request_for(inputs), generated=None, prompts=None, hashed=True)
    assert worlds(2, content_of, request) == [content_of(0, 1, request), None]


def test_a_lone_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    with process_group() as place:
        assert place == (0, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1024")
    assert default_workers() == 0


def test_torchrun(inputs: list[Any], alone: Path, tmp_path: Path) -> None:
    """One table, from rank 0; one report."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += ["-m", "lightning_imgmetrics", "evaluate", *inputs, "--metrics", METRICS, *DIGITS]
    words += ["--json", tmp_path / "a.json", "--scores", tmp_path / "s.csv", "--run-dir", tmp_path / "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=environment, timeout=300)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("metric:clip_score|") == 1
    assert values(tmp_path / "a.json") == pytest.approx(values(alone), rel=1e-5)
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 23
