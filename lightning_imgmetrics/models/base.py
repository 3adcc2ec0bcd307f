"""Networks: what a metric holds, a frozen and hashable extractor, and how it runs."""

from __future__ import annotations

import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import unit
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import MissingWeights, NonFiniteFeatures, ShapeError, UnknownName
from lightning_imgmetrics.models.weights import ModelCard, find_weights, local_weights, state_digest

Features = dict[str, Any]  # layer name -> (n, d) tensor, or a list of (n, c, h, w) maps

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Extractor(ABC):
    """A network and all that changes what it returns. Frozen and hashable: equal extractors share one pass.

    The network itself is loaded at the first use, once per process and device, and stays outside every module tree.
    `dtype`: "float32", or "bfloat16" to run the network under autocast; images are prepared, and features come back, in
    float32. `compiled`: torch.compile at the first use. Both are declared here; the trainer's precision has no say.
    """

    dtype: str = "float32"
    compiled: bool = False

    card: ClassVar[ModelCard]
    default_layer: ClassVar[str] = "features"
    identified: ClassVar[bool] = True  # whether `signature` tells this network from all others: results may be cached
    compilable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise UnknownName("dtype", self.dtype, _DTYPES)

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
        """The features of network input x at each of `layers`. May depend on `key`, not on the preprocessing."""

    @abstractmethod
    def dim(self, layer: str) -> int:
        """Length of the feature vectors of `layer`."""

    def rules(self) -> dict[str, str]:
        """Weights and preprocessing, for the signature."""
        return {}

    def signature(self) -> dict[str, str]:
        """Everything that changes the features: network, rules, and the dtype where it is not float32."""
        dtype = {} if self.dtype == "float32" else {"dtype": self.dtype}
        return {"network": self.card.name, **self.rules(), **dtype}

    def where(self) -> Path | None:
        """The weights on this machine, a file or a folder, neither read nor fetched; None where they are absent."""
        return None

    def prefetch(self) -> Path:
        """The weights, found or downloaded, and verified; MissingWeights or WeightsMismatch."""
        raise MissingWeights(f"{self.card.name} is the caller's own network: there is nothing to fetch")

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

        Raises ShapeError where a network that does not resize gets images of unlike sizes, and on the CPU
        NonFiniteFeatures. An accelerator would have to wait for that answer: there, the state is checked when read.
        """
        with full_precision(device):
            network = self.network(device)
            prepared = [self.prepare(_moved(batch, device)) for batch in batches]
            if len({x.shape[1:] for x in prepared}) > 1:
                sizes = sorted({tuple(x.shape[2:]) for x in prepared})
                raise ShapeError(f"{self.card.name} needs images of one size in a batch, got {sizes}")
            x = prepared[0] if len(prepared) == 1 else torch.cat(prepared)
            with self.autocast(device):
                features = self._runner(network, device)(x, tuple(layers))
        if self.dtype != "float32":
            features = {k: [x.float() for x in v] if isinstance(v, list) else v.float() for k, v in features.items()}
        if device.type == "cpu":
            for layer, parts in features.items():
                self.check_finite(parts, f"at layer {layer!r}")
        return features

    def autocast(self, device: torch.device) -> torch.autocast:
        """The declared dtype; to be entered inside `full_precision`."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16")

    def check_finite(self, features: Tensor | list[Tensor], what: str) -> None:
        """NonFiniteFeatures unless all numbers are finite; reads one value back from the device."""
        if not all(part.isfinite().all() for part in (features if isinstance(features, list) else [features])):
            raise NonFiniteFeatures(f"{self.card.name} returned NaN or infinity {what}")

    def _runner(self, network: Any, device: torch.device) -> Callable[[Tensor, tuple[str, ...]], Features]:
        run = functools.partial(self.run, network)
        if not (self.compiled and self.compilable):
            return run
        with _LOCK:
            key = self.key, self.dtype, device
            if key not in _COMPILED:
                _COMPILED[key] = torch.compile(run)
            return _COMPILED[key]


_NETWORKS: dict[tuple[Hashable, torch.device], nn.Module] = {}
_COMPILED: dict[tuple[Hashable, str, torch.device], Callable[[Tensor, tuple[str, ...]], Features]] = {}
_LOCK = threading.RLock()


def _moved(batch: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and batch.device.type == "cpu":
        return batch.pin_memory().to(device, non_blocking=True)  # the allocator keeps the pages until they are copied
    return batch.to(device)


def measured_deviation(
    extractor: Extractor, batches: Sequence[Tensor], layers: Sequence[str], device: torch.device
) -> float:
    """Largest relative deviation |x - y| / |y| over the rows of `layers` of one batch, x of `extractor` and y of its
    float32, uncompiled twin; 0 for the twin itself."""
    twin = replace(extractor, dtype="float32", compiled=False)
    features, expected = (network(batches, layers, device) for network in (extractor, twin))
    worst = 0.0
    for layer in layers:
        pairs = zip(*(x[layer] if isinstance(x[layer], list) else [x[layer]] for x in (features, expected)))
        for x, y in pairs:
            x, y = x.double().reshape(len(x), -1), y.double().reshape(len(y), -1)
            worst = max(worst, float(((x - y).norm(dim=1) / y.norm(dim=1).clamp(min=1e-300)).max()))
    return worst


class FileExtractor(Extractor):
    """An extractor whose weights are one file, which its card names; `weights` is a path in place of it."""

    weights: str | None

    def where(self) -> Path | None:
        return local_weights(self.card, self.weights)

    def prefetch(self) -> Path:
        return find_weights(self.card, self.weights)


@dataclass(frozen=True)
class CustomExtractor(Extractor):
    """A user's own network: images as given, (n, c, h, w) -> (n, d). It is moved to the images' device and runs in
    eval mode, never compiled here; its training flags are restored and its parameters left as they are.

    `image_size` (c, h, w) is what a dummy pass uses to learn d where the module has no `num_features`.
    `maps=True` says that it returns a sequence of feature maps of images in [-1, 1] in place of vectors.
    """

    module: Callable[..., Any]
    image_size: tuple[int, int, int] = (3, 299, 299)
    floating: bool = False
    maps: bool = False
    compilable = False

    @property
    def card(self) -> ModelCard:  # type: ignore[override]
        return ModelCard(f"custom-{getattr(self.module, '__name__', type(self.module).__name__)}", "user")

    @property
    def key(self) -> Hashable:
        return self.module

    @property
    def default_layer(self) -> str:  # type: ignore[override]
        return "maps" if self.maps else "features"

    @property
    def identified(self) -> bool:  # type: ignore[override]
        return isinstance(self.module, nn.Module)

    def rules(self) -> dict[str, str]:
        return {"weights": state_digest(self.module)} if isinstance(self.module, nn.Module) else {}

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
