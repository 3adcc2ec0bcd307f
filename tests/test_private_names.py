"""Objects keep their private names to themselves: ours among each other, and those of host libraries to `_compat`."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import torchmetrics

import lightning_imgmetrics

PACKAGE = Path(lightning_imgmetrics.__file__).parent
# Names that begin with an underscore and are documented all the same.
DOCUMENTED = {"_asdict", "_fields", "_field_defaults", "_make", "_replace"}  # of named tuples: collections.namedtuple


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name.strip("_") != "" and name not in DOCUMENTED


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] != "_compat":
            yield path, ast.parse(path.read_text())


def own_names(node: ast.AST) -> set[str]:
    """The private names that a class, or a module outside of its classes, defines: functions, fields, attributes."""
    names = set()
    for child in ast.walk(node):
        match child:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                names.add(name)
    return names


def attribute_of(node: ast.AST) -> tuple[ast.expr, str] | None:
    """(object, name) of `object.name`, and of `getattr(object, "name")` and its like."""
    match node:
        case ast.Attribute(value=value, attr=name):
            return value, name
        case ast.Call(
            func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr"),
            args=[value, ast.Constant(value=str(name)), *_],
        ):
            return value, name
    return None


def foreign_reads(tree: ast.AST, own: frozenset[str] = frozenset()) -> Iterator[tuple[int, str]]:
    """(line, text) of each private attribute that is read of an object of another class."""
    for node in ast.iter_child_nodes(tree):
        names = own | own_names(node) if isinstance(node, ast.ClassDef) else own
        if found := attribute_of(node):
            value, name = found
            itself = ast.unparse(value) in ("self", "cls", "super()")
            if is_private(name) and not itself and name not in names:
                yield node.lineno, ast.unparse(node)
        yield from foreign_reads(node, frozenset(names))


def test_no_private_attribute_is_read_of_another_object() -> None:
    reads = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}" for path, tree in modules() for line, text in foreign_reads(tree)
    ]
    assert not reads, "\n".join(reads)


def test_no_private_name_is_imported() -> None:
    """Of our own modules and of others; modules such as `lightning_imgmetrics._images` are private to the package."""
    imported = []
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                home = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
                for name in (part for alias in node.names for part in f"{home}.{alias.name}".split(".")):
                    own_module = (PACKAGE / f"{name}.py").exists() or name == "_compat"
                    if is_private(name) and not (own_module and "lightning_imgmetrics" in ast.unparse(node)):
                        imported.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)}")
    assert not imported, "\n".join(imported)


@functools.cache
def names_of_host(base: type) -> set[str]:
    """The private names that a class of a host library defines, on the class or in its methods."""
    names = set(vars(base))
    with contextlib.suppress(OSError, TypeError):  # written in C
        names |= own_names(ast.parse(textwrap.dedent(inspect.getsource(base))))
    return {name for name in names if is_private(name)}


def host_names(cls: type) -> set[str]:
    """The private names of all host classes beneath a class."""
    own = ("builtins", lightning_imgmetrics.__name__)
    hosts = (base for base in cls.__mro__ if base.__module__.split(".")[0] not in own)
    return set().union(*map(names_of_host, hosts))


def test_no_private_name_of_a_host_is_used_by_a_subclass() -> None:
    used = []
    for info in pkgutil.walk_packages([str(PACKAGE)], f"{lightning_imgmetrics.__name__}."):
        if "._compat" in info.name or info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for cls in vars(module).values():
            if not isinstance(cls, type) or cls.__module__ != module.__name__:
                continue
            names = host_names(cls)
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls))) if names else ast.Module([], [])
            reads = {a[1] for node in ast.walk(tree) if (a := attribute_of(node))} | own_names(tree)
            used += [f"{info.name}.{cls.__qualname__}: {name}" for name in sorted(reads & names)]
    assert not used, "\n".join(used)


def test_these_tests_see_what_they_look_for() -> None:
    code = """
class Own:
    def same(self, other): return other._known + self._known
    def __init__(self): self._known = 0
def outside(own): return own._known, getattr(own, "_other"), own.__dict__, pair._replace(a=1)
"""
    assert [text for _, text in foreign_reads(ast.parse(code))] == ["own._known", "getattr(own, '_other')"]
    assert {"_computed", "_update_count"} <= names_of_host(torchmetrics.Metric)
