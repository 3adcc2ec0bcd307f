"""rFID: the distance between reconstructions and the images that they reconstruct, as distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError
from lightning_imgmetrics.metrics.base.inputs import Ids
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.base.summary import Summary
from lightning_imgmetrics.metrics.distribution.base import DistributionMetric
from lightning_imgmetrics.metrics.distribution.frechet import FrechetDistance
from lightning_imgmetrics.metrics.distribution.inception_protocols import network_of
from lightning_imgmetrics.models.base.extractor import Extractor
from lightning_imgmetrics.states.moments import Moments


class ReconstructionFrechetDistance(DistributionMetric):
    """rFID: Fréchet distance between reconstructions and the very images that they reconstruct.

    Each pair's image counts as generated and its target as reference, so `update` takes both and there is no separate
    reference.

    Args:
        network: as for `FrechetDistance`; "inception" is what papers on autoencoders call rFID.
        layer: the layer of the network; default its embedding.
        kwargs: those of `DistributionMetric`.

    Returns:
        A scalar >= 0; lower is better. Below some thousand pairs it is biased upwards.

    Raises:
        NotEnoughSamples: at `compute`, with fewer than 2 pairs.

    References:
        Heusel et al. 2017; Esser et al. 2021, "Taming transformers for high-resolution image synthesis".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import ReconstructionFrechetDistance
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = ReconstructionFrechetDistance("digits-clip")
        >>> metric.update(images, images)
        >>> round(float(metric.compute()), 6)
        0.0
    """

    name: ClassVar[str] = "rfid"
    higher_is_better = False
    plot_lower_bound: float = 0.0
    inputs: ClassVar[tuple[str, ...]] = ("target",)

    def __init__(
        self,
        network: str | nn.Module | Callable[[Tensor], Tensor] | Extractor = "inception",
        *,
        layer: str | None = None,
        **kwargs: Any,
    ):
        extractor, own = network_of(network)
        layer = layer or own
        d = extractor.dim(layer)
        self.moments = Moments(d)
        # Both on the generated side: what clears or keeps a reference is not meant.
        streams = {
            "moments": Stream(self.moments, d, layer, _images),
            "targets": Stream(self.moments, d, layer, _targets),
        }
        super().__init__(extractor, streams, {}, **kwargs)

    distance = FrechetDistance.distance

    def update(self, preds: Images, target: Images, ids: Ids | None = None) -> None:
        """Add reconstructions and their originals, (n, 3, h, w) uint8 or float in `value_range`, or lists of images."""
        sides = self.validate_images(preds, "preds"), self.validate_images(target, "target")
        sizes = [sum(map(len, side)) for side in sides]
        if sizes[0] != sizes[1]:
            raise ShapeError(f"`target` must hold one entry per image, got {sizes[1]} for {sizes[0]} images")
        self.stage(self.extract([*sides[0], *sides[1]]), ids=ids)()

    def summarize(self) -> Summary:
        real, fake = self.state("fake_targets"), self.state("fake_moments")
        n = int(fake[0])
        if n < 2:
            raise NotEnoughSamples(self.name, n, 2, "a covariance needs two pairs")
        return Summary(self.distance(real, fake), n, counts={"n": n})


def _images(x: Tensor) -> Tensor:
    """The features of the images, which come before those of as many targets."""
    return x[: len(x) // 2]


def _targets(x: Tensor) -> Tensor:
    return x[len(x) // 2 :]
