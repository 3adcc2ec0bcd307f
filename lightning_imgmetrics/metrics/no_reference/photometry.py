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
    """Mean sharpness: variance of the Laplacian of luma ("laplacian") or mean squared Sobel gradient ("tenengrad").

    In squared luma of [0, 1]; images of at least 3 x 3 pixels. Both grow with noise, and with fewer pixels per object:
    compare images of one size. Higher is sharper. Sources: Pech-Pacheco et al. 2000; Tenenbaum 1970.
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
    """Mean standard deviation of the noise of luma, in [0, 1], estimated by Immerkaer's method (1996).

    Right for white noise on smooth content, too high on fine texture. Images of at least 3 x 3 pixels. Lower is better.
    """

    name: ClassVar[str] = "noise"
    higher_is_better = False
    measure = staticmethod(sharpness.noise_level)


class Exposure(PixelMetric):
    """Mean luma, in [0, 1]; `details["clipped_fraction"]`: the share of pixels without detail in shadow or light."""

    name: ClassVar[str] = "exposure"
    higher_is_better = None

    def columns(self) -> tuple[Column, ...]:
        return (*super().columns(), Column("clipped_fraction"))

    def measure(self, images: Tensor) -> Tensor:
        return torch.stack([photometry.exposure(images), photometry.clipped_fraction(images)], 1)


class Saturation(PixelMetric):
    """Mean HSV saturation, in [0, 1]. Rises when a model is trained on the taste of a reward model."""

    name: ClassVar[str] = "saturation"
    higher_is_better = None
    measure = staticmethod(photometry.saturation)


class Contrast(PixelMetric):
    """Mean RMS contrast, the standard deviation of luma, in [0, 0.5] (Peli 1990)."""

    name: ClassVar[str] = "contrast"
    higher_is_better = None
    measure = staticmethod(photometry.contrast)


class Colorfulness(PixelMetric):
    """Mean colorfulness M3, >= 0 on the scale of 8-bit levels: 15 slightly, 45 averagely, 82 highly colorful.

    Source: Hasler & Suesstrunk 2003.
    """

    name: ClassVar[str] = "colorfulness"
    higher_is_better = None
    measure = staticmethod(photometry.colorfulness)
