"""What the README shows runs."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import pytest
from helpers.openai_server import Body, Said, serving

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def judge(body: Body) -> Said:
    """Scores that hang on the image, and always the first of two pictures."""
    said = body["messages"][-1]["content"]
    shown = "".join(part["image_url"]["url"] for part in said if part["type"] == "image_url")
    pair = sum(part["type"] == "image_url" for part in said) == 2
    verdict = {"winner": 1} if pair else {"score": 1 + zlib.crc32(shown.encode()) % 5}
    return Said(json.dumps({"reasoning": "what is seen", **verdict}))


def test_snippets_without_a_trainer_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")
    names = {"__name__": "readme"}
    with serving(judge) as server:
        for snippet in SNIPPETS[1:]:
            here = snippet.replace("http://localhost:8000/v1", server.url)
            exec(compile(here, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert re.search(r"^fd fd = \d", printed, re.MULTILINE)
    assert "network:digits-clip" in printed
    assert re.search(r"^tensor\(.*dtype=torch.float64\)$", printed, re.MULTILINE | re.DOTALL)
    assert "'best_of_4'" in printed
    assert re.search(r"^rubric = 0\.\d+ .* what is seen", printed, re.MULTILINE | re.DOTALL)
    assert "spearman" in printed
    assert "'position_bias': 1.0" in printed
    assert (tmp_path / "shard-0.safetensors").is_file()


def test_callback_snippet_is_valid_and_short() -> None:
    compile(SNIPPETS[0], "README.md", "exec")
    assert len([line for line in SNIPPETS[0].splitlines() if line.strip()]) <= 17


def test_ci_runs_the_test_command() -> None:
    commands = re.findall(r"```bash\n(.*?)\n```", README)
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci/run").read_text()


def test_metric_table_is_the_table() -> None:
    from lightning_imgmetrics import METRICS

    keys = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?`) \| `[A-Z]", README, re.MULTILINE)))
    assert sorted(keys) == sorted(METRICS)
