"""Shape checks in the notation of the docstrings."""

from __future__ import annotations

from torch import Tensor

from lightning_imgmetrics.errors import ShapeError


def bind_shapes(**named: tuple[Tensor, str]) -> dict[str, int]:
    """Check tensors against axis names such as "n d"; return the size of each axis.

    A number in place of a name requires that size: `images=(x, "n 3 h w")`. ShapeError if a tensor does not match.

    >>> import torch
    >>> bind_shapes(images=(torch.zeros(2, 3, 4, 5), "n 3 h w"))["w"]
    5
    """
    sizes: dict[str, int] = {}
    for name, (x, axes) in named.items():
        if x.ndim != len(axes.split()):
            raise ShapeError(f"`{name}` must be ({axes}), got shape {tuple(x.shape)}")
        for axis, size in zip(axes.split(), x.shape, strict=True):
            expected = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
            if size != expected:
                raise ShapeError(f"`{name}` must be ({axes}) with {axis} = {expected}, got shape {tuple(x.shape)}")
    return sizes
