"""Batches of images from anything that holds them, shared out over ranks without padding."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_imgmetrics._images import Images, as_images, quantize
from lightning_imgmetrics.data.decode import check_alpha
from lightning_imgmetrics.data.open import open_images
from lightning_imgmetrics.data.sources import ImageSource, as_tensor, pick
from lightning_imgmetrics.errors import ShapeError, UnreadableImage, ValueRangeError

_WORKER_TIMEOUT = 600  # seconds
Source = Tensor | Dataset | DataLoader | Iterable[Any] | str | Path
Batch = tuple[Sequence[int] | None, Tensor | list[Any]]


class Failure(NamedTuple):
    """An image that could not be read."""

    id: int
    name: str
    reason: str


@dataclass(frozen=True)
class ImageBatches:
    """Iterates over (ids, images) of this rank's share of `source`; can be iterated again.

    Sample i of a map-style source (all that `open_images` takes, and the dataset of a loader, whatever its sampler) has
    id i and goes to rank i mod world size; an iterable of batches has no ids (None). Images of one size come as one
    tensor (k, 3, h, w), else as a list. `image_key`: see `pick`; of a batch, a list is taken as (images, ...).
    `start` skips that many of this rank's batches without decoding them. Images that cannot be read are left out and
    noted in `failures` (of the iteration under way, or the last); UnreadableImage once there are more than
    `max_failed`: a number, or below 1 a share of the whole source. `num_workers` processes decode, each `prefetch`
    batches ahead; a loader's own number is the default. `pin_memory` holds where there is CUDA. `alpha`: see `decode`.
    """

    source: Source
    batch_size: int = 64
    image_key: int | str | None = None
    rank: int = 0
    world_size: int = 1
    _: KW_ONLY
    num_workers: int = 0
    prefetch: int | None = None
    pin_memory: bool = False
    start: int = 0
    max_failed: int | float = 0
    alpha: str = "drop"
    failures: list[Failure] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        check_max_failed(self.max_failed)
        for name, least in (("batch_size", 1), ("num_workers", 0), ("start", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"`rank` must lie in 0..{self.world_size - 1}, got {self.rank}")

    def __iter__(self) -> Iterator[Batch]:
        self.failures.clear()
        if self._images is None:
            yield from islice(self._streamed(), self.start, None)
            return
        ids = range(self.rank, len(self._images), self.world_size)[self.start * self.batch_size :]
        if self._images.generates:
            for k in range(0, len(ids), self.batch_size):
                some = ids[k : k + self.batch_size]
                yield some, _stacked(self._images.generate(some))
            return
        loader = self._loader(self._images, ids)
        for k, (read, failed, images) in zip(range(0, len(ids), self.batch_size), loader, strict=True):
            some = ids[k : k + self.batch_size]
            self._note([(some[i], reason) for i, reason in failed])
            if read:
                yield ([some[i] for i in read] if failed else some), images

    @property
    def total(self) -> int | None:
        """How many images the source holds for all ranks together; None for an iterable of batches."""
        return None if self._images is None else len(self._images)

    def names(self, ids: Iterable[int]) -> list[str]:
        """The names of samples: the path in a folder or archive, else the id as text."""
        source = self._images
        return [str(i) if source is None else source.image_name(i) for i in ids]

    @functools.cached_property
    def _images(self) -> ImageSource | None:
        """The source by index; None if it comes in batches."""
        source: Any = self.source
        if isinstance(source, DataLoader):
            return None if isinstance(source.dataset, IterableDataset) else _Items(source.dataset)
        if isinstance(source, list | tuple) and source:
            if getattr(pick(source[0], self.image_key), "ndim", 0) == 4:
                return None
        elif isinstance(source, IterableDataset) or (
            not isinstance(source, str | Path) and not hasattr(source, "__getitem__") and hasattr(source, "__iter__")
        ):
            return None
        return open_images(source, alpha=self.alpha, image_key=self.image_key)

    def _streamed(self) -> Iterator[Batch]:
        """This rank's batches of a source without indices."""
        source: Any = self.source
        if isinstance(source, DataLoader | IterableDataset) and self.world_size > 1:
            raise ShapeError(
                "an iterable dataset cannot be shared out over ranks exactly: pass a map-style one or a folder"
            )
        if isinstance(source, IterableDataset):
            collate = functools.partial(_decoded, self.image_key, self.alpha)
            yield from ((None, x) for x in DataLoader(source, self.batch_size, collate_fn=collate, **self._workers()))
            return
        for i, batch in enumerate(source):
            if i % self.world_size == self.rank:
                yield None, pick(batch, self.image_key)

    def _loader(self, images: ImageSource, ids: range) -> Iterable[Any]:
        collate: Callable[[Any], Any] = _stacked
        if isinstance(self.source, DataLoader):
            collate = functools.partial(_picked, self.image_key, self.source.collate_fn)
        collate = functools.partial(_separate, collate)
        return DataLoader(
            _Attempts(images, self.max_failed > 0), self.batch_size, sampler=ids, collate_fn=collate, **self._workers()
        )

    def _workers(self) -> dict[str, Any]:
        given = self.source if isinstance(self.source, DataLoader) else None
        number = self.num_workers or (given.num_workers if given is not None else 0)
        options: dict[str, Any] = {
            "num_workers": number,
            "pin_memory": self.pin_memory and torch.cuda.is_available(),
            "generator": torch.Generator(),  # else a loader takes the seed of its workers from the global one
        }
        if number:
            options["prefetch_factor"] = self.prefetch
            options["timeout"] = _WORKER_TIMEOUT  # else a lost batch (shared memory full) would be waited for forever
            if given is not None:
                kept = ("multiprocessing_context", "worker_init_fn", "timeout")
                options |= {key: getattr(given, key) for key in kept}
        return options

    def _note(self, failed: list[tuple[int, str]]) -> None:
        for i, reason in failed:
            name = self.names([i])[0]
            self.failures.append(Failure(i, name, reason.removeprefix(f"{name}: ")))
        refuse_failures(self.failures, self.total or 0, self.max_failed)


