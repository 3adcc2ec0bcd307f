"""The size at which Qwen2-VL and its kin read an image: sides of whole tokens, an area between two limits."""

from __future__ import annotations

from math import ceil, floor, sqrt

from torch import Tensor

from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.models.base.resize import bicubic_rounded

FACTOR = 28  # pixels along the side of a token: 2 patches of 14
_LONGEST = 200  # times the short side


def smart_resize(height: int, width: int, *, min_pixels: int, max_pixels: int, factor: int = FACTOR) -> tuple[int, int]:
    """(height, width) in pixels -> the nearest multiples of `factor`, halves to even; where their product leaves
    [min_pixels, max_pixels], the multiples just beyond that limit at the same aspect ratio (Wang et al. 2024).

    ShapeError for an image without pixels or longer than 200 times its short side.
    """
    if not 0 < max(height, width) <= _LONGEST * min(height, width):
        raise ShapeError(
            f"`images` must not be longer than {_LONGEST} times their short side, got {height} x {width} pixels"
        )
    rows, columns = (max(1, round(side / factor)) for side in (height, width))
    if rows * columns * factor**2 > max_pixels:
        scale = sqrt(height * width / max_pixels)
        rows, columns = (max(1, floor(side / scale / factor)) for side in (height, width))
    elif rows * columns * factor**2 < min_pixels:
        scale = sqrt(min_pixels / (height * width))
        rows, columns = (ceil(side * scale / factor) for side in (height, width))
    return rows * factor, columns * factor


def smart_resized(image: Tensor, *, min_pixels: int, max_pixels: int) -> Tensor:
    """An 8-bit image (3, h, w) at its `smart_resize`: bicubic, as PIL rounds it, 8 bits after the rows and again after
    the columns."""
    height, width = smart_resize(*image.shape[1:], min_pixels=min_pixels, max_pixels=max_pixels)
    x = bicubic_rounded(image[None].float(), (image.shape[1], width))
    return bicubic_rounded(x, (height, width))[0].to(image.dtype)
