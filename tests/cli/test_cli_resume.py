"""Runs that stop at any moment and go on: the same bits, never half a file."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_parts import DIGITS, METRICS, N, done, folder, imgmetrics, load, make_inputs, refused
from conftest import random_images

from lightning_imgmetrics.cli import loop
from lightning_imgmetrics.cli.loop import Loop
from lightning_imgmetrics.metrics.base import state_file

STATE = "state-0-of-1.safetensors"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def command(inputs: list[Any], tmp_path: Path) -> list[Any]:
    return ["evaluate", *inputs, "--metrics", METRICS, *DIGITS, "--json", tmp_path / "a.json", "--quiet"]


@pytest.fixture(scope="module")
def undisturbed(inputs: list[Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of the same command without a run folder."""
    path = tmp_path_factory.mktemp("undisturbed") / "a.json"
    done("evaluate", *inputs, "--metrics", METRICS, *DIGITS, "--json", path, "--quiet")
    return load(path)


class Power(Exception):
    """It went."""


def cut(batches: int, *command: Any) -> None:
    """Run a command that ends in the batch after so many."""
    update, seen = Loop._update, []

    def counted(self: Loop, *args: Any) -> None:
        if len(seen) == batches:
            raise Power
        seen.append(1)
        update(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_update", counted)
        with pytest.raises(Power):
            imgmetrics(*command)


@pytest.mark.parametrize("batches", [0, 1, 6, 7, 9, 12])  # the reference has 7 batches, the generated images 6
def test_a_run_goes_on_to_the_same_bits(
    batches: int, command: list[Any], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    run = ["--run-dir", tmp_path / "run", "--save-every", 0]
    cut(batches, *command, *run)
    done(*command, *run, "--resume")
    assert load(tmp_path / "a.json") == undisturbed


def test_every_interval_of_saving_gives_the_same_bits(
    command: list[Any], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    for every in (0, 3600):
        done(*command, "--run-dir", tmp_path / f"run{every}", "--save-every", every)
        assert load(tmp_path / "a.json") == undisturbed


def test_sums_by_group_are_not_merged_by_saving(tmp_path: Path) -> None:
    """Saving after each of many batches must not change the order of the sums of Inception score and diversity."""
    images = folder(tmp_path / "generated", random_images(70, 8, 0))
    (tmp_path / "prompts.txt").write_text("\n".join(f"digit {i % 3}" for i in range(70)))
    command = ["evaluate", images, "--prompts", tmp_path / "prompts.txt", "--metrics", "lpips_diversity", *DIGITS[:4]]
    command += ["--batch-size", 1, "--json", tmp_path / "a.json", "--quiet"]
    done(*command)
    expected = load(tmp_path / "a.json")
    run = ["--run-dir", tmp_path / "run", "--save-every", 0]
    for stop in (40, 25):  # 64 parts are merged at once
        cut(stop, *command, *run, *(["--resume"] if stop == 25 else []))
    done(*command, *run, "--resume")
    assert load(tmp_path / "a.json") == expected


def test_only_the_images_that_are_left_are_read(
    command: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["--run-dir", tmp_path / "run", "--save-every", 0]
    cut(10, *command, *run)
    seen: list[int] = []
    update = Loop._update

    def noted(self: Loop, side: Any, ids: list[int], images: Any) -> None:
        seen.extend(ids)
        update(self, side, ids, images)

    monkeypatch.setattr(Loop, "_update", noted)
    done(*command, *run, "--resume")
    assert seen == list(range(12, N))
    done(*command, *run, "--resume")  # a run that is done reads nothing
    assert seen == list(range(12, N))


def test_failures_of_before_are_counted_once(tmp_path: Path) -> None:
    images = folder(tmp_path / "generated", random_images(12, 8, 0))
    for i in (1, 4, 5, 6, 7, 10):  # batch 1 has no image left
        (images / f"{i:03}.png").write_bytes(b"")
    command = ["evaluate", images, "--reference", folder(tmp_path / "r", random_images(5, 8, 1)), "--workers", 0]
    command += ["--metrics", "fd_digits_clip", "--batch-size", 4, "--json", tmp_path / "a.json", "--quiet"]
    done(*command, "--max-failed", 6)
    expected = load(tmp_path / "a.json")
    run = ["--run-dir", tmp_path / "run", "--save-every", 0]
    cut(3, *command, *run, "--max-failed", 6)
    line = refused(*command, *run, "--resume", "--max-failed", 5, code=1)
    assert "6 of 12 generated images could not be read, --max-failed allows 5" in line
    done(*command, *run, "--resume", "--max-failed", 6)
    assert load(tmp_path / "a.json") == expected
    assert [f["id"] for f in expected["failed"]] == [1, 4, 5, 6, 7, 10]


def test_statistics_go_on_too(inputs: list[Any], tmp_path: Path) -> None:
    command = ["stats", inputs[2], "--metrics", "fd_digits_clip,precision", *DIGITS, "--quiet"]
    done(*command, "-o", tmp_path / "a.safetensors")
    run = ["-o", tmp_path / "b.safetensors", "--run-dir", tmp_path / "run", "--save-every", 0]
    cut(4, *command, *run)
    done(*command, *run, "--resume")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


# What is refused


def test_a_folder_in_use_and_a_changed_command_are_refused(
    command: list[Any], inputs: list[Any], tmp_path: Path
) -> None:
    run = ["--run-dir", tmp_path / "run"]
    done(*command, *run)
    assert "is not empty: add --resume" in refused(*command, *run, code=2)
    line = refused(*command, *run, "--resume", "--batch-size", 5, code=2)
    assert "(batch_size: 4 before, 5 now)" in line
    line = refused(*command, *run, "--resume", "--limit", 20, code=2)
    assert "generated" in line
    assert "22 images" in line
    assert "20 images" in line
    line = refused(*command, *run, "--resume", "--set", "precision.nearest_k=2", code=2)
    assert "k:3" in line
    assert "k:2" in line
    (tmp_path / "run" / STATE).rename(tmp_path / "run" / "state-0-of-2.safetensors")
    assert "had 2 ranks, this one has 1" in refused(*command, *run, "--resume", code=2)
    assert "--resume needs --run-dir" in refused(*command, "--resume", code=2)


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign"])
def test_a_damaged_state_is_named(damage: str, command: list[Any], tmp_path: Path) -> None:
    run = ["--run-dir", tmp_path / "run"]
    done(*command, *run)
    path = tmp_path / "run" / STATE
    if damage == "foreign":
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(1)}, path)
    else:
        path.write_bytes(path.read_bytes()[:500] if damage == "cut" else b"")
    line = refused(*command, *run, "--resume", code=2)
    assert STATE in line
    path.unlink()
    done(*command, *run, "--resume")


def test_a_full_disk_leaves_the_last_state_whole(
    command: list[Any], undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = []

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        writes.append(path)
        if len(writes) > 3:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(tensors, path, metadata=metadata)

    save = state_file.save_file
    run = ["--run-dir", tmp_path / "run", "--save-every", 0]
    with monkeypatch.context() as patch:
        patch.setattr(state_file, "save_file", full)
        answer = done(*command, *run)
    assert "the states could not be saved, the run goes on without: [Errno 28] No space left" in answer.err
    assert load(tmp_path / "a.json") == undisturbed
    assert [path.name for path in (tmp_path / "run").iterdir()] == [STATE]
    done(*command, *run, "--resume")
    assert load(tmp_path / "a.json") == undisturbed


def test_leftovers_of_a_killed_writer_are_cleared(command: list[Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".state-0-of-1-0123abcd.safetensors").write_bytes(b"half")
    done(*command, "--run-dir", tmp_path / "run", "--resume")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [STATE]


# Memory


@pytest.mark.parametrize("resumed", [False, True])
def test_out_of_memory_halves_the_pass(
    resumed: bool, command: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    one_pass = Loop._pass

    def small(self: Loop, side: Any, ids: list[int], images: Any) -> None:
        if len(ids) > 3:
            raise torch.OutOfMemoryError("too much")
        sizes.append(len(ids))
        one_pass(self, side, ids, images)

    monkeypatch.setattr(Loop, "_pass", small)
    run = ["--run-dir", tmp_path / "run", "--save-every", 0]
    done(*command, "--batch-size", 8)
    expected, whole = load(tmp_path / "a.json"), list(sizes)
    assert set(whole) == {2}
    if resumed:
        sizes.clear()
        cut(2, *command, "--batch-size", 8, *run)
        monkeypatch.setattr(loop.torch, "OutOfMemoryError", Power)  # it is not met again
        done(*command, "--batch-size", 8, *run, "--resume")
        assert load(tmp_path / "a.json") == expected
        assert sizes == whole


def test_one_image_that_does_not_fit(command: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> None:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(Loop, "_pass", never)
    assert "out of memory: one image is too large for the device" in refused(*command, code=1)


# Real kills


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL, ten times, each some saves further on; the end is the undisturbed one to the last bit."""
    generated = folder(tmp_path / "generated", random_images(90, 8, 0))
    reference = folder(tmp_path / "reference", random_images(60, 8, 1))
    (tmp_path / "prompts.txt").write_text("\n".join(f"digit {i % 7}" for i in range(90)))
    command = ["evaluate", generated, "--reference", reference, "--prompts", tmp_path / "prompts.txt", "--quiet"]
    command += ["--metrics", METRICS, *DIGITS, "--batch-size", 1, "--json"]
    state = tmp_path / "run" / STATE
    # Linear algebra rounds by its number of threads: all processes must have the same.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "lightning_imgmetrics", *map(str, command)]
    subprocess.run([*words, tmp_path / "whole.json"], env=environment, check=True)
    words += [str(tmp_path / "a.json"), "--run-dir", str(state.parent), "--save-every", "0", "--resume"]
    draw, kills = random.Random(0), 0
    for _ in range(10):
        process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE)
        _wait_for_saves(process, state, draw.randint(1, 14), draw.random() * 0.03)
        process.kill()
        _, errors = process.communicate()
        kills += process.returncode == -signal.SIGKILL
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    assert kills == 10
    subprocess.run(words, env=environment, check=True)
    assert load(tmp_path / "a.json") == load(tmp_path / "whole.json")


def _wait_for_saves(process: subprocess.Popen[bytes], state: Path, saves: int, more: float) -> None:
    """Until the process has written its state so often, and `more` seconds."""
    seen, last, end = 0, None, time.monotonic() + 60
    while process.poll() is None and seen < saves and time.monotonic() < end:
        try:
            now = state.stat().st_mtime_ns
        except FileNotFoundError:
            now = None
        seen += now != last
        last = now
        time.sleep(0.0005)
    time.sleep(more)
