"""`--set KEY.ARGUMENT=VALUE`: which arguments of a metric may be set, and how a text becomes their value."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lightning_imgmetrics.cli.request import UsageError, parse_list
from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.presets import PRESETS
from lightning_imgmetrics.registry import METRICS

_PLAIN = (bool, int, float, str, Path)
_CONTAINERS = (tuple, list, Sequence, Mapping, dict)
_WORDS = {"none": None, "true": True, "false": False}


@cache
def arguments(key: str) -> dict[str, inspect.Parameter]:
    """The constructor arguments of a key's metric that a caller may give, with their types; no constructor is run.

    They are the parameters of its class and those of its bases that `**kwargs` reaches, without what the table gives by
    position (what it gives by name is a default) and what a constructor on the way passes to the next one itself.
    """
    maker: Any = METRICS[key]
    kind: type = getattr(maker, "func", maker)
    bound = set(list(inspect.signature(kind).parameters)[: len(maker.args)] if isinstance(maker, partial) else ())
    constructors = [c.__init__ for c in kind.__mro__ if issubclass(c, ImageMetric) and "__init__" in vars(c)]
    free: dict[str, inspect.Parameter] = {}
    for init, following in zip(constructors, [*constructors[1:], None], strict=True):
        parameters, hints = inspect.signature(init).parameters.values(), _hints(init)
        for p in list(parameters)[1:]:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in bound:
                free.setdefault(p.name, p.replace(annotation=hints[p.name]))
        if following is None or not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
        bound |= _passed_on(init, following)
    return free


def _hints(init: Callable[..., None]) -> dict[str, Any]:
    """The annotations; a name that is imported for type checkers alone stands for no type that a text can be."""
    unknown: dict[str, Any] = {}
    while True:
        try:
            return get_type_hints(init, localns=unknown)
        except NameError as error:
            unknown[str(error.name)] = object


def _passed_on(init: Callable[..., None], following: Callable[..., None]) -> set[str]:
    """The parameters of the `following` constructor that `init` fills, as its source says."""
    positional = [p.name for p in inspect.signature(following).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    names: set[str] = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(init)))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "__init__":
            values = [x for x in node.args if not isinstance(x, ast.Starred) and ast.unparse(x) != "self"]
            names |= {*positional[1 : 1 + len(values)], *(k.arg for k in node.keywords if k.arg)}
    return names


def offered(key: str) -> dict[str, Any]:
    """The arguments of a key that can be typed -> the part of their type that a text can be."""
    kinds = {name: _plain(parameter.annotation) for name, parameter in arguments(key).items()}
    return {name: kind for name, kind in kinds.items() if kind not in (None, types.NoneType)}


def _plain(kind: Any) -> Any:
    """A type without the members of its unions that only Python can give; None if none is left."""
    origin, parts = get_origin(kind), [_plain(part) for part in get_args(kind) if part is not Ellipsis]
    if kind in _PLAIN or kind is types.NoneType or origin is Literal:
        return kind
    if origin in (Union, types.UnionType):
        members = tuple(part for part in parts if part is not None)
        return Union[members] if members else None  # noqa: UP007
    if origin in _CONTAINERS and parts and None not in parts:
        return origin[(parts[0], ...) if get_args(kind)[-1] is Ellipsis else tuple(parts)]
    return None


def parse_settings(settings: Iterable[str], keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """key -> arguments, of "KEY.ARGUMENT=VALUE", in which KEY may be a preset."""
    values: dict[str, dict[str, Any]] = {key: {} for key in keys}
    for setting in settings:
        target, equals, text = setting.partition("=")
        name, _, argument = target.partition(".")
        if not (equals and argument):
            raise UsageError(f"--set must be KEY.ARGUMENT=VALUE, such as kid.subset_size=100, got {setting!r}")
        chosen = [key for key in PRESETS.get(name, (name,)) if key in values]
        if not chosen:
            raise UnknownName("--set", name, keys)
        for key in chosen:
            values[key][argument] = _value(key, argument, text)
    return values


def _value(key: str, argument: str, text: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    kinds = offered(key)
    if argument not in kinds and argument in arguments(key):
        raise UsageError(f"--set {key}.{argument} must be given in Python: it is no plain value")
    if argument not in kinds:
        raise UnknownName(f"--set {key}.", argument, kinds)
    adapter = TypeAdapter(kinds[argument])
    for value in _readings(text):
        try:
            return adapter.validate_json(json.dumps(value), strict=True)
        except (ValidationError, TypeError):
            continue
    try:
        return adapter.validate_strings(text)  # such as "yes"
    except ValidationError as error:
        raise UsageError(f"--set {key}.{argument} must be {_described(kinds[argument])}, got {text!r}") from error


def _readings(text: str) -> Iterator[Any]:
    """What a text may mean, the most particular first: a literal of Python, a list, the text itself, a list of it."""
    value = _literal(text)
    if value != text:
        yield value
    if "," in text:
        yield [_literal(part) for part in parse_list(text)]
        yield parse_list(text)
    yield text
    yield [value]
    yield [text]


def _literal(text: str) -> Any:
    """The value of a literal, or of a word such as "none"; else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return _WORDS.get(text.lower(), text)


def _described(kind: Any) -> str:
    """A plain type in words: "float or (float, float) or none"."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(word for part in parts for word in _described(part).split(" or ")))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is tuple and parts[-1] is not Ellipsis:
        return f"({', '.join(map(_described, parts))})"
    if origin in (dict, Mapping):
        return "{name: value, ...}"
    if origin is not None:
        return f"a list of {_described(parts[0])}"
    return "none" if kind is types.NoneType else "a path" if kind is Path else kind.__name__
