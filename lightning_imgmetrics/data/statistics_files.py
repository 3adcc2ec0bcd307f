"""Reference statistics in the files that other tools publish; arrays only, no code in a file is run."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from lightning_imgmetrics.data.restricted_pickle import load_arrays
from lightning_imgmetrics.errors import IncompatibleStates, NonFiniteFeatures

FORMATS = {
    "fid-npz": ".npz with `mu` (d,) and `sigma` (d, d): pytorch-fid, clean-fid, EDM",
    "clean-fid-kid": ".npz with `feats` (n, d): clean-fid's features for KID",
    "adm": ".npz with `arr_0` (n, h, w, 3) uint8, `mu`, `sigma`, `mu_s`, `sigma_s`: guided-diffusion",
    "edm2": ".pkl with `num_images` and `fid`, `fd_dinov2` of {`mu`, `sigma`}: EDM2",
    "dgm-eval": ".npz with `reps` (n, d): dgm-eval's features",
    "npy": ".npy of features (n, d): CMMD's embeddings",
}
_PAIRS = {"fid": ("mu", "sigma"), "sfid": ("mu_s", "sigma_s")}  # keys of the arrays of an .npz
_SYMMETRIC = 1e-6


@dataclass(frozen=True)
class PublicStatistics:
    """What a published file says of a set of images.

    `moments`: mean (d,) and covariance (d, d), float64, by "fid", "sfid" and "fd_dinov2". `features` (n, d). `n`: of
    how many images, where the file says so; the images that an ADM file carries may be fewer. `image_shape`
    (n, h, w, 3) is theirs, and `images` reads them.
    """

    path: Path
    format: str
    moments: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    features: Tensor | None = None
    n: int | None = None
    image_shape: tuple[int, ...] | None = None

    def images(self, batch_size: int = 64) -> Iterator[Tensor]:
        """The images of the file in order, (k, 3, h, w) uint8 with k <= batch_size; none where it has none."""
        if self.image_shape is None:
            return
        count, *shape = self.image_shape
        size = int(np.prod(shape))
        with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as file:
            _header(file)
            for start in range(0, count, batch_size):
                k = min(batch_size, count - start)
                try:
                    block = file.read(k * size)
                except (zipfile.BadZipFile, EOFError, OSError) as error:
                    raise IncompatibleStates(f"{self.path}: `arr_0` is damaged at image {start}: {error}") from error
                if len(block) < k * size:
                    raise IncompatibleStates(f"{self.path}: `arr_0` must hold {count} images, ends at image {start}")
                yield torch.frombuffer(bytearray(block), dtype=torch.uint8).reshape(k, *shape).permute(0, 3, 1, 2)


def read_statistics(path: str | Path) -> PublicStatistics:
    """The statistics in a file of one of `FORMATS`, told by its content.

    Arrays must have the shapes of `FORMATS`, d agreeing; covariances must be symmetric within 1e-6 of their largest
    entry. Raises IncompatibleStates (not such a file, truncated, wrong shapes, objects in place of numbers),
    NonFiniteFeatures and FileNotFoundError; the message names file and key, what was expected and what came.
    """
    path = Path(path)
    with open(path, "rb") as file:
        start = file.read(6)
    if not start:
        raise IncompatibleStates(f"{path} is empty")
    if start.startswith(b"PK"):
        return _read_npz(path)
    if start == b"\x93NUMPY":
        features = _features(path, "array", _opened(path, lambda: np.load(path, allow_pickle=False)))
        return PublicStatistics(path, "npy", features=features, n=len(features))
    if start.startswith(b"\x80") or path.suffix in (".pkl", ".pickle"):
        return _read_edm2(path)
    raise _unknown(path, f"begins with {start!r}")


def _read_npz(path: Path) -> PublicStatistics:
    with open(path, "rb") as file, _opened(path, lambda: np.load(file, allow_pickle=False)) as archive:
        keys = set(archive.files)
        wanted = keys & {"feats", "reps", *(key for pair in _PAIRS.values() for key in pair)}
        arrays = {key: _opened(path, lambda key=key: archive[key], key) for key in wanted}
    for key, form in (("feats", "clean-fid-kid"), ("reps", "dgm-eval")):
        if key in arrays:
            features = _features(path, key, arrays[key])
            return PublicStatistics(path, form, features=features, n=len(features))
    moments = {}
    for name, (mean, cov) in _PAIRS.items():
        if len({mean, cov} & keys) == 1:
            absent = cov if mean in keys else mean
            raise IncompatibleStates(f"{path}: expected `{mean}` and `{cov}`, `{absent}` is missing")
        if mean in keys:
            moments[name] = _moments(path, (mean, cov), (arrays[mean], arrays[cov]))
    shape = _image_shape(path) if "arr_0" in keys else None
    if not moments and shape is None:
        raise _unknown(path, f"holds {sorted(keys)}")
    return PublicStatistics(path, "adm" if shape or "sfid" in moments else "fid-npz", moments, image_shape=shape)


def _read_edm2(path: Path) -> PublicStatistics:
    content = _opened(path, lambda: load_arrays(path))
    moments = {}
    for name, part in content.items():
        if isinstance(part, dict) and {"mu", "sigma"} <= set(part):
            moments[str(name)] = _moments(path, (f"{name}.mu", f"{name}.sigma"), (part["mu"], part["sigma"]))
    if not moments:
        raise _unknown(path, f"holds {sorted(map(str, content))}")
    n = content.get("num_images")
    if n is not None and (type(n) is not int or n < 1):
        raise IncompatibleStates(f"{path}: `num_images` must be a positive integer, got {n!r}")
    return PublicStatistics(path, "edm2", moments, n=n)


def _opened(path: Path, read: Callable[[], Any], key: str = "") -> Any:
    """`read()`; whatever the libraries below raise about a damaged file becomes one error."""
    try:
        return read()
    except Exception as error:
        what = f"{path}: `{key}`" if key else str(path)
        raise IncompatibleStates(f"{what} cannot be read: {str(error) or type(error).__name__}") from error


def _unknown(path: Path, found: str) -> IncompatibleStates:
    known = "\n".join(f"  {name}: {layout}" for name, layout in FORMATS.items())
    return IncompatibleStates(f"{path} is no known statistics file, it {found}. Known are\n{known}")


def _moments(path: Path, keys: tuple[str, str], pair: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
    mean, cov = (_numbers(path, key, x, axes).double() for key, x, axes in zip(keys, pair, ("d", "d d"), strict=True))
    d = len(mean)
    if d == 0 or cov.shape != (d, d):
        expected = f"({d}, {d}) as `{keys[0]}` has d = {d}" if d else "(d, d)"
        raise IncompatibleStates(f"{path}: `{keys[1]}` must be {expected}, got shape {tuple(cov.shape)}")
    gap, scale = float((cov - cov.mT).abs().max()), float(cov.abs().max())
    if gap > _SYMMETRIC * scale:
        raise IncompatibleStates(
            f"{path}: `{keys[1]}` must be symmetric within {_SYMMETRIC:g} of {scale:.3g}, got a difference of {gap:.3g}"
        )
    return mean, cov


def _features(path: Path, key: str, x: Any) -> Tensor:
    features = _numbers(path, key, x, "n d")
    if not features.numel():
        raise IncompatibleStates(f"{path}: `{key}` must hold at least one row, got shape {tuple(features.shape)}")
    return features


def _numbers(path: Path, key: str, x: Any, axes: str) -> Tensor:
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiu":
        found = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise IncompatibleStates(f"{path}: `{key}` must be an array of numbers, got {found}")
    if x.ndim != len(axes.split()):
        raise IncompatibleStates(f"{path}: `{key}` must be ({axes}), got shape {x.shape}")
    wide = np.float32 if x.dtype.kind == "f" and x.dtype.itemsize <= 4 else np.float64
    numbers = torch.from_numpy(np.array(x, wide))  # a copy in this machine's byte order
    if not numbers.isfinite().all():
        raise NonFiniteFeatures(f"{path}: `{key}` must be finite, got NaN or infinity")
    return numbers


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, column order and type of the .npy stream, which is left at the first number."""
    if np.lib.format.read_magic(file) == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _image_shape(path: Path) -> tuple[int, ...]:
    def read() -> tuple[tuple[int, ...], bool, np.dtype]:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
            return _header(file)

    shape, columns, dtype = _opened(path, read, "arr_0")
    if len(shape) != 4 or shape[3] != 3 or columns or dtype != np.uint8:
        raise IncompatibleStates(f"{path}: `arr_0` must be images (n, h, w, 3) uint8, got shape {shape} {dtype}")
    return shape
