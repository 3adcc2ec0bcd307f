"""Validation of input images: every metric, network and sampler passes its images through `as_images`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lightning_imgmetrics.errors import ShapeError, ValueRangeError

if TYPE_CHECKING:
    from PIL.Image import Image

Images: TypeAlias = "Tensor | Image | Sequence[Tensor | Image]"
ImageSets: TypeAlias = "Images | Sequence[Sequence[Tensor | Image]]"  # one image, or several, for each sample

# Values up to this share of the declared span outside it are clamped and counted; beyond it the declaration is wrong.
OVERSHOOT = 0.05


def as_images(
    images: Images,
    *,
    name: str = "images",
    value_range: tuple[float, float] = (0.0, 1.0),
    channels: int = 3,
    decoded: bool = False,
) -> tuple[list[Tensor], int]:
    """Validate images and convert them to batches of uint8, or of float32 in [0, 1].

    `images`: (n, c, h, w) or one (c, h, w) tensor, a PIL image, or a list of (c, h, w) tensors and PIL images of mixed
    size. Integer tensors hold 0..255, float tensors hold `value_range`. One channel is repeated to three; for PIL
    images, 16-bit grey is scaled to 8 bits and transparency is dropped. `decoded` integers come from image files: a
    nearly black image is then not mistaken for a 0/1 mask.
    Returns batches in order, each (k, channels, h, w), and the number of values outside `value_range`, which were
    clamped. Consecutive images of one size and type share a batch.
    Raises ShapeError (axes, channels, no image) and ValueRangeError (NaN, values far outside the declared range).

    >>> batches, clamped = as_images(torch.tensor([0.0, 0.5, 1.01]).view(1, 3, 1, 1))
    >>> batches[0].flatten().tolist(), clamped
    ([0.0, 0.5, 1.0], 1)
    """
    check_value_range(value_range)
    batches = [_validate(batch, name, value_range, channels, decoded) for batch in _batches(images, name)]
    return [batch for batch, _ in batches], sum(clamped for _, clamped in batches)


def check_value_range(value_range: tuple[float, float]) -> None:
    """ValueRangeError unless (low, high) is a finite interval."""
    if not -math.inf < value_range[0] < value_range[1] < math.inf:
        raise ValueRangeError(f"`value_range` must be (low, high) with low < high, got {value_range}")


def quantize(images: Tensor) -> Tensor:
    """float [0, 1] -> uint8 by rounding, as image files store it; uint8 stays."""
    return images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """uint8 -> float32 [0, 1]; float stays."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _batches(images: Images, name: str) -> list[Tensor]:
    """Tensors (k, c, h, w), of consecutive images of one size and type; ShapeError if there is none."""
    if isinstance(images, Tensor):
        if images.ndim not in (3, 4):
            raise ShapeError(f"`{name}` must be (n, 3, h, w) or one (3, h, w), got shape {tuple(images.shape)}")
        batches = [images if images.ndim == 4 else images[None]]
    else:
        singles = [_single(x, name, i) for i, x in enumerate(images if isinstance(images, Sequence) else [images])]
        batches = []
        run: list[Tensor] = []
        for x in singles:
            if run and (x.shape, x.dtype, x.device) != (run[0].shape, run[0].dtype, run[0].device):
                batches.append(torch.stack(run))
                run = []
            run.append(x)
        batches += [torch.stack(run)] if run else []
    if not sum(map(len, batches)):
        raise ShapeError(f"`{name}` must hold at least one image, got an empty batch")
    return batches


def _single(image: Tensor | Image, name: str, index: int) -> Tensor:
    if isinstance(image, Tensor):
        if image.ndim != 3:
            raise ShapeError(f"`{name}[{index}]` must be (3, h, w), got shape {tuple(image.shape)}")
        return image
    if not hasattr(image, "convert"):
        is_text = isinstance(image, str)
        hint = "; open files with PIL.Image.open, give prompts as `prompts=`" if is_text else ""
        raise ShapeError(
            f"`{name}[{index}]` must be a (3, h, w) tensor or a PIL image, got {type(image).__name__}{hint}"
        )
    if image.mode == "F":
        raise ValueRangeError(f"`{name}[{index}]` has float pixels, which have no declared range")
    if image.mode.startswith("I"):
        return torch.from_numpy(grey_to_byte(np.asarray(image))).expand(3, -1, -1)
    from torchvision.transforms.functional import pil_to_tensor

    return pil_to_tensor(image.convert("RGB"))


