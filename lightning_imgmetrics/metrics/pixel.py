"""Scores of images by their pixels alone: no network, any sizes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.metrics.base import ScoreMetric
from lightning_imgmetrics.metrics.streams import Ids
from lightning_imgmetrics.models.base import Extractor, Features, PixelExtractor


class PixelMetric(ScoreMetric):
    """A score of each image by its pixels alone: `scores_of` gets lists of images, no network is run."""

    extractor: Extractor = PixelExtractor()
    layers = ("pixels",)

    def update(self, images: Images, ids: Ids | None = None) -> None:
        """Add images, (n, 3, h, w) uint8 or float in `value_range`, or a list of mixed sizes."""
        self.update_features(self.extract(self.accept(images)), ids=ids)

    def scores_of(self, features: Features, **_: Any) -> Tensor:
        return by_size(self.measure, features["pixels"])

    @abstractmethod
    def measure(self, images: Tensor) -> Tensor:
        """Images of one size (n, 3, h, w), float32 in [0, 1] -> (n,), or (n, 1 + k) with `columns`."""


class PairedMetric(ScoreMetric):
    """A score of each image against its target, both of one size, by their pixels alone."""

    extractor: Extractor = PixelExtractor()
    layers = ("pixels",)
    inputs = ("target",)

    def update(self, preds: Images, target: Images, ids: Ids | None = None) -> None:
        """Add pairs of images, each side (n, 3, h, w) uint8 or float in `value_range`, or a list of mixed sizes."""
        sides = [self.accept(preds, "preds"), self.accept(target, "target")]
        self.update_features(self.extract([batch for side in sides for batch in side]), ids=ids)

    def scores_of(self, features: Features, **_: Any) -> Tensor:
        images = features["pixels"]
        n = len(images) // 2
        preds, target = images[:n], images[n:]
        shapes = [[tuple(x.shape) for x in side] for side in (preds, target)]
        if shapes[0] != shapes[1]:
            raise ShapeError(f"`preds` and `target` must pair images of one size, got {shapes[0]} and {shapes[1]}")
        return by_size(self.compare, preds, target)

    @abstractmethod
    def compare(self, preds: Tensor, target: Tensor) -> Tensor:
        """Pairs of one size, (n, 3, h, w) float32 in [0, 1] each -> (n,), or (n, 1 + k) with `columns`."""


def by_size(function: Callable[..., Tensor], *columns: Sequence[Tensor]) -> Tensor:
    """`function` of the columns' images (3, h, w), stacked as long as consecutive ones have one size -> (n, ...)."""
    parts, start, n = [], 0, len(columns[0])
    while start < n:
        shape = columns[0][start].shape
        stop = next((i for i in range(start, n) if columns[0][i].shape != shape), n)
        parts.append(function(*(torch.stack(list(column[start:stop])) for column in columns)))
        start = stop
    return torch.cat(parts)
