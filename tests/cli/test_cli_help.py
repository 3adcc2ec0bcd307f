"""Help is quick and loads no framework; lists of metrics and networks."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_parts import done, imgmetrics, refused
from rich.console import Console

from lightning_imgmetrics.cli.console import Terminal
from lightning_imgmetrics.models.registry import MODELS
from lightning_imgmetrics.registry import METRICS

_HELP = """
import sys
import time
from lightning_imgmetrics.cli.main import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    loaded = sorted({"torch", "numpy", "transformers", "lightning", "scipy"} & set(sys.modules))
    print("loaded:", loaded)
    sys.exit(end.code)
"""
COMMANDS = ("evaluate", "stats", "merge", "compare", "models", "metrics")


def test_help_loads_no_framework() -> None:
    words = [sys.executable, "-c", _HELP, "evaluate", "--help"]
    answer = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "loaded: []" in answer.stdout
    assert "Usage" in answer.stdout


def test_help_names_every_command() -> None:
    shown = done("--help").out
    assert all(name in shown for name in COMMANDS)
    assert "where" in done("models", "--help").out


def test_wrong_words_are_no_traceback() -> None:
    assert imgmetrics("evaluat").code == 2
    assert imgmetrics("evaluate").code == 2
    assert imgmetrics("evaluate", "x").code == 2  # --metrics is missing


def test_table_of_metrics() -> None:
    lines = done("metrics", "--markdown").out.splitlines()
    assert lines[:2] == ["| key | class | measures | better | network |", "| --- | --- | --- | --- | --- |"]
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]}
    assert list(cells) == list(METRICS)
    assert [cells["fid"][i] for i in (1, 3, 4)] == ["FrechetInceptionDistance", "lower", "inception"]
    assert [cells[key][4] for key in ("fd_digits_clip", "lpips", "recall", "win_rate")] == [
        *("digits-clip", "lpips-alex", "inception", "")
    ]
    assert [cells[key][4] for key in ("genai_bench", "unified_reward", "geneval", "tifa", "rubric")] == [
        *("zhiqiulin/clip-flant5-xxl", "CodeGoat24/UnifiedReward-2.0-qwen35-9b"),
        *("facebook/mask2former-swin-small-coco-instance", "", ""),  # the last two have no judge of their own
    ]
    assert cells["coverage"][3] == "higher"
    assert all(cell[2] for cell in cells.values())
    assert all(key in done("metrics").out for key in METRICS)


def test_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    out = done("models", "list").out
    assert all(name in out for name in MODELS)
    path = done("models", "where", "digits-clip").out.strip()
    assert (Path(path) / "model.safetensors").is_file()
    assert done("models", "prefetch", "digits-clip").out.strip() == f"digits-clip: {path}"
    lines = done("models", "where").out.splitlines()
    assert lines[-1] == f"digits-clip: {path}"
    assert "inception: not on this machine" in lines
    answer = imgmetrics("models", "where", "inception")
    assert (answer.code, answer.out) == (1, "")
    assert "imgmetrics models prefetch inception" in answer.err
    assert "weights-inception-2015-12-05-6726825d.pth" in refused("models", "prefetch", "inception", code=1)


def test_progress_where_somebody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    for rank, quiet in ((0, False), (1, False), (0, True)):
        terminal = Terminal(rank=rank, quiet=quiet)
        terminal._err = Console(file=shown, force_terminal=True, width=120)
        with terminal.bar("generated", 80, 20) as advance:
            for _ in range(3):
                advance(20)
                time.sleep(0.02)
        if (rank, quiet) == (0, False):
            assert "generated" in shown.getvalue()
            assert "80/80" in shown.getvalue()
            assert "images/s" in shown.getvalue()
        else:
            assert not shown.getvalue()
        shown.truncate(0)
        shown.seek(0)
