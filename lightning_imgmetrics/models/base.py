"""Networks: what a metric holds (a frozen, hashable extractor), and where weights come from."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from lightning_imgmetrics._images import unit
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import MissingWeights, NonFiniteFeatures, ShapeError, WeightsMismatch

Features = dict[str, Any]  # layer name -> (n, d) tensor, or a list of (n, c, h, w) maps


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


def find_weights(card: ModelCard, weights: str | None = None) -> Path:
    """The weights file of `card`: `weights`, `IMGMETRICS_WEIGHTS`, torch's hub cache, download; checksums verified.

    An explicit `weights` path is the caller's choice and is not compared with the card. One process per file system
    downloads while the others wait for its lock, so ranks need no collective and a rank without data blocks nobody.
    Raises MissingWeights (nothing found, offline) and WeightsMismatch (checksum).
    """
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise MissingWeights(f"`weights` for {card.name} must be an existing file, got {weights!r}")
        return path
    cache = Path(torch.hub.get_dir()) / "checkpoints" / card.file
    folder = os.environ.get("IMGMETRICS_WEIGHTS")
    for path in ([Path(folder).expanduser() / card.file] if folder else []) + [cache]:
        if path.is_file():
            return _verified(card, path)
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
        raise MissingWeights(
            f"the weights of {card.name} are not on this machine and cannot be downloaded ({error}). Fetch"
            f" {card.source} (sha256 {card.sha256}...) and put it at"
            f" {Path(folder or '$IMGMETRICS_WEIGHTS') / card.file} or {cache}, or pass its path"
        ) from error
    return cache


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


def _state_digest(module: nn.Module) -> str:
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


class Extractor(ABC):
    """A network and all that changes what it returns. Frozen and hashable: equal extractors share one pass.

    The network itself is loaded at the first use, once per process and device, and stays outside every module tree.
    """

    card: ModelCard
    identified: bool = True  # whether `signature` tells this network from every other, so that results may be cached

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """What identifies the loaded network; extractors that differ in preprocessing alone share it."""

    @abstractmethod
    def load(self) -> nn.Module:
        """The network with its weights, on the CPU."""

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """One batch as `as_images` returns it -> network input."""

    @abstractmethod
    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        """The features of network input x at each of `layers`."""

    @abstractmethod
    def dim(self, layer: str) -> int:
        """Length of the feature vectors of `layer`."""

    def signature(self) -> dict[str, str]:
        return {"network": self.card.name}

    def __deepcopy__(self, memo: dict[int, Any]) -> Extractor:
        return self  # cloning a metric does not clone its network

    def network(self, device: torch.device) -> Any:
        """The loaded network on `device`, shared by all that use it: frozen, in eval mode."""
        with _LOCK:
            if (self.key, device) not in _NETWORKS:
                # Building a network draws initial weights that the checkpoint replaces: not from the user's stream.
                with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
                    _NETWORKS[self.key, device] = self.load().to(device).eval().requires_grad_(False)
            return _NETWORKS[self.key, device]

    def __call__(self, batches: Sequence[Tensor], layers: Sequence[str], device: torch.device) -> Features:
        """Features of the images of `batches`, in order: one pass for all `layers`, in declared precision.

        Raises NonFiniteFeatures, and ShapeError where a network that does not resize gets images of unlike sizes.
        """
        with full_precision(device):
            network = self.network(device)
            prepared = [self.prepare(batch.to(device)) for batch in batches]
            if len({x.shape[1:] for x in prepared}) > 1:
                sizes = sorted({tuple(x.shape[2:]) for x in prepared})
                raise ShapeError(f"{self.card.name} needs images of one size in a batch, got {sizes}")
            features = self.run(network, torch.cat(prepared), layers)
        for layer, x in features.items():
            if not all(part.isfinite().all() for part in (x if isinstance(x, list) else [x])):
                raise NonFiniteFeatures(f"{self.card.name} returned NaN or infinity at layer {layer!r}")
        return features


_NETWORKS: dict[tuple[Hashable, torch.device], nn.Module] = {}
_LOCK = threading.RLock()


@dataclass(frozen=True)
class CustomExtractor(Extractor):
    """A user's own network: images as given, (n, c, h, w) -> (n, d). It is moved to the images' device and runs in
    eval mode; its training flags are restored and its parameters left as they are.

    `image_size` (c, h, w) is what a dummy pass uses to learn d where the module has no `num_features`.
    `maps=True` says that it returns a sequence of feature maps of images in [-1, 1] in place of vectors.
    """

    module: Callable[..., Any]
    image_size: tuple[int, int, int] = (3, 299, 299)
    floating: bool = False
    maps: bool = False

    @property
    def card(self) -> ModelCard:  # type: ignore[override]
        return ModelCard(f"custom-{getattr(self.module, '__name__', type(self.module).__name__)}", "user")

    @property
    def key(self) -> Hashable:
        return self.module

    @property
    def identified(self) -> bool:  # type: ignore[override]
        return isinstance(self.module, nn.Module)

    def signature(self) -> dict[str, str]:
        if not isinstance(self.module, nn.Module):
            return super().signature()
        return {**super().signature(), "weights": _state_digest(self.module)}

    def network(self, device: torch.device) -> Any:
        return self.module.to(device) if isinstance(self.module, nn.Module) else self.module

    def load(self) -> nn.Module:
        raise AssertionError("a user's network is already loaded")

    def prepare(self, images: Tensor) -> Tensor:
        if not self.maps:
            return unit(images) if self.floating else images
        return (images.float() / 127.5 - 1) if images.dtype == torch.uint8 else 2 * images - 1

    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        modes = {m: m.training for m in network.modules()} if isinstance(network, nn.Module) else {}
        try:
            if modes:
                network.eval()
            out = network(x)
        finally:
            for module, mode in modes.items():
                module.training = mode
        if self.maps:
            return {"maps": list(out)}
        out = out if out.ndim == 2 else out[None]
        if out.ndim != 2 or len(out) != len(x):
            raise ShapeError(f"{self.card.name} must return features (n, d) for n = {len(x)}, got {tuple(out.shape)}")
        return {"features": out}

    def dim(self, layer: str) -> int:
        if hasattr(self.module, "num_features"):
            dim = self.module.num_features
            if not isinstance(dim, int | Tensor):
                raise TypeError("Expected `self.inception.num_features` to be of type int or Tensor.")
            return int(dim)
        dummy = torch.zeros(1, *self.image_size, dtype=torch.float32 if self.floating else torch.uint8)
        parameter = next(self.module.parameters(), dummy) if isinstance(self.module, nn.Module) else dummy
        features = self([dummy], (layer,), parameter.device)[layer]
        return int(features.shape[1])