def grey_to_byte(values: np.ndarray) -> np.ndarray:
    """16-bit grey -> uint8, divided by 257 and rounded (Pillow would clip it). ValueRangeError outside 0..65535."""
    values = values.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueRangeError(f"grey values must lie in 0..65535, got {values.min()}..{values.max()}")
    return ((values + 128) // 257).astype(np.uint8)


def _validate(
    batch: Tensor, name: str, value_range: tuple[float, float], channels: int, decoded: bool
) -> tuple[Tensor, int]:
    """A batch as `as_images` returns it, and the number of clamped values."""
    batch = batch.detach()
    if batch.shape[1] == 1 and channels == 3:
        batch = batch.expand(-1, 3, -1, -1)
    if batch.shape[1] != channels:
        hint = " (is it channels-last? permute(0, 3, 1, 2))" if batch.shape[-1] == channels else ""
        raise ShapeError(f"`{name}` must be (n, {channels}, h, w), got shape {tuple(batch.shape)}{hint}")
    if batch.numel() == 0:
        raise ShapeError(f"`{name}` must have a positive height and width, got shape {tuple(batch.shape)}")
    if batch.is_complex():
        raise ValueRangeError(f"`{name}` must be uint8 or float, got {batch.dtype}")
    low, high = (float(x) for x in torch.stack(batch.aminmax()).tolist())
    if not batch.is_floating_point():
        if low < 0 or high > 255 or (high == 1 and not decoded):
            why = "; 0/1 images must be float, or scaled to 0..255" if high == 1 else ""
            raise ValueRangeError(f"integer `{name}` must hold 0..255, got {low:g}..{high:g}{why}")
        return batch.to(torch.uint8), 0
    return _scale(batch, name, value_range, low, high)


def _scale(batch: Tensor, name: str, value_range: tuple[float, float], low: float, high: float) -> tuple[Tensor, int]:
    """A float batch with values in low..high, mapped from `value_range` to [0, 1], and the number of clamped values."""
    if not (low > float("-inf") and high < float("inf")):  # false for NaN too
        raise ValueRangeError(f"`{name}` must be finite, got NaN or infinity")
    first, last = value_range
    slack = OVERSHOOT * (last - first)
    if low < first - slack or high > last + slack:
        raise ValueRangeError(
            f"float `{name}` must lie in [{first:g}, {last:g}], got {low:g}..{high:g};"
            " declare another `value_range`, or clamp the images"
        )
    batch = batch.float()
    clamped = int(((batch < first) | (batch > last)).sum()) if low < first or high > last else 0
    if (first, last) != (0.0, 1.0):
        batch = (batch - first) / (last - first)
    return (batch.clamp(0, 1) if clamped or (first, last) != (0.0, 1.0) else batch), clamped


def as_image_sets(
    images: ImageSets, n: int, *, name: str, value_range: tuple[float, float] = (0.0, 1.0)
) -> list[tuple[Tensor, ...]]:
    """One tuple of uint8 images (3, h, w), on the CPU, for each of n samples, from one image or a list for each.

    Validated as by `as_images`. ShapeError unless there are n, none of them empty.
    """
    value: Any = images
    nested = isinstance(value, list | tuple) and any(isinstance(x, list | tuple) for x in value)
    sets: Any = value if nested else [(x,) for x in _singles(value, name, value_range)]
    if len(sets) != n:
        raise ShapeError(f"`{name}` must hold one entry per image, got {len(sets)} for {n} images")
    if not nested:
        return sets
    lists = [list(x) if isinstance(x, list | tuple) else [x] for x in sets]
    return [tuple(_singles(x, f"{name}[{i}]", value_range)) for i, x in enumerate(lists)]


def _singles(images: Images, name: str, value_range: tuple[float, float]) -> list[Tensor]:
    batches, _ = as_images(images, name=name, value_range=value_range)
    return [image for batch in batches for image in quantize(batch).cpu()]
