"""Files that are either whole or not there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Replace the file at `path` by what `write(temporary)` leaves at the path it is given.

    `temporary` lies in the same folder and has the suffix of `path`. It is on disk before it takes the name, so
    readers, other ranks and a crash find the old file or the new one. Whatever `write` raises (a full disk, an
    interrupt) leaves the old file alone and no temporary behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
