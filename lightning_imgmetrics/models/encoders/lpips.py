"""The trunks and heads of LPIPS v0.1 (v0.0 did not scale its input, and is not offered)."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import to_float
from lightning_imgmetrics.errors import MissingExtra, ShapeError, UnknownName, WeightsMismatch
from lightning_imgmetrics.models.base.extractor import Extractor, Features
from lightning_imgmetrics.models.base.weights import ModelCard, find_weights, load_tensors, sha256

_URL = "https://download.pytorch.org/models/"
# torchvision's name, its file, the first digits of its sha256, and the indices of the layers that LPIPS compares.
_TRUNKS = {
    "alex": ("alexnet", "alexnet-owt-7be5be79.pth", "7be5be79", (1, 4, 7, 9, 11)),
    "vgg": ("vgg16", "vgg16-397923af.pth", "397923af", (3, 8, 15, 22, 29)),
    "squeeze": ("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", "b8a52dc0", (1, 4, 7, 9, 10, 11, 12)),
}
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class _Trunk(nn.Module):
    """Images in [-1, 1] -> the feature maps that LPIPS compares."""

    shift: Tensor
    scale: Tensor

    def __init__(self, features: nn.Sequential, taps: tuple[int, ...], heads: list[Tensor]):
        super().__init__()
        self.features = features[: taps[-1] + 1]
        self.taps = taps
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None])
        self.heads = nn.ParameterList(heads)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = (x - self.shift) / self.scale
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                maps.append(x)
        return maps


def torchvision_features(name: str, card: ModelCard, weights: str | None) -> nn.Sequential:
    """The convolutional part of torchvision's network `name`; WeightsMismatch for a file that does not fit it."""
    import torchvision

    path = find_weights(card, weights)
    tensors = load_tensors(card, path)
    features = {k.removeprefix("features."): v for k, v in tensors.items() if k.startswith("features.")}
    with torch.device("meta"):
        trunk = getattr(torchvision.models, name)(weights=None).features
    try:
        trunk.load_state_dict(features, assign=True)
    except RuntimeError as error:
        raise WeightsMismatch(f"{path} does not fit torchvision's {name}: {shorten(str(error), 400)}") from error
    return trunk


def require_positive(path: Path, weights: Sequence[Tensor]) -> None:
    """WeightsMismatch unless no weight is negative: a distance would be."""
    if not all((x >= 0).all() for x in weights):  # nor NaN
        raise WeightsMismatch(f"{path} holds negative weights: distances would be negative")


@dataclass(frozen=True)
class LpipsExtractor(Extractor):
    """Layers "maps" (one (n, c, h, w) per layer) and "heads" (one (c,) per layer) of LPIPS v0.1 (Zhang et al. 2018).

    `net`: "alex", "vgg" or "squeeze"; `weights`: a file in place of torchvision's ImageNet weights; `image_size`
    resizes images to that square (bilinear, antialiased) so that maps of all images have one shape.
    """

    net: str = "alex"
    weights: str | None = None
    image_size: int | None = None
    default_layer = "maps"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.net not in _TRUNKS:
            raise UnknownName("network", self.net, _TRUNKS)

    @property
    def card(self) -> ModelCard:
        _, file, digits, _ = _TRUNKS[self.net]
        return ModelCard(f"lpips-{self.net}-v0.1", _URL + file, file, digits, "BSD-3-Clause")

    @functools.cached_property
    def key(self) -> Hashable:
        return "lpips", self.net, self.weights

    def load(self) -> nn.Module:
        name, _, _, taps = _TRUNKS[self.net]
        spec = importlib.util.find_spec("lpips")
        if spec is None or spec.origin is None:
            raise MissingExtra("LPIPS' linear layers come with the package `lpips`: pip install lpips")
        path = Path(spec.origin).parent / f"weights/v0.1/{self.net}.pth"
        tensors = load_tensors(self.card, path)
        heads = [tensors[f"lin{i}.model.1.weight"].flatten() for i in range(len(taps))]
        require_positive(path, heads)
        network = _Trunk(torchvision_features(name, self.card, self.weights), taps, heads)
        return network.to(memory_format=torch.channels_last)

    def prepare(self, images: Tensor) -> Tensor:
        x = 2 * to_float(images) - 1
        if self.image_size is not None and x.shape[2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            x = nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
        if min(x.shape[2:]) < 32:
            raise ShapeError(f"{self.card.name} needs images of at least 32 x 32 pixels, got {tuple(images.shape)}")
        return x

    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        return {"maps": network(x.contiguous(memory_format=torch.channels_last)), "heads": list(network.heads)}

    @property
    def depth(self) -> int:
        """The number of layers that are compared."""
        return len(_TRUNKS[self.net][3])

    def dim(self, layer: str) -> int:
        if self.image_size is None:
            raise ShapeError(f"the feature length of {self.card.name} depends on the image size: set `image_size`")
        name, *_, taps = _TRUNKS[self.net]
        with torch.device("meta"):
            import torchvision

            x = torch.zeros(1, 3, self.image_size, self.image_size)
            length = 0
            for i, module in enumerate(getattr(torchvision.models, name)(weights=None).features[: taps[-1] + 1]):
                x = module(x)
                length += x.numel() if i in taps else 0
        return length

    def signature_fields(self) -> dict[str, str]:
        weights = self.card.sha256 if self.weights is None else sha256(find_weights(self.card, self.weights))[:8]
        size = {} if self.image_size is None else {"resize": f"bilinear-antialias-{self.image_size}"}
        return {"weights": weights, **size}
