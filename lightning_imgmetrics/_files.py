"""Files that are either whole or not there, and where those are kept that can be made again."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder of one kind of things below `IMGMETRICS_CACHE`, or ~/.cache/lightning_imgmetrics."""
    return Path(os.environ.get("IMGMETRICS_CACHE", "~/.cache/lightning_imgmetrics")).expanduser() / kind


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Replace the file at `path` by what `write(temporary)` leaves at the path it is given.

    `temporary` lies in the same folder and has the suffix of `path`. It is on disk before it takes the name, so
    readers, other ranks and a crash find the old file or the new one. Whatever `write` raises (a full disk, an
    interrupt) leaves the old file alone and no temporary behind.
    """
    path = Path(path).resolve()  # the file that a link means is replaced, not the link
    if path.exists() and not path.is_file():  # /dev/stdout, a pipe
        write(path)
        return
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """What the user withholds from new files; some writers make theirs private whatever it says."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
