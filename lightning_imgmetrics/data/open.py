"""`open_images`: one function for everything that holds images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lightning_imgmetrics.data.archives import TarImages, ZipImages
from lightning_imgmetrics.data.arrays import ArrayImages
from lightning_imgmetrics.data.named_datasets import HF, TORCHVISION, hf_images, torchvision_dataset
from lightning_imgmetrics.data.sources import DatasetImages, ImageFolder, ImageSource
from lightning_imgmetrics.errors import ShapeError, UnknownName, UnreadableImage

KINDS = (
    "a folder",
    "a .zip, .tar, .tar.gz or .tgz file of images",
    "a .npz or .npy file",
    "hf:NAME:SPLIT:COLUMN",
    "torchvision:CLASS:SPLIT:ROOT",
    "a map-style dataset",
    "a list of images or paths",
    "a tensor or array with four axes",
    "GeneratedImages(function, n)",
)


def open_images(source: Any, *, alpha: str = "drop", image_key: int | str | None = None) -> ImageSource:
    """The images of `source`, one of `KINDS`, by index; files are decoded by the rule of `decode`.

    `image_key`: see `pick`. UnknownName for anything else; UnreadableImage for a file or folder that is not there or
    damaged; ShapeError for one without an image.
    """
    if hasattr(source, "image_name"):  # an ImageSource
        return source
    if isinstance(source, str | Path):
        return _named(str(source), alpha, image_key)
    if isinstance(source, np.ndarray):
        return ArrayImages(source)
    if isinstance(source, Tensor) and source.ndim != 4:
        raise ShapeError(f"`source` must be a tensor (n, 3, h, w), got shape {tuple(source.shape)}")
    if isinstance(source, Mapping) or not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        raise UnknownName("source", source, KINDS)
    return DatasetImages(source, image_key=image_key, alpha=alpha)


def _named(text: str, alpha: str, image_key: int | str | None) -> ImageSource:
    if text.startswith(HF):
        dataset, column = hf_images(text)
        return DatasetImages(dataset, image_key=column, alpha=alpha)
    if text.startswith(TORCHVISION):
        return DatasetImages(torchvision_dataset(text), image_key=image_key, alpha=alpha)
    path = Path(text).expanduser()
    if not path.exists():
        raise UnreadableImage(f"`source`: there is no file or folder {text}")
    if path.is_dir():
        return ImageFolder(path, alpha=alpha)
    name = path.name.lower()
    if name.endswith(".zip"):
        return ZipImages(path, alpha=alpha)
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        return TarImages(path, alpha=alpha)
    if name.endswith((".npz", ".npy")):
        return ArrayImages(path)
    raise UnknownName("source", text, KINDS)
