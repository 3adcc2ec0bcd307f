"""Sharpness and noise of each image, from small filters on its luma, without padding."""

from __future__ import annotations

import math

from torch import Tensor

from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.functional.photometry import luma, population_variance


def laplacian_variance(images: Tensor) -> Tensor:
    """Variance of the Laplacian of luma: float (n, 3, h, w) in [0, 1], h, w >= 3 -> (n,) in [0, 16].

    High for sharp edges and for noise, low for blur. Four neighbors minus four times the pixel; in squared luma of
    [0, 1]: times 255^2 for 8-bit images. Sources: Pech-Pacheco et al. 2000; Pertuz et al. 2013 (LAP4).

    >>> import torch
    >>> laplacian_variance(torch.full((1, 3, 4, 4), 0.5))
    tensor([0.])
    """
    y = _filterable_luma(images)
    (above, here, below), (left, _, right) = _shifts(y[:, :, 1:-1], 1), _shifts(y[:, 1:-1], 2)
    return population_variance(((above + below) + (left + right) - 4 * here).flatten(1))


def tenengrad(images: Tensor) -> Tensor:
    """Mean squared length of the Sobel gradient of luma: float (n, 3, h, w) in [0, 1], h, w >= 3 -> (n,) >= 0.

    High for sharp edges and for noise, low for blur. Kernels of 1 2 1 times -1 0 1, not normalized: a ramp of s per
    pixel has 64 s^2, in squared luma of [0, 1]. Sources: Tenenbaum 1970; Pertuz et al. 2013 (GRA6).

    >>> import torch
    >>> tenengrad(torch.arange(4.0).div(8).expand(1, 3, 4, 4))
    tensor([1.])
    """
    y = _filterable_luma(images)
    squares = []
    for across, along in ((1, 2), (2, 1)):
        before, _, after = _shifts(y, across)
        left, middle, right = _shifts(after - before, along)
        squares.append((left + 2 * middle + right).square())
    return (squares[0] + squares[1]).flatten(1).mean(1)


def noise_level(images: Tensor) -> Tensor:
    """Estimated standard deviation of noise: float (n, 3, h, w) in [0, 1], h, w >= 3 -> (n,), luma of [0, 1].

    sqrt(pi / 2) / 6 times the mean absolute difference of two Laplacians, which is 0 for planes; accurate for white
    Gaussian noise on smooth content, too high on fine texture. Source: Immerkaer 1996.

    >>> import torch
    >>> noise_level(torch.arange(4.0).div(8).expand(1, 3, 4, 4))
    tensor([0.])
    """
    y = _filterable_luma(images)
    for dim in (1, 2):
        before, here, after = _shifts(y, dim)
        y = before + after - 2 * here
    return y.flatten(1).abs().mean(1) * (math.sqrt(math.pi / 2) / 6)


def _filterable_luma(images: Tensor) -> Tensor:
    y = luma(images)
    if min(y.shape[1:]) < 3:
        raise ShapeError(f"`images` must be at least 3 x 3 pixels for a 3 x 3 filter, got shape {tuple(images.shape)}")
    return y


def _shifts(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values before, at and after each inner position along `dim`."""
    size = x.shape[dim] - 2
    return x.narrow(dim, 0, size), x.narrow(dim, 1, size), x.narrow(dim, 2, size)
