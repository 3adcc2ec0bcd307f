"""The resize rules of the published tools, by name: each changes the number, so each is part of a protocol."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import interpolate


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
    return interpolate(x, size=(size, size), mode="bicubic", align_corners=False, antialias=True).clamp(0, 255)


RESIZE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "tf1-bilinear": tf1_bilinear,
    "bilinear": bilinear,
    "bilinear-antialias": bilinear_antialias,
    "bicubic-antialias": bicubic_antialias,
}
