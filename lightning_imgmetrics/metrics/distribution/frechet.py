"""Fréchet distances: FID and its relatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_imgmetrics.errors import NotEnoughSamples
from lightning_imgmetrics.functional.frechet import frechet_of_factors, frechet_to_factor, psd_factor
from lightning_imgmetrics.functional.resampling import extrapolate, jackknife
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.base.summary import Summary
from lightning_imgmetrics.metrics.distribution.base import DistributionMetric
from lightning_imgmetrics.metrics.distribution.inception_protocols import inception_network, network_of, shared_network
from lightning_imgmetrics.models.base.extractor import Extractor
from lightning_imgmetrics.states.moments import UNKNOWN, GroupedMoments, Moments

_TOO_FEW = "More than one sample is required for both the real and fake distributed to compute FID"


class FrechetDistance(DistributionMetric):
    """Fréchet distance between Gaussians fitted to the features of two sets of images.

    d^2 = |mu_r - mu_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^(1/2)) of means mu and covariances C of reference and generated
    features.

    Args:
        network: "inception", "dinov2", "digits-clip", a checkpoint folder or hub id of DINOv2, CLIP or SigLIP (its
            embedding), an `Extractor`, or your own module or callable (n, 3, h, w) -> (n, d), called with the images as
            they come (uint8, or float in [0, 1]).
        layer: the layer of the network; default its embedding.
        groups: keep the generated samples in so many random parts (8 d^2 bytes each), for a delete-group jackknife
            interval of the bias-corrected distance; the reference is taken as fixed. 0 for none.
        reset_real_features: whether `reset` clears the reference too.
        kwargs: those of `ImageMetric` and `torchmetrics.Metric`.

    Returns:
        A scalar >= 0, in squared feature units; lower is better. Below some thousand images it is biased upwards.

    Raises:
        NotEnoughSamples: at `compute`, with fewer than 2 images on a side.

    References:
        Dowson & Landau 1982, "The Fréchet distance between multivariate normal distributions".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import FrechetDistance
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = FrechetDistance("digits-clip")
        >>> metric.update(images[:4], real=True)
        >>> metric.update(images[4:], real=False)
        >>> round(float(metric.compute()), 3)
        6.519
    """

    name: ClassVar[str] = "frechet_distance"
    higher_is_better = False
    plot_lower_bound: float = 0.0

    def __init__(
        self,
        network: str | nn.Module | Callable[[Tensor], Tensor] | Extractor = "digits-clip",
        *,
        layer: str | None = None,
        groups: int = 0,
        reset_real_features: bool = True,
        **kwargs: Any,
    ):
        if groups < 0 or groups == 1:
            raise ValueError(f"`groups` must be 0 (no interval) or at least 2, got {groups}")
        extractor, own = network_of(network)
        layer = layer or own
        d = extractor.dim(layer)
        self.groups, self.moments = groups, Moments(d)
        fake = Stream(GroupedMoments(d, groups), 1 + d, layer) if groups else Stream(self.moments, d, layer)
        real = Stream(self.moments, d, layer)
        super().__init__(
            extractor, {"moments": fake}, {"moments": real}, reset_real_features=reset_real_features, **kwargs
        )

    def summarize(self) -> Summary:
        real, state = self.state("real_moments"), self.state("fake_moments")
        fake = self.moments.merge(state) if self.groups else state
        n_real, n = int(real[0]), int(fake[0])
        if min(n_real, n) < 2:
            raise NotEnoughSamples(self.name, min(n_real, n), 2, f"{n_real} real and {n} generated. {_TOO_FEW}")
        value = self.distance(real, fake)
        n_reference = "unknown" if n_real > UNKNOWN / 2 else n_real
        return self.interval(Summary(value, n, counts={"n_real": n_reference, "n": n}), real, state)

    def interval(self, summary: Summary, real: Tensor, state: Tensor) -> Summary:
        """`summary` with the interval that the parts of the generated samples give."""
        if not self.groups:
            return summary
        sizes = state[:, 0]
        if sizes.min() == 0 or summary.n - sizes.max() < 2:
            return summary  # the value is right without an interval
        return _with_jackknife(summary, self.over_ranks(lambda share: self._without_each(real, state, share)), sizes)

    def _without_each(self, real: Tensor, state: Tensor, share: tuple[int, int]) -> Tensor:
        """The distance without each part (groups,); zero outside of the share."""
        values = state.new_zeros(self.groups)
        grouped = GroupedMoments(self.moments.d, self.groups)
        for part, rest in enumerate(grouped.leave_out(state)):
            if part % share[1] == share[0]:
                values[part] = self.distance(real, rest)
        return values

    def distance(self, real: Tensor, fake: Tensor) -> Tensor:
        """Between two states of `Moments`; fewer samples than features make a small eigenproblem."""
        d, moments = self.moments.d, self.moments
        n_real, n = int(real[0]), int(fake[0])
        factor = self.cached("factor", [real], lambda: psd_factor(moments.cov(real), rank=n_real - 1))
        mean_real, mean = moments.unpack(real)[1], moments.unpack(fake)[1]
        if n - 1 < d // 2:
            own = psd_factor(moments.cov(fake), rank=n - 1)
            return frechet_of_factors(mean_real, factor, mean, own)
        return frechet_to_factor(mean_real, factor, mean, moments.cov(fake), rank=n - 1)


class FrechetInceptionDistance(FrechetDistance):
    """FID: Fréchet distance of Inception-v3 features with the 2015 TensorFlow weights; drop-in for torchmetrics.

    Args:
        feature: 64, 192, 768 or 2048, the layer by its number of features; or a module (n, 3, h, w) -> (n, d).
        reset_real_features: whether `reset` clears the reference too.
        normalize: take float images in `value_range` too, beside uint8.
        input_img_size: (c, h, w) of the images that a module of your own takes.
        feature_extractor_weights_path: a file in place of the published weights.
        antialias: False, with protocol "torchmetrics", resizes as "torch-fidelity" does.
        network: a module or an `Extractor` in place of Inception.
        protocol: the tool whose number this is, from resize to quantization: "torchmetrics", "torch-fidelity",
            "pytorch-fid", "clean-fid" or "adm".
        groups: see `FrechetDistance`.
        kwargs: those of `FrechetDistance`.

    Returns:
        A scalar >= 0; lower is better. Below some thousand images it is biased upwards.

    Raises:
        NotEnoughSamples: at `compute`, with fewer than 2 images on a side.
        MissingWeights: at the first image, where the weights are not on this machine and cannot be downloaded.

    References:
        Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local Nash equilibrium".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import FrechetInceptionDistance
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
        >>> metric = FrechetInceptionDistance(network, normalize=True)
        >>> metric.update(images[:4] / 255, real=True)
        >>> metric.update(images[4:] / 255, real=False)
        >>> round(float(metric.compute()), 4)
        0.0052
    """

    name: ClassVar[str] = "fid"

    def __init__(
        self,
        feature: int | nn.Module | Extractor = 2048,
        reset_real_features: bool = True,
        normalize: bool = False,
        input_img_size: tuple[int, int, int] = (3, 299, 299),
        feature_extractor_weights_path: str | None = None,
        antialias: bool = True,
        *,
        network: str | nn.Module | Callable[[Tensor], Tensor] | Extractor | None = None,
        protocol: str = "torchmetrics",
        groups: int = 0,
        **kwargs: Any,
    ):
        extractor, layer = inception_network(
            self,
            feature,
            network,
            normalize=normalize,
            protocol=protocol,
            weights=feature_extractor_weights_path,
            antialias=antialias,
            input_img_size=input_img_size,
        )
        super().__init__(extractor, layer=layer, groups=groups, reset_real_features=reset_real_features, **kwargs)

    inception = shared_network

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
        state = self.state(f"{side}_moments")
        count, mean, scatter = self.moments.unpack(self.moments.merge(state) if state.ndim > 1 else state)
        return count.long(), count * mean, scatter + count * torch.outer(mean, mean)


class SpatialFrechetInceptionDistance(FrechetDistance):
    """sFID: FID of 7 channels of an intermediate Inception layer at each of 17 x 17 positions (2023 features).

    Sensitive to the layout of an image where FID is not. As ADM computes it, so its reference statistics (`mu_s`,
    `sigma_s`) apply.

    Args:
        normalize: take float images in `value_range` too, beside uint8.
        protocol: see `FrechetInceptionDistance`.
        feature_extractor_weights_path: a file in place of the published weights.
        kwargs: those of `FrechetDistance`.

    Returns:
        A scalar >= 0; lower is better.

    Raises:
        NotEnoughSamples: at `compute`, with fewer than 2 images on a side.

    References:
        Nash et al. 2021, "Generating images with sparse representations"; Dhariwal & Nichol 2021.

    Example:
        >>> from lightning_imgmetrics import SpatialFrechetInceptionDistance
        >>> SpatialFrechetInceptionDistance().signature().fields["protocol"]
        'adm'
    """

    name: ClassVar[str] = "sfid"

    inception = shared_network

    def __init__(
        self,
        *,
        normalize: bool = False,
        protocol: str = "adm",
        feature_extractor_weights_path: str | None = None,
        **kwargs: Any,
    ):
        network, layer = inception_network(
            self,
            "sfid",
            normalize=normalize,
            protocol=protocol,
            weights=feature_extractor_weights_path,
            choices=("sfid",),
        )
        super().__init__(network, layer=layer, **kwargs)


class FrechetInceptionDistanceInfinity(FrechetInceptionDistance):
    """FID extrapolated to infinitely many generated samples: the intercept of FID against 1/n.

    Fifteen unions of random parts of the generated samples, from a quarter of them to all, give the line; `fit_error`
    in the details says how well, and is too small for an interval, as the unions overlap. What the size of the
    reference adds to FID stays.

    Args:
        args: those of `FrechetInceptionDistance`.
        groups: random parts of the generated samples, at least 16 (32 MiB each for 2048 features).
        seed: of the unions.
        kwargs: those of `FrechetInceptionDistance`.

    Returns:
        A scalar, which may be below 0; lower is better.

    Raises:
        NotEnoughSamples: at `compute`, where a part is empty.

    References:
        Chong & Forsyth 2020, "Effectively unbiased FID and Inception Score and where to find them".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import FrechetInceptionDistanceInfinity
        >>> images = torch.randint(256, (400, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
        >>> metric = FrechetInceptionDistanceInfinity(network, normalize=True, groups=16)
        >>> metric.update(images[:200] / 255, real=True)
        >>> metric.update(images[200:] / 255, real=False, ids=range(200))
        >>> round(float(metric.compute()), 4)
        0.0044
    """

    name: ClassVar[str] = "fid_infinity"
    points: ClassVar[int] = 15

    def __init__(self, *args: Any, groups: int = 20, seed: int = 0, **kwargs: Any):
        if groups < 16:
            raise ValueError(f"`groups` must be at least 16 for {self.points} sizes, got {groups}")
        self.seed = seed
        super().__init__(*args, groups=groups, **kwargs)

    def interval(self, summary: Summary, real: Tensor, state: Tensor) -> Summary:
        if state[:, 0].min() < 1:
            raise NotEnoughSamples(self.name, summary.n, 8 * self.groups, f"one for each of {self.groups} groups")
        generator = torch.Generator().manual_seed(self.seed)
        sizes = torch.linspace(max(self.groups // 4, 1), self.groups, self.points).round().long().tolist()
        unions = [torch.randperm(self.groups, generator=generator)[:size].tolist() for size in sizes]
        values = self.over_ranks(lambda share: self._of_unions(real, state, unions, share))
        counts = torch.stack([state[union, 0].sum() for union in unions])
        value, error = extrapolate(counts, values)
        details = {"fid": float(summary.value), "fit_error": error}
        return replace(summary, value=values.new_tensor(value), details=details)

    def _of_unions(self, real: Tensor, state: Tensor, unions: Sequence[list[int]], share: tuple[int, int]) -> Tensor:
        """The distance of each union of parts; zero outside of the share."""
        values = real.new_zeros(len(unions))
        for i in range(share[0], len(unions), share[1]):
            values[i] = self.distance(real, self.moments.merge([state[part] for part in unions[i]]))
        return values

    def signature_parameters(self) -> dict[str, Any]:
        return {**super().signature_parameters(), "groups": self.groups, "seed": self.seed}


def _with_jackknife(summary: Summary, replicates: Tensor, sizes: Tensor) -> Summary:
    estimate, error = jackknife(summary.value, replicates, sizes=sizes)
    details = {**summary.details, "bias_corrected": float(estimate)}
    return replace(
        summary,
        standard_error=float(error),
        units=len(sizes),
        estimate=float(estimate),
        details=details,
        replicates=tuple(replicates.tolist()),
    )
