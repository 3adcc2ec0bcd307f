"""The layers of the package, its public names, and what importing it costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_imgmetrics

PACKAGE = Path(__file__).parents[1] / "lightning_imgmetrics"
FOUNDATIONS = ("errors", "result", "_compat", "_shapes", "_precision", "_images", "_distributed", "_files", "_lazy")
ROWS = (
    (*FOUNDATIONS, "_version"),
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
MOST_FILES = 22  # in one folder


def imports() -> Iterator[tuple[Path, str]]:
    """(module, part of the package that it imports), for every import anywhere in the package.

    The public names, of the package and of `functional`, are loaded lazily: their stubs may name what stands above.
    """
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


def test_folders_stay_small() -> None:
    for folder in (PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir())):
        files = len(list(folder.glob("*.py")))
        assert files <= MOST_FILES, f"{folder.relative_to(PACKAGE.parent)} holds {files} modules"


@pytest.mark.parametrize("name", ["lightning_imgmetrics", "lightning_imgmetrics.functional"])
def test_importing_loads_no_framework(name: str) -> None:
    code = f"import sys, {name}; print(sorted({{'torch', 'numpy', 'transformers', 'lightning'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("package", [lightning_imgmetrics, lightning_imgmetrics.functional])
def test_every_public_name_resolves(package: object) -> None:
    """Whatever was imported before: a module of that name would take its place."""
    name = package.__name__
    modules = {path.stem for path in Path(package.__file__).parent.glob("*.py")}
    for public in dir(package):
        value = getattr(package, public)
        assert value is importlib.import_module(f"{name}.{public}") if public in modules else value is not None
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'FID'"):
        _ = package.FID
