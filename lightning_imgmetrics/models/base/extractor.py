"""Networks: what a metric holds, a frozen and hashable extractor, and how it runs."""

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
    """The features of one batch, as they are handed to all metrics that share a network."""

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """`compute()`, which is made of these features; once for all metrics that ask for `key`."""
        if key not in self._derived:
            self._derived[key] = compute()
        return self._derived[key]

    @functools.cached_property
    def _derived(self) -> dict[Hashable, Any]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Extractor(Network):
    """An image network and all that changes what it returns. Frozen and hashable: equal extractors share one pass.

    `dtype`: "float32", or "bfloat16" to run the network under autocast; images are prepared, and features come back, in
    float32. `compiled`: torch.compile at the first use. Both are declared here; the trainer's precision has no say.
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
        """One batch as `as_images` returns it -> network input."""

    @abstractmethod
    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        """The features of network input x at each of `layers`. May depend on `key`, not on the preprocessing."""

    @abstractmethod
    def dim(self, layer: str) -> int:
        """Length of the feature vectors of `layer`."""

    def score(self, features: Features, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, int]:
        """Features of n images and their prompts (n) -> scores (n,) or (n, 1 + columns), and the number of truncated
        texts, for networks that read image and prompt together. TypeError for all others."""
        raise TypeError(f"{self.card.name} does not score images by prompts")

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
            runner = self._runner(network, device)
            with self.autocast(device):
                features = _joined(run_in_batches(lambda part: runner(x[part], tuple(layers)), len(x), self.max_batch))
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


def _joined(parts: Sequence[Features]) -> Features:
    """The features of consecutive parts of a batch; what is no feature of an image, such as weights, is that of all."""
    if len(parts) == 1:
        return parts[0]
    joined: Features = {}
    for layer, first in parts[0].items():
        columns = [part[layer] for part in parts]
        if isinstance(first, Tensor):
            joined[layer] = torch.cat(columns)
        else:
            joined[layer] = [torch.cat(maps) if maps[0].ndim == 4 else maps[0] for maps in zip(*columns, strict=True)]
    return joined


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


@dataclass(frozen=True)
class PixelExtractor(Extractor):
    """No network: the layer "pixels" is a list of the images themselves, each (3, h, w), float32 in [0, 1]."""

    card = ModelCard("", "")
    default_layer = "pixels"

    @property
    def key(self) -> Hashable:
        return "pixels"

    def load(self) -> nn.Module:
        return nn.Identity()

    def prepare(self, images: Tensor) -> Tensor:
        return to_float(images)

    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        return {"pixels": list(x)}

    def dim(self, layer: str) -> int:
        raise ShapeError("images are no feature vectors: pixels have no fixed length")

    def __call__(self, batches: Sequence[Tensor], layers: Sequence[str], device: torch.device) -> Features:
        return {"pixels": [image for batch in batches for image in self.prepare(_moved(batch, device))]}


@dataclass(frozen=True)
class Uint8Pixels(PixelExtractor):
    """The images as judges see them: the layer "pixels" is a list of uint8 images (3, h, w), always on the CPU."""

    def prepare(self, images: Tensor) -> Tensor:
        return quantize(images)

    def __call__(self, batches: Sequence[Tensor], layers: Sequence[str], device: torch.device) -> Features:
        return {"pixels": [image for batch in batches for image in self.prepare(batch).cpu()]}
