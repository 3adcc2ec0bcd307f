"""Pixelwise distances of image pairs, and the luma on which they are computed in super-resolution."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import ShapeError, ValueRangeError

CHUNK = 1 << 19  # pixels of one side filtered at a time: intermediate results stay in the CPU's cache


def studio_luma(images: Tensor) -> Tensor:
    """BT.601 luma in studio range: float RGB (n, 3, h, w) in [0, 1] -> (n, 1, h, w) in [16/255, 235/255].

    The Y of MATLAB's rgb2ycbcr and of BasicSR, for the PSNR-Y and SSIM-Y of super-resolution; not rounded.

    >>> (studio_luma(torch.ones(1, 3, 1, 1)) * 255).round(decimals=2)
    tensor([[[[235.]]]])
    """
    bind_shapes(images=(images, "n 3 h w"))
    red, green, blue = _promote("images", images).split(1, dim=1)
    return (65.481 * red + 128.553 * green + 24.966 * blue + 16) / 255


def mse(preds: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each image: float (n, c, ...) and the same -> (n,), in squared units of the images.

    >>> mse(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5))
    tensor([0.2500])
    """
    preds, target = check_pair(preds, target)
    return (preds - target).square().flatten(1).mean(1)


def psnr(preds: Tensor, target: Tensor, *, data_range: float = 1.0, base: float = 10.0) -> Tensor:
    """Peak signal-to-noise ratio of each image: float (n, c, ...) and the same -> (n,), infinite for equal images.

    10 log(data_range^2 / mse) to `base`, so dB for base 10; `data_range` is the largest minus the smallest value that
    an image can have. Its mean over images is not the PSNR of the pooled error, which is lower.

    >>> psnr(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.1)).round(decimals=2)
    tensor([20.])
    """
    check_positive(data_range=data_range)
    if not base > 1:
        raise ValueRangeError(f"`base` must be above 1, got {base}")
    return (2 * math.log(data_range) - mse(preds, target).log()) * (10 / math.log(base))


def check_pair(preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides in the wider of their types, at least float32; ShapeError or ValueRangeError unless they match."""
    if preds.ndim < 2 or 0 in preds.shape[1:]:
        raise ShapeError(f"`preds` must be (n, c, ...) and not empty, got shape {tuple(preds.shape)}")
    if target.shape != preds.shape:
        raise ShapeError(f"`target` must have the shape of `preds`, {tuple(preds.shape)}, got {tuple(target.shape)}")
    preds, target = _promote("preds", preds), _promote("target", target)
    dtype = torch.promote_types(preds.dtype, target.dtype)
    return preds.to(dtype), target.to(dtype)


def channel_chunks(preds: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The channels of both sides (n, c, ...), in chunks (m, 1, ...) that fit the CPU's cache."""
    x, y = (side.flatten(0, 1)[:, None] for side in (preds, target))
    size = max(1, CHUNK // x.shape[1:].numel())
    return zip(x.split(size), y.split(size), strict=True)


def check_positive(**named: float) -> None:
    """ValueRangeError for a parameter that is not positive and finite."""
    for name, value in named.items():
        if not 0 < value < math.inf:
            raise ValueRangeError(f"`{name}` must be positive, got {value}")


def _promote(name: str, x: Tensor) -> Tensor:
    """x in at least float32; ValueRangeError for integers."""
    if not x.is_floating_point():
        raise ValueRangeError(f"`{name}` must be float, got {x.dtype}")
    return x.to(torch.promote_types(x.dtype, torch.float32))
