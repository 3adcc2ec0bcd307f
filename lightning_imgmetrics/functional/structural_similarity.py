"""Structural similarity: at one scale (Wang et al. 2004) and at several (Wang et al. 2003).

SSIM is computed from the sum s and the difference d of two images: 4 cov = var s - var d, 2 (var x + var y) =
var s + var d, and the means likewise. So four maps are filtered and not five, equal images give exactly 1, and the
score of similar images is not a small difference of large numbers. Both are centered before they are squared, for
flat regions: float32 stays within 1e-6 of float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import ShapeError, UnknownName, ValueRangeError
from lightning_imgmetrics.functional.filters import correlate1d, gaussian_window
from lightning_imgmetrics.functional.pixel import channel_chunks, check_pair, check_positive

Numbers = float | Sequence[float]  # one for all axes or one for each
WINDOWS = ("padded", "valid")
NORMALIZE = ("relu", "simple", None)
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of the scales, finest first


def ssim(
    preds: Tensor,
    target: Tensor,
    *,
    data_range: float = 1.0,
    window: str = "padded",
    gaussian_kernel: bool = True,
    sigma: Numbers = 1.5,
    kernel_size: int | Sequence[int] = 11,
    k1: float = 0.01,
    k2: float = 0.03,
    downsample: bool = False,
) -> Tensor:
    """SSIM of each image: float (n, c, h, w) or (n, c, d, h, w) and the same -> (n,) in [-1, 1], 1 for equal images.

    `window` "padded" is torchmetrics' SSIM: reflected borders, all pixels count, a Gaussian of 2 int(3.5 sigma + 0.5)
    + 1 taps (`kernel_size` is then that of the uniform window). "valid" is Wang's: `kernel_size` taps, at positions
    where they fit; as in scikit-image with Gaussian weights and population covariance, and in pytorch_msssim.
    `downsample` first averages blocks of side / 256 pixels, rounded, as Wang advises for large images and piq does.
    ShapeError for images smaller than the window.

    >>> image = torch.rand(1, 3, 32, 32)
    >>> ssim(image, image), ssim(image, 1 - image) < 0
    (tensor([1.]), tensor([True]))
    """
    preds, target = _pair(preds, target)
    scale = _scale(preds.ndim - 2, data_range, window, gaussian_kernel, sigma, kernel_size, k1, k2)
    factor = max(1, round(min(preds.shape[2:]) / 256))
    if downsample and factor > 1:
        preds, target = _pool(preds, factor), _pool(target, factor)
    _check_sides(preds, scale.smallest)
    return scale.similarity(preds, target).mean(1)


def ssim_maps(
    preds: Tensor,
    target: Tensor,
    *,
    data_range: float = 1.0,
    window: str = "padded",
    gaussian_kernel: bool = True,
    sigma: Numbers = 1.5,
    kernel_size: int | Sequence[int] = 11,
    k1: float = 0.01,
    k2: float = 0.03,
) -> tuple[Tensor, Tensor]:
    """The maps behind `ssim`, with the same arguments: SSIM, and its contrast-structure term.

    (n, c, h, w) -> (n, c, h, w) for "padded", (n, c, h - taps + 1, w - taps + 1) for "valid"; volumes likewise. The
    second map has only the positions whose window does not cross the border, as torchmetrics averages it.
    """
    preds, target = _pair(preds, target)
    scale = _scale(preds.ndim - 2, data_range, window, gaussian_kernel, sigma, kernel_size, k1, k2)
    _check_sides(preds, scale.smallest)
    parts = [(a * b, scale.inner(b)) for a, b in (scale.terms(x, y) for x, y in channel_chunks(preds, target))]
    whole, inner = (torch.cat(x).squeeze(1).unflatten(0, preds.shape[:2]) for x in zip(*parts, strict=True))
    return whole, inner


def ms_ssim(
    preds: Tensor,
    target: Tensor,
    *,
    data_range: float = 1.0,
    window: str = "padded",
    gaussian_kernel: bool = True,
    sigma: Numbers = 1.5,
    kernel_size: int | Sequence[int] = 11,
    k1: float = 0.01,
    k2: float = 0.03,
    betas: Sequence[float] = BETAS,
    normalize: str | None = "relu",
) -> Tensor:
    """Multi-scale SSIM of each image: float (n, c, h, w) or (n, c, d, h, w) and the same -> (n,), 1 for equal images.

    Product of powers `betas` of the contrast-structure terms of all scales but the coarsest, and of its SSIM; each
    scale is half as large, by averaging. "padded" is torchmetrics', which drops odd rows; "valid" is pytorch_msssim's,
    which pads them with zeros and multiplies within each channel. `normalize` sets negative terms to 0 ("relu"), maps
    [-1, 1] to [0, 1] ("simple"), or leaves them (None), and then the power of a negative one is NaN. Other arguments
    as for `ssim`. ShapeError names the smallest side: 176 for "padded", 161 for "valid".

    >>> image = torch.rand(1, 3, 176, 176)
    >>> ms_ssim(image, image)
    tensor([1.])
    """
    if normalize not in NORMALIZE:
        raise UnknownName("normalize", normalize, NORMALIZE)
    if not len(betas):
        raise ValueRangeError("`betas` must hold the exponent of at least one scale")
    preds, target = _pair(preds, target)
    axes, padded = preds.ndim - 2, window == "padded"
    scale = _scale(axes, data_range, window, gaussian_kernel, sigma, kernel_size, k1, k2)
    _check_sides(preds, _smallest(scale, _per_axis("kernel_size", kernel_size, axes), len(betas), padded))
    terms = []
    for _ in betas[1:]:
        terms.append(scale.contrast(preds, target))
        preds, target = _pool(preds, 2, padded), _pool(target, 2, padded)
    values = torch.stack([*terms, scale.similarity(preds, target)])
    values = values.mean(2, keepdim=True) if padded else values
    values = values.clamp(min=0) if normalize == "relu" else (values + 1) / 2 if normalize == "simple" else values
    return (values ** values.new_tensor(betas)[:, None, None]).prod(0).mean(1)


@dataclass(frozen=True)
class _Scale:
    """The comparison of two images at one scale."""

    taps: tuple[tuple[float, ...], ...]  # the window along each axis, sum 1
    pads: tuple[int, ...]  # reflected pixels at both ends of each axis
    c1: float
    c2: float

    @property
    def smallest(self) -> list[int]:
        """The smallest side along each axis."""
        return [max(pad + 1, len(taps) - 2 * pad) for taps, pad in zip(self.taps, self.pads)]

    def similarity(self, preds: Tensor, target: Tensor) -> Tensor:
        """Mean SSIM (n, c)."""
        terms = (self.terms(x, y) for x, y in channel_chunks(preds, target))
        return torch.cat([(a * b).flatten(1).mean(1) for a, b in terms]).view(preds.shape[:2])

    def contrast(self, preds: Tensor, target: Tensor) -> Tensor:
        """Mean contrast-structure term (n, c)."""
        terms = (self.terms(x, y) for x, y in channel_chunks(preds, target))
        return torch.cat([self.inner(b).flatten(1).mean(1) for _, b in terms]).view(preds.shape[:2])

    def terms(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of the luminance and of the contrast-structure term, whose product is SSIM; channels (m, 1, ...)."""
        x = torch.cat([preds + target, preds - target])
        center = x.mean(tuple(range(2, x.ndim)), keepdim=True)
        x = x - center
        if any(self.pads):
            x = F.pad(x, [pad for pad in reversed(self.pads) for _ in range(2)], mode="reflect")
        x = torch.stack([x, x.square()])
        for axis, taps in enumerate(self.taps, 3):
            x = correlate1d(x, taps, axis)
        mean, square = x
        variance = (square - mean.square()).clamp(min=0)
        return _ratio((mean + center).square(), self.c1), _ratio(variance, self.c2)

    def inner(self, x: Tensor) -> Tensor:
        """The part of a map (m, 1, ...) that no reflected pixel contributes to."""
        for axis, pad in enumerate(self.pads, 2):
            x = x.narrow(axis, pad, max(0, x.shape[axis] - 2 * pad))
        return x


