"""Images in zip and tar archives, read member by member; nothing is extracted under a member's name."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
import weakref
import zipfile
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

from torch import Tensor

from lightning_imgmetrics.data.decode import check_alpha, decode
from lightning_imgmetrics.data.sources import EXTENSIONS, ImageSource, hidden
from lightning_imgmetrics.errors import ImgMetricsError, ShapeError, UnreadableImage

LARGEST = 2**30  # bytes of one member: more than any image that may be decoded, far less than a zip bomb


class ArchiveImages(ImageSource):
    """The images in an archive, sorted by their path in it, which is their name; hidden files do not count.

    Each process opens the file for itself. UnreadableImage for a damaged archive and for one with a member that is
    absolute, climbs out with "..", or is a link or device; ShapeError if there is no image.
    """

    def __init__(self, path: str | Path, *, alpha: str = "drop"):
        self.path, self.alpha = Path(path), check_alpha(alpha)
        self._handle: Any = None
        self._owner = 0
        try:
            members = self._index()
        except ImgMetricsError:
            raise
        except Exception as error:  # damaged archives make their readers raise nearly anything
            raise UnreadableImage(f"{path} cannot be read as an archive: {error}") from error
        self._names = sorted(members)
        self._members = [members[name] for name in self._names]
        if not self._names:
            raise ShapeError(f"no image ({', '.join(EXTENSIONS)}) in {path}")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Tensor:
        name = self._names[index]
        if self._owner != os.getpid():  # a fork would share the file's position with its parent
            self._handle, self._owner = self._open(), os.getpid()
        try:
            content = self._read(self._members[index])
        except Exception as error:
            raise UnreadableImage(f"{name}: {error}") from error
        return decode(content, alpha=self.alpha, name=name)

    def image_name(self, index: int) -> str:
        return self._names[index]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None, "_owner": 0}

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._handle.close()

    @abstractmethod
    def _index(self) -> dict[str, Any]:
        """Name of each image -> what `_read` needs to find it."""

    @abstractmethod
    def _open(self) -> Any: ...

    @abstractmethod
    def _read(self, member: Any) -> bytes: ...

    def _is_image(self, name: str, *, plain: bool, size: int) -> bool:
        if PureWindowsPath(name).root or ".." in PureWindowsPath(name).parts:  # splits at / and at \
            raise UnreadableImage(f"{self.path} is refused: member {name!r} lies outside of it")
        if not plain:
            raise UnreadableImage(f"{self.path} is refused: member {name!r} is a link or device, not a file")
        wanted = name.lower().endswith(EXTENSIONS) and not hidden(name)
        if wanted and size > LARGEST:
            raise UnreadableImage(f"{self.path} is refused: member {name!r} has {size} bytes, {LARGEST} are allowed")
        return wanted


class ZipImages(ArchiveImages):
    """The images in a zip file."""

    def _index(self) -> dict[str, str]:
        with zipfile.ZipFile(self.path) as archive:
            files = [info for info in archive.infolist() if not info.is_dir()]
        return {
            _normal(info.filename): info.filename
            for info in files
            if self._is_image(info.filename, plain=not stat.S_ISLNK(info.external_attr >> 16), size=info.file_size)
        }

    def _open(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)

    def _read(self, member: str) -> bytes:
        return self._handle.read(member)


class TarImages(ArchiveImages):
    """The images in a .tar or .tar.gz file.

    Gzip has no random access: the images of a .tar.gz are copied once, one after the other, into one temporary file
    (in `TMPDIR`), which goes with this object.
    """

    def _index(self) -> dict[str, tuple[int, int]]:
        self._plain = self.path
        try:
            with tarfile.open(self.path, "r:") as archive:
                return {_normal(m.name): (m.offset_data, m.size) for m in _members(archive) if self._wanted(m)}
        except tarfile.ReadError:
            if not _is_gzip(self.path):
                raise
        self._plain = _temporary(self)
        with tarfile.open(self.path, "r:gz") as archive, open(self._plain, "wb") as copy:
            return {
                _normal(m.name): _append(archive.extractfile(m), copy) for m in _members(archive) if self._wanted(m)
            }

    def _wanted(self, member: tarfile.TarInfo) -> bool:
        if member.isdir():
            return False
        return self._is_image(member.name, plain=member.isreg() and not member.issparse(), size=member.size)

    def _open(self) -> BinaryIO:
        return open(self._plain, "rb")

    def _read(self, member: tuple[int, int]) -> bytes:
        offset, size = member
        self._handle.seek(offset)
        return self._handle.read(size)


def _normal(name: str) -> str:
    return PurePosixPath(name).as_posix()  # without a leading "./"


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """All members; ReadError where tarfile takes damage or a cut between members for the end."""
    yield from archive
    file: Any = archive.fileobj
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"it is damaged or cut off at byte {archive.offset}")


def _append(member: Any, copy: BinaryIO) -> tuple[int, int]:
    start = copy.tell()
    shutil.copyfileobj(member, copy)
    return start, copy.tell() - start


def _temporary(owner: object) -> Path:
    """A new file that is removed with `owner`, by the process that made it."""
    handle, path = tempfile.mkstemp(prefix="imgmetrics-", suffix=".images")
    os.close(handle)
    weakref.finalize(owner, _remove, Path(path), os.getpid())
    return Path(path)


def _remove(path: Path, process: int) -> None:
    if os.getpid() == process:  # not a worker that inherited the object
        path.unlink(missing_ok=True)