def check_max_failed(max_failed: float) -> None:
    """ValueRangeError unless it is a number of images, or below 1 a share of them."""
    if not max_failed >= 0 or (max_failed >= 1 and max_failed != int(max_failed)):
        raise ValueRangeError(f"`max_failed` must be a whole number or a share below 1, got {max_failed:g}")


def refuse_failures(
    failures: Sequence[Failure], total: int, max_failed: float, *, images: str = "images", option: str = "`max_failed`"
) -> None:
    """UnreadableImage, in terms of `images` and `option`, where more of `total` images failed than `max_failed`."""
    allowed = math.floor(max_failed * total) if max_failed < 1 else int(max_failed)
    if len(failures) > allowed:
        first = "; ".join(f"{f.name!r} (id {f.id}): {f.reason}" for f in failures[:3])
        more = "; ..." if len(failures) > 3 else ""
        raise UnreadableImage(
            f"{len(failures)} of {total} {images} could not be read, {option} allows {allowed}: {first}{more}"
        )


class _Items(ImageSource):
    """The items of a loader's dataset as they are, for its own collate function."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


class _Attempts(Dataset):
    """(item, None) of each image of a dataset, or (None, reason) if it cannot be read.

    If failures are tolerated, Pillow's errors in a user's dataset count as such; otherwise they are raised.
    """

    def __init__(self, images: ImageSource, tolerant: bool):
        self.images = images
        self.caught = (UnreadableImage, OSError, Image.DecompressionBombError) if tolerant else (UnreadableImage,)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.images[index], None
        except self.caught as error:
            return None, str(error) or type(error).__name__


def _separate(
    collate: Callable[[Any], Any], attempts: Sequence[tuple[Any, str | None]]
) -> tuple[list[int], list[tuple[int, str]], Any]:
    """Positions of the items that were read, (position, reason) of the others, and the images of the former."""
    failed = [(i, reason) for i, (_, reason) in enumerate(attempts) if reason is not None]
    read = [i for i, (_, reason) in enumerate(attempts) if reason is None]
    return read, failed, collate([attempts[i][0] for i in read]) if read else None


def _stacked(images: Any) -> Any:
    """One tensor where all images are tensors of one shape and type."""
    if isinstance(images, Tensor) or not all(isinstance(x, Tensor) for x in images):
        return images
    return torch.stack(list(images)) if len({(x.shape, x.dtype, x.device) for x in images}) == 1 else list(images)


def _decoded(key: int | str | None, alpha: str, items: Sequence[Any]) -> Any:
    return _stacked([as_tensor(pick(item, key), alpha=alpha, name="an image of the stream") for item in items])


def _picked(key: int | str | None, collate: Callable[[Any], Any], items: Sequence[Any]) -> Any:
    return pick(collate(items), key)


def content_hash(batches: Iterable[tuple[Any, Images]], value_range: tuple[float, float]) -> Tensor:
    """Two int64 sums over the images, (sum of 64-bit hashes, count): the same in any order, added up over ranks."""
    total, count = np.uint64(0), 0
    for _, images in batches:
        for batch in as_images(images, value_range=value_range, decoded=True)[0]:
            for image in quantize(batch):
                digest = hashlib.sha256(str(tuple(image.shape)).encode() + image.cpu().numpy().tobytes()).digest()
                with np.errstate(over="ignore"):
                    total += np.frombuffer(digest[:8], np.uint64)[0]
                count += 1
    return torch.tensor([int(total.view(np.int64)), count])
