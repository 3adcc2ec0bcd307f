"""Inception score and Vendi score where mathematics gives the number."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.special import rel_entr, softmax
from torch import Tensor

from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError, ValueRangeError
from lightning_imgmetrics.functional.entropy import class_probabilities, inception_score, vendi_score


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def score(logits: Tensor) -> float:
    rows = class_probabilities(logits)
    mean = rows.mean(0, keepdim=True)
    return float(inception_score(torch.tensor([len(rows)]), mean[:, :-1], mean[:, -1]))


def second_moment(x: Tensor) -> Tensor:
    x = torch.nn.functional.normalize(x.double(), dim=1)
    return x.T @ x / len(x)


@pytest.mark.parametrize("c", [1, 2, 10, 1008])
def test_confident_and_varied_gives_the_number_of_classes(c: int) -> None:
    assert score(1e4 * torch.eye(c)) == pytest.approx(c, rel=1e-12)
    assert score(torch.full((7, c), 3.0)) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_inception_score_is_its_definition(dtype: torch.dtype) -> None:
    logits = (3 * randn(50, 20)).to(dtype)
    p = softmax(logits.double().numpy(), axis=1)
    assert score(logits) == pytest.approx(math.exp(rel_entr(p, p.mean(0)).sum(1).mean()), rel=1e-10)


def test_splits_are_scored_apart() -> None:
    rows = class_probabilities(randn(30, 5)).unflatten(0, (3, 10)).mean(1)
    each = [inception_score(torch.tensor([10]), r[None, :-1], r[None, -1]) for r in rows]
    assert torch.equal(inception_score(torch.full((3,), 10), rows[:, :-1], rows[:, -1]), torch.cat(each))


def test_underflowing_probabilities_count_as_zero() -> None:
    rows = class_probabilities(torch.tensor([[0.0, -1e5], [0.0, -math.inf]]))
    assert rows.tolist() == [[1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 2.0, 10.0, math.inf])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_vendi_of_orthogonal_groups_is_their_number(k: int, order: float) -> None:
    basis = torch.linalg.qr(randn(8, 8))[0][:k]
    assert float(vendi_score(second_moment(basis.repeat(5, 1)), order=order)) == pytest.approx(k, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(1, 6), st.floats(0.05, 6), st.integers(0, 100))
def test_vendi_is_the_entropy_of_the_kernel(n: int, d: int, order: float, seed: int) -> None:
    """The eigenvalues of the d x d moment are those of the n x n kernel, the rest are zero."""
    x = torch.nn.functional.normalize(randn(n, d, seed=seed), dim=1)
    values = torch.linalg.eigvalsh(x @ x.T / n)
    values = values[values > 1e-13]
    expected = values.pow(order).sum().pow(1 / (1 - order)) if order != 1 else torch.special.entr(values).sum().exp()
    found = float(vendi_score(second_moment(x), order=order))
    assert found == pytest.approx(float(expected), rel=1e-6)
    assert 1 - 1e-9 <= found <= min(n, d) + 1e-6


def test_vendi_falls_with_its_order() -> None:
    scores = [float(vendi_score(second_moment(randn(40, 10)), order=q)) for q in (0, 0.5, 0.999, 1, 1.001, 2, math.inf)]
    assert scores == sorted(scores, reverse=True)
    assert scores[2] == pytest.approx(scores[3], rel=1e-3)


def test_refusals() -> None:
    with pytest.raises(NotEnoughSamples, match="split"):
        inception_score(torch.tensor([3, 0]), torch.full((2, 2), 0.5), torch.zeros(2))
    with pytest.raises(ShapeError, match="`logits`"):
        class_probabilities(torch.zeros(3))
    with pytest.raises(ValueRangeError, match="trace 1"):
        vendi_score(torch.eye(3))
    with pytest.raises(ValueRangeError, match="`order`"):
        vendi_score(torch.eye(3) / 3, order=-1)
