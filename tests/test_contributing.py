"""The recipes of the contributor's page make metrics that work and are listed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / ".github/CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```python\n# (new file:|add to) ([\w/.]+)[^\n]*\n(.*?)```", PAGE, re.DOTALL)
FOLLOW = """
import doctest, importlib, sys
from typer.testing import CliRunner
import lightning_imgmetrics
from lightning_imgmetrics.cli.main import app
for name in sys.argv[1:]:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted and not results.failed, results
    print(lightning_imgmetrics.__file__, name)
print(CliRunner().invoke(app, ["metrics"]).output)
"""


def add(file: Path, lines: list[str]) -> None:
    """Imports go before the first import of the package, rows to the top of the table."""
    text = file.read_text()
    for line in lines:
        anchor = r"^from lightning_imgmetrics" if line.startswith("from ") else r"(?<=Metric\]\] = \{\n)"
        assert re.search(anchor, text, re.MULTILINE), f"{file} has no place for {line!r}"
        text = re.sub(anchor, lambda m, line=line: f"{line}\n{m[0]}", text, count=1, flags=re.MULTILINE)
    file.write_text(text)


def test_recipes(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "lightning_imgmetrics", tmp_path / "lightning_imgmetrics")
    modules = []
    for action, path, code in BLOCKS:
        file = tmp_path / path
        if action == "add to":
            add(file, code.splitlines())
        else:
            assert not file.exists()
            file.write_text(code)
            modules.append(path.removesuffix(".py").replace("/", "."))
    assert len(modules) == 3
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"}
    run = subprocess.run(
        [sys.executable, "-c", FOLLOW, *modules], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert str(tmp_path) in run.stdout
    for key, measures in (("cat_score", "exp"), ("mean_distance", "Squared distance"), ("cat_bench", "Share")):
        assert re.search(rf"\b{key}\b\W+{measures}", run.stdout), run.stdout


def test_the_page_names_what_there_is() -> None:
    package = ROOT / "lightning_imgmetrics"
    for name in re.findall(r"\b([a-z_]+)/(?=[ ,\n)])", PAGE.split("```")[1]):
        assert any(path.is_dir() for path in package.rglob(name)), f"there is no folder {name}"
