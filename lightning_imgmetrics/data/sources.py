"""Map-style sources of images: each has a length, image i, and the name of image i."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lightning_imgmetrics.data.decode import check_alpha, decode
from lightning_imgmetrics.errors import SamplerError, ShapeError, UnreadableImage

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif")
_IMAGE_KEYS = ("image", "images", "pixel_values", "img")


class ImageSource(Dataset):
    """Images by index. Subclasses pickle and fork into worker processes without sharing an open file."""

    generates = False  # whether images are made by `generate`, many at a time, and not read one by one

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        """Image `index`: uint8 RGB (3, h, w), or what the user's own dataset holds as a tensor."""
        raise NotImplementedError

    def image_name(self, index: int) -> str:
        """The name of image `index`, for messages and pairing: its path if it has one, else the index."""
        return str(index)

    def generate(self, ids: Sequence[int]) -> Any:
        """The images of `ids`, in their order."""
        return [self[i] for i in ids]


class ImageFolder(ImageSource):
    """The images below a folder, sorted by their POSIX relative path, which is their name.

    Links are followed. Hidden files and folders (a name that begins with ".") do not count. ShapeError if there is
    no image.
    """

    def __init__(self, folder: str | Path, *, alpha: str = "drop"):
        self.folder, self.alpha = Path(folder), check_alpha(alpha)
        self.files = files_below(self.folder, EXTENSIONS)
        if not self.files:
            raise ShapeError(f"no image ({', '.join(EXTENSIONS)}) below {folder}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return decode(self.folder / self.files[index], alpha=self.alpha, name=self.files[index])

    def image_name(self, index: int) -> str:
        return self.files[index]


class DatasetImages(ImageSource):
    """The images in the items of any map-style dataset, list or tensor; see `pick` for `image_key`."""

    def __init__(self, dataset: Any, *, image_key: int | str | None = None, alpha: str = "drop"):
        self.dataset, self.image_key, self.alpha = dataset, image_key, check_alpha(alpha)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        image = pick(self.dataset[index], self.image_key)
        return as_tensor(image, alpha=self.alpha, name=f"image {index}")

    def image_name(self, index: int) -> str:
        item = self.dataset[index] if isinstance(self.dataset, list | tuple) else None
        return Path(item).as_posix() if isinstance(item, str | os.PathLike) else str(index)


class GeneratedImages(ImageSource):
    """`n` images made on demand: `function(ids)` returns the images of these sample ids, in their order.

    Image i must depend on its id alone, so that any number of ranks makes the same set. Images: (k, 3, h, w) or a list.
    """

    generates = True

    def __init__(self, function: Callable[[Sequence[int]], Any], n: int, *, alpha: str = "drop"):
        if n < 1:
            raise ValueError(f"`n` must be at least 1, got {n}")
        self.function, self.n, self.alpha = function, n, check_alpha(alpha)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        if not -self.n <= index < self.n:
            raise IndexError(index)
        return self.generate([index % self.n])[0]

    def generate(self, ids: Sequence[int]) -> Any:
        """The images of `ids`; SamplerError if their number is another."""
        images = self.function(ids)
        if not isinstance(images, Tensor | list | tuple) or len(images) != len(ids):
            got = len(images) if isinstance(images, Tensor | list | tuple) else type(images).__name__
            raise SamplerError(f"the generator must return one image for each of {len(ids)} ids, got {got}")
        if isinstance(images, Tensor):
            return images
        return [as_tensor(x, alpha=self.alpha, name=f"image {i}") for i, x in zip(ids, images, strict=True)]


def pick(item: Any, key: int | str | None = None) -> Any:
    """The image or images in an item or batch: the entry `key`, else the item itself, the first of a tuple or list,
    or the entry "image", "images", "pixel_values" or "img" of a mapping."""
    if key is not None:
        return item[key]
    if isinstance(item, Mapping):
        found = next((k for k in _IMAGE_KEYS if k in item), None)
        if found is None:
            raise ShapeError(f"no image under {_IMAGE_KEYS} in a batch with {sorted(item)}: name it with `image_key`")
        return item[found]
    return item[0] if isinstance(item, tuple | list) else item


def as_tensor(image: Any, *, alpha: str, name: str) -> Any:
    """A decoded image where it is a PIL image, a path, bytes or a uint8 (h, w[, c]) array; anything else as it is."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
    if isinstance(image, Image.Image | str | os.PathLike | bytes | Mapping):
        return decode(image, alpha=alpha, name="" if isinstance(image, str | os.PathLike) else name)
    return image


def hidden(path: str) -> bool:
    """Whether a POSIX path has a part that begins with a dot, or is macOS' shadow of a file in a zip."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(path).parts)


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """POSIX relative paths of the files below `folder` that end in one of `suffixes`, sorted."""
    found = []
    walked: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(here)) in walked:  # links may lead here twice, or round in circles
            folders.clear()
            continue
        walked.add(real)
        below = Path(here).relative_to(folder)
        found += [(below / name).as_posix() for name in files if name.lower().endswith(suffixes)]
    return sorted(path for path in found if not hidden(path))


def _refuse(error: OSError) -> None:
    raise UnreadableImage(f"the folder {error.filename} cannot be read: {error.strerror}") from error
