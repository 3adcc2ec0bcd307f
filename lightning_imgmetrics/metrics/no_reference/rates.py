"""Rates: the share of images that a classifier, a safety checker or their pixels report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.functional.intervals import wilson_interval
from lightning_imgmetrics.functional.photometry import black, blank
from lightning_imgmetrics.metrics.base.pixel_metric import PixelMetric
from lightning_imgmetrics.metrics.base.score_metric import ScoreMetric
from lightning_imgmetrics.metrics.base.summary import Column, Summary
from lightning_imgmetrics.models.base.extractor import Features
from lightning_imgmetrics.models.scorers.classifier import ClassifierExtractor

Label = str | int


class Rate(ScoreMetric):
    """The share of images with score 1, all others having 0, in [0, 1] with Wilson's interval (Wilson 1927)."""

    scores_are_binary = True
    higher_is_better = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def summarize(self) -> Summary:
        summary = super().summarize()
        hits = round(float(summary.value) * summary.n)  # the mean of zeros and ones is rounded, their number is not
        return replace(summary, interval=wilson_interval(hits, summary.n))

    def score_details(self, state: Tensor) -> dict[str, float]:
        return {}  # quantiles and extremes of zeros and ones say nothing


class ClassifierRate(Rate):
    """Share of images to which a classifier gives one of `labels`: artifacts, watermarks, whatever is to be avoided.

    Only what the classifier says counts: an image that cannot be scored is an error, not a hit. `mean_probability` is
    in the details.

    Args:
        network: a checkpoint of transformers' image classifiers, folder or hub id.
        labels: names or numbers of its labels.
        threshold: in (0, 1); an image counts where the summed probability of `labels` is at or above it, and where the
            largest is for a multi-label checkpoint, whose probabilities do not sum.
        revision: of the checkpoint on the hub.
        dtype: "float32" or "bfloat16".
        kwargs: those of `ScoreMetric`.

    Returns:
        A scalar in [0, 1], with Wilson's interval; lower is better.

    Raises:
        UnknownName: a label that the checkpoint does not have.
        MissingWeights: the checkpoint's configuration cannot be read.

    Example:
        >>> from lightning_imgmetrics import ClassifierRate
        >>> ClassifierRate("path/to/checkpoint", "watermark")  # doctest: +SKIP
    """

    name: ClassVar[str] = "classifier_rate"
    layers: tuple[str, ...] = ("probabilities",)

    def __init__(
        self,
        network: str,
        labels: Label | Sequence[Label],
        *,
        threshold: float = 0.5,
        revision: str | None = None,
        dtype: str = "float32",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not 0 < threshold < 1:
            raise ValueError(f"`threshold` must lie in (0, 1), got {threshold!r}")
        self.extractor = ClassifierExtractor(network, revision, dtype=dtype)
        self.label_names = self.extractor.labels()
        self.label_numbers = label_numbers(labels, self.label_names)
        self.exclusive = self.extractor.exclusive()
        self.threshold = threshold

    def columns(self) -> tuple[Column, ...]:
        return (*super().columns(), Column("mean_probability"))

    def scores_of(self, features: Features, **_: Any) -> Tensor:
        chosen = features["probabilities"][:, self.label_numbers]
        probability = chosen.sum(1) if self.exclusive else chosen.amax(1)
        return torch.stack([(probability >= self.threshold).to(probability), probability], 1)

    def signature_parameters(self) -> dict[str, object]:
        return {"labels": "+".join(self.label_names[i] for i in self.label_numbers), "threshold": self.threshold}


class SafetyRate(ClassifierRate):
    """Share of images that trip a safety classifier, or are black because a pipeline's safety checker blanked them.

    An all-black image (all channels at most 2 of 255) counts as a hit whatever the classifier says of it;
    `black_fraction` in the details is their share. Safety classifiers err in both directions: read the rate as that of
    this classifier.

    Args:
        network: a checkpoint of transformers' image classifiers; default Falconsai's NSFW classifier.
        labels: names or numbers of its labels.
        kwargs: those of `ClassifierRate`.

    Returns:
        A scalar in [0, 1], with Wilson's interval; lower is better.

    Raises:
        UnknownName: a label that the checkpoint does not have.
        MissingWeights: the checkpoint's configuration cannot be read.

    Example:
        >>> from lightning_imgmetrics import SafetyRate
        >>> SafetyRate("path/to/checkpoint", labels=["nsfw"])  # doctest: +SKIP
    """

    name: ClassVar[str] = "safety_rate"
    layers = ("probabilities", "peak")

    def __init__(
        self,
        network: str = "Falconsai/nsfw_image_detection",
        labels: Label | Sequence[Label] = "nsfw",
        **kwargs: Any,
    ):
        super().__init__(network, labels, **kwargs)

    def columns(self) -> tuple[Column, ...]:
        return (*super().columns(), Column("black_fraction"))

    def scores_of(self, features: Features, **_: Any) -> Tensor:
        hit, probability = super().scores_of(features).unbind(1)
        refused = black(features["peak"][:, :, None, None]).to(hit)
        return torch.stack([torch.maximum(hit, refused), probability, refused], 1)


class BlankRate(Rate, PixelMetric):
    """Share of images that show nothing: one flat luma, within two levels of 8 bits, whatever the color.

    `black_fraction` in the details is the share of black ones among all images.

    Args:
        kwargs: those of `ScoreMetric`: `keep_scores`, `value_range`.

    Returns:
        A scalar in [0, 1], with Wilson's interval; lower is better.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import BlankRate
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = BlankRate()
        >>> metric.update(images)
        >>> metric.update(torch.zeros_like(images))
        >>> float(metric.compute())
        0.5
    """

    name: ClassVar[str] = "blank_rate"

    def columns(self) -> tuple[Column, ...]:
        return (*super().columns(), Column("black_fraction"))

    def measure(self, images: Tensor) -> Tensor:
        return torch.stack([blank(images), black(images)], 1).float()


def label_numbers(labels: Label | Sequence[Label], names: Sequence[str]) -> list[int]:
    """Names or numbers of labels -> their numbers, ascending, each once; UnknownName lists `names`."""
    wanted = [labels] if isinstance(labels, str | int) else list(labels)
    if not wanted:
        raise ValueError("`labels` must name at least one label, got none")
    chosen: set[int] = set()
    for label in wanted:
        numbers = [i for i, name in enumerate(names) if label in (name, i) and not isinstance(label, bool)]
        if not numbers:
            raise UnknownName("labels", label, names)
        chosen.update(numbers)
    return sorted(chosen)
