"""The network of DISTS: a VGG-16 with anti-aliased pooling, and the weights of its channels."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_imgmetrics._images import to_float
from lightning_imgmetrics.errors import MissingWeights, ShapeError, WeightsMismatch
from lightning_imgmetrics.models.base.extractor import Extractor, Features
from lightning_imgmetrics.models.base.weights import ModelCard, find_weights, load_tensors, sha256
from lightning_imgmetrics.models.encoders.lpips import LpipsExtractor, require_positive, torchvision_features

_CHANNELS = (3, 64, 128, 256, 512, 512)  # of the image and of the five stages
_TAPS = (3, 8, 15, 22, 29)  # the last layer of each stage
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_VGG = LpipsExtractor("vgg").card


class L2Pool(nn.Module):
    """Root mean square under a 3 x 3 Hann window, with stride 2."""

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("taps", torch.outer(taps, taps)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        x = F.conv2d(x.square(), self.taps.expand(channels, 1, 3, 3), stride=2, padding=1, groups=channels)
        return (x + 1e-12).sqrt()


class _Stages(nn.Module):
    """Images in [0, 1] -> themselves and the feature maps of the five stages."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: nn.Sequential, alpha: list[Tensor], beta: list[Tensor]):
        super().__init__()
        layers = [L2Pool() if isinstance(layer, nn.MaxPool2d) else layer for layer in features[: _TAPS[-1] + 1]]
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_STD)[:, None, None])
        self.alpha, self.beta = nn.ParameterList(alpha), nn.ParameterList(beta)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [x]
        x = (x - self.mean) / self.std
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in _TAPS:
                maps.append(x)
        return maps


@dataclass(frozen=True)
class DistsExtractor(Extractor):
    """Layers "maps" (one (n, c, h, w) per stage), "alpha" and "beta" (one (c,) per stage) of DISTS (Ding et al. 2020).

    `weights`: a file in place of torchvision's VGG-16 with ImageNet weights. Images of any size, not resized.
    """

    weights: str | None = None
    default_layer = "maps"
    card = ModelCard("dists-vgg16", _VGG.source, _VGG.file, _VGG.sha256, _VGG.license)

    @functools.cached_property
    def key(self) -> Hashable:
        return "dists", self.weights

    def load(self) -> nn.Module:
        path = Path(str(importlib.resources.files("torchmetrics"))) / "functional/image/dists_models/weights.pt"
        if not path.is_file():
            raise MissingWeights(f"the channel weights of DISTS come with torchmetrics, which lacks {path}")
        tensors = load_tensors(self.card, path)
        if sorted((k, x.numel()) for k, x in tensors.items()) != [(k, sum(_CHANNELS)) for k in ("alpha", "beta")]:
            raise WeightsMismatch(f"{path} must hold `alpha` and `beta` of {sum(_CHANNELS)} channels, got {[*tensors]}")
        alpha, beta = (list(tensors[k].flatten().split(_CHANNELS)) for k in ("alpha", "beta"))
        require_positive(path, [*alpha, *beta])
        network = _Stages(torchvision_features("vgg16", self.card, self.weights), alpha, beta)
        return network.to(memory_format=torch.channels_last)

    def prepare(self, images: Tensor) -> Tensor:
        return to_float(images)

    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        maps = network(x.contiguous(memory_format=torch.channels_last))
        return {"maps": maps, "alpha": list(network.alpha), "beta": list(network.beta)}

    def dim(self, layer: str) -> int:
        raise ShapeError(f"{self.card.name} compares maps of any size: they have no fixed length")

    def signature_fields(self) -> dict[str, str]:
        weights = self.card.sha256 if self.weights is None else sha256(find_weights(self.card, self.weights))[:8]
        return {"weights": weights}
