"""Which network sees the images of a distribution metric: Inception under a protocol, or any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.models.base.custom import CustomExtractor
from lightning_imgmetrics.models.base.extractor import Extractor
from lightning_imgmetrics.models.encoders.inception import InceptionExtractor
from lightning_imgmetrics.models.registry import extractor_of

# What each tool does to an image before the same Inception network sees it (see README, "Protocols").
PROTOCOLS: dict[str, dict[str, str]] = {
    "torchmetrics": {"resize": "bilinear-antialias", "rounding": "floor", "scale": "tf"},
    "torch-fidelity": {"resize": "tf1-bilinear", "rounding": "round", "scale": "tf"},
    "pytorch-fid": {"resize": "bilinear", "rounding": "round", "scale": "unit"},
    "clean-fid": {"resize": "bicubic-antialias", "rounding": "round", "scale": "tf"},
    "adm": {"resize": "tf1-bilinear", "rounding": "round", "scale": "tf"},
}


def inception(protocol: str, weights: str | None = None, *, antialias: bool = True) -> InceptionExtractor:
    """The Inception network as the tool named `protocol` feeds it; UnknownName lists the protocols."""
    if protocol not in PROTOCOLS:
        raise UnknownName("protocol", protocol, PROTOCOLS)
    if not antialias and protocol != "torchmetrics":
        raise ValueError(f"`antialias=False` belongs to protocol 'torchmetrics', got protocol {protocol!r}")
    rules = PROTOCOLS[protocol] | ({} if antialias else {"resize": "tf1-bilinear"})
    return InceptionExtractor(rules["resize"], rules["rounding"], rules["scale"], weights)


def network_of(network: str | nn.Module | Callable[[Tensor], Tensor] | Extractor) -> tuple[Extractor, str]:
    """`extractor_of`; "inception" is fed as by default for FID, so that all metrics on it share one pass."""
    return extractor_of(inception("torchmetrics") if network == "inception" else network)


def unit_rows(x: Tensor) -> Tensor:
    """Features (n, d) -> rows of length 1, float64."""
    return torch.nn.functional.normalize(x.double(), dim=1)


class InceptionInput(ImageMetric):
    """What torchmetrics' metrics on Inception-v3 share: `feature`, `normalize`, and ours: `network`, `protocol`.

    `feature` names a layer of Inception, or is itself a network, as `network` is. `takes_names`: whether `network` may
    name another one; FID and the Inception score are defined on Inception, and taken on networks of a user's own.
    """

    feature_network = "inception"  # torchmetrics' name of the attribute that holds the network
    default_network: ClassVar[str] = "inception"
    default_feature: ClassVar[str | int] = 2048
    takes_names: ClassVar[bool] = False
    feature_choices: ClassVar[tuple[str | int, ...]] = (64, 192, 768, 2048)
    normalize: bool
    protocol: str

    def network_for(
        self,
        feature: str | int | nn.Module | Extractor,
        network: str | nn.Module | Callable[[Tensor], Tensor] | Extractor | None = None,
        *,
        normalize: bool,
        protocol: str,
        weights: str | None,
        antialias: bool = True,
        input_img_size: tuple[int, int, int] = (3, 299, 299),
    ) -> tuple[Extractor, str]:
        """(extractor, layer) of the constructor's arguments; a network comes with its default layer."""
        if not isinstance(normalize, bool):
            raise ValueError("Argument `normalize` expected to be a bool")
        self.normalize, self.protocol, self.channels = normalize, protocol, input_img_size[0]
        standard = inception(protocol, weights, antialias=antialias)
        other = network is not None and network != self.default_network
        if (network is not None and not isinstance(feature, str | int)) or (other and feature != self.default_feature):
            raise TypeError(f"`network` and `feature` both name the features: got {network!r} and {feature!r}")
        chosen = network if other else feature
        if isinstance(chosen, nn.Module):
            return CustomExtractor(chosen, image_size=input_img_size, floating=normalize), "features"
        if isinstance(chosen, Extractor) or other:
            return self.other_network(chosen)
        if isinstance(feature, bool) or not isinstance(feature, str | int):
            raise TypeError("Got unknown input to argument `feature`")
        if feature not in self.feature_choices:
            raise ValueError(
                f"Integer input to argument `feature` must be one of {self.feature_choices}, but got {feature}."
            )
        return standard, str(feature)

    def other_network(self, network: Any) -> tuple[Extractor, str]:
        """`network_of`; ValueError for a name where the metric is defined on Inception."""
        if isinstance(network, str) and not self.takes_names:
            raise ValueError(
                f"`network` must be 'inception', a module or an Extractor for {self.name}, got {network!r}:"
                f" FrechetDistance({network!r}), and the keys fd_dinov2 and fd_clip, are distances by other networks"
            )
        return network_of(network)

    def accept(self, images: Images, name: str = "images") -> list[Tensor]:
        some = images if isinstance(images, list | tuple) else [images]
        if not self.normalize and any(isinstance(x, Tensor) and x.is_floating_point() for x in some):
            raise ValueError(
                "Expecting image as torch.Tensor with dtype=torch.uint8, got float"
                f" `{name}`: pass normalize=True for float images"
            )
        return super().accept(images, name)

    @property
    def inception(self) -> nn.Module:
        """The shared network on this metric's device."""
        assert self.extractor is not None
        return self.extractor.network(self.device)

    def parameters_of_value(self) -> dict[str, Any]:
        mine = {"protocol": self.protocol} if isinstance(self.extractor, InceptionExtractor) else {}
        return {**mine, **super().parameters_of_value()}
