"""Fidelity and diversity apart, and memorization: metrics on nearest neighbors."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.functional.manifold import (
    authenticity,
    ball_counts,
    density_coverage,
    largest_cosine,
    precision_recall,
    realism,
)
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.base.summary import Summary
from lightning_imgmetrics.metrics.distribution.feature_bank import BankMetric, Network
from lightning_imgmetrics.metrics.distribution.frechet import FrechetDistance
from lightning_imgmetrics.metrics.distribution.inception_protocols import inception_network, shared_network
from lightning_imgmetrics.models.base.extractor import Extractor
from lightning_imgmetrics.states.moments import Moments


class ManifoldMetric(BankMetric):
    """Counts of samples in the balls around the other side's samples that reach to their k-th neighbor."""

    reports: ClassVar[tuple[str, ...]]
    higher_is_better = True
    plot_lower_bound: float = 0.0

    def __init__(self, report: str, network: Network, *, nearest_k: int, strict: bool, **kwargs: Any):
        if report not in self.reports:
            raise UnknownName("report", report, self.reports)
        if nearest_k < 1:
            raise ValueError(f"`nearest_k` must be at least 1, got {nearest_k}")
        self.report, self.nearest_k, self.strict = report, nearest_k, strict
        super().__init__(network, **kwargs)

    @property
    def name(self) -> str:
        return self.report

    balls_around_both: ClassVar[bool]

    def counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """`functional.manifold.ball_counts` of the two sides; of the reference's balls alone where those are enough."""
        k, both = self.nearest_k, self.balls_around_both
        real, fake = self.both(k + 1, f"each sample needs its {k} nearest neighbors (`nearest_k`)")
        around_fake = self.radius("fake", fake, k) if both else torch.zeros(len(fake), device=fake.device)
        radii = self.radius("real", real, k), around_fake
        return self.cached(
            ("balls", k, self.strict, both),
            [self.state("real_bank"), self.state("fake_bank")],
            lambda: self.over_ranks(lambda share: ball_counts(real, fake, *radii, strict=self.strict, share=share)),
        )

    def summary(self, values: dict[str, Tensor], in_real: Tensor, in_fake: Tensor) -> Summary:
        n, n_real = len(in_real), len(in_fake)
        details = {name: float(value) for name, value in values.items() if name != self.report}
        return Summary(values[self.report], n, details=details, counts={"n_real": n_real, "n": n})

    def signature_parameters(self) -> dict[str, object]:
        return {**super().signature_parameters(), "k": self.nearest_k, "ball": "open" if self.strict else "closed"}


class PrecisionRecall(ManifoldMetric):
    """Improved precision and recall: the share of generated images within the reference's manifold, and conversely.

    A manifold is the union of the balls around the samples of a side that reach to their k-th neighbor. Both depend on
    the sample sizes.

    Args:
        report: "precision", "recall" or their harmonic mean "f_score".
        network: as for `FrechetDistance`.
        nearest_k: the neighbor that the radius of a ball reaches to.
        strict: whether samples on the edge of a ball are outside.
        kwargs: those of `BankMetric`: `layer`, `max_samples`, `bank`.

    Returns:
        A scalar in [0, 1]; higher is better. The others are in the details.

    Raises:
        NotEnoughSamples: at `compute`, with `nearest_k` or fewer images on a side.

    References:
        Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative models".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import PrecisionRecall
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = PrecisionRecall("precision", "digits-clip")
        >>> metric.update(images, real=True)
        >>> metric.update(images[:6], real=False)
        >>> float(metric.compute())
        1.0
    """

    reports = ("precision", "recall", "f_score")
    balls_around_both = True
    plot_upper_bound: float = 1.0

    def __init__(
        self,
        report: str = "f_score",
        network: Network = "inception",
        *,
        nearest_k: int = 3,
        strict: bool = False,
        **kwargs: Any,
    ):
        super().__init__(report, network, nearest_k=nearest_k, strict=strict, **kwargs)

    def summarize(self) -> Summary:
        in_real, in_fake, _ = self.counts()
        precision, recall = precision_recall(in_real, in_fake)
        f_score = 2 * precision * recall / (precision + recall).clamp(min=torch.finfo(torch.float64).tiny)
        return self.summary({"precision": precision, "recall": recall, "f_score": f_score}, in_real, in_fake)

    def realism(self) -> tuple[Tensor, Tensor]:
        """(ids, scores) of the generated images, (n,) each: how far inside the reference's manifold each one lies.

        1 is the edge, larger is more realistic; the half of the reference with the wider balls is left out.
        """
        real, fake = self.both(self.nearest_k + 1, "each sample needs its nearest neighbors")
        radius = self.radius("real", real, self.nearest_k)
        scores = self.over_ranks(lambda share: realism(fake, real, radius, share=share))
        return self.store.ids(self.state("fake_bank")), scores.cpu()


class DensityCoverage(ManifoldMetric):
    """Density and coverage: how densely the reference's balls are filled, and how many of them are hit at all.

    Unlike precision and recall they do not trust single outliers.

    Args:
        report: "density" or "coverage".
        network: as for `FrechetDistance`.
        nearest_k: the neighbor that the radius of a ball reaches to.
        strict: whether samples on the edge of a ball are outside.
        kwargs: those of `BankMetric`: `layer`, `max_samples`, `bank`.

    Returns:
        A scalar, density >= 0 (it may exceed 1), coverage in [0, 1]; higher is better.

    Raises:
        NotEnoughSamples: at `compute`, with `nearest_k` or fewer images on a side.

    References:
        Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import DensityCoverage
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = DensityCoverage("coverage", "digits-clip", nearest_k=2)
        >>> metric.update(images, real=True)
        >>> metric.update(images, real=False)
        >>> float(metric.compute())
        1.0
    """

    reports = ("density", "coverage")
    balls_around_both = False

    def __init__(
        self,
        report: str = "coverage",
        network: Network = "inception",
        *,
        nearest_k: int = 5,
        strict: bool = True,
        **kwargs: Any,
    ):
        super().__init__(report, network, nearest_k=nearest_k, strict=strict, **kwargs)

    def summarize(self) -> Summary:
        in_real, in_fake, hits = self.counts()
        density, coverage = density_coverage(in_real, hits, self.nearest_k)
        return self.summary({"density": density, "coverage": coverage}, in_real, in_fake)


