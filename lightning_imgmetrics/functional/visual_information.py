"""Visual information fidelity in the pixel domain (Sheikh and Bovik 2006)."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.functional.filters import correlate1d, gaussian_window
from lightning_imgmetrics.functional.pixel import channel_chunks, check_pair, check_positive

EPS = 1e-10  # variances below it are those of flat regions
SIZES = (17, 9, 5, 3)  # windows of the four scales, finest first
SMALLEST = 41  # side at which the window of the coarsest scale still fits


def vif(preds: Tensor, target: Tensor, *, sigma_n_sq: float = 2.0) -> Tensor:
    """Share of the information in `target` that `preds` preserves: float (n, c, h, w) on the 0..255 scale -> (n,).

    1 for equal images, 0 if nothing is preserved, above 1 if contrast was increased. `sigma_n_sq` is the variance of
    the visual noise on that scale: images in [0, 1] need 255^2 times less. Mean over channels, as in torchmetrics; a
    channel in which `target` is flat holds no information and does not count, and a flat image gives NaN. Computed in
    float64, as float32 is off by percents in flat regions. ShapeError for sides below 41.

    >>> image = 255 * torch.rand(1, 3, 48, 48)
    >>> vif(image, image).round(decimals=4)
    tensor([1.])
    """
    bind_shapes(preds=(preds, "n c h w"), target=(target, "n c h w"))
    preds, target = check_pair(preds, target)
    check_positive(sigma_n_sq=sigma_n_sq)
    if min(preds.shape[2:]) < SMALLEST:
        raise ShapeError(f"`preds` must be at least {SMALLEST} x {SMALLEST} pixels, got shape {tuple(preds.shape)}")
    parts = [_information(x.double(), y.double(), sigma_n_sq) for x, y in channel_chunks(preds, target)]
    preserved, available = information = torch.cat(parts, 1).unflatten(1, preds.shape[:2])
    flat = (information == 0).all(0)
    fidelity = (preserved / available).masked_fill(flat, 0).sum(1) / (~flat).sum(1)
    return fidelity.to(preds.dtype)


def _information(preds: Tensor, target: Tensor, noise: float) -> Tensor:
    """Information preserved and available, (2, m), of channels (m, 1, h, w), up to a common factor."""
    total = preds.new_zeros(2, len(preds))
    x = torch.stack([preds, target])
    for size in SIZES:
        taps = gaussian_window(size, size / 5)
        if size != SIZES[0]:
            x = _blur(x, taps)[..., ::2, ::2]
        square, product = x.square(), x[:1] * x[1:]
        mean_x, mean_y, square_x, square_y, product = _blur(torch.cat([x, square, product]), taps)
        var_x = (square_x - mean_x.square()).clamp(min=0)
        var_y = (square_y - mean_y.square()).clamp(min=0)
        cov = (product - mean_x * mean_y).clamp(min=0)
        gain = cov / (var_y + EPS)
        residual = (var_x - gain * cov).clamp(min=EPS)
        var_y = var_y.masked_fill(var_y < EPS, 0)
        ratios = torch.stack([gain.square() * var_y / (residual + noise), var_y / noise])
        total += ratios.log1p().flatten(2).sum(2)
    return total


def _blur(x: Tensor, taps: tuple[float, ...]) -> Tensor:
    return correlate1d(correlate1d(x, taps, -1), taps, -2)
