"""The layers of the package, its public names, and what importing it costs."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_imgmetrics
from lightning_imgmetrics import METRICS

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
MOST_BASES = 4  # classes of ours beneath a metric


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module of the package, or name in one, that code imports at any depth, but for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import: {ast.unparse(node)}"
            yield from (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))
        yield from imports(node)


@functools.cache
def graph() -> dict[str, set[str]]:
    """module -> the modules that it imports, their packages included.

    Public names, of the package and of `functional`, are loaded lazily: their stubs may name what stands above them.
    """
    paths = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items() if name != "__init__"}
    found = {name: set(imports(ast.parse(path.read_text()))) for name, path in modules.items()}
    found = {name: {x.removeprefix("lightning_imgmetrics.") for x in others} for name, others in found.items()}
    return {name: {x for x in others if x in modules and x != name} for name, others in found.items()}


def test_imports_point_down() -> None:
    for module, others in graph().items():
        for own, other in ((module.split(".")[0], other.split(".")[0]) for other in others):
            lower = ROW_OF[other] < ROW_OF[own] or ROW_OF[own] == ROW_OF[other] == 0
            assert own == other or lower, f"{module} may not import {other}"


def test_imports_make_no_circle() -> None:
    try:
        graphlib.TopologicalSorter(graph()).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_a_metric_stands_on_few_classes() -> None:
    deep = {}
    for key, maker in METRICS.items():
        _, *bases = (maker.func if isinstance(maker, functools.partial) else maker).__mro__
        ours = [base.__name__ for base in bases if base.__module__.startswith(lightning_imgmetrics.__name__)]
        if len(ours) > MOST_BASES:
            deep[key] = ours
    assert not deep


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
