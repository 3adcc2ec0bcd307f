"""Structural similarity of images and the images that they should be, at one scale and at several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.functional.structural_similarity import (
    BETAS,
    NORMALIZE,
    WINDOWS,
    Numbers,
    ms_ssim,
    ssim,
    ssim_maps,
)
from lightning_imgmetrics.metrics.base.inputs import Ids, check_ids
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.base.summary import Column, Summary
from lightning_imgmetrics.metrics.full_reference.base import PixelReferenceMetric, Range, pairs_in
from lightning_imgmetrics.models.base.extractor import Features
from lightning_imgmetrics.states.tables import Log


def ssim_options(window: str, **options: Any) -> dict[str, Any]:
    """The arguments of `functional.ssim`; UnknownName for a `window` that there is not."""
    if window not in WINDOWS:
        raise UnknownName("window", window, WINDOWS)
    return {"window": window, **options}


class StructuralSimilarityIndexMeasure(PixelReferenceMetric):
    """Mean SSIM of pairs of images or volumes; drop-in for torchmetrics.

    Args:
        gaussian_kernel: a Gaussian window, or a uniform one.
        sigma: of the Gaussian, in pixels, one or one per axis.
        kernel_size: of the uniform window, one or one per axis; of the Gaussian with `window="valid"`.
        reduction: "elementwise_mean", "sum", or "none" for one value per pair.
        data_range: see `PixelReferenceMetric`.
        k1, k2: of the constants that keep the quotients stable.
        return_full_image: `compute` returns (value, map of each image), all of which stay in memory.
        return_contrast_sensitivity: `compute` returns (value, contrast-structure term of each pair).
        window: "padded" as torchmetrics (reflected borders, all pixels count), or "valid", the published reference.
        kwargs: those of `PixelReferenceMetric`: `channel`, `crop_border`, `keep_scores`.

    Returns:
        A scalar, or (n,), in [-1, 1]; higher is better.

    Raises:
        ShapeError: at `update`, for pairs of different sizes, or smaller than the window.

    References:
        Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import StructuralSimilarityIndexMeasure
        >>> target = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> preds = 255 - target
        >>> metric = StructuralSimilarityIndexMeasure()
        >>> metric.update(target, target)
        >>> round(float(metric.compute()), 4)
        1.0
    """

    name: ClassVar[str] = "ssim"
    higher_is_better = True
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    reductions = ("elementwise_mean", "sum", "none", None)

    def __init__(
        self,
        gaussian_kernel: bool = True,
        sigma: Numbers = 1.5,
        kernel_size: int | Sequence[int] = 11,
        reduction: str | None = "elementwise_mean",
        data_range: Range | None = None,
        k1: float = 0.01,
        k2: float = 0.03,
        return_full_image: bool = False,
        return_contrast_sensitivity: bool = False,
        *,
        window: str = "padded",
        **kwargs: Any,
    ):
        if return_full_image and return_contrast_sensitivity:
            raise ValueError("Arguments `return_full_image` and `return_contrast_sensitivity` are mutually exclusive.")
        self.return_full_image, self.return_contrast_sensitivity = return_full_image, return_contrast_sensitivity
        if return_contrast_sensitivity:
            kwargs["keep_scores"] = True
        numbers = {"gaussian_kernel": gaussian_kernel, "sigma": sigma, "kernel_size": kernel_size, "k1": k1, "k2": k2}
        self.options = ssim_options(window, **numbers)
        super().__init__(reduction, data_range, **kwargs)
        if return_full_image:
            self.add_stream("image_values", Stream(Log((), torch.float32), 1))
            self.add_stream("image_shapes", Stream(Log((5,), torch.int64), 5))  # id, c, d (0 for images), h, w

    def measure(self, preds: Tensor, target: Tensor) -> Tensor:
        if not self.return_contrast_sensitivity:
            return ssim(preds, target, **self.options)
        return torch.stack([x.flatten(1).mean(1) for x in ssim_maps(preds, target, **self.options)], 1)

    def stage(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> Callable[[], None]:
        add_scores = super().stage(features, ids=ids, **inputs)
        if not self.return_full_image:
            return add_scores
        sides = zip(*pairs_in(features), strict=True)
        maps = [ssim_maps(*self.cropped(x[None], y[None]), **self.options)[0][0] for x, y in sides]
        keys = [-1] * len(maps) if ids is None else check_ids(ids, len(maps)).tolist()

        def commit() -> None:
            add_scores()
            for key, whole in zip(keys, maps, strict=True):
                channels, *depth, height, width = whole.shape
                self.streams["image_shapes"].add(torch.tensor([[key, channels, *(depth or [0]), height, width]]))
                self.streams["image_values"].add(whole.flatten())

        return commit

    def columns(self) -> tuple[Column, ...]:
        contrast = (Column("contrast_sensitivity"),) if self.return_contrast_sensitivity else ()
        return (*super().columns(), *contrast)

    def images(self) -> Tensor | list[Tensor]:
        """The maps (n, c, ...), float32, in the order of the scores; a list where their sizes differ."""
        shapes = self.streams["image_shapes"].value()
        sides = [[x for x in shape if x] for shape in shapes[:, 1:].tolist()]
        parts = self.streams["image_values"].value().split([math.prod(shape) for shape in sides])
        keys = shapes[:, 0].double().where(shapes[:, 0] >= 0, torch.nan)  # as `Samples` orders and drops its rows
        order = keys.argsort(stable=True).tolist()
        first = [i for at, i in enumerate(order) if at == 0 or keys[i] != keys[order[at - 1]]]
        maps = [parts[i].view(sides[i]).to(self.home) for i in first]
        return torch.stack(maps) if len({x.shape for x in maps}) == 1 else maps

    def output(self, summary: Summary) -> Any:
        if self.return_full_image:
            return summary.value, self.images()
        contrast = self.streams["score"].read()[:, 2] if self.return_contrast_sensitivity else None
        return summary.value if contrast is None else (summary.value, contrast)

    def signature_parameters(self) -> dict[str, object]:
        return {**super().signature_parameters(), **self.options}


class MultiScaleStructuralSimilarityIndexMeasure(PixelReferenceMetric):
    """Mean MS-SSIM of pairs of images or volumes; drop-in for torchmetrics.

    Args:
        gaussian_kernel: a Gaussian window, or a uniform one.
        kernel_size: of the window, one or one per axis.
        sigma: of the Gaussian, in pixels, one or one per axis.
        reduction: "elementwise_mean", "sum", or "none" for one value per pair.
        data_range: see `PixelReferenceMetric`.
        k1, k2: of the constants that keep the quotients stable.
        betas: exponents of the scales, finest first; fewer of them for smaller images.
        normalize: "relu" makes negative terms 0, "simple" maps [-1, 1] to [0, 1], None leaves them.
        window: see `StructuralSimilarityIndexMeasure`.
        kwargs: those of `PixelReferenceMetric`: `channel`, `crop_border`, `keep_scores`.

    Returns:
        A scalar, or (n,), in [0, 1] with "relu"; higher is better.

    Raises:
        ShapeError: at `update`, for sides below 176 pixels (161 with "valid") and five scales.

    References:
        Wang, Simoncelli & Bovik 2003, "Multiscale structural similarity for image quality assessment".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import MultiScaleStructuralSimilarityIndexMeasure
        >>> target = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> preds = 255 - target
        >>> metric = MultiScaleStructuralSimilarityIndexMeasure(betas=(0.5, 0.5))
        >>> metric.update(target, target)
        >>> round(float(metric.compute()), 4)
        1.0
    """

    name: ClassVar[str] = "ms_ssim"
    higher_is_better = True
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    reductions = ("elementwise_mean", "sum", "none", None)

    def __init__(
        self,
        gaussian_kernel: bool = True,
        kernel_size: int | Sequence[int] = 11,
        sigma: Numbers = 1.5,
        reduction: str | None = "elementwise_mean",
        data_range: Range | None = None,
        k1: float = 0.01,
        k2: float = 0.03,
        betas: tuple[float, ...] = BETAS,
        normalize: str | None = "relu",
        *,
        window: str = "padded",
        **kwargs: Any,
    ):
        sizes = kernel_size if isinstance(kernel_size, Sequence) else [kernel_size] * 2
        if len(sizes) not in (2, 3) or not all(isinstance(size, int) for size in sizes):
            raise ValueError(f"`kernel_size` must be an int, or 2 or 3 of them, got {kernel_size!r}")
        if not isinstance(betas, tuple) or not betas or not all(isinstance(beta, float) for beta in betas):
            raise ValueError(f"`betas` must be a tuple of floats, got {betas!r}")
        if normalize not in NORMALIZE:
            raise UnknownName("normalize", normalize, NORMALIZE)
        numbers = {"gaussian_kernel": gaussian_kernel, "kernel_size": kernel_size, "sigma": sigma, "k1": k1, "k2": k2}
        self.options = ssim_options(window, **numbers, betas=betas, normalize=normalize)
        super().__init__(reduction, data_range, **kwargs)

    def measure(self, preds: Tensor, target: Tensor) -> Tensor:
        return ms_ssim(preds, target, **self.options)

    def signature_parameters(self) -> dict[str, object]:
        return {**super().signature_parameters(), **self.options}
