"""Scores from the entropy of features: Inception score, Vendi score."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import NotEnoughSamples, ValueRangeError


def class_probabilities(logits: Tensor) -> Tensor:
    """Rows [p, sum p log p] (n, c + 1) float64 of the softmax of logits (n, c), whose means `inception_score` takes.

    >>> class_probabilities(torch.zeros(1, 2))
    tensor([[ 0.5000,  0.5000, -0.6931]], dtype=torch.float64)
    """
    bind_shapes(logits=(logits, "n c"))
    p = logits.double().softmax(1)
    return torch.cat([p, -torch.special.entr(p).sum(1, keepdim=True)], 1)


def inception_score(count: Tensor, mean_p: Tensor, mean_plogp: Tensor) -> Tensor:
    """exp of the mean KL(p(y|x) || p(y)) of each split -> (s,) float64, from 1 to c (Salimans et al. 2016).

    `count` (s,) samples of each split, `mean_p` (s, c) their mean class probabilities, `mean_plogp` (s,) their mean of
    sum p log p, in nats. NotEnoughSamples if a split is empty: leave it out.

    >>> p = torch.eye(4)  # four images, each certainly of another class
    >>> inception_score(torch.tensor([4]), p.mean(0, keepdim=True), torch.zeros(1)).round(decimals=4)
    tensor([4.], dtype=torch.float64)
    """
    bind_shapes(count=(count, "s"), mean_p=(mean_p, "s c"), mean_plogp=(mean_plogp, "s"))
    if (count < 1).any():
        raise NotEnoughSamples("a split of the Inception score", 0, 1, "a mean over no sample is undefined")
    marginal = torch.special.entr(mean_p.double()).sum(1)
    return (mean_plogp.double() + marginal).clamp(min=0).exp()


def vendi_score(second_moment: Tensor, *, order: float = 1.0) -> Tensor:
    """Effective number of distinct samples, from E[x xᵀ] (d, d) of unit vectors -> scalar float64, from 1 to d.

    exp of the Rényi entropy of its eigenvalues, which are those of the n x n kernel over n and must sum to 1. Order 1
    is Shannon's entropy, `math.inf` uses the largest eigenvalue alone, 0 counts the non-zero ones (Friedman & Dieng
    2023; Pasarkar & Dieng 2024).

    >>> vendi_score(torch.eye(3) / 3).round(decimals=4)
    tensor(3., dtype=torch.float64)
    """
    bind_shapes(second_moment=(second_moment, "d d"))
    second_moment = second_moment.double()
    trace = float(second_moment.trace())
    if not abs(trace - 1) < 1e-3:
        raise ValueRangeError(f"`second_moment` must have trace 1, that of unit vectors; got {trace:g}")
    if not order >= 0:
        raise ValueRangeError(f"`order` must be at least 0, got {order:g}")
    values = torch.linalg.eigvalsh(second_moment)
    values = values[values > values[-1] * len(values) * torch.finfo(values.dtype).eps]  # drop rounding noise
    values = values / values.sum()
    if order == 1:
        return torch.special.entr(values).sum().exp()
    if math.isinf(order):
        return 1 / values.max()
    return ((values.log() * order).logsumexp(0) / (1 - order)).exp()
