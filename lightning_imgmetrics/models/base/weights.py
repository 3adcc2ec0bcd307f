"""Weights files: their cards, the places where they are looked up, checksums, and reading."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from lightning_imgmetrics.errors import MissingWeights, WeightsMismatch


@dataclass(frozen=True)
class ModelCard:
    """The source of a network's weights.

    `sha256` may be the leading digits that the publisher puts into the file name, or "" if none is published. `file` is
    the name of the weights in `IMGMETRICS_WEIGHTS` or in torch's hub cache. `repo` is the Hugging Face repository of a
    file at `revision`: it is then looked up as `<repo>/<file>`, and in the hub's cache, which stores a file under its
    checksum.
    """

    name: str
    source: str
    file: str = ""
    sha256: str = ""
    license: str = ""
    repo: str = ""
    revision: str = "main"

    @classmethod
    def on_hub(cls, name: str, repo: str, file: str, *, revision: str = "main", license: str = "") -> ModelCard:
        """The card of a file of a Hugging Face repository."""
        source = f"https://huggingface.co/{repo}/resolve/{revision}/{file}"
        return cls(name, source, file, license=license, repo=repo, revision=revision)

    @property
    def place(self) -> str:
        """Where the file lies below `IMGMETRICS_WEIGHTS`."""
        return f"{self.repo}/{self.file}" if self.repo else self.file


def local_weights(card: ModelCard, weights: str | None = None) -> Path | None:
    """The path of the weights file of `card` on this machine, not read; None if it is absent.

    Looked up in this order: `weights`, `IMGMETRICS_WEIGHTS`, torch's hub cache.
    """
    places = [Path(weights).expanduser()] if weights is not None else _places(card)
    return next((path for path in places if path.is_file()), None)


def find_weights(card: ModelCard, weights: str | None = None) -> Path:
    """The weights file of `card` as `local_weights` finds it, or downloaded; checksums verified.

    An explicit `weights` path is the caller's choice and is not compared with the card. One process per file system
    downloads while the others wait for its lock, so ranks need no collective and a rank without data blocks no other.
    Raises MissingWeights (absent, offline) and WeightsMismatch (checksum).
    """
    path = local_weights(card, weights)
    if weights is not None:
        if path is None:
            raise MissingWeights(f"`weights` for {card.name} must be an existing file, got {weights!r}")
        return path
    return _download(card) if path is None else _verify(card, path)


def _download(card: ModelCard) -> Path:
    cache = Path(torch.hub.get_dir()) / "checkpoints" / card.place
    try:
        if offline():
            raise OSError("HF_HUB_OFFLINE or IMGMETRICS_OFFLINE is set")
        if card.repo:
            from huggingface_hub import hf_hub_download

            return _verify(card, Path(hf_hub_download(card.repo, card.file, revision=card.revision)))
        cache.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{cache}.lock"):
            if not cache.is_file():  # another process may have had the lock before
                torch.hub.download_url_to_file(card.source, str(cache), hash_prefix=card.sha256, progress=False)
    except RuntimeError as error:  # raised by torch for another checksum
        raise WeightsMismatch(f"the download of {card.name} from {card.source} is damaged: {error}") from error
    except OSError as error:
        folder = os.environ.get("IMGMETRICS_WEIGHTS") or "$IMGMETRICS_WEIGHTS"
        digits = f" (sha256 {card.sha256}...)" if card.sha256 else ""
        raise MissingWeights(
            f"the weights of {card.name} are not on this machine and cannot be downloaded ({error}). Fetch"
            f" {card.source}{digits} and put it at {Path(folder) / card.place}"
            f"{'' if card.repo else f' or {cache}'}, or pass its path"
        ) from error
    return cache


def _places(card: ModelCard) -> list[Path]:
    variable = os.environ.get("IMGMETRICS_WEIGHTS")
    folder = [Path(variable).expanduser() / card.place] if variable else []
    if card.repo:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(card.repo, card.file, revision=card.revision)
        return [*folder, Path(cached)] if isinstance(cached, str) else folder
    return [*folder, Path(torch.hub.get_dir()) / "checkpoints" / card.file]


def offline() -> bool:
    """Whether the environment forbids network access."""
    return any(os.environ.get(k, "0") not in ("", "0") for k in ("HF_HUB_OFFLINE", "IMGMETRICS_OFFLINE"))


@functools.lru_cache(maxsize=64)
def _digest(path: str, size: int, mtime: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """Hex digest of a file, cached as long as its size and time do not change."""
    stat = path.stat()
    return _digest(str(path), stat.st_size, stat.st_mtime_ns)


def state_digest(module: nn.Module) -> str:
    """First digits of the sha256 of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, x in module.state_dict().items():
        digest.update(name.encode() + x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:8]


def _verify(card: ModelCard, path: Path) -> Path:
    if card.sha256 and not (digest := sha256(path)).startswith(card.sha256):
        raise WeightsMismatch(f"{path} is not {card.name}: sha256 must begin with {card.sha256}, got {digest}")
    return path


def shards(index: Path) -> list[Path]:
    """The weights files that a `*.index.json` lists; WeightsMismatch if it is not such an index."""
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return [index.parent / name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsMismatch(f"{index} cannot be read as an index of weights: {error!r}") from error


def load_tensors(card: ModelCard, path: Path) -> dict[str, Tensor]:
    """A state dict from .pt, .pth, .bin or .safetensors, or its entry "state_dict"; no code in it is run.

    A prefix "module.", left by training on several devices, is removed. WeightsMismatch for a file that cannot be read,
    would run code, or holds something else.
    """
    return _read(card, path)


def tensor_names(card: ModelCard, path: Path) -> frozenset[str]:
    """The names of the tensors that `load_tensors` reads, cached as long as the file does not change."""
    stat = path.stat()
    return _names(card, path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _names(card: ModelCard, path: Path, size: int, mtime: int) -> frozenset[str]:
    return frozenset(_read(card, path, names_only=True))


def _read(card: ModelCard, path: Path, *, names_only: bool = False) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                names = file.keys()
                content: Any = {key: torch.empty(0) if names_only else file.get_tensor(key) for key in names}
        else:
            content = torch.load(path, map_location="meta" if names_only else "cpu", weights_only=True)
    except Exception as error:
        raise WeightsMismatch(f"{path} cannot be read as the weights of {card.name}: {error}") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    named = isinstance(content, dict) and all(isinstance(k, str) and isinstance(x, Tensor) for k, x in content.items())
    if not named:
        raise WeightsMismatch(f"{path} must hold the tensors of {card.name} by name, got {type(content).__name__}")
    if all(key.startswith("module.") for key in content):
        content = {key.removeprefix("module."): x for key, x in content.items()}
    return content
