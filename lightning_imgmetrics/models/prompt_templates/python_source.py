"""Texts in a Python source, read from its syntax tree: nothing of it is run."""

from __future__ import annotations

import ast
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from lightning_imgmetrics.errors import WeightsMismatch

_Parts: TypeAlias = "list[str | ast.Name]"  # constant texts, and the placeholders between them
_Values: TypeAlias = "dict[str, _Parts | ast.AST]"  # by dotted name; a node where there is no text


def read_texts(source: str, symbols: Sequence[str], slots: Sequence[str], place: str) -> tuple[str, str]:
    """The texts that `source` has under `symbols`, joined by newlines: without and with the placeholders `slots`.

    A symbol is "NAME", "Class.NAME", "NAME.key" of a dict, "function.name", or "function.return". Read are constants,
    f-strings whose fields are bare names, +, +=, and "...".join([...]). A name among `slots` becomes "{name}" in the
    second text and nothing in the first; any other stands for the text that the function or module gave it before.
    WeightsMismatch, which names `place`: it cannot be parsed, has no such symbol, or would have to be run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in a source are its author's concern
            values = _values(ast.parse(source), slots)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise WeightsMismatch(f"{place} cannot be read as Python: {error}") from error
    texts = [_text(values, symbol, slots, place) for symbol in symbols]
    constant = ("".join(part for part in parts if isinstance(part, str)) for parts in texts)
    whole = ("".join(part if isinstance(part, str) else f"{{{part.id}}}" for part in parts) for parts in texts)
    return "\n".join(constant), "\n".join(whole)


def _text(values: _Values, symbol: str, slots: Sequence[str], place: str) -> _Parts:
    if symbol not in values:
        texts = [name for name, value in values.items() if isinstance(value, list)]
        raise WeightsMismatch(f"{place} has no {symbol!r}; its texts are {', '.join(texts) or 'none'}")
    value = values[symbol]
    if isinstance(value, list):
        return value
    kinds = {"Call": "a call", "FormattedValue": "a field that is no bare name"}
    kind = kinds.get(type(value).__name__, f"a {type(value).__name__} node")
    if isinstance(value, ast.Name):
        kind = f"{value.id!r}, which is neither a text nor one of the placeholders {list(slots)}"
    raise WeightsMismatch(
        f"{symbol!r} in {place} must be constant texts and f-strings of bare names, joined by + or join: sources are"
        f" not run, and line {getattr(value, 'lineno', 0)} has {kind}"
    )


def _values(tree: ast.Module, slots: Sequence[str]) -> _Values:
    """What each name of the module, of its classes and functions, and each key of its dicts has at the end.

    A body is read in its order, after that in which it lies; what is assigned in a branch or loop is not read.
    """
    values: _Values = {}
    bodies = deque([(tree.body, "")])
    while bodies:
        body, scope = bodies.popleft()
        for statement in body:
            if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
                inner = f"{scope}{statement.name}."
                bodies.append((statement.body, inner))
                if isinstance(statement, ast.FunctionDef):  # arguments hide the module's names
                    nodes = ast.walk(statement.args)
                    values.update((inner + node.arg, node) for node in nodes if isinstance(node, ast.arg))
            for name, value in _assigned(statement):
                for entry, item in _entries(scope + name, value):
                    values[entry] = _parts(item, values, scope, slots)
    return values


def _assigned(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """The names that a statement gives a value, which for += is the sum and for return has the name "return"."""
    if isinstance(statement, ast.Return) and statement.value is not None:
        yield "return", statement.value
    elif isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        before = ast.copy_location(ast.Name(statement.target.id), statement)
        yield before.id, ast.copy_location(ast.BinOp(before, statement.op, statement.value), statement)
    elif isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
        for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
            if isinstance(target, ast.Name):
                yield target.id, statement.value


def _entries(name: str, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    yield name, value
    if isinstance(value, ast.Dict):
        for key, item in zip(value.keys, value.values):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield from _entries(f"{name}.{key.value}", item)


def _parts(
    value: ast.expr, values: Mapping[str, _Parts | ast.AST], scope: str, slots: Sequence[str]
) -> _Parts | ast.AST:
    """The parts of a text, or the first node that is none."""
    parts: _Parts = []
    nodes: list[ast.expr] = [value]
    while nodes:
        match node := nodes.pop():
            case ast.Constant(value=str(text)):
                parts.append(text)
            case ast.BinOp(op=ast.Add()):
                nodes += [node.right, node.left]
            case ast.JoinedStr():
                nodes += node.values[::-1]
            case ast.FormattedValue(value=ast.Name(), conversion=-1, format_spec=None):
                nodes.append(node.value)
            case ast.Call(
                func=ast.Attribute(value=ast.Constant(value=str()) as glue, attr="join"),
                args=[ast.List(elts=items) | ast.Tuple(elts=items)],
                keywords=[],
            ):
                nodes += [part for item in items[::-1] for part in (item, glue)][:-1]
            case ast.Name(id=name) if name in slots:
                parts.append(node)
            case ast.Name(id=name) if isinstance(earlier := values.get(scope + name, values.get(name)), list):
                parts += earlier
            case _:
                return node
    return parts
