"""Perceptual distances from the feature maps of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes

_EPS = 1e-10  # added to a length, as in LPIPS: positions without features stay zero
_C1 = _C2 = 1e-6  # of DISTS


def perceptual_embedding(maps: Sequence[Tensor], heads: Sequence[Tensor] | None = None) -> Tensor:
    """Vectors whose squared Euclidean distance is the perceptual distance of the images.

    `maps`: one (n, c, h, w) tensor per layer; `heads`: one non-negative channel weight (c,) per layer, LPIPS' linear
    layers, or None for weight one (the `lpips=False` baseline). Returns (n, sum of c h w).
    LPIPS is the sum over layers of the mean over positions of sum_c w_c (f_c - g_c)^2 with f, g scaled to unit length
    per position; weights are non-negative, so their square roots go into the features, and any number of pairwise
    distances costs one pass per image. Source: Zhang et al. 2018.

    >>> perceptual_embedding([torch.ones(2, 4, 8, 8)]).shape
    torch.Size([2, 256])
    """
    parts = []
    for i, x in enumerate(maps):
        bind_shapes(**{f"maps[{i}]": (x, "n c h w")})
        x = _unit(x)
        scale = 1 / (x.shape[2] * x.shape[3]) ** 0.5
        weight = scale if heads is None else heads[i].to(x).sqrt()[:, None, None] * scale
        parts.append((x * weight).flatten(1))
    return torch.cat(parts, 1)


def lpips_distance(embedding1: Tensor, embedding2: Tensor) -> Tensor:
    """LPIPS of each pair: `perceptual_embedding`s (n, m), (n, m) -> (n,), >= 0.

    >>> red, green = torch.zeros(2, 1, 3, 4, 4)
    >>> red[:, 0], green[:, 1] = 1, 1
    >>> lpips_distance(perceptual_embedding([red]), perceptual_embedding([green]))
    tensor([2.])
    """
    bind_shapes(embedding1=(embedding1, "n m"), embedding2=(embedding2, "n m"))
    return (embedding1 - embedding2).square().sum(1)


def lpips_layers(
    maps1: Sequence[Tensor], maps2: Sequence[Tensor], heads: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """LPIPS of each pair at each position of each layer: two lists of (n, c, h, w) -> a list of (n, 1, h, w), >= 0.

    Their means over positions, summed over layers, are LPIPS. `heads` as for `perceptual_embedding`, which is meant for
    many pairs of few images; for single pairs this takes a third of the time and memory.

    >>> maps = [torch.ones(2, 4, 8, 8)]
    >>> [x.shape for x in lpips_layers(maps, maps)]
    [torch.Size([2, 1, 8, 8])]
    """
    layers = []
    for i, (x, y) in enumerate(zip(maps1, maps2, strict=True)):
        bind_shapes(**{f"maps1[{i}]": (x, "n c h w"), f"maps2[{i}]": (y, "n c h w")})
        square = _unit(x).sub_(_unit(y)).square_()
        weight = square.new_ones(x.shape[1]) if heads is None else heads[i].to(square)
        layers.append(torch.einsum("nchw,c->nhw", square, weight)[:, None])
    return layers


def lpips_map(layers: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """`lpips_layers` -> where the images differ, (n, 1, h, w) of `size`: the sum over layers, each resized bilinearly.

    As the `lpips` package computes it with `spatial=True`; its mean is close to LPIPS, but not equal.

    >>> lpips_map([torch.ones(1, 1, 2, 2), torch.ones(1, 1, 4, 4)], (4, 4)).mean()
    tensor(2.)
    """
    return torch.stack([F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in layers]).sum(0)


def dists(maps1: Sequence[Tensor], maps2: Sequence[Tensor], alpha: Sequence[Tensor], beta: Sequence[Tensor]) -> Tensor:
    """DISTS of each pair: two lists of (n, c, h, w), and a weight (c,) per map for texture and structure -> (n,).

    One minus the mean, weighted by `alpha` and `beta`, of the similarities of channel means and of the correlations.
    Computed as differences from 1, so equal images give exactly 0. In [0, 2]. Source: Ding et al. 2020.

    >>> maps, weights = [torch.rand(2, 3, 8, 8)], [torch.ones(3)]
    >>> dists(maps, maps, weights, weights)
    tensor([0., 0.])
    """
    total = torch.cat([*alpha, *beta]).sum()
    distance = maps1[0].new_zeros(len(maps1[0]))
    for i, (x, y, a, b) in enumerate(zip(maps1, maps2, alpha, beta, strict=True)):
        bind_shapes(**{f"maps1[{i}]": (x, "n c h w"), f"maps2[{i}]": (y, "n c h w")})
        (var_x, mean_x), (var_y, mean_y) = (torch.var_mean(side, (2, 3), correction=0) for side in (x, y))
        var_gap, gap = torch.var_mean(x - y, (2, 3), correction=0)
        texture = gap.square() / (mean_x.square() + mean_y.square() + _C1)
        structure = var_gap / (var_x + var_y + _C2)
        distance += (texture * a + structure * b).sum(1) / total
    return distance


def _unit(x: Tensor) -> Tensor:
    """Feature vectors (n, c, h, w) of length 1 at each position."""
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + _EPS)
