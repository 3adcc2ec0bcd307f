"""Images in NumPy files: .npy, and .npz as sample batches are exchanged."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_imgmetrics.data.sources import ImageSource
from lightning_imgmetrics.errors import ImgMetricsError, ShapeError, UnreadableImage


class ArrayImages(ImageSource):
    """The rows of a uint8 array (n, h, w, c) or (n, c, h, w) with c = 3 or 1: a .npy or .npz file, or the array.

    Of a .npz: `arr_0`, or the only array with four axes; `labels` is `arr_1` if there is one, (n,), else None. Files
    are memory-mapped by each process for itself (a compressed .npz is read into memory) and never unpickled.
    UnreadableImage for a damaged file or one of objects; ShapeError for other types and shapes, for shapes where both
    axes could be the channels, and for no image.
    """

    def __init__(self, source: str | Path | np.ndarray):
        self.path = None if isinstance(source, np.ndarray) else Path(source)
        self._rows: np.ndarray | None = source if isinstance(source, np.ndarray) else None
        self.labels: np.ndarray | None = None
        try:
            rows = self._open()
            if self.path is not None and self.path.suffix.lower() == ".npz":
                self.labels = _labels(self.path)
        except ImgMetricsError:
            raise
        except Exception as error:  # damaged files make NumPy raise nearly anything
            raise UnreadableImage(f"{self.path} cannot be read as an array: {error}") from error
        self._n, label = len(rows), str(self.path or "the array")
        self._channels_last = _channels_last(rows, label)
        if self.labels is not None and self.labels.shape[:1] != (self._n,):
            raise ShapeError(f"{label}: `arr_1` must hold {self._n} labels, got shape {self.labels.shape}")

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> Tensor:
        image = torch.from_numpy(np.array(self._open()[index]))
        image = image.permute(2, 0, 1) if self._channels_last else image
        return image.expand(3, -1, -1).contiguous()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({} if self.path is None else {"_rows": None})  # a pickled map would be a copy

    def _open(self) -> np.ndarray:
        if self._rows is None:
            path = Path(str(self.path))
            if path.suffix.lower() == ".npz":
                self._rows = _member(path, _image_key(path))
            else:
                self._rows = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._rows


def _channels_last(rows: np.ndarray, label: str) -> bool:
    wanted = "must be uint8 (n, h, w, c) or (n, c, h, w) with c = 3 or 1"
    if rows.dtype != np.uint8 or rows.ndim != 4:
        raise ShapeError(f"{label} {wanted}, got {rows.dtype} of shape {rows.shape}")
    if 0 in rows.shape:
        raise ShapeError(f"no image in {label}: it has shape {rows.shape}")
    first, last = rows.shape[1] in (1, 3), rows.shape[3] in (1, 3)
    if first == last:
        why = "either axis could be the channels" if first else "no axis can be the channels"
        raise ShapeError(f"{label} {wanted}, got shape {rows.shape}: {why}")
    return last


def _image_key(path: Path) -> str:
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                with archive.open(name) as file:
                    shapes[name.removesuffix(".npy")] = _header(file)[0]
    batches = [key for key, shape in shapes.items() if len(shape) == 4]
    if "arr_0" in batches:
        return "arr_0"
    if len(batches) != 1:
        raise ShapeError(f"{path} must hold `arr_0` or one array with four axes, got {shapes}")
    return batches[0]


def _labels(path: Path) -> np.ndarray | None:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays.get("arr_1")


def _member(path: Path, key: str) -> np.ndarray:
    """An array of a .npz, mapped in place where it is stored as it is (`numpy.savez`)."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{key}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[key]
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)  # the lengths of the name and of the extra field end the 30 bytes
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        file.seek(name + extra, 1)
        shape, fortran, dtype = _header(file)
        start = file.tell()
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of the .npy that begins here; ValueError if it holds pickled objects."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are not read")
    return shape, fortran, dtype
