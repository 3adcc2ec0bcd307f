"""The one rule by which image files and PIL images become tensors."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lightning_imgmetrics._images import grey_to_byte
from lightning_imgmetrics.errors import UnknownName, UnreadableImage

ALPHA = ("drop", "white", "black")
# Pillow would hand a file that says so to Ghostscript or to a network reader, whatever its name ends in.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF")
Encoded: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | Mapping[str, Any]"
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def check_alpha(alpha: str) -> str:
    """`alpha` as it is, or UnknownName."""
    if alpha not in ALPHA:
        raise UnknownName("alpha", alpha, ALPHA)
    return alpha


def decode(source: Encoded, *, alpha: str = "drop", name: str = "") -> Tensor:
    """A file (path, bytes, open file, mapping with "bytes" or "path") or PIL image -> uint8 RGB (3, h, w).

    Turned upright by its EXIF tag; the first frame of an animation. Grey and palettes are expanded; other color spaces
    are converted as Pillow does, without profiles. 16-bit grey is divided by 257 and rounded; of 16-bit color Pillow
    keeps the high byte. `alpha`: "drop" keeps the stored colors, as pytorch-fid and clean-fid do; "white" and "black"
    lay the image over that background. UnreadableImage, with `name`, for all else: empty, truncated and damaged files,
    other formats, float pixels, grey beyond 0..65535, more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    check_alpha(alpha)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow about odd but readable metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with _opened(source) as image:
                return torch.from_numpy(_rgb(image, alpha)).permute(2, 0, 1).contiguous()
    except Exception as error:  # damaged files make Pillow's readers raise nearly anything
        if isinstance(error, MemoryError):
            raise
        raise UnreadableImage(f"{name or _called(source)}: {_reason(error)}") from error


@contextmanager
def _opened(source: Any) -> Iterator[Image.Image]:
    if isinstance(source, Image.Image):
        yield source
    elif isinstance(source, str | os.PathLike):
        with open(source, "rb") as file, _opened(file) as image:
            yield image
    elif isinstance(source, Mapping):
        with _opened(source["path"] if source.get("bytes") is None else source["bytes"]) as image:
            yield image
    else:
        stream = io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
        if not stream.read(1):
            raise UnreadableImage("the file is empty")
        stream.seek(0)
        Image.init()
        with Image.open(stream, formats=[kind for kind in FORMATS if kind in Image.OPEN]) as image:
            yield image


def _rgb(image: Image.Image, alpha: str) -> np.ndarray:
    image.load()  # before the tag is read: it may stand behind the pixels, and Pillow turns TIFF files by itself
    image = _turned(image)
    if image.mode == "F":
        raise UnreadableImage("float pixels have no declared range")
    if image.mode.startswith("I"):
        return np.repeat(grey_to_byte(np.asarray(image))[..., None], 3, axis=2)
    if image.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in image.info:
        rgba = np.array(image.convert("RGBA")).astype(np.uint32)
        colors, opacity = rgba[..., :3], rgba[..., 3:]
        if alpha != "drop":
            background = 255 if alpha == "white" else 0
            colors = (colors * opacity + background * (255 - opacity) + 127) // 255
        return colors.astype(np.uint8)
    return np.array(image.convert("RGB"))


def _turned(image: Image.Image) -> Image.Image:
    try:
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata of sound pixels
        return image
    return image if method is None else image.transpose(method)


def _called(source: Any) -> str:
    if isinstance(source, Mapping):
        source = source.get("path") or source.get("bytes")
    return str(source) if isinstance(source, str | os.PathLike) else f"an image given as {type(source).__name__}"


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its own words hold a memory address
        return f"not an image in a known format ({', '.join(FORMATS)})"
    return str(error) or type(error).__name__
