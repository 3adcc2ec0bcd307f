"""Whatever is wrong with a command ends in one line and an exit code: 2 for usage, 1 for what happened."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_parts import DIGITS, METRICS, N, done, folder, imgmetrics, load, make_inputs, refused
from conftest import random_images
from PIL import Image

from lightning_imgmetrics.errors import NotEnoughSamples

FD = ["--metrics", "fd_digits_clip", "--workers", "0", "--quiet"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--metrics", "fidd"], "`metric` must be one of 'fid', 'sfid'"),
        (["--metrics", ","], "--metrics must name at least one metric"),
        (["--metrics", "win_rate"], "win_rate compares ratings, not images"),
        (["--metrics", "clip_score"], "clip_score requires `--prompts`"),
        (["--metrics", "lpips"], "lpips requires `--target`"),
        (["--metrics", "fd_digits_clip", "--network", "digits-clip"], "--network: none of fd_digits_clip takes it"),
        (["--metrics", "fd_digits_clip", "--protocol", "adm"], "--protocol: none of fd_digits_clip takes it"),
        (["--metrics", "fid", "--protocol", "admm"], "`protocol` must be one of 'torchmetrics'"),
        (["--metrics", "fd_digits_clip", "--seed", "1"], "--seed: none of fd_digits_clip takes it"),
        (["--set", "fd_digits_clip.groups=few"], "--set fd_digits_clip.groups must be int, got 'few'"),
        (["--set", "fd_digits_clip.groups=1"], "metric 'fd_digits_clip': `groups` must be 0 (no interval)"),
        (["--set", "fd_digits_clip.group=2"], "got 'group'"),
        (["--set", "fd_digits_clip.network=dinov2"], "got 'network'"),
        (["--set", "fd_digits_clip.value_range=1"], "--set fd_digits_clip.value_range must be (float, float), got '1'"),
        (["--metrics", "kid", "--set", "kid.transform=f"], "--set kid.transform must be given in Python"),
        (["--metrics", "fid", "--set", "fid.layer=64"], "`--set fid.` must be one of 'feature', 'reset_real_features'"),
        (["--metrics", "rubric"], "rubric requires `--judge`, an option of `imgmetrics judge` and `imgmetrics bench`"),
        (["--metrics", "tifa"], "tifa requires `--set tifa.questions=...`, or `imgmetrics bench`"),
        (["--metrics", "artifact_rate", "--network", "x"], "artifact_rate requires `--set artifact_rate.labels=...`"),
        (["--metrics", "fid", "--network", "dinov2"], "; --set fid.network=... is for fid alone"),
        (["--set", "groups=2"], "--set must be KEY.ARGUMENT=VALUE"),
        (["--set", "kid.subsets=2"], "`--set` must be one of 'fd_digits_clip'; got 'kid'"),
        (["--limit", "23"], "--limit asks for 23 images, there are 22"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--batch-size", "big"], "--batch-size must be a positive number or auto, got 'big'"),
        (["--workers", "-1"], "--workers must be at least 0"),
        (["--max-failed", "1.5"], "--max-failed must be a whole number or a share below 1, got 1.5"),
        (["--alpha", "pink"], "--alpha must be one of 'drop', 'white', 'black'; got 'pink'"),
        (["--dtype", "float16"], "`dtype` must be one of 'float32', 'bfloat16'"),
        (["--device", "tpu"], "--device tpu cannot be used"),
        (["--save-every", "-1"], "--save-every must be at least 0"),
        (["--neighbors", "n.csv"], "--neighbors needs a metric that keeps features"),
    ],
)
def test_usage(options: list[str], expected: str, inputs: list[Any]) -> None:
    metrics = [] if "--metrics" in options else FD[:2]
    assert expected in refused("evaluate", *inputs[:3], *metrics, *options, code=2)


def test_one_weights_file_is_not_for_two_networks(inputs: list[Any], inception_weights: str) -> None:
    arguments = [*inputs[:3], "--target", inputs[0], "--metrics", "fid,lpips", "--weights", inception_weights]
    line = refused("evaluate", *arguments, code=2)
    assert "--weights is one file, and the metrics use inception-v3-2015 and lpips-alex" in line


def test_references_that_are_not_there(inputs: list[Any], tmp_path: Path) -> None:
    assert "fd_digits_clip requires `--reference`" in refused("evaluate", inputs[0], *FD, code=2)
    line = refused("evaluate", inputs[0], "--reference", tmp_path / "none", *FD, code=2)
    assert line == f"error: --reference: there is no file or folder {tmp_path / 'none'}"
    (tmp_path / "empty").mkdir()
    assert "no image" in refused("evaluate", inputs[0], "--reference", tmp_path / "empty", *FD, code=2)
    assert "no image" in refused("evaluate", tmp_path / "empty", *inputs[1:3], *FD, code=2)
    (tmp_path / "text.txt").write_text("text")
    assert "--reference must be one of 'a folder'" in refused(
        "evaluate", inputs[0], "--reference", tmp_path / "text.txt", *FD, code=2
    )
    for name, content in (("cut.npz", b"PK\x03\x04"), ("cut.safetensors", b"\x10"), ("cut.npy", b"\x93NUMPY\x01\x00")):
        (tmp_path / name).write_bytes(content)
        assert name in refused("evaluate", inputs[0], "--reference", tmp_path / name, *FD, code=2)


def test_an_ignored_reference_is_said(inputs: list[Any]) -> None:
    command = [*inputs, "--metrics", "clip_score", *DIGITS[:2], "--workers", 0, "--quiet"]
    assert "no metric here compares with a reference" in done("evaluate", *command).err
    assert "keep nothing of a reference" in refused("stats", inputs[2], "-o", "x.safetensors", *command[5:], code=2)


def test_one_image(inputs: list[Any], tmp_path: Path) -> None:
    one = folder(tmp_path / "one", random_images(1, 12, 0))
    assert "no fd_digits_clip: " in refused("evaluate", one, *inputs[1:3], *FD, code=1)
    assert "no fd_digits_clip: " in refused("evaluate", inputs[0], "--reference", one, *FD, code=1)


def test_debug_shows_where(inputs: list[Any], tmp_path: Path) -> None:
    one = folder(tmp_path / "one", random_images(1, 12, 0))
    with pytest.raises(Exception, match="no fd_digits_clip") as caught:
        imgmetrics("evaluate", one, *inputs[1:3], *FD, "--debug")
    assert not isinstance(caught.value, NotEnoughSamples)


def test_prompts_that_do_not_fit(inputs: list[Any], tmp_path: Path) -> None:
    command = [*inputs[:3], "--metrics", "clip_score", *DIGITS[:2], "--workers", 0, "--prompts", tmp_path / "p.txt"]
    (tmp_path / "p.txt").write_text("one\ntwo")
    assert f"{N} images and 2 partners must pair one to one" in refused("evaluate", *command, code=2)
    (tmp_path / "p.txt").unlink()
    assert "--prompts: [Errno 2] No such file or directory" in refused("evaluate", *command, code=2)


def full(*args: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_old_reports_and_states(
    inputs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, state = tmp_path / "a.json", tmp_path / "s.safetensors"
    command = ["evaluate", *inputs, "--metrics", METRICS, *DIGITS, "--quiet"]
    done(*command, "--json", report, "--save-state", state)
    before = load(report), state.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        line = refused(*command, "--limit", 9, "--json", report, code=1)
        assert "No space left on device" in line
        assert "No space left" in refused(*command, "--limit", 9, "--save-state", state, code=1)
        stats = ["stats", inputs[2], "-o", tmp_path / "r.safetensors", *FD]
        assert "No space left" in refused(*stats, code=1)
    assert (load(report), state.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "s.safetensors"]


def test_statistics_go_into_safetensors(inputs: list[Any]) -> None:
    line = refused("stats", inputs[2], "-o", "x.npz", *FD, code=2)
    assert "--output must end in .safetensors" in line


def test_a_nearly_black_image_is_an_image(tmp_path: Path) -> None:
    """Alone in its batch too: its largest value of 1 does not make it a 0/1 mask."""
    for name in ("generated", "reference"):
        (tmp_path / name).mkdir()
        for i in range(4):
            level = 40 * i if name == "reference" else i == 2
            Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(tmp_path / name / f"{i}.png")
    words = ["evaluate", tmp_path / "generated", "--reference", tmp_path / "reference", "--metrics", "fd_digits_clip"]
    done(*words, "--batch-size", 1, "--workers", 0, "--quiet")


def test_outputs_are_probed_before_the_images_are_read(tmp_path: Path) -> None:
    words = ["evaluate", tmp_path / "nothing", "--reference", tmp_path, "--metrics", "fd_digits_clip"]
    assert "cannot be written" in refused(*words, "--json", tmp_path, code=2)
