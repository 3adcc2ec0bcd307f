"""Classic scores of images against the images that they should be."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError, ValueRangeError
from lightning_imgmetrics.functional.pixel import check_positive, mse
from lightning_imgmetrics.functional.visual_information import vif
from lightning_imgmetrics.metrics.base.summary import Column, Summary
from lightning_imgmetrics.metrics.full_reference.base import PixelReferenceMetric, Range
from lightning_imgmetrics.states.moments import Moments


class MeanSquaredError(PixelReferenceMetric):
    """Mean over images of the mean squared error on [0, 1].

    Of images, where torchmetrics' class of this name pools numbers of any kind.

    Args:
        reduction: "mean", "sum", or "none" for one value per pair.
        kwargs: those of `PixelReferenceMetric`: `channel`, `crop_border`, `keep_scores`.

    Returns:
        A scalar >= 0, or (n,); lower is better.

    Raises:
        ShapeError: at `update`, for pairs of different sizes.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import MeanSquaredError
        >>> target = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> preds = 255 - target
        >>> metric = MeanSquaredError()
        >>> metric.update(preds, target)
        >>> round(float(metric.compute()), 4)
        0.3343
    """

    name: ClassVar[str] = "mse"
    higher_is_better = False
    plot_lower_bound: float = 0.0

    def __init__(self, *, reduction: str | None = "mean", **kwargs: Any):
        super().__init__(reduction, **kwargs)

    def measure(self, preds: Tensor, target: Tensor) -> Tensor:
        return mse(preds, target)


class PeakSignalNoiseRatio(PixelReferenceMetric):
    """Peak signal-to-noise ratio, 10 log10(range^2 / MSE); drop-in for torchmetrics.

    An image that is exactly its target has an infinite PSNR, and so has the mean: `n_infinite` in the details counts
    them, `finite_mean` is that of the others.

    Args:
        data_range: the range of float tensors, a number or (low, high); None for images. See `PixelReferenceMetric`.
        base: of the logarithm; decibels for 10.
        reduction: "elementwise_mean", "sum" or "none", with `dim`.
        dim: None pools the squared errors of all images into one ratio, as torchmetrics does by default
            (`mean_of_images` in the details is the other number); (1, 2, 3), as papers report it, takes each image's
            PSNR and then their `reduction`; fewer axes give several ratios per image, which are averaged, or summed.
        kwargs: those of `PixelReferenceMetric`: `channel`, `crop_border`, `keep_scores`.

    Returns:
        A scalar, or (n,), in dB; higher is better.

    Raises:
        ShapeError: at `update`, for pairs of different sizes.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import PeakSignalNoiseRatio
        >>> target = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> preds = 255 - target
        >>> metric = PeakSignalNoiseRatio(dim=(1, 2, 3))
        >>> metric.update(preds, target)
        >>> round(float(metric.compute()), 3)
        4.759
    """

    name: ClassVar[str] = "psnr"
    unit: ClassVar[str] = "dB"
    higher_is_better = True
    plot_lower_bound: float = 0.0
    reductions = ("elementwise_mean", "sum", "none", None)
    undefined_score = math.inf

    def __init__(
        self,
        data_range: Range | None = None,
        base: float = 10.0,
        reduction: str | None = "elementwise_mean",
        dim: int | Sequence[int] | None = None,
        **kwargs: Any,
    ):
        if not base > 1:
            raise ValueRangeError(f"`base` must be above 1, got {base}")
        self.base = base
        self.dim = (dim,) if isinstance(dim, int) else None if dim is None else tuple(dim)
        if self.dim is not None and (0 in self.dim or not self.dim):
            raise ValueError(f"`dim` must name axes of an image, which begin at 1, got {dim}")
        if self.dim is None and reduction != "elementwise_mean":
            message = f"The `reduction={reduction}` will not have any effect when `dim` is None."
            warnings.warn(message, UserWarning, stacklevel=2)
            reduction = "elementwise_mean"
        super().__init__(reduction, data_range, **kwargs)

    def columns(self) -> tuple[Column, ...]:
        pooled = (Column("squared_error", "mark"), Column("values", "mark")) if self.dim is None else ()
        return (*super().columns(), *pooled)

    def measure(self, preds: Tensor, target: Tensor) -> Tensor:
        if self.dim is None:
            error = mse(preds, target).double()
            size = torch.full_like(error, preds[0].numel())
            return torch.stack([self.decibels(error), error * size, size], 1)
        axes = sorted({axis % preds.ndim for axis in self.dim if -preds.ndim < axis < preds.ndim})
        if len(axes) < len(self.dim) or axes[0] == 0:
            raise ShapeError(f"`dim` must name axes of an image of shape {tuple(preds.shape)}, got {self.dim}")
        ratios = self.decibels((preds - target).square().mean(axes)).reshape(len(preds), -1)
        if ratios.shape[1] > 1 and self.reduction in ("none", None):
            raise ValueError(f"`reduction` 'none' needs all axes of an image in `dim`, got {self.dim}")
        return ratios.sum(1) if self.reduction == "sum" else ratios.mean(1)

    def decibels(self, error: Tensor) -> Tensor:
        """Mean squared errors, in squared units of the range -> PSNR."""
        return -error.log() * (10 / math.log(self.base))

    def over_pairs(self) -> Summary:
        summary, infinite = self.defined()
        details = {**summary.details, "n_infinite": float(infinite)}
        if infinite and summary.n:
            details["finite_mean"] = float(summary.value)
        n, value = summary.n + infinite, summary.value
        value = torch.full_like(value, torch.inf) if infinite else value
        if self.dim is None:
            details["mean_of_images"] = float(value)
            value, error = self.pooled(n)
        else:
            error = None if infinite else summary.standard_error
        return Summary(value, n, error, details=details)

    def pooled(self, n: int) -> tuple[Tensor, float | None]:
        """The PSNR of the mean squared error over all values, and its standard error by the delta method."""
        state, moments = self.streams["score"].read(), Moments(1 + len(self.row))
        _, mean, scatter = moments.unpack(moments.of(state[:, 1:]) if self.keep_scores else state)
        error, size = mean[2:]
        value = self.decibels(error / size)
        if n == 1 or error == 0:
            return value, None
        slope = torch.stack([1 / error, -1 / size])
        spread = (slope @ scatter[2:, 2:] @ slope).clamp(min=0)
        return value, float((spread / (n - 1) / n).sqrt()) * 10 / math.log(self.base)

    def signature_parameters(self) -> dict[str, object]:
        axes = "all" if self.dim is None else "+".join(map(str, self.dim))
        return {**super().signature_parameters(), "base": f"{self.base:g}", "dim": axes}


class VisualInformationFidelity(PixelReferenceMetric):
    """VIF in the pixel domain, mean over channels: the share of the target's information that is kept; drop-in.

    A flat target has no information: such pairs do not count but in `details["n_flat"]`, and are NaN with
    `reduction="none"`.

    Args:
        sigma_n_sq: variance of the noise of the eye, for 0..255.
        reduction: "mean", or "none" for one value per pair.
        kwargs: those of `PixelReferenceMetric`; float images lie in [0, 255] as in torchmetrics, unless `value_range`
            says otherwise.

    Returns:
        A scalar, or (n,): 1 for equal images, 0 where nothing is kept, above 1 where contrast was raised; higher is
            better.

    Raises:
        ShapeError: at `update`, for images with sides below 41.
        NotEnoughSamples: at `compute`, where all targets are flat.

    References:
        Sheikh & Bovik 2006, "Image information and visual quality".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import VisualInformationFidelity
        >>> target = torch.randint(256, (4, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> preds = 255 - target
        >>> metric = VisualInformationFidelity()
        >>> metric.update(target, target)
        >>> round(float(metric.compute()), 4)
        1.0
    """

    name: ClassVar[str] = "vif"
    higher_is_better = True
    plot_lower_bound: float = 0.0
    reductions = ("mean", "none")
    undefined_score = math.nan

    def __init__(self, sigma_n_sq: float = 2.0, reduction: str = "mean", **kwargs: Any):
        check_positive(sigma_n_sq=sigma_n_sq)
        self.sigma_n_sq = sigma_n_sq
        range_there = {"value_range": (0.0, 255.0)} if kwargs.get("data_range") is None else {}
        super().__init__(reduction, **{**range_there, **kwargs})

    def validate_images(self, images: Images, name: str = "images") -> list[Tensor]:
        batches = super().validate_images(images, name)
        floats = [x for x in batches if x.is_floating_point()]
        if self.value_range == (0.0, 255.0) and floats and 0 < max(x.max() for x in floats) <= 1 / 255:
            raise ValueRangeError(f"float `{name}` must lie in [0, 255]; declare value_range=(0, 1) for these")
        return batches

    def measure(self, preds: Tensor, target: Tensor) -> Tensor:
        return vif(preds * 255, target * 255, sigma_n_sq=self.sigma_n_sq)

    def over_pairs(self) -> Summary:
        summary, flat = self.defined()
        if summary.n == 0:
            raise NotEnoughSamples(self.name, 0, 1, f"the targets of all {flat} pairs are flat")
        return replace(summary, details={**summary.details, "n_flat": float(flat)})

    def signature_parameters(self) -> dict[str, object]:
        return {**super().signature_parameters(), "sigma_n_sq": f"{self.sigma_n_sq:g}"}
