"""Folders of small images and prompts, and the command line called in this process."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import random_images
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from lightning_imgmetrics.cli.main import app

N, N_REAL = 22, 26
# Distances, features, scores per sample, sums by prompt: every kind of state.
METRICS = "fd_digits_clip,precision,clip_score,lpips_diversity"
DIGITS = [
    *("--network", "digits-clip", "--workers", "0", "--batch-size", "4", "--device", "cpu"),
]


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


def imgmetrics(*arguments: object) -> Answer:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def done(*arguments: object) -> Answer:
    """The answer of a command that must succeed."""
    answer = imgmetrics(*arguments)
    assert answer.code == 0, answer.err
    return answer


def refused(*arguments: object, code: int) -> str:
    """The one line of a command that must fail."""
    answer = imgmetrics(*arguments)
    assert answer.code == code, (answer.code, answer.out, answer.err)
    assert "Traceback" not in answer.err
    lines = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, answer.err
    return lines[0]


def folder(path: Path, images: Tensor, names: list[str] | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for i, x in enumerate(images):
        file = path / (f"{i:03}.png" if names is None else names[i])
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(file)
    return path


def make_inputs(root: Path) -> list[Any]:
    """Generated images, reference and prompts below `root`, as arguments of `evaluate`."""
    folder(root / "generated", random_images(N, 12, 0))
    folder(root / "reference", random_images(N_REAL, 12, 1))
    (root / "prompts.txt").write_text("\n".join(f"a handwritten {i % 5}" for i in range(N)))
    return [root / "generated", "--reference", root / "reference", "--prompts", root / "prompts.txt"]


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def values(path: Path) -> dict[str, float]:
    return {name: result["value"] for name, result in load(path)["results"].items()}


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))
