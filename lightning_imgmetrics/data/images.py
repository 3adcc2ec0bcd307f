"""Batches of real images from a dataset, a loader, a folder or a tensor, shared out over ranks without padding."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from lightning_imgmetrics._images import Images, as_images, quantize
from lightning_imgmetrics.errors import ShapeError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
Source = Tensor | Dataset | DataLoader | Iterable[Any] | str | Path
_IMAGE_KEYS = ("image", "images", "pixel_values", "img")


class ImageFolder(Dataset):
    """The images below a folder, sorted by path, upright by their EXIF tag, as RGB."""

    def __init__(self, folder: str | Path):
        self.files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in EXTENSIONS)
        if not self.files:
            raise ShapeError(f"no image ({', '.join(EXTENSIONS)}) below {folder}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Image.Image:
        with Image.open(self.files[index]) as image:
            return ImageOps.exif_transpose(image).convert("RGB")


@dataclass(frozen=True)
class ImageBatches:
    """Iterates over (ids, images) of this rank's share of `source`; can be iterated again.

    `image_key` finds the image in an item (a position or a key); by default the item itself, the first of a tuple, or
    the entry "image", "images", "pixel_values" or "img" of a mapping. Of a batch, a list is taken as (images, ...) too,
    so mixed sizes come from a dataset or a folder. Sample i of a map-style source has id i and
    goes to rank i mod world size, whatever sampler its loader has; an iterable of batches has no ids (None).
    """

    source: Source
    batch_size: int = 64
    image_key: int | str | None = None
    rank: int = 0
    world_size: int = 1

    def __iter__(self) -> Iterator[tuple[Sequence[int] | None, Tensor | list[Any]]]:
        source = self.source
        workers = 0
        collate: Callable[[Any], Any] = functools.partial(_pick_each, self.image_key)
        if isinstance(source, DataLoader):
            if isinstance(source.dataset, IterableDataset):
                if self.world_size > 1:
                    raise ShapeError(
                        "an iterable dataset cannot be shared out over ranks exactly: pass a map-style one or a folder"
                    )
                yield from ((None, pick(batch, self.image_key)) for batch in source)
                return
            workers, collate = source.num_workers, functools.partial(_pick_batch, self.image_key, source.collate_fn)
            source = source.dataset
        elif isinstance(source, str | Path):
            source = ImageFolder(source)
        batched = (
            isinstance(source, list | tuple) and source and getattr(pick(source[0], self.image_key), "ndim", 0) == 4
        )
        if isinstance(source, Tensor) or (hasattr(source, "__getitem__") and not batched):
            share = range(self.rank, len(source), self.world_size)  # type: ignore[arg-type]
            subset: Any = Subset(source, share)  # type: ignore[arg-type]
            loader = DataLoader(subset, self.batch_size, num_workers=workers, collate_fn=collate)
            for start, images in zip(range(0, len(share), self.batch_size), loader, strict=True):
                yield share[start : start + self.batch_size], images
            return
        for i, batch in enumerate(source):  # type: ignore[arg-type]
            if i % self.world_size == self.rank:
                yield None, pick(batch, self.image_key)


def _pick_each(key: int | str | None, items: Sequence[Any]) -> list[Any]:
    return [pick(item, key) for item in items]


def _pick_batch(key: int | str | None, collate: Callable[[Any], Any], items: Sequence[Any]) -> Any:
    return pick(collate(items), key)


def pick(item: Any, key: int | str | None = None) -> Any:
    """The image or images in an item or batch: see `ImageBatches`."""
    if key is not None:
        return item[key]
    if isinstance(item, Mapping):
        found = next((k for k in _IMAGE_KEYS if k in item), None)
        if found is None:
            raise ShapeError(f"no image under {_IMAGE_KEYS} in a batch with {sorted(item)}: name it with `image_key`")
        return item[found]
    return item[0] if isinstance(item, tuple | list) else item


def content_hash(batches: Iterable[tuple[Any, Images]], value_range: tuple[float, float]) -> Tensor:
    """Two int64 sums over the images, (sum of 64-bit hashes, count): the same in any order, added up over ranks."""
    total, count = np.uint64(0), 0
    for _, images in batches:
        for batch in as_images(images, value_range=value_range)[0]:
            for image in quantize(batch):
                digest = hashlib.sha256(str(tuple(image.shape)).encode() + image.cpu().numpy().tobytes()).digest()
                with np.errstate(over="ignore"):
                    total += np.frombuffer(digest[:8], np.uint64)[0]
                count += 1
    return torch.tensor([int(total.view(np.int64)), count])
