"""Hashes of sample ids, tensors and texts, the same in every process."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def uniform_hash(ids: Tensor, seed: int = 0) -> Tensor:
    """Sample ids (n,) int64 -> float64 (n,) in [0, 1), multiples of 2^-53: splitmix64 (Steele et al. 2014).

    A bijection before the 11 low bits are dropped, so two ids collide with probability 2^-53.

    >>> uniform_hash(torch.tensor([0, 1, 2]))
    tensor([0.8833, 0.5666, 0.5912], dtype=torch.float64)
    """
    x = ids.long() + _signed(0x9E3779B97F4A7C15 * (seed + 1))
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    x = x ^ _shift(x, 31)
    return _shift(x, 11).double() * 2.0**-53


def fingerprint(x: Tensor) -> tuple[object, ...]:
    """Shape, dtype and a checksum of the bits of a tensor (n, ...), at the cost of one pass over it."""
    rows = x.detach().reshape(len(x), -1) if x.ndim > 1 else x.detach().reshape(1, -1)
    bits = rows.contiguous().view(torch.uint8 if rows.element_size() % 4 else torch.int32)
    weights = uniform_hash(torch.arange(len(rows), device=x.device)).mul(2.0**53).long()
    return tuple(x.shape), x.dtype, int((bits.sum(1, dtype=torch.int64) * (2 * weights + 1)).sum())


def text_key(text: str) -> float:
    """A text -> float64 in [0, 1), from its sha256."""
    return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 11) * 2.0**-53


def _signed(x: int) -> int:
    x &= _MASK
    return x - (1 << 64) if x >> 63 else x


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
