"""Which network sees the images of a distribution metric: Inception under a protocol, or any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.metrics.distribution.base import DistributionMetric
from lightning_imgmetrics.models.base.custom import CustomExtractor
from lightning_imgmetrics.models.base.extractor import Extractor
from lightning_imgmetrics.models.encoders.inception import InceptionExtractor
from lightning_imgmetrics.models.registry import as_extractor

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
    """(extractor, default layer) of a network; "inception" is FID's default, so that all metrics share one pass."""
    extractor = as_extractor(inception("torchmetrics") if network == "inception" else network)
    return extractor, extractor.default_layer


def unit_rows(x: Tensor) -> Tensor:
    """Features (n, d) -> rows of length 1, float64."""
    return torch.nn.functional.normalize(x.double(), dim=1)


def inception_network(
    metric: DistributionMetric,
    feature: str | int | nn.Module | Extractor,
    network: str | nn.Module | Callable[[Tensor], Tensor] | Extractor | None = None,
    *,
    normalize: bool,
    protocol: str,
    weights: str | None,
    antialias: bool = True,
    input_img_size: tuple[int, int, int] = (3, 299, 299),
    choices: Sequence[str | int] = (64, 192, 768, 2048),
    default: str | int = 2048,
    takes_names: bool = False,
) -> tuple[Extractor, str]:
    """(extractor, layer) that torchmetrics' arguments of a metric on Inception-v3 mean, and ours: network, protocol.

    `feature` names a layer of Inception, or is itself a network, as `network` is. `metric` learns which images it takes
    and whose protocol it follows. `takes_names`: whether `network` may name another one; FID and the Inception score
    are defined on Inception, and taken on networks of a user's own. Another network comes with its default layer.
    """
    if not isinstance(normalize, bool):
        raise ValueError("Argument `normalize` expected to be a bool")
    metric.accepts_floats, metric.channels = normalize, input_img_size[0]
    standard = inception(protocol, weights, antialias=antialias)
    other = network is not None and network != "inception"
    if (network is not None and not isinstance(feature, str | int)) or (other and feature != default):
        raise TypeError(f"`network` and `feature` both name the features: got {network!r} and {feature!r}")
    chosen: Any = network if other else feature
    if isinstance(chosen, nn.Module):
        return CustomExtractor(chosen, image_size=input_img_size, floating=normalize), "features"
    if isinstance(chosen, Extractor) or other:
        if isinstance(chosen, str) and not takes_names:
            raise ValueError(
                f"`network` must be 'inception', a module or an Extractor for {metric.name}, got {chosen!r}:"
                f" FrechetDistance({chosen!r}), and the keys fd_dinov2 and fd_clip, are distances by other networks"
            )
        extractor, layer = network_of(chosen)
        metric.protocol = protocol if isinstance(extractor, InceptionExtractor) else None
        return extractor, layer
    if isinstance(feature, bool) or not isinstance(feature, str | int):
        raise TypeError("Got unknown input to argument `feature`")
    if feature not in choices:
        raise ValueError(f"Integer input to argument `feature` must be one of {tuple(choices)}, but got {feature}.")
    metric.protocol = protocol
    return standard, str(feature)


@property
def shared_network(metric: DistributionMetric) -> nn.Module:
    """torchmetrics' name for the network, which is shared, on the metric's device."""
    assert metric.extractor is not None
    return metric.extractor.network(metric.device)
