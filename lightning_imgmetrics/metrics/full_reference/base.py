"""Scores of images by their pixels alone, and scores of pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import ShapeError, UnknownName, ValueRangeError
from lightning_imgmetrics.functional.pixel import check_pair, check_positive, studio_luma
from lightning_imgmetrics.metrics.base.inputs import Ids
from lightning_imgmetrics.metrics.base.pixel_metric import by_size
from lightning_imgmetrics.metrics.base.score_metric import ScoreMetric
from lightning_imgmetrics.metrics.base.summary import Summary
from lightning_imgmetrics.models.base.extractor import Extractor, Features, PixelExtractor

Range = float | tuple[float, float]
_EIGHT_BITS = (None, 1, 255, (0, 1), (0, 255))  # ranges that also say what uint8 holds


class FullReferenceMetric(ScoreMetric):
    """A score of each image against its target, both of one size, by their pixels or by what a network makes of them.

    `reduction`: the mean over pairs, "sum", or "none" (or None) for one value per pair, ordered by id.
    """

    inputs = ("target",)
    reductions: ClassVar[tuple[str | None, ...]] = ("mean", "sum", "none", None)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A module that holds the metric can be scripted for export, as with torchmetrics' own.
        cls.__jit_unused_properties__ = [k for k in dir(cls) if isinstance(getattr(cls, k, None), property)]

    def __init__(self, reduction: str | None = "mean", *, keep_scores: bool = True, **kwargs: Any):
        if reduction not in self.reductions:
            raise UnknownName("reduction", reduction, self.reductions)
        super().__init__(keep_scores=keep_scores or reduction in ("none", None), **kwargs)
        self.reduction = reduction

    def update(self, preds: Images, target: Images, ids: Ids | None = None) -> None:
        """Add pairs, each side (n, 3, h, w) uint8 or float in `value_range`, or a list of (3, h, w) of mixed sizes."""
        self.add_pairs(ids, preds=preds, target=target)

    def add_pairs(self, ids: Ids | None, **sides: Images) -> None:
        """`update` with both sides under the names that errors are to give them."""
        self.add_scores(self.scores_of_pairs(**{name: self.validate_images(x, name) for name, x in sides.items()}), ids)

    @property
    def value_is_mean(self) -> bool:
        return self.reduction in ("mean", "elementwise_mean")

    def scores_of_images(self, images: Sequence[Tensor], target: Sequence[Tensor] = (), **inputs: Any) -> Tensor:
        return self.scores_of_pairs(images=images, target=target)

    def scores_of_pairs(self, **sides: Sequence[Tensor]) -> Tensor:
        """The scores of batches, two sides under the names that errors are to give them: a pass for those of a size."""
        first, second = sides.values()
        require_same_sizes(*([x for batch in side for x in batch] for side in (first, second)), names=tuple(sides))
        if [len(batch) for batch in first] != [len(batch) for batch in second]:  # of one size, but of different types
            first, second = ([x[None] for batch in side for x in batch] for side in (first, second))
        return torch.cat([self.scores_of(self.extract(pair)) for pair in zip(first, second, strict=True)])

    def summarize(self) -> Summary:
        summary = self.over_pairs()
        if self.reduction == "sum":
            return Summary(summary.value * summary.n, summary.n, details=summary.details)
        if self.reduction in ("none", None):
            return replace(summary, value=self.scores_in(self.streams["score"].read()))
        return summary

    def over_pairs(self) -> Summary:
        """The mean, whatever the reduction."""
        return super().summarize()

    def signature_parameters(self) -> dict[str, object]:
        return {"reduction": self.reduction}


class PixelReferenceMetric(FullReferenceMetric):
    """Pairs measured on the scale of their range, [0, 1].

    Float tensors with a `data_range` are taken as torchmetrics takes them: any values, channels and axes, divided by
    the range; with a tuple (low, high) they are clamped to it first. All else are images: uint8, PIL, lists of mixed
    sizes, and without `data_range` floats in `value_range` ([0, 1]); never does the range depend on the batch.
    `channel="y"` compares BT.601 luma as super-resolution papers do; `crop_border` leaves out so many pixels at each
    border. Inside a MetricSuite images are 8-bit.
    """

    extractor: Extractor = PixelExtractor()
    layers = ("pixels",)

    def __init__(
        self,
        reduction: str | None,
        data_range: Range | None = None,
        *,
        channel: str = "rgb",
        crop_border: int = 0,
        **kwargs: Any,
    ):
        if channel not in ("rgb", "y"):
            raise UnknownName("channel", channel, ("rgb", "y"))
        if isinstance(crop_border, bool) or not isinstance(crop_border, int) or crop_border < 0:
            raise ValueRangeError(f"`crop_border` must be a number of pixels, got {crop_border!r}")
        self.data_range, self.channel, self.crop_border = data_range, channel, crop_border
        self.low, high = (
            data_range if isinstance(data_range, tuple) else (0.0, 1.0 if data_range is None else data_range)
        )
        self.extent = high - self.low
        check_positive(data_range=self.extent)
        super().__init__(reduction, **{"value_range": (self.low, high), **kwargs})

    def update(self, preds: Images, target: Images, ids: Ids | None = None) -> None:
        """Add pairs of one size each: both float tensors, (n, c, h, w) for most, or both images; see the class."""
        if isinstance(preds, Tensor) and isinstance(target, Tensor) and self._as_given(preds, target):
            pairs = self._scaled(preds, target)
            self.stage({"pixels": [image for side in pairs for image in side]}, ids=ids)()
        else:
            super().update(preds, target, ids)

    def add_pairs(self, ids: Ids | None, **sides: Images) -> None:
        for name, images in sides.items():
            if isinstance(images, Tensor) and images.dtype == torch.uint8 and self.data_range not in _EIGHT_BITS:
                raise ValueRangeError(f"`{name}` is uint8 and measured on [0, 1]; `data_range` says {self.data_range}")
        pairs = [
            image
            for name, images in sides.items()
            for image in self.extract(self.validate_images(images, name))["pixels"]
        ]
        self.stage({"pixels": pairs}, ids=ids)()

    def scores_of(self, features: Features, **_: Any) -> Tensor:
        return by_size(lambda *pair: self.measure(*self.cropped(*pair)), *pairs_in(features))

    @abstractmethod
    def measure(self, preds: Tensor, target: Tensor) -> Tensor:
        """Pairs of one size, (n, 3, h, w) floats in units of the range each -> (n,), or (n, 1 + k) with `columns`."""

    def cropped(self, *sides: Tensor) -> list[Tensor]:
        """Without the border, and as luma if that is measured."""
        if border := self.crop_border:
            if min(sides[0].shape[-2:]) <= 2 * border:
                raise ShapeError(f"`crop_border` of {border} pixels leaves nothing of shape {tuple(sides[0].shape)}")
            sides = tuple(x[..., border:-border, border:-border] for x in sides)
        return [studio_luma(x) for x in sides] if self.channel == "y" else list(sides)

    def _as_given(self, *sides: Tensor) -> bool:
        return self.data_range is not None and not any(x.dtype == torch.uint8 for x in sides)

    def _scaled(self, *sides: Tensor) -> list[Tensor]:
        """Numbers in units of the range."""
        pair = check_pair(*(x.detach() if x.is_floating_point() else x.float() for x in sides))
        if not len(pair[0]):
            raise ShapeError("`preds` must hold at least one image, got an empty batch")
        for name, x in zip(("preds", "target"), pair, strict=True):
            if not torch.stack(x.aminmax()).isfinite().all():  # NaN is the least and the largest of all
                raise ValueRangeError(f"`{name}` must be finite, got NaN or infinity")
        if pair[0].device.type != "cpu" and pair[0].device != self.device:
            self.to(pair[0].device)
        return [self._in_units(x.to(self.device)) for x in pair]

    def _in_units(self, x: Tensor) -> Tensor:
        if isinstance(self.data_range, tuple):
            x = x.clamp(*self.data_range)
        if self.channel == "y" and self.low:  # luma has an offset, so black must be 0
            x = x - self.low
        return x if self.extent == 1 else x / self.extent

    def signature_parameters(self) -> dict[str, object]:
        odd = {"data_range": f"{self.low:g}..{self.low + self.extent:g}"} if self.low else {}
        return {**super().signature_parameters(), **odd, "channel": self.channel, "crop_border": self.crop_border}


def pairs_in(features: Features) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Images and then as many targets -> both; ShapeError unless those of a pair have one size."""
    images = features["pixels"]
    preds, target = images[: len(images) // 2], images[len(images) // 2 :]
    require_same_sizes(preds, target)
    return preds, target


def require_same_sizes(
    preds: Sequence[Tensor], target: Sequence[Tensor], *, names: Sequence[str] = ("preds", "target")
) -> None:
    """ShapeError, with the first pair, unless these are as many images, and those of each pair of one size."""
    requirement = f"`{names[0]}` and `{names[1]}` must hold images of the same sizes"
    if len(preds) != len(target):
        raise ShapeError(f"{requirement}, got {len(preds)} and {len(target)} images")
    for i, (x, y) in enumerate(zip(preds, target, strict=True)):
        if x.shape != y.shape:
            raise ShapeError(f"{requirement}, got {tuple(x.shape)} and {tuple(y.shape)} for pair {i}")
