"""DISTS against torchmetrics with the same random trunk and its own channel weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from conftest import random_images
from torch import Tensor
from torchmetrics.functional.image import dists as theirs

from lightning_imgmetrics import MetricSuite
from lightning_imgmetrics.errors import MissingWeights, ShapeError, UnknownName, WeightsMismatch
from lightning_imgmetrics.functional.perceptual import dists
from lightning_imgmetrics.metrics.full_reference.perceptual import DeepImageStructureAndTextureSimilarity
from lightning_imgmetrics.models.encoders.dists import DistsExtractor, L2Pool


@pytest.fixture
def reference(lpips_weights: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor, Tensor], Tensor]:
    """torchmetrics' DISTS, whose trunk is read from a file in place of being downloaded."""

    def trunk(**_: Any) -> SimpleNamespace:
        with torch.device("meta"):
            features = torchvision.models.vgg16(weights=None).features
        tensors = torch.load(lpips_weights["vgg"], weights_only=True)
        features.load_state_dict({k.removeprefix("features."): x for k, x in tensors.items()}, assign=True)
        return SimpleNamespace(features=features)

    monkeypatch.setattr(theirs, "vgg16", trunk)
    network = theirs.DISTSNetwork()

    def measured(preds: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            return network(preds, target).reshape(len(preds))

    return measured


def pair(n: int, size: int | tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images and noisy copies, float in [0, 1]."""
    target = random_images(n, size, seed) / 255
    return (target + 0.05 * torch.randn(target.shape, generator=torch.Generator().manual_seed(seed))).clamp(
        0, 1
    ), target


@pytest.mark.parametrize("size", [16, (33, 47), 64])
def test_pairs(size: Any, reference: Callable[..., Tensor], lpips_weights: dict[str, str]) -> None:
    preds, target = pair(3, size)
    preds[2] = 1 - target[2]
    expected = reference(preds, target)
    metric = DeepImageStructureAndTextureSimilarity(weights=lpips_weights["vgg"])
    metric.update(preds[:2], target[:2], ids=[4, 1])
    metric.update(preds[2:], target[2:], ids=[0])
    torch.testing.assert_close(metric.scores()[1], expected[[2, 1, 0]].double(), rtol=1e-5, atol=1e-7)
    assert metric.compute().item() == pytest.approx(expected.mean().item(), rel=1e-5)
    total = DeepImageStructureAndTextureSimilarity("sum", weights=lpips_weights["vgg"])
    total.update(preds, target)
    assert total.compute().item() == pytest.approx(expected.sum().item(), rel=1e-5)


def test_random_maps_in_float64() -> None:
    """The rearranged formula, against the paper's, and its limits."""
    g = torch.Generator().manual_seed(0)
    sizes = [(3, 9), (5, 4)]
    x, y = ([torch.randn(2, c, s, s + 1, generator=g, dtype=torch.float64) for c, s in sizes] for _ in range(2))
    alpha, beta = ([torch.rand(c, generator=g, dtype=torch.float64) for c, _ in sizes] for _ in range(2))
    weight = sum(w.sum() for w in (*alpha, *beta))
    expected = torch.ones(2, dtype=torch.float64)
    for f, h, a, b in zip(x, y, alpha, beta, strict=True):
        for n in range(2):
            for c in range(f.shape[1]):
                u, v = f[n, c].flatten(), h[n, c].flatten()
                mean = (2 * u.mean() * v.mean() + 1e-6) / (u.mean() ** 2 + v.mean() ** 2 + 1e-6)
                cov = ((u - u.mean()) * (v - v.mean())).mean()
                structure = (2 * cov + 1e-6) / (u.var(correction=0) + v.var(correction=0) + 1e-6)
                expected[n] -= (a[c] * mean + b[c] * structure) / weight
    torch.testing.assert_close(dists(x, y, alpha, beta), expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(dists(x, x, alpha, beta), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(dists(x, y, alpha, beta), dists(y, x, alpha, beta), rtol=1e-13, atol=0)


def test_pool_against_its_definition() -> None:
    x = torch.rand(1, 2, 5, 6, generator=torch.Generator().manual_seed(0)).double()
    taps = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    padded = torch.nn.functional.pad(x.square(), (1, 1, 1, 1))
    expected = torch.stack(
        [
            torch.stack(
                [(padded[..., i : i + 3, j : j + 3] * torch.outer(taps, taps) / 16).sum((2, 3)) for j in (0, 2, 4)]
            )
            for i in (0, 2, 4)
        ]
    ).permute(2, 3, 0, 1)
    torch.testing.assert_close(L2Pool().double()(x), (expected + 1e-12).sqrt(), rtol=1e-14, atol=0)


def test_equal_images_are_zero_and_uint8_is_the_same(lpips_weights: dict[str, str]) -> None:
    a, b = random_images(2, 32, 1), random_images(2, 32, 2)
    metric = DeepImageStructureAndTextureSimilarity(weights=lpips_weights["vgg"])
    metric.update(a, a)
    assert metric.compute() == 0
    values = []
    for convert in (lambda x: x, lambda x: x / 255, list):
        metric.reset()
        metric.update(convert(a), convert(b))
        values.append(metric.compute().item())
    assert values[0] == values[1] == values[2] > 0


def test_mixed_sizes_and_a_suite(reference: Callable[..., Tensor], lpips_weights: dict[str, str]) -> None:
    pairs = [pair(1, size, seed) for seed, size in enumerate((24, (32, 40), (32, 40), 16))]
    expected = torch.cat([reference(*p) for p in pairs]).double()
    metric = DeepImageStructureAndTextureSimilarity(weights=lpips_weights["vgg"])
    metric.update([p[0] for p, _ in pairs], [t[0] for _, t in pairs])
    torch.testing.assert_close(metric.scores()[1], expected, rtol=1e-5, atol=1e-7)
    suite = MetricSuite({"dists": DeepImageStructureAndTextureSimilarity(weights=lpips_weights["vgg"])})
    a, b = random_images(2, 32, 1), random_images(2, 32, 2)
    suite.update(a, target=b)
    assert suite.compute()["dists"].item() == pytest.approx(reference(a / 255, b / 255).mean().item(), rel=1e-5)


def test_refusals(lpips_weights: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="`reduction` must be one of 'mean', 'sum'; got 'none'"):
        DeepImageStructureAndTextureSimilarity("none")
    metric = DeepImageStructureAndTextureSimilarity(weights=lpips_weights["vgg"])
    with pytest.raises(ShapeError, match="`preds` and `target` must hold images of the same sizes"):
        metric.update(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17))
    with pytest.raises(ShapeError, match="no fixed length"):
        metric.extractor.dim("maps")
    torch.save(torch.nn.Linear(1, 1).state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsMismatch, match="does not fit torchvision's vgg16"):
        DistsExtractor(str(tmp_path / "other.pth")).load()
    file = tmp_path / "functional/image/dists_models/weights.pt"
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    with pytest.raises(MissingWeights, match="the channel weights of DISTS come with torchmetrics, which lacks"):
        DistsExtractor(lpips_weights["vgg"]).load()
    file.parent.mkdir(parents=True)
    for tensors, message in (
        ({"alpha": torch.ones(1475)}, r"must hold `alpha` and `beta` of 1475 channels"),
        ({"alpha": torch.ones(1475), "beta": -torch.ones(1475)}, "holds negative weights"),
    ):
        torch.save(tensors, file)
        with pytest.raises(WeightsMismatch, match=message):
            DistsExtractor(lpips_weights["vgg"]).load()
