"""A score of each image by its pixels alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_imgmetrics.metrics.base.score_metric import ScoreMetric
from lightning_imgmetrics.models.base.extractor import Extractor, Features, PixelExtractor


class PixelMetric(ScoreMetric):
    """A score of each image by its pixels alone: `scores_of` gets lists of images, no network is run."""

    extractor: Extractor = PixelExtractor()
    layers = ("pixels",)

    def scores_of(self, features: Features, **_: Any) -> Tensor:
        return by_size(self.measure, features["pixels"])

    @abstractmethod
    def measure(self, images: Tensor) -> Tensor:
        """Images of one size (n, 3, h, w), float32 in [0, 1] -> (n,), or (n, 1 + k) with `columns`."""


def by_size(function: Callable[..., Tensor], *columns: Sequence[Tensor]) -> Tensor:
    """`function` of the columns' images (3, h, w), stacked as long as consecutive ones have one size -> (n, ...)."""
    parts, start, n = [], 0, len(columns[0])
    while start < n:
        shape = columns[0][start].shape
        stop = next((i for i in range(start, n) if columns[0][i].shape != shape), n)
        parts.append(function(*(torch.stack(list(column[start:stop])) for column in columns)))
        start = stop
    return torch.cat(parts)
