"""Light and color of each image, and tests for blank and black images."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import ShapeError, ValueRangeError

# Thresholds halfway between levels of 8-bit images, so that rounding does not decide on which side a level falls.
ONE_LEVEL, TWO_LEVELS = 1.5 / 255, 2.5 / 255


def luma(images: Tensor) -> Tensor:
    """Full-range luma 0.299 R + 0.587 G + 0.114 B: float (n, 3, h, w) in [0, 1] -> (n, h, w) in [0, 1].

    Grey pixels keep their value exactly. At least float32. ShapeError for other axes or an image without pixels,
    ValueRangeError for integer images. Source: ITU-R BT.601.

    >>> luma(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1))
    tensor([[[0.2990]]])
    """
    red, green, blue = _channels(images)
    return green + 0.299 * (red - green) + 0.114 * (blue - green)


def exposure(images: Tensor) -> Tensor:
    """Mean luma of each image: float (n, 3, h, w) in [0, 1] -> (n,) in [0, 1].

    >>> exposure(torch.full((1, 3, 2, 2), 0.25))
    tensor([0.2500])
    """
    return luma(images).flatten(1).mean(1)


def contrast(images: Tensor) -> Tensor:
    """RMS contrast, the standard deviation of luma: float (n, 3, h, w) in [0, 1] -> (n,) in [0, 0.5] (Peli 1990).

    >>> contrast(torch.tensor([0.0, 1.0]).expand(1, 3, 2, 2))
    tensor([0.5000])
    """
    return population_variance(luma(images).flatten(1)).sqrt()


def clipped_fraction(images: Tensor) -> Tensor:
    """Share of pixels clipped in the shadows or highlights: float (n, 3, h, w) in [0, 1] -> (n,) in [0, 1].

    A pixel counts if its luma is below 1.5 / 255 or above 253.5 / 255, as the 8-bit greys 0, 1, 254 and 255 are.

    >>> clipped_fraction(torch.tensor([0.0, 0.5, 0.5, 1.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2))
    tensor([0.5000])
    """
    y = luma(images).flatten(1)
    return ((y < ONE_LEVEL) | (y > 1 - ONE_LEVEL)).to(y).mean(1)


def saturation(images: Tensor) -> Tensor:
    """Mean HSV saturation: float (n, 3, h, w) in [0, 1] -> (n,) in [0, 1].

    (max - min) / max of the channels of a pixel; 0 for a black one (Smith 1978).

    >>> saturation(torch.tensor([1.0, 0.5, 0.5]).view(1, 3, 1, 1))
    tensor([0.5000])
    """
    low, high = torch.stack(_channels(images)).aminmax(dim=0)
    return torch.where(high > 0, (high - low) / high, 0).flatten(1).mean(1)


def colorfulness(images: Tensor) -> Tensor:
    """Colorfulness M3 of each image: float (n, 3, h, w) in [0, 1] -> (n,), >= 0, 0 for grey, on the scale of 0..255.

    sigma + 0.3 mu of the opponent colors R - G and (R + G) / 2 - B, where sigma and mu are the lengths of the vectors
    of their standard deviations and means. In the original study 15 is slightly, 45 averagely, 82 highly colorful.
    Source: Hasler & Suesstrunk 2003.

    >>> colorfulness(torch.full((1, 3, 2, 2), 0.5))
    tensor([0.])
    """
    red, green, blue = (255 * x.flatten(1) for x in _channels(images))
    opponent = torch.stack([red - green, (red + green) / 2 - blue])
    deviation = population_variance(opponent).sum(0).sqrt()
    return deviation + 0.3 * opponent.mean(2).square().sum(0).sqrt()


def blank(images: Tensor) -> Tensor:
    """Whether luma is constant within two 8-bit levels: float (n, 3, h, w) in [0, 1] -> bool (n,).

    >>> blank(torch.full((1, 3, 2, 2), 0.5))
    tensor([True])
    """
    low, high = luma(images).flatten(1).aminmax(dim=1)
    return high - low < TWO_LEVELS


def black(images: Tensor) -> Tensor:
    """Whether all values are at most 2 / 255, as safety checkers blacken images: float (n, 3, h, w) -> bool (n,).

    >>> black(torch.zeros(1, 3, 2, 2))
    tensor([True])
    """
    return torch.stack(_channels(images)).amax((0, 2, 3)) < TWO_LEVELS


def population_variance(x: Tensor) -> Tensor:
    """Variance (ddof 0) along the last axis: (..., m) -> (...); of no rows too, without a warning."""
    return (x - x.mean(-1, keepdim=True)).square().mean(-1)


def _channels(images: Tensor) -> tuple[Tensor, ...]:
    sizes = bind_shapes(images=(images, "n 3 h w"))
    if not sizes["h"] * sizes["w"]:
        raise ShapeError(f"`images` must have a positive height and width, got shape {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueRangeError(f"`images` must be float in [0, 1], got {images.dtype}")
    return images.to(torch.promote_types(images.dtype, torch.float32)).unbind(1)
