"""LPIPS against the `lpips` package with the same random trunk and its own linear layers."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import warnings
from pathlib import Path

import lpips
import pytest
import torch
from conftest import random_images
from torch import Tensor

from lightning_imgmetrics import LearnedPerceptualImagePatchSimilarity, LPIPSDiversity
from lightning_imgmetrics.errors import ShapeError, WeightsMismatch
from lightning_imgmetrics.functional.perceptual import lpips_distance, perceptual_embedding
from lightning_imgmetrics.models.encoders.lpips import LpipsExtractor

NETS = ["alex", "vgg", "squeeze"]


@functools.cache
def reference(net: str, weights: str) -> lpips.LPIPS:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated arguments of torchvision
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    trunk = torch.load(weights, weights_only=True)
    for i in range(network.net.N_slices):
        part = getattr(network.net, f"slice{i + 1}")
        part.load_state_dict({k: trunk[f"features.{k}"] for k in part.state_dict()})
    return network


def to_float(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


@pytest.mark.parametrize("net", NETS)
def test_pairs(net: str, lpips_weights: dict[str, str]) -> None:
    a, b = to_float(random_images(3, 64, 1)), to_float(random_images(3, 64, 2))
    a[2] = -1  # black: features of unit length where there are none
    with torch.no_grad():
        expected = reference(net, lpips_weights[net])(a, b).flatten()
    metric = LearnedPerceptualImagePatchSimilarity(net, "none", weights=lpips_weights[net])
    metric.update(a, b)
    torch.testing.assert_close(metric.compute(), expected.double(), rtol=1e-5, atol=0)
    for reduction in ("mean", "sum"):
        metric = LearnedPerceptualImagePatchSimilarity(net, reduction, weights=lpips_weights[net])
        metric.update(a[:2], b[:2])
        metric.update(a[2:], b[2:])
        assert metric.compute().item() == pytest.approx(getattr(expected.double(), reduction)().item(), rel=1e-5)


def test_black_against_black_is_zero(lpips_weights: dict[str, str]) -> None:
    metric = LearnedPerceptualImagePatchSimilarity("alex", weights=lpips_weights["alex"])
    metric.update(-torch.ones(2, 3, 64, 64), -torch.ones(2, 3, 64, 64))
    assert metric.compute() == 0


def test_value_ranges(lpips_weights: dict[str, str]) -> None:
    """uint8, float in [-1, 1] and float in [0, 1] with `normalize` are the same images."""
    a, b = random_images(2, 48, 3), random_images(2, 48, 4)
    values = []
    for normalize, convert in ((False, lambda x: x), (False, to_float), (True, lambda x: x.float() / 255)):
        metric = LearnedPerceptualImagePatchSimilarity("alex", normalize=normalize, weights=lpips_weights["alex"])
        metric.update(convert(a), convert(b))
        values.append(metric.compute().item())
    assert values[1:] == pytest.approx(values[:1] * 2, rel=1e-5)
    with torch.no_grad():
        theirs = reference("alex", lpips_weights["alex"])(a / 255, b / 255, normalize=True).mean().item()
    assert values[0] == pytest.approx(theirs, rel=1e-5)


def test_nonsquare_and_mixed_sizes(lpips_weights: dict[str, str]) -> None:
    a, b = ([to_float(random_images(1, size, seed))[0] for size in ((40, 64), 48)] for seed in (5, 6))
    network = reference("alex", lpips_weights["alex"])
    with torch.no_grad():
        expected = [network(x[None], y[None]).item() for x, y in zip(a, b, strict=True)]
    metric = LearnedPerceptualImagePatchSimilarity("alex", "none", weights=lpips_weights["alex"])
    metric.update(a, b)
    assert metric.compute().tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("net", NETS)
def test_spatial_maps(net: str, lpips_weights: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (to_float(random_images(3, (48, 65), seed)) for seed in (8, 9))
    network = reference(net, lpips_weights[net])
    monkeypatch.setattr(network, "spatial", True)
    with torch.no_grad():
        expected = network(a, b)
    metric = LearnedPerceptualImagePatchSimilarity(net, weights=lpips_weights[net])
    found = metric.maps(a, b)
    assert found.shape == (3, 1, 48, 65)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert metric.streams.untouched
    assert torch.equal(metric.maps(list(a), list(b)), found)
    assert torch.equal(metric.maps(a, a), torch.zeros(3, 1, 48, 65))
    with pytest.raises(ShapeError, match="`img2` must hold one entry per image, got 2 for 3"):
        metric.maps(a, b[:2])
    with pytest.raises(ShapeError, match="one size"):
        metric.maps(a, b[..., :48])


@pytest.mark.parametrize("keep_scores", [True, False])
@pytest.mark.parametrize("net", NETS)
def test_layers(net: str, keep_scores: bool, lpips_weights: dict[str, str]) -> None:
    a, b = (to_float(random_images(3, 64, seed)) for seed in (1, 2))
    with torch.no_grad():
        _, parts = reference(net, lpips_weights[net])(a, b, retPerLayer=True)
    metric = LearnedPerceptualImagePatchSimilarity(
        net, per_layer=True, weights=lpips_weights[net], keep_scores=keep_scores
    )
    metric.update(a[:2], b[:2])
    metric.update(a[2:], b[2:])
    result = metric.result()
    found = [result.details[f"layer{i}"] for i in range(len(parts))]
    assert found == pytest.approx([part.mean().item() for part in parts], rel=1e-5)
    assert f"layer{len(parts)}" not in result.details
    assert sum(found) == pytest.approx(result.value, rel=1e-6)
    plain = LearnedPerceptualImagePatchSimilarity(net, weights=lpips_weights[net])
    plain.update(a, b)
    assert plain.compute() == pytest.approx(result.value, rel=1e-6)
    assert plain.signature() == metric.signature()


def test_pairs_and_embeddings_agree(lpips_weights: dict[str, str]) -> None:
    """The distance of a pair from its maps, and that of the embeddings that diversity keeps."""
    x = [random_images(4, 64, 1), random_images(4, 64, 2)]
    features = LpipsExtractor("alex", lpips_weights["alex"])(x, ("maps",), torch.device("cpu"))
    expected = lpips_distance(*perceptual_embedding(features["maps"], features["heads"]).chunk(2))
    metric = LearnedPerceptualImagePatchSimilarity("alex", "none", weights=lpips_weights["alex"])
    metric.update(*x)
    torch.testing.assert_close(metric.compute(), expected.double(), rtol=1e-6, atol=0)


def test_heads_are_not_negative(lpips_weights: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for net in NETS:
        heads = LpipsExtractor(net, lpips_weights[net]).load().heads
        assert all((head >= 0).all() for head in heads)
    tensors = {f"lin{i}.model.1.weight": torch.tensor([[[[0.5]], [[-1e-9 if i == 3 else 0]]]]) for i in range(5)}
    package = tmp_path / "lpips"
    (package / "weights/v0.1").mkdir(parents=True)
    torch.save(tensors, package / "weights/v0.1/alex.pth")
    spec = importlib.machinery.ModuleSpec("lpips", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(WeightsMismatch, match=r"alex.pth holds negative weights"):
        LpipsExtractor("alex", lpips_weights["alex"]).load()


def test_layers_of_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="`per_layer` needs `network` 'alex', 'vgg' or 'squeeze', got 'digits-clip'"):
        LearnedPerceptualImagePatchSimilarity("digits-clip", per_layer=True)


@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_diversity_is_the_mean_over_all_pairs(net: str, lpips_weights: dict[str, str]) -> None:
    images = random_images(5, 64, 7)
    prompts = ["a", "b", "a", "b", "a"]
    metric = LPIPSDiversity(net, weights=lpips_weights[net])
    metric.update(images[:3], prompts[:3])
    metric.update(images[3:], prompts[3:])
    network, x = reference(net, lpips_weights[net]), to_float(images)
    with torch.no_grad():
        pairs = {
            p: [network(x[[i]], x[[j]]).item() for i, j in ij]
            for p, ij in {"a": [(0, 2), (0, 4), (2, 4)], "b": [(1, 3)]}.items()
        }
    expected = (sum(pairs["a"]) / 3 + pairs["b"][0]) / 2
    assert metric.compute().item() == pytest.approx(expected, rel=1e-5)
