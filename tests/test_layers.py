"""The layers of the package, and what importing it costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_imgmetrics"
ROWS = (
    ("errors", "result", "_compat", "_shapes", "_precision", "_images", "_distributed", "_files", "_version"),
    ("functional", "states", "models", "data", "report"),
    ("metrics",),
    ("judges",),
    ("prompt_benchmarks",),
    ("per_prompt", "presets"),
    ("registry",),
    ("suite", "scoring"),
    ("callback", "cli", "apps"),
    ("__main__",),
)
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}


def imports() -> Iterator[tuple[Path, str]]:
    """(module, part of the package that it imports), for every import anywhere in the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == PACKAGE / "__init__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                names = [node.module or ""]
            yield from ((path, name.split(".")[1]) for name in names if name.startswith("lightning_imgmetrics."))


def test_imports_point_down() -> None:
    for path, other in imports():
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own != other:
            lower = ROW_OF[other] < ROW_OF[own] or ROW_OF[own] == ROW_OF[other] == 0
            assert lower, f"{path.relative_to(PACKAGE)} may not import {other}"


def test_importing_the_package_loads_no_framework() -> None:
    code = "import sys, lightning_imgmetrics; print(sorted({'torch', 'transformers', 'lightning'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_public_name_resolves() -> None:
    package = importlib.import_module("lightning_imgmetrics")
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) == set(package._HOME_OF)
    with pytest.raises(AttributeError, match="no attribute 'FID'"):
        _ = package.FID
