"""A user's own network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import to_float
from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.models.base.extractor import Extractor, Features
from lightning_imgmetrics.models.base.weights import ModelCard, state_digest


@dataclass(frozen=True)
class CustomExtractor(Extractor):
    """A user's own network, (n, c, h, w) -> (n, d), on images that are not preprocessed.

    It is moved to the images' device and runs in eval mode, never compiled; training flags are restored afterward, and
    parameters are not changed. `image_size` (c, h, w) is that of a dummy pass to determine d, if the module has no
    `num_features`. `floating`: it takes floats in [0, 1] in place of uint8. `maps=True`: it returns a sequence of
    feature maps of images in [-1, 1] in place of vectors.
    """

    module: Callable[..., Any]
    image_size: tuple[int, int, int] = (3, 299, 299)
    floating: bool = False
    maps: bool = False
    compilable = False

    @property
    def card(self) -> ModelCard:
        return ModelCard(f"custom-{getattr(self.module, '__name__', type(self.module).__name__)}", "user")

    @functools.cached_property
    def key(self) -> Hashable:
        return self.module

    @property
    def default_layer(self) -> str:
        return "maps" if self.maps else "features"

    @property
    def cacheable(self) -> bool:
        return isinstance(self.module, nn.Module)

    def signature_fields(self) -> dict[str, str]:
        return {"weights": state_digest(self.module)} if isinstance(self.module, nn.Module) else {}

    def network(self, device: torch.device) -> Any:
        return self.module.to(device) if isinstance(self.module, nn.Module) else self.module

    def load(self) -> nn.Module:
        raise AssertionError("a user's network is already loaded")

    def prepare(self, images: Tensor) -> Tensor:
        if not self.maps:
            return to_float(images) if self.floating else images
        return (images.float() / 127.5 - 1) if images.dtype == torch.uint8 else 2 * images - 1

    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        modes = {m: m.training for m in network.modules()} if isinstance(network, nn.Module) else {}
        try:
            if modes:
                network.eval()
            output = network(x)
        finally:
            for module, mode in modes.items():
                module.training = mode
        if self.maps:
            return {"maps": list(output)}
        features = output if output.ndim == 2 else output[None]
        if features.ndim != 2 or len(features) != len(x):
            shape = tuple(features.shape)
            raise ShapeError(f"{self.card.name} must return features (n, d) for n = {len(x)}, got {shape}")
        return {"features": features}

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