class Authenticity(BankMetric):
    """Share of generated images that are not closer to a training image than its nearest other training image is.

    The reference must be the training set.

    Args:
        network: as for `FrechetDistance`.
        kwargs: those of `BankMetric`.

    Returns:
        A scalar in [0, 1]; higher means less copying.

    Raises:
        NotEnoughSamples: at `compute`, with fewer than 2 images on a side.

    References:
        Alaa et al. 2022, "How faithful is your synthetic data?".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import Authenticity
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = Authenticity("digits-clip")
        >>> metric.update(images, real=True)
        >>> metric.update(images, real=False)
        >>> float(metric.compute())
        0.0
    """

    name: ClassVar[str] = "authenticity"
    higher_is_better = True
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def __init__(self, network: Network = "inception", **kwargs: Any):
        super().__init__(network, **kwargs)

    def summarize(self) -> Summary:
        real, fake = self.both(2, "each reference image needs a neighbor")
        authentic = self.over_ranks(lambda share: authenticity(fake, real, share=share))
        n, value = len(fake), authentic.mean()
        error = float((value * (1 - value) / (n - 1)).sqrt()) if n > 1 else None
        return Summary(value, n, error, counts={"n_real": len(real), "n": n})


class MemorizationInformedFrechetInceptionDistance(BankMetric):
    """MiFID: FID divided by the mean cosine distance of images to the nearest of the other side; drop-in.

    Args:
        feature: see `FrechetInceptionDistance`.
        reset_real_features: whether `reset` clears the reference too.
        normalize: take float images in `value_range` too, beside uint8.
        cosine_distance_eps: a mean distance of that or more counts as 1.
        network: as for `FrechetDistance`, in place of Inception.
        orientation: "paper" averages over generated images their distance to the nearest training image; "torchmetrics"
            averages over the real ones, and does not notice a generator that copies a part of the training set.
        protocol: see `FrechetInceptionDistance`.
        feature_extractor_weights_path: a file in place of the published weights.
        input_img_size: (c, h, w) of the images that a module of your own takes.
        kwargs: those of `BankMetric`.

    Returns:
        A scalar >= 0; lower is better.

    Raises:
        NotEnoughSamples: at `compute`, with fewer than 2 images on a side.

    References:
        Bai et al. 2021, "On training sample memorization".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import MemorizationInformedFrechetInceptionDistance
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = MemorizationInformedFrechetInceptionDistance(network="digits-clip", normalize=True)
        >>> metric.update(images[:4], real=True)
        >>> metric.update(images[4:], real=False)
        >>> round(float(metric.compute()), 3)
        264.981
    """

    name: ClassVar[str] = "mifid"
    higher_is_better = False
    plot_lower_bound: float = 0.0

    inception = shared_network

    def __init__(
        self,
        feature: int | nn.Module | Extractor = 2048,
        reset_real_features: bool = True,
        normalize: bool = False,
        cosine_distance_eps: float = 0.1,
        *,
        network: Network | None = None,
        orientation: str = "torchmetrics",
        protocol: str = "torchmetrics",
        feature_extractor_weights_path: str | None = None,
        input_img_size: tuple[int, int, int] = (3, 299, 299),
        **kwargs: Any,
    ):
        if not (isinstance(cosine_distance_eps, float) and 0 < cosine_distance_eps <= 1):
            raise ValueError("Argument `cosine_distance_eps` expected to be a float greater than 0 and less than 1")
        if orientation not in ("torchmetrics", "paper"):
            raise UnknownName("orientation", orientation, ("torchmetrics", "paper"))
        self.cosine_distance_eps, self.orientation = cosine_distance_eps, orientation
        extractor, layer = inception_network(
            self,
            feature,
            network,
            normalize=normalize,
            protocol=protocol,
            weights=feature_extractor_weights_path,
            input_img_size=input_img_size,
            takes_names=True,
        )
        self.moments = Moments(extractor.dim(layer))
        super().__init__(
            extractor,
            layer=layer,
            extra={"moments": Stream(self.moments, self.moments.d, layer)},
            reset_real_features=reset_real_features,
            **kwargs,
        )

    distance = FrechetDistance.distance

    def summarize(self) -> Summary:
        real, fake = self.both(2, "a covariance needs two")
        fid = self.distance(self.state("real_moments"), self.state("fake_moments"))
        queries, points = (fake, real) if self.orientation == "paper" else (real, fake)
        cosine = self.over_ranks(lambda share: largest_cosine(queries, points, share=share))
        nonzero = torch.cat([part.double().sum(1) != 0 for part in queries.split(4096)])  # as torchmetrics leaves out
        distance = float((1 - cosine[nonzero]).mean())
        penalty = distance if distance < self.cosine_distance_eps else 1.0
        value = fid / (penalty + 1e-14) if fid > 1e-8 else torch.zeros_like(fid)
        details = {"fid": float(fid), "memorization_distance": distance}
        return Summary(value, len(fake), details=details, counts={"n_real": len(real), "n": len(fake)})

    def signature_parameters(self) -> dict[str, Any]:
        mine = {"eps": self.cosine_distance_eps, "orientation": self.orientation}
        return {**super().signature_parameters(), **mine}
