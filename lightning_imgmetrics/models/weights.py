"""Weights files: their cards, where they are looked for, their checksums, and how they are read."""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

from lightning_imgmetrics.errors import MissingWeights, WeightsMismatch


@dataclass(frozen=True)
class ModelCard:
    """Where a network's weights come from.

    `sha256` may be the leading digits that the publisher puts into the file name. `file` is the name under which the
    weights lie in `IMGMETRICS_WEIGHTS` or in torch's hub cache.
    """

    name: str
    source: str
    file: str = ""
    sha256: str = ""
    license: str = ""


def local_weights(card: ModelCard, weights: str | None = None) -> Path | None:
    """Where the weights file of `card` lies on this machine, not read; None where it is absent.

    In this order: `weights`, `IMGMETRICS_WEIGHTS`, torch's hub cache.
    """
    places = [Path(weights).expanduser()] if weights is not None else _places(card)
    return next((path for path in places if path.is_file()), None)


def find_weights(card: ModelCard, weights: str | None = None) -> Path:
    """The weights file of `card` as `local_weights` finds it, or downloaded; checksums verified.

    An explicit `weights` path is the caller's choice and is not compared with the card. One process per file system
    downloads while the others wait for its lock, so ranks need no collective and a rank without data blocks nobody.
    Raises MissingWeights (nothing found, offline) and WeightsMismatch (checksum).
    """
    path = local_weights(card, weights)
    if weights is not None:
        if path is None:
            raise MissingWeights(f"`weights` for {card.name} must be an existing file, got {weights!r}")
        return path
    if path is not None:
        return _verified(card, path)
    cache = _places(card)[-1]
    try:
        if offline():
            raise OSError("HF_HUB_OFFLINE or IMGMETRICS_OFFLINE is set")
        cache.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{cache}.lock"):
            if not cache.is_file():  # another process may have had the lock before
                torch.hub.download_url_to_file(card.source, str(cache), hash_prefix=card.sha256, progress=False)
    except RuntimeError as error:  # torch's word for an unlike checksum
        raise WeightsMismatch(f"the download of {card.name} from {card.source} is damaged: {error}") from error
    except OSError as error:
        shelf = os.environ.get("IMGMETRICS_WEIGHTS") or "$IMGMETRICS_WEIGHTS"
        raise MissingWeights(
            f"the weights of {card.name} are not on this machine and cannot be downloaded ({error}). Fetch"
            f" {card.source} (sha256 {card.sha256}...) and put it at"
            f" {Path(shelf) / card.file} or {cache}, or pass its path"
        ) from error
    return cache


def _places(card: ModelCard) -> list[Path]:
    folder = os.environ.get("IMGMETRICS_WEIGHTS")
    cache = Path(torch.hub.get_dir()) / "checkpoints" / card.file
    return ([Path(folder).expanduser() / card.file] if folder else []) + [cache]


def offline() -> bool:
    """Whether the environment forbids the network."""
    return any(os.environ.get(k, "0") not in ("", "0") for k in ("HF_HUB_OFFLINE", "IMGMETRICS_OFFLINE"))


@functools.lru_cache(maxsize=64)
def _digest(path: str, size: int, mtime: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """Hex digest of a file, read once while it does not change."""
    stat = path.stat()
    return _digest(str(path), stat.st_size, stat.st_mtime_ns)


def state_digest(module: nn.Module) -> str:
    """First digits of the sha256 of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, x in module.state_dict().items():
        digest.update(name.encode() + x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:8]


def _verified(card: ModelCard, path: Path) -> Path:
    found = sha256(path)
    if not found.startswith(card.sha256):
        raise WeightsMismatch(f"{path} is not {card.name}: sha256 must begin with {card.sha256}, got {found}")
    return path


def load_tensors(card: ModelCard, path: Path) -> dict[str, Tensor]:
    """A state dict from .pt, .pth or .safetensors; no code in the file is run."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsMismatch(f"{path} cannot be read as the weights of {card.name}: {error}") from error
