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
    """Fréchet distance between Gaussians fitted to the features of two sets of images; >= 0, lower is better.

    `network`: "inception", "dinov2", "digits-clip", a DINOv2, CLIP or SigLIP checkpoint folder or hub id (its
    embedding), an `Extractor`, or your own module or callable `(n, 3, h, w) -> (n, d)`, called as the images come
    (uint8 or float in [0, 1]). Both sets need two samples. `groups`: keep the generated samples in so many random
    parts (8 d^2 bytes each) and report a delete-group jackknife interval of the bias-corrected distance; the reference
    is taken as given. Source: Dowson & Landau 1982.
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
        seen = "unknown" if n_real > UNKNOWN / 2 else n_real
        return self.interval(Summary(value, n, counts={"n_real": seen, "n": n}), real, state)

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

    `feature`: 64, 192, 768 or 2048, or a module (n, 3, h, w) -> (n, d), as `network` may be. Images: uint8, or with
    `normalize=True` also float in `value_range`. `protocol` names the tool whose number this is, from resize to
    quantization: "torchmetrics" (whose `antialias=False` is the resize of "torch-fidelity"), "torch-fidelity",
    "pytorch-fid", "clean-fid", "adm". Scalar >= 0, lower is better, defined from 2 images on each side; below some
    thousand it is biased upwards. `groups`: see `FrechetDistance`. Source: Heusel et al. 2017.
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

    As ADM computes it, so its reference statistics (`mu_s`, `sigma_s`) apply. Sensitive to the layout of an image where
    FID is not. >= 0, lower is better. Source: Nash et al. 2021; Dhariwal & Nichol 2021.
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

    The generated samples are kept in `groups` random parts (32 MiB each for 2048 features). Fifteen unions of them,
    from a quarter of the samples to all, give the line, and `fit_error` says how well; as they overlap, it is too small
    for an interval. What the size of the reference adds to FID stays. It may be below 0. Source: Chong & Forsyth 2020.
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
