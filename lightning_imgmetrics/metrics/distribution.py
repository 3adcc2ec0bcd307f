"""Distances between two sets of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import NotEnoughSamples, UnknownName
from lightning_imgmetrics.functional.frechet import frechet_to_factor, psd_factor
from lightning_imgmetrics.metrics.base import DistributionMetric
from lightning_imgmetrics.metrics.stateful import Summary
from lightning_imgmetrics.models.base import CustomExtractor, Extractor
from lightning_imgmetrics.models.clip import ClipExtractor
from lightning_imgmetrics.models.inception import InceptionExtractor
from lightning_imgmetrics.states.moments import Moments

_TOO_FEW = "More than one sample is required for both the real and fake distributed to compute FID"

# What each tool does to an image before the same Inception network sees it (see README, "Protocols").
PROTOCOLS: dict[str, dict[str, str]] = {
    "torchmetrics": {"resize": "bilinear-antialias", "rounding": "floor", "scale": "tf"},
    "torch-fidelity": {"resize": "tf1-bilinear", "rounding": "round", "scale": "tf"},
    "pytorch-fid": {"resize": "bilinear", "rounding": "round", "scale": "unit"},
    "clean-fid": {"resize": "bicubic-antialias", "rounding": "round", "scale": "tf"},
}


class FrechetDistance(DistributionMetric):
    """Fréchet distance between Gaussians fitted to the features of two sets of images; >= 0, lower is better.

    `network`: "digits-clip", a CLIP or SigLIP checkpoint folder or hub id (its projected embedding), an `Extractor`,
    or your own module or callable `(n, 3, h, w) -> (n, d)`, called as the images come (uint8 or float in [0, 1]).
    Both sets need two samples. Source: Dowson & Landau 1982.
    """

    name: ClassVar[str] = "frechet_distance"
    higher_is_better = False
    plot_lower_bound: float = 0.0

    def __init__(
        self,
        network: str | nn.Module | Callable[[Tensor], Tensor] | Extractor = "digits-clip",
        *,
        layer: str | None = None,
        reset_real_features: bool = True,
        **kwargs: Any,
    ):
        if isinstance(network, str):
            extractor: Extractor = ClipExtractor(network)
        elif isinstance(network, Extractor):
            extractor = network
        elif callable(network):
            extractor = CustomExtractor(network)
        else:
            raise TypeError(f"`network` must be a name, a module, a callable or an Extractor, got {network!r}")
        layer = layer or {ClipExtractor: "embed", InceptionExtractor: "2048"}.get(type(extractor), "features")
        self.moments = Moments(extractor.dim(layer))
        self._reference: tuple[Tensor, Tensor] | None = None
        super().__init__(extractor, layer, self.moments, reset_real_features=reset_real_features, **kwargs)

    def summarize(self) -> Summary:
        real, fake = self.read("real"), self.read("fake")
        n_real, n = (int(self.moments.unpack(state)[0]) for state in (real, fake))
        if min(n_real, n) < 2:
            raise NotEnoughSamples(self.name, min(n_real, n), 2, f"{n_real} real and {n} generated. {_TOO_FEW}")
        factor = self._factor(real)
        mean_real, mean_fake = self.moments.unpack(real)[1], self.moments.unpack(fake)[1]
        value = frechet_to_factor(mean_real, factor, mean_fake, self.moments.cov(fake), rank=n - 1)
        return Summary(value, n, details={"n_real": float(n_real)}, counts={"n_real": n_real, "n": n})

    def _factor(self, real: Tensor) -> Tensor:
        """The factor of the reference covariance, kept until the reference changes."""
        fingerprint = torch.cat([real[: 1 + self.moments.d], self.moments.unpack(real)[2].diagonal()]).cpu()
        kept = self._reference
        if kept is None or kept[1].device != real.device or not torch.equal(kept[0], fingerprint):
            self._reference = fingerprint, psd_factor(self.moments.cov(real))
        assert self._reference is not None
        return self._reference[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_reference": None}


class FrechetInceptionDistance(FrechetDistance):
    """FID: Fréchet distance of Inception-v3 features with the 2015 TensorFlow weights; drop-in for torchmetrics.

    `feature`: 64, 192, 768 or 2048, or a module (n, 3, h, w) -> (n, d). Images: uint8, or with `normalize=True` also
    float in `value_range`. `protocol` names the tool whose number this is, from resize to quantization: "torchmetrics"
    (whose `antialias=False` is the resize of "torch-fidelity"), "torch-fidelity", "pytorch-fid" or "clean-fid".
    Scalar >= 0, lower is better, defined from 2 images on each side; below some thousand it is biased upwards.
    Source: Heusel et al. 2017.
    """

    name: ClassVar[str] = "fid"
    feature_network = "inception"

    def __init__(
        self,
        feature: int | nn.Module = 2048,
        reset_real_features: bool = True,
        normalize: bool = False,
        input_img_size: tuple[int, int, int] = (3, 299, 299),
        feature_extractor_weights_path: str | None = None,
        antialias: bool = True,
        *,
        protocol: str = "torchmetrics",
        **kwargs: Any,
    ):
        if not isinstance(normalize, bool):
            raise ValueError("Argument `normalize` expected to be a bool")
        if protocol not in PROTOCOLS:
            raise UnknownName("protocol", protocol, PROTOCOLS)
        if not antialias and protocol != "torchmetrics":
            raise ValueError(f"`antialias=False` belongs to protocol 'torchmetrics', got protocol {protocol!r}")
        if isinstance(feature, int):
            if feature not in (64, 192, 768, 2048):
                raise ValueError(
                    f"Integer input to argument `feature` must be one of (64, 192, 768, 2048), but got {feature}."
                )
            rules = PROTOCOLS[protocol] | ({} if antialias else {"resize": "tf1-bilinear"})
            network: Extractor = InceptionExtractor(**rules, weights=feature_extractor_weights_path)
        elif isinstance(feature, nn.Module):
            network = CustomExtractor(feature, image_size=input_img_size, floating=normalize)
        else:
            raise TypeError("Got unknown input to argument `feature`")
        self.normalize, self.protocol, self.channels = normalize, protocol, input_img_size[0]
        layer = str(feature) if isinstance(feature, int) else "features"
        super().__init__(network, layer=layer, reset_real_features=reset_real_features, **kwargs)

    def accept(self, images: Images, name: str = "images") -> list[Tensor]:
        some = images if isinstance(images, list | tuple) else [images]
        if not self.normalize and any(isinstance(x, Tensor) and x.is_floating_point() for x in some):
            raise ValueError(
                f"Expecting image as torch.Tensor with dtype=torch.uint8, got float `{name}`:"
                " pass normalize=True for float images"
            )
        return super().accept(images, name)

    @property
    def inception(self) -> nn.Module:
        """The shared network on this metric's device."""
        assert self.extractor is not None
        return self.extractor.network(self.device)

    # torchmetrics' names for the state

    @property
    def real_features_num_samples(self) -> Tensor:
        return self._sums("real")[0]

    @property
    def real_features_sum(self) -> Tensor:
        return self._sums("real")[1]

    @property
    def real_features_cov_sum(self) -> Tensor:
        return self._sums("real")[2]

    @property
    def fake_features_num_samples(self) -> Tensor:
        return self._sums("fake")[0]

    @property
    def fake_features_sum(self) -> Tensor:
        return self._sums("fake")[1]

    @property
    def fake_features_cov_sum(self) -> Tensor:
        return self._sums("fake")[2]

    def _sums(self, side: str) -> tuple[Tensor, Tensor, Tensor]:
        """Count (int64), sum x (d,) and sum x xᵀ (d, d)."""
        count, mean, scatter = self.moments.unpack(self.read(side))
        return count.long(), count * mean, scatter + count * torch.outer(mean, mean)

    def parameters_of_value(self) -> dict[str, object]:
        return {} if isinstance(self.extractor, CustomExtractor) else {"protocol": self.protocol}