def _ratio(x: Tensor, c: float) -> Tensor:
    total, difference = x.chunk(2)
    return (total - difference + 2 * c) / (total + difference + 2 * c)


def _pair(preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    axes = "n c d h w" if preds.ndim == 5 else "n c h w"
    bind_shapes(preds=(preds, axes), target=(target, axes))
    return check_pair(preds, target)


def _scale(
    axes: int,
    data_range: float,
    window: str,
    gaussian_kernel: bool,
    sigma: Numbers,
    kernel_size: int | Sequence[int],
    k1: float,
    k2: float,
) -> _Scale:
    if window not in WINDOWS:
        raise UnknownName("window", window, WINDOWS)
    sigmas, sizes = _per_axis("sigma", sigma, axes), _per_axis("kernel_size", kernel_size, axes)
    check_positive(data_range=data_range, sigma=min(sigmas))
    if any(size < 1 or size % 2 != 1 for size in sizes):
        raise ValueRangeError(f"`kernel_size` must be odd and positive, got {kernel_size}")
    padded = window == "padded"
    halves = [int(size) // 2 for size in sizes]
    radii = [int(3.5 * s + 0.5) for s in sigmas] if padded and gaussian_kernel else halves
    # torchmetrics pads the third axis for `kernel_size`, even where the Gaussian has another.
    pads = [*radii[:2], *halves[2:]] if padded else [0] * axes
    spans = [(2 * radius + 1, s) for radius, s in zip(radii, sigmas, strict=True)]
    taps = [gaussian_window(k, s) if gaussian_kernel else (1 / k,) * k for k, s in spans]
    return _Scale(tuple(taps), tuple(pads), (k1 * data_range) ** 2, (k2 * data_range) ** 2)


def _per_axis(name: str, value: Numbers, axes: int) -> list[float]:
    values = list(value) if isinstance(value, Sequence) else [value] * axes
    if len(values) != axes:
        raise ShapeError(f"`{name}` must be one number or {axes}, one for each axis, got {value}")
    return values


def _smallest(scale: _Scale, sizes: Sequence[float], scales: int, padded: bool) -> list[int]:
    """The smallest side along each axis for `scales` scales."""
    halvings = scales - 1
    if not padded:
        return [((side - 1) << halvings) + 1 for side in scale.smallest]
    sides = [side << halvings for side in scale.smallest]
    # torchmetrics' own lower bound for the last two axes, from the sizes of the first two.
    bounds = [int(size) * max(1, halvings) ** 2 for size in sizes[:2]]
    return [*sides[:-2], *map(max, sides[-2:], bounds)]


def _check_sides(preds: Tensor, smallest: Sequence[int]) -> None:
    if any(side < limit for side, limit in zip(preds.shape[2:], smallest, strict=True)):
        need = " x ".join(map(str, smallest))
        raise ShapeError(f"`preds` must be at least {need} pixels for this window, got shape {tuple(preds.shape)}")


def _pool(x: Tensor, factor: int, floor: bool = True) -> Tensor:
    """Means of blocks; odd sides lose their last row or, without `floor`, are padded with zeros."""
    pool = F.avg_pool3d if x.ndim == 5 else F.avg_pool2d
    return pool(x, factor, padding=0 if floor else [side % 2 for side in x.shape[2:]])
