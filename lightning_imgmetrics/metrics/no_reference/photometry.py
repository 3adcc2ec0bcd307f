"""What an image shows by itself: sharpness, noise, light and color. No network, no reference."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.functional import photometry, sharpness
from lightning_imgmetrics.metrics.base.pixel_metric import PixelMetric
from lightning_imgmetrics.metrics.base.summary import Column


class Sharpness(PixelMetric):
    """Mean sharpness of luma: variance of the Laplacian, or mean squared Sobel gradient.

    Both grow with noise, and with fewer pixels per object: compare images of one size.

    Args:
        method: "laplacian" or "tenengrad".
        kwargs: those of `ScoreMetric`: `keep_scores`, `value_range`.

    Returns:
        A scalar >= 0, in squared luma of [0, 1]; higher is sharper.

    Raises:
        ShapeError: at `update`, for images below 3 x 3 pixels.

    References:
        Pech-Pacheco et al. 2000 (Laplacian); Tenenbaum 1970 (Tenengrad).

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import Sharpness
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = Sharpness()
        >>> metric.update(images)
        >>> round(float(metric.compute()), 4)
        0.7223
    """

    name: ClassVar[str] = "sharpness"
    higher_is_better = True
    methods: ClassVar[dict[str, Any]] = {"laplacian": sharpness.laplacian_variance, "tenengrad": sharpness.tenengrad}

    def __init__(self, method: str = "laplacian", **kwargs: Any):
        if method not in self.methods:
            raise UnknownName("method", method, self.methods)
        super().__init__(**kwargs)
        self.method = method

    def measure(self, images: Tensor) -> Tensor:
        return self.methods[self.method](images)

    def signature_parameters(self) -> dict[str, object]:
        return {"method": self.method}


class NoiseLevel(PixelMetric):
    """Mean standard deviation of the noise of luma, by Immerkaer's method.

    Right for white noise on smooth content, too high on fine texture.

    Args:
        kwargs: those of `ScoreMetric`: `keep_scores`, `value_range`.

    Returns:
        A scalar in [0, 1]; lower is better.

    Raises:
        ShapeError: at `update`, for images below 3 x 3 pixels.

    References:
        Immerkaer 1996, "Fast noise variance estimation".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import NoiseLevel
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = NoiseLevel()
        >>> metric.update(images)
        >>> round(float(metric.compute()), 4)
        0.1893
    """

    name: ClassVar[str] = "noise"
    higher_is_better = False
    measure = staticmethod(sharpness.noise_level)


class Exposure(PixelMetric):
    """Mean luma; `details["clipped_fraction"]` is the share of pixels without detail in shadow or light.

    Args:
        kwargs: those of `ScoreMetric`: `keep_scores`, `value_range`.

    Returns:
        A scalar in [0, 1]; neither end is better.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import Exposure
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = Exposure()
        >>> metric.update(images)
        >>> round(float(metric.compute()), 4)
        0.5013
    """

    name: ClassVar[str] = "exposure"
    higher_is_better = None

    def columns(self) -> tuple[Column, ...]:
        return (*super().columns(), Column("clipped_fraction"))

    def measure(self, images: Tensor) -> Tensor:
        return torch.stack([photometry.exposure(images), photometry.clipped_fraction(images)], 1)


class Saturation(PixelMetric):
    """Mean HSV saturation, which rises when a model is trained on the taste of a reward model.

    Args:
        kwargs: those of `ScoreMetric`: `keep_scores`, `value_range`.

    Returns:
        A scalar in [0, 1]; neither end is better.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import Saturation
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = Saturation()
        >>> metric.update(images)
        >>> round(float(metric.compute()), 4)
        0.6656
    """

    name: ClassVar[str] = "saturation"
    higher_is_better = None
    measure = staticmethod(photometry.saturation)


class Contrast(PixelMetric):
    """Mean RMS contrast, the standard deviation of luma.

    Args:
        kwargs: those of `ScoreMetric`: `keep_scores`, `value_range`.

    Returns:
        A scalar in [0, 0.5]; neither end is better.

    References:
        Peli 1990, "Contrast in complex images".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import Contrast
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = Contrast()
        >>> metric.update(images)
        >>> round(float(metric.compute()), 4)
        0.1919
    """

    name: ClassVar[str] = "contrast"
    higher_is_better = None
    measure = staticmethod(photometry.contrast)


class Colorfulness(PixelMetric):
    """Mean colorfulness M3.

    Args:
        kwargs: those of `ScoreMetric`: `keep_scores`, `value_range`.

    Returns:
        A scalar >= 0 on the scale of 8-bit levels: 15 slightly, 45 averagely, 82 highly colorful.

    References:
        Hasler & Suesstrunk 2003, "Measuring colorfulness in natural images".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import Colorfulness
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = Colorfulness()
        >>> metric.update(images)
        >>> round(float(metric.compute()), 4)
        139.1335
    """

    name: ClassVar[str] = "colorfulness"
    higher_is_better = None
    measure = staticmethod(photometry.colorfulness)
