"""Reads pickled numbers without running what a pickle may ask for.

A pickle is a program: it names functions and calls them. Here every name that NumPy writes stands for a function of
this module, all other names are refused when they are read, and arrays are built from their bytes by hand, so that
neither NumPy's own constructors nor anything else of this process can be reached.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

_TYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


class _Type:
    """Stands for a `numpy.dtype` of numbers."""

    __slots__ = ("name", "order")

    def __init__(self, name: object, *_: object):
        if name not in _TYPES:
            raise pickle.UnpicklingError(f"arrays of dtype {name!r} are refused, only numbers are read")
        self.name, self.order = str(name), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def array(self, shape: tuple[int, ...], data: Any, columns: bool) -> np.ndarray:
        dtype = np.dtype(self.order + self.name)
        data = bytes(data)
        if any(type(x) is not int or x < 0 for x in shape) or prod(shape) * dtype.itemsize != len(data):
            raise pickle.UnpicklingError(f"an array of shape {shape!r} does not have {len(data)} bytes")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if columns else "C")


class _Array:
    """Stands for a `numpy.ndarray` until its bytes have come."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, columns, data = state
        if type(dtype) is not _Type or type(data) is not bytes:
            raise pickle.UnpicklingError("arrays of objects are refused, only numbers are read")
        self.value = dtype.array(shape, data, bool(columns))


class _Call:
    """A name that a pickle may call; its attributes cannot be set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any] | None):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        if self._function is None:
            raise pickle.UnpicklingError("numpy.ndarray may not be called")
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the state of a function may not be set")


def _scalar(dtype: Any, data: Any) -> Any:
    if type(dtype) is not _Type:
        raise pickle.UnpicklingError(f"a scalar of {type(dtype).__name__} is refused")
    return dtype.array((), data, False).item()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> _Array:
    if order not in ("C", "F"):
        raise pickle.UnpicklingError(f"an array in the order {order!r} is refused")
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", bytes(data) if isinstance(data, bytearray) else data))
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding!r} is refused")
    return str(text).encode("latin1")


_NAMES: dict[tuple[str, str], Callable[..., Any] | None] = {
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: _Array() for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Call:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"{module}.{name} is refused, only arrays of numbers are read")
        return _Call(_NAMES[module, name])


def load_arrays(path: Path) -> dict[Any, Any]:
    """The dict in a pickle: plain values, arrays of numbers, and dicts of such; UnpicklingError for anything else."""
    with open(path, "rb") as file:
        content = _Unpickler(file).load()
    if type(content) is not dict:
        raise pickle.UnpicklingError(f"expected a dict, got {type(content).__name__}")
    return {k: {i: _plain(x) for i, x in v.items()} if type(v) is dict else _plain(v) for k, v in content.items()}


def _plain(x: Any) -> Any:
    if type(x) is _Array:
        return x.value
    if x is None or type(x) in (str, bytes, bool, int, float):
        return x
    raise pickle.UnpicklingError(f"{type(x).__name__} is refused, only arrays of numbers are read")
