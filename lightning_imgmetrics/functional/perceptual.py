"""Perceptual distances from the feature maps of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes


def perceptual_embedding(maps: Sequence[Tensor], heads: Sequence[Tensor] | None = None) -> Tensor:
    """Vectors whose squared Euclidean distance is the perceptual distance of the images.

    `maps`: one (n, c, h, w) tensor per layer; `heads`: one non-negative channel weight (c,) per layer, LPIPS' linear
    layers, or None for weight one (the `lpips=False` baseline). Returns (n, sum of c h w).
    LPIPS is the sum over layers of the mean over positions of sum_c w_c (f_c - g_c)^2 with f, g scaled to unit length
    per position; weights are not negative, so their roots go into the features and any number of pairwise distances
    costs one pass per image. Source: Zhang et al. 2018.
    """
    parts = []
    for i, x in enumerate(maps):
        bind_shapes(**{f"maps[{i}]": (x, "n c h w")})
        x = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
        scale = 1 / (x.shape[2] * x.shape[3]) ** 0.5
        weight = scale if heads is None else heads[i].to(x).sqrt()[:, None, None] * scale
        parts.append((x * weight).flatten(1))
    return torch.cat(parts, 1)


def lpips_distance(embedding1: Tensor, embedding2: Tensor) -> Tensor:
    """LPIPS of each pair: `perceptual_embedding`s (n, m), (n, m) -> (n,), >= 0."""
    bind_shapes(embedding1=(embedding1, "n m"), embedding2=(embedding2, "n m"))
    return (embedding1 - embedding2).square().sum(1)
