"""The resize rules of the published tools, by name: each changes the number, so each is part of a protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

# By which OpenAI's CLIP and all that descends from it normalize images in [0, 1].
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def tf1_bilinear(x: Tensor, size: int) -> Tensor:
    """TensorFlow 1: no half-pixel centres, no antialiasing. What the FID paper and torch-fidelity use."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    return interpolate_bilinear_2d_like_tensorflow1x(x, size=(size, size), align_corners=False)


def bilinear(x: Tensor, size: int) -> Tensor:
    """Half-pixel centres, no antialiasing: pytorch-fid."""
    return interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


def bilinear_antialias(x: Tensor, size: int) -> Tensor:
    """torchmetrics since 1.8."""
    return interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


def bicubic_antialias(x: Tensor, size: int) -> Tensor:
    """clean-fid: PIL's bicubic on float channels, clipped to 0..255 and not rounded again (Parmar et al. 2022)."""
    return bicubic_antialias_unclamped(x, size).clamp(0, 255)


def bicubic_antialias_unclamped(x: Tensor, size: int) -> Tensor:
    """EDM2's DINOv2: bicubic may overshoot 0..255, and that is kept (Karras et al. 2024)."""
    return interpolate(x, size=(size, size), mode="bicubic", align_corners=False, antialias=True)


def bicubic_antialias_rounded(x: Tensor, size: int) -> Tensor:
    """PIL's bicubic on 8-bit images: dgm-eval, CMMD.

    PIL stores 8 bits after the rows and again after the columns. This order is that of all published numbers; Pillow 13
    begins tall images with the columns, which moves a fifth of their pixels by one level.
    """
    return bicubic_rounded(bicubic_rounded(x, (x.shape[2], size)), (size, size))


def bicubic_rounded(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """One pass of PIL's bicubic: images (n, c, h, w) in 0..255 at another height or another width, in whole levels."""
    if x.shape[2:] == shape:
        return x
    x = interpolate(x, size=shape, mode="bicubic", align_corners=False, antialias=True)
    return (x + 0.5).floor().clamp(0, 255)


def short_side_rounded(x: Tensor, size: int) -> Tensor:
    """PIL's bicubic of 8-bit images (n, c, h, w): the short side to `size`, then the middle square: OpenAI's CLIP.

    Columns that the crop leaves out are not made.
    """
    height, width, top, left = _cover(x, size)
    x = bicubic_rounded(x, (x.shape[2], width))[..., left : left + size]
    return bicubic_rounded(x, (height, size))[..., top : top + size, :]


def _cover(x: Tensor, size: int) -> tuple[int, int, int, int]:
    """(height, width) of images whose short side becomes `size`, and (top, left) of their middle square."""
    short = min(x.shape[2:])
    height, width = (int(size * length / short) for length in x.shape[2:])
    return height, width, round((height - size) / 2), round((width - size) / 2)


def center_square(x: Tensor) -> Tensor:
    """The middle of images (n, c, h, w), as wide and high as their short side."""
    side = min(x.shape[2:])
    top, left = ((length - side) // 2 for length in x.shape[2:])
    return x[:, :, top : top + side, left : left + side]


def short_side_bicubic(x: Tensor, size: int, *, antialias: bool) -> Tensor:
    """torchvision's Resize and CenterCrop of float images (n, c, h, w): the short side to `size`, then the middle.

    HPSv2's published numbers come from the time when torchvision did not antialias tensors (before 0.17).
    """
    height, width, top, left = _cover(x, size)
    x = interpolate(x, size=(height, width), mode="bicubic", align_corners=False, antialias=antialias)
    return x[:, :, top : top + size, left : left + size]


def standardize(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std by channel, of images (n, c, h, w) in [0, 1]; no tensor of constants waits for the device."""
    return torch.stack([(x[:, i] - m) / s for i, (m, s) in enumerate(zip(mean, std, strict=True))], 1)


RESIZE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "tf1-bilinear": tf1_bilinear,
    "bilinear": bilinear,
    "bilinear-antialias": bilinear_antialias,
    "bicubic-antialias": bicubic_antialias,
    "bicubic-antialias-unclamped": bicubic_antialias_unclamped,
    "bicubic-antialias-rounded": bicubic_antialias_rounded,
}
