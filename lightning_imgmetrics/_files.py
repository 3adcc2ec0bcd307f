"""Atomic writes, and the cache folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The subfolder `kind` of `IMGMETRICS_CACHE`, by default ~/.cache/lightning_imgmetrics."""
    return Path(os.environ.get("IMGMETRICS_CACHE", "~/.cache/lightning_imgmetrics")).expanduser() / kind


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Replace the file at `path` by the one that `write(temporary)` writes.

    `temporary` lies in the same folder and has the suffix of `path`. It is flushed to disk before it is renamed, so
    readers, other ranks and a crash see the old file or the new one. If `write` raises (a full disk, an interrupt), the
    old file stays and the temporary one is removed.
    """
    path = Path(path).resolve()  # replaces the target of a link, not the link
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
    """The user's mask for new files, which some writers ignore and make theirs private."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
