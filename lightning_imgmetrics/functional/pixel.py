"""Distances of paired images, pixel by pixel, and the luma on which super-resolution measures them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import ShapeError, ValueRangeError

CHUNK = 1 << 19  # pixels of one side filtered at a time: what is computed of them stays in the cache


def luma(images: Tensor) -> Tensor:
    """BT.601 luma in studio range: float RGB (n, 3, h, w) in [0, 1] -> (n, 1, h, w) in [16/255, 235/255].

    The Y of MATLAB's rgb2ycbcr and of BasicSR, on which super-resolution reports PSNR-Y and SSIM-Y; not rounded.
    """
    bind_shapes(images=(images, "n 3 h w"))
    red, green, blue = _wide("images", images).split(1, dim=1)
    return (65.481 * red + 128.553 * green + 24.966 * blue + 16) / 255


def mse(preds: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each image: float (n, c, ...) and the same -> (n,), in squared units of the images."""
    preds, target = check_pair(preds, target)
    return (preds - target).square().flatten(1).mean(1)


def psnr(preds: Tensor, target: Tensor, *, data_range: float = 1.0, base: float = 10.0) -> Tensor:
    """Peak signal-to-noise ratio of each image: float (n, c, ...) and the same -> (n,), infinite for equal images.

    10 log(data_range^2 / mse) to `base`, so dB for base 10; `data_range` is the largest value minus the smallest that
    an image can have. The mean of it over images is not the PSNR of the pooled error, which is lower.
    """
    check_positive(data_range=data_range)
    if not base > 1:
        raise ValueRangeError(f"`base` must be above 1, got {base}")
    return (2 * math.log(data_range) - mse(preds, target).log()) * (10 / math.log(base))


def check_pair(preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides in the wider of their types, at least float32; ShapeError or ValueRangeError unless they pair up."""
    if preds.ndim < 2 or 0 in preds.shape[1:]:
        raise ShapeError(f"`preds` must be (n, c, ...) and not empty, got shape {tuple(preds.shape)}")
    if target.shape != preds.shape:
        raise ShapeError(f"`target` must have the shape of `preds`, {tuple(preds.shape)}, got {tuple(target.shape)}")
    preds, target = _wide("preds", preds), _wide("target", target)
    dtype = torch.promote_types(preds.dtype, target.dtype)
    return preds.to(dtype), target.to(dtype)


def planes(preds: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The channels of (n, c, ...) as chunks (m, 1, ...) of both sides."""
    x, y = (side.flatten(0, 1)[:, None] for side in (preds, target))
    size = max(1, CHUNK // x.shape[1:].numel())
    return zip(x.split(size), y.split(size), strict=True)


def check_positive(**named: float) -> None:
    """ValueRangeError for a parameter that is not positive and finite."""
    for name, value in named.items():
        if not 0 < value < math.inf:
            raise ValueRangeError(f"`{name}` must be positive, got {value}")


def _wide(name: str, x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise ValueRangeError(f"`{name}` must be float, got {x.dtype}")
    return x.to(torch.promote_types(x.dtype, torch.float32))
