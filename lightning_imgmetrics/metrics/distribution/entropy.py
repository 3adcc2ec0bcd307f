"""Scores of one set of images by the spectrum of their features or the entropy of their classes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import NotEnoughSamples
from lightning_imgmetrics.functional.entropy import class_probabilities, inception_score, vendi_score
from lightning_imgmetrics.metrics.base.inputs import Ids
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.base.summary import Summary
from lightning_imgmetrics.metrics.distribution.base import DistributionMetric
from lightning_imgmetrics.metrics.distribution.feature_bank import Network
from lightning_imgmetrics.metrics.distribution.inception_protocols import (
    inception_network,
    network_of,
    shared_network,
    unit_rows,
)
from lightning_imgmetrics.models.base.extractor import Extractor
from lightning_imgmetrics.states.moments import Moments
from lightning_imgmetrics.states.tables import Splits


class SetMetric(DistributionMetric):
    """A statistic of generated images alone."""

    inputs = ()

    def __init__(self, extractor: Extractor, streams: dict[str, Stream], **kwargs: Any):
        super().__init__(extractor, streams, {}, **kwargs)

    def update(self, images: Images, ids: Ids | None = None) -> None:
        """Add generated images, (n, 3, h, w) uint8 or float in `value_range`."""
        self.stage(self.extract(self.validate_images(images)), ids=ids)()


class InceptionScore(SetMetric):
    """Inception score: exp of the mean divergence of an image's class distribution from that of all; drop-in.

    exp(E_x KL(p(y|x) || p(y))) over random splits of the images, which their hashed ids decide; a state of splits x
    classes numbers holds it exactly.

    Args:
        feature: the layer of Inception, or a module; see `FrechetInceptionDistance`.
        splits: number of splits.
        normalize: take float images in `value_range` too, beside uint8.
        network: a module or an `Extractor` in place of Inception.
        protocol: see `FrechetInceptionDistance`.
        feature_extractor_weights_path: a file in place of the published weights.
        input_img_size: (c, h, w) of the images that a module of your own takes.
        kwargs: those of `DistributionMetric`.

    Returns:
        (mean, standard deviation with ddof 1 over splits), scalars in [1, classes]; higher is better.

    Raises:
        NotEnoughSamples: at `compute`, without an image.

    References:
        Salimans et al. 2016, "Improved techniques for training GANs".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import InceptionScore
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
        >>> metric = InceptionScore(network, splits=2, normalize=True)
        >>> metric.update(images / 255, ids=range(8))
        >>> mean, deviation = metric.compute()
        >>> round(float(mean), 4)
        1.0001
    """

    name: ClassVar[str] = "inception_score"
    deviation = "split_std"
    higher_is_better = True
    plot_lower_bound: float = 0.0

    inception = shared_network

    def __init__(
        self,
        feature: str | int | nn.Module | Extractor = "logits_unbiased",
        splits: int = 10,
        normalize: bool = False,
        *,
        network: Network | None = None,
        protocol: str = "torchmetrics",
        feature_extractor_weights_path: str | None = None,
        input_img_size: tuple[int, int, int] = (3, 299, 299),
        **kwargs: Any,
    ):
        if not isinstance(splits, int) or splits < 1:
            raise ValueError(f"Argument `splits` expected to be an integer larger than 0, got {splits!r}")
        extractor, layer = inception_network(
            self,
            feature,
            network,
            normalize=normalize,
            protocol=protocol,
            weights=feature_extractor_weights_path,
            input_img_size=input_img_size,
            choices=("logits_unbiased", 64, 192, 768, 2048),
            default="logits_unbiased",
        )
        self.splits = Splits(splits, extractor.dim(layer) + 1)
        super().__init__(
            extractor, {"splits": Stream(self.splits, 1 + self.splits.d, layer, class_probabilities)}, **kwargs
        )

    def summarize(self) -> Summary:
        count, _, mean = self.splits.unpack(self.state("fake_splits"))
        n = int(count.sum())
        if n == 0:
            raise NotEnoughSamples(self.name, 0, 1, "call `update` first")
        scores = inception_score(count, mean[:, :-1], mean[:, -1])
        details = {self.deviation: float(scores.std())} if len(scores) > 1 else {}
        return Summary(scores.mean(), n, details=details, counts={"n": n})

    def signature_parameters(self) -> dict[str, Any]:
        return {**super().signature_parameters(), "splits": self.splits.size}


class VendiScore(SetMetric):
    """Vendi score: the effective number of different images, exp of the entropy of their similarities' eigenvalues.

    Similarity is the cosine of features, whose d x d second moment has the same eigenvalues as the n x n kernel, so any
    number of images streams through.

    Args:
        network: as for `FrechetDistance`.
        layer: the layer of the network; default its embedding.
        order: of the Rényi entropy; 1 is Shannon's, small orders give rare images more weight.
        kwargs: those of `DistributionMetric`.

    Returns:
        A scalar in [1, n]; higher is more diverse.

    Raises:
        NotEnoughSamples: at `compute`, without an image.

    References:
        Friedman & Dieng 2023, "The Vendi score"; orders: Pasarkar & Dieng 2024.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import VendiScore
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = VendiScore("digits-clip")
        >>> metric.update(images[:1].expand(4, -1, -1, -1))
        >>> round(float(metric.compute()), 4)
        1.0
    """

    name: ClassVar[str] = "vendi"
    higher_is_better = True
    plot_lower_bound: float = 1.0

    def __init__(self, network: Network = "inception", *, layer: str | None = None, order: float = 1.0, **kwargs: Any):
        if not order > 0:
            raise ValueError(f"`order` must be above 0, got {order}")
        extractor, own = network_of(network)
        layer = layer or own
        self.order, self.moments = order, Moments(extractor.dim(layer))
        super().__init__(extractor, {"moments": Stream(self.moments, self.moments.d, layer, unit_rows)}, **kwargs)

    def summarize(self) -> Summary:
        count, mean, scatter = self.moments.unpack(self.state("fake_moments"))
        n = int(count)
        if n == 0:
            raise NotEnoughSamples(self.name, 0, 1, "call `update` first")
        return Summary(vendi_score(scatter / count + torch.outer(mean, mean), order=self.order), n, counts={"n": n})

    def signature_parameters(self) -> dict[str, object]:
        return {**super().signature_parameters(), "order": f"{self.order:g}"}
