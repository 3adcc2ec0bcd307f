"""The resize rules of published tools, by name; each changes the result, so each is part of a protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor, sqrt

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_imgmetrics.errors import ShapeError

# With which OpenAI's CLIP and its descendants normalize images in [0, 1].
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
TOKEN_SIDE = 28  # pixels along the side of a token of Qwen2-VL: 2 patches of 14
_MAX_ASPECT_RATIO = 200


def tf1_bilinear(x: Tensor, size: int) -> Tensor:
    """TensorFlow 1: no half-pixel centers, no antialiasing; as in the FID paper and torch-fidelity."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    return interpolate_bilinear_2d_like_tensorflow1x(x, size=(size, size), align_corners=False)


def bilinear(x: Tensor, size: int) -> Tensor:
    """Half-pixel centers, no antialiasing: pytorch-fid."""
    return interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


def bilinear_antialias(x: Tensor, size: int) -> Tensor:
    """torchmetrics since 1.8."""
    return interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


def bicubic_antialias(x: Tensor, size: int) -> Tensor:
    """clean-fid: PIL's bicubic on float channels, clipped to 0..255 and not rounded again (Parmar et al. 2022)."""
    return bicubic_antialias_unclamped(x, size).clamp(0, 255)


def bicubic_antialias_unclamped(x: Tensor, size: int) -> Tensor:
    """EDM2's DINOv2: values that bicubic puts outside 0..255 are not clipped (Karras et al. 2024)."""
    return interpolate(x, size=(size, size), mode="bicubic", align_corners=False, antialias=True)


def bicubic_antialias_rounded(x: Tensor, size: int) -> Tensor:
    """PIL's bicubic on 8-bit images: dgm-eval, CMMD.

    PIL rounds to 8 bits after the rows and again after the columns. All published numbers use this order; Pillow 13
    starts with the columns for tall images, which changes a fifth of their pixels by one level.
    """
    return bicubic_rounded(bicubic_rounded(x, (x.shape[2], size)), (size, size))


def bicubic_rounded(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """One pass of PIL's bicubic: images (n, c, h, w) in 0..255 to another height or width, rounded to integers."""
    if x.shape[2:] == shape:
        return x
    x = interpolate(x, size=shape, mode="bicubic", align_corners=False, antialias=True)
    return (x + 0.5).floor().clamp(0, 255)


def short_side_rounded(x: Tensor, size: int) -> Tensor:
    """OpenAI's CLIP: PIL's bicubic of 8-bit images (n, c, h, w), the short side to `size`, then the center crop.

    Columns outside the crop are not computed.
    """
    height, width, top, left = _cover(x, size)
    x = bicubic_rounded(x, (x.shape[2], width))[..., left : left + size]
    return bicubic_rounded(x, (height, size))[..., top : top + size, :]


def _cover(x: Tensor, size: int) -> tuple[int, int, int, int]:
    """(height, width) of images whose short side becomes `size`, and (top, left) of their center crop."""
    short = min(x.shape[2:])
    height, width = (int(size * length / short) for length in x.shape[2:])
    return height, width, round((height - size) / 2), round((width - size) / 2)


def center_square(x: Tensor) -> Tensor:
    """The center square of images (n, c, h, w), with their short side."""
    side = min(x.shape[2:])
    top, left = ((length - side) // 2 for length in x.shape[2:])
    return x[:, :, top : top + side, left : left + side]


def short_side_bicubic(x: Tensor, size: int, *, antialias: bool) -> Tensor:
    """torchvision's Resize (short side to `size`) and CenterCrop of float images (n, c, h, w).

    HPSv2's published numbers are from before torchvision 0.17, which did not antialias tensors.
    """
    height, width, top, left = _cover(x, size)
    x = interpolate(x, size=(height, width), mode="bicubic", align_corners=False, antialias=antialias)
    return x[:, :, top : top + size, left : left + size]


def standardize(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std by channel, of images (n, c, h, w) in [0, 1], without copying constants to the device."""
    return torch.stack([(x[:, i] - m) / s for i, (m, s) in enumerate(zip(mean, std, strict=True))], 1)


def smart_resize(
    height: int, width: int, *, min_pixels: int, max_pixels: int, factor: int = TOKEN_SIDE
) -> tuple[int, int]:
    """(height, width) in pixels -> the nearest multiples of `factor`, with halves to even; if their product is outside
    [min_pixels, max_pixels], the next multiples within these limits at the same aspect ratio (Wang et al. 2024).

    ShapeError for an image without pixels or longer than 200 times its short side.

    >>> smart_resize(300, 600, min_pixels=56 * 56, max_pixels=200 * 200)
    (140, 280)
    """
    if not 0 < max(height, width) <= _MAX_ASPECT_RATIO * min(height, width):
        raise ShapeError(
            f"`images` must not be longer than {_MAX_ASPECT_RATIO} times their short side,"
            f" got {height} x {width} pixels"
        )
    rows, columns = (max(1, round(side / factor)) for side in (height, width))
    if rows * columns * factor**2 > max_pixels:
        scale = sqrt(height * width / max_pixels)
        rows, columns = (max(1, floor(side / scale / factor)) for side in (height, width))
    elif rows * columns * factor**2 < min_pixels:
        scale = sqrt(min_pixels / (height * width))
        rows, columns = (ceil(side * scale / factor) for side in (height, width))
    return rows * factor, columns * factor


def smart_resize_image(image: Tensor, *, min_pixels: int, max_pixels: int) -> Tensor:
    """An 8-bit image (3, h, w) at its `smart_resize`: PIL's bicubic, rounded after the rows and after the columns."""
    height, width = smart_resize(*image.shape[1:], min_pixels=min_pixels, max_pixels=max_pixels)
    x = bicubic_rounded(image[None].float(), (image.shape[1], width))
    return bicubic_rounded(x, (height, width))[0].to(image.dtype)


RESIZE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "tf1-bilinear": tf1_bilinear,
    "bilinear": bilinear,
    "bilinear-antialias": bilinear_antialias,
    "bicubic-antialias": bicubic_antialias,
    "bicubic-antialias-unclamped": bicubic_antialias_unclamped,
    "bicubic-antialias-rounded": bicubic_antialias_rounded,
}
