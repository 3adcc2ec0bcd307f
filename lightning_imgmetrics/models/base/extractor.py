"""Feature extractors: frozen, hashable descriptions of image networks, and how they run on a batch."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import quantize, to_float
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.models.base.network import LOCK, Network, check_dtype, run_in_batches
from lightning_imgmetrics.models.base.weights import ModelCard

Features = dict[str, Any]  # layer name -> (n, d) tensor, or a list of (n, c, h, w) maps


class BatchFeatures(Features):
    """The features of one batch, shared by all metrics on one network."""

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """`compute()`, a function of these features, evaluated once per `key`."""
        if key not in self._derived:
            self._derived[key] = compute()
        return self._derived[key]

    @functools.cached_property
    def _derived(self) -> dict[Hashable, Any]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Extractor(Network):
    """An image network and everything that changes its features. Frozen and hashable: equal extractors share one pass.

    `dtype`: "float32", or "bfloat16" to run the network under autocast; images are prepared, and features returned, in
    float32. `compiled`: torch.compile at the first use. The trainer's precision has no influence on either.
    """

    dtype: str = "float32"
    compiled: bool = False

    default_layer: ClassVar[str] = "features"
    columns: ClassVar[tuple[str, ...]] = ()  # what `score` returns beside the score
    cacheable: ClassVar[bool] = True  # whether `signature` identifies this network, so that results may be cached
    compilable: ClassVar[bool] = True
    max_batch: ClassVar[int] = 256  # images of one pass

    def __post_init__(self) -> None:
        check_dtype(self.dtype)

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """One batch as returned by `as_images` -> network input."""

    @abstractmethod
    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        """The features of network input x at each of `layers`; may depend on `key`, but not on the preprocessing."""

    @abstractmethod
    def dim(self, layer: str) -> int:
        """Length of the feature vectors of `layer`."""

    def score(self, features: Features, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, int]:
        """Features of n images and their prompts (n) -> scores (n,) or (n, 1 + columns), and the number of truncated
        texts, for networks that read image and prompt together. TypeError for all others."""
        raise TypeError(f"{self.card.name} does not score images by prompts")

    def __call__(self, batches: Sequence[Tensor], layers: Sequence[str], device: torch.device) -> Features:
        """Features of the images of `batches`, in order: one pass for all `layers`, in the declared precision.

        Raises ShapeError if a network that does not resize gets images of different sizes, and on the CPU
        NonFiniteFeatures. On an accelerator this check would force a synchronization: there, the state is checked when
        it is read.
        """
        with full_precision(device):
            network = self.network(device)
            inputs = [self.prepare(_move(batch, device)) for batch in batches]
            if len({x.shape[1:] for x in inputs}) > 1:
                sizes = sorted({tuple(x.shape[2:]) for x in inputs})
                raise ShapeError(f"{self.card.name} needs images of one size in a batch, got {sizes}")
            x = inputs[0] if len(inputs) == 1 else torch.cat(inputs)
            runner = self._runner(network, device)
            with self.autocast(device):
                parts = run_in_batches(lambda part: runner(x[part], tuple(layers)), len(x), self.max_batch)
            features = _concatenate(parts)
        if self.dtype != "float32":
            features = {k: [x.float() for x in v] if isinstance(v, list) else v.float() for k, v in features.items()}
        if device.type == "cpu":
            for layer, parts in features.items():
                self.check_finite(parts, f"at layer {layer!r}")
        return features

    def offload(self, device: torch.device) -> None:
        _COMPILED.pop((self.key, self.dtype, device), None)  # it holds the network
        super().offload(device)

    def _runner(self, network: Any, device: torch.device) -> Callable[[Tensor, tuple[str, ...]], Features]:
        run = functools.partial(self.run, network)
        if not (self.compiled and self.compilable):
            return run
        with LOCK:
            key = self.key, self.dtype, device
            if key not in _COMPILED:
                _COMPILED[key] = torch.compile(run)
            return _COMPILED[key]


_COMPILED: dict[tuple[Hashable, str, torch.device], Callable[[Tensor, tuple[str, ...]], Features]] = {}


def _concatenate(parts: Sequence[Features]) -> Features:
    """The features of consecutive parts of a batch; entries that do not belong to images, such as weights, stay."""
    if len(parts) == 1:
        return parts[0]
    whole: Features = {}
    for layer, first in parts[0].items():
        columns = [part[layer] for part in parts]
        if isinstance(first, Tensor):
            whole[layer] = torch.cat(columns)
        else:
            whole[layer] = [torch.cat(maps) if maps[0].ndim == 4 else maps[0] for maps in zip(*columns, strict=True)]
    return whole


def _move(batch: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and batch.device.type == "cpu":
        return batch.pin_memory().to(device, non_blocking=True)  # the allocator retains the pages until the copy ends
    return batch.to(device)


def measured_deviation(
    extractor: Extractor, batches: Sequence[Tensor], layers: Sequence[str], device: torch.device
) -> float:
    """Largest relative deviation |x - y| / |y| of the features x of one batch from those, y, of the same network in
    float32 and not compiled, over the rows of `layers`."""
    reference = replace(extractor, dtype="float32", compiled=False)
    features, expected = (network(batches, layers, device) for network in (extractor, reference))
    largest = 0.0
    for layer in layers:
        pairs = zip(*(x[layer] if isinstance(x[layer], list) else [x[layer]] for x in (features, expected)))
        for x, y in pairs:
            x, y = x.double().reshape(len(x), -1), y.double().reshape(len(y), -1)
            largest = max(largest, float(((x - y).norm(dim=1) / y.norm(dim=1).clamp(min=1e-300)).max()))
    return largest


@dataclass(frozen=True)
class PixelExtractor(Extractor):
    """No network: the layer "pixels" is the list of images, each (3, h, w), float32 in [0, 1]."""

    card = ModelCard("", "")
    default_layer = "pixels"

    @functools.cached_property
    def key(self) -> Hashable:
        return "pixels"

    def load(self) -> nn.Module:
        return nn.Identity()

    def prepare(self, images: Tensor) -> Tensor:
        return to_float(images)

    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        return {"pixels": list(x)}

    def dim(self, layer: str) -> int:
        raise ShapeError("images are not feature vectors: pixels have no fixed length")

    def __call__(self, batches: Sequence[Tensor], layers: Sequence[str], device: torch.device) -> Features:
        return {"pixels": [image for batch in batches for image in self.prepare(_move(batch, device))]}


@dataclass(frozen=True)
class Uint8Pixels(PixelExtractor):
    """The input of judges: the layer "pixels" is the list of images, each (3, h, w), uint8, always on the CPU."""

    def prepare(self, images: Tensor) -> Tensor:
        return quantize(images)

    def __call__(self, batches: Sequence[Tensor], layers: Sequence[str], device: torch.device) -> Features:
        return {"pixels": [image for batch in batches for image in self.prepare(batch).cpu()]}
