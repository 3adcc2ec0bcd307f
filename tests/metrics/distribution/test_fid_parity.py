"""FID against the tools whose number it claims to be; both sides load the same random Inception weights.

torchmetrics and torch-fidelity take eigenvalues of a rank-deficient product where n <= d, which is off by about 1e-6:
there the reference is the closed form in float64 on *their* features.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from conftest import random_images
from PIL import Image
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance as TorchmetricsFID, NoTrainInceptionV3

from lightning_imgmetrics import FrechetInceptionDistance
from lightning_imgmetrics.models.encoders.inception import InceptionExtractor

LAYERS = ["64", "192", "768", "2048", "logits_unbiased", "logits"]
CPU = torch.device("cpu")
# Both networks compute in float32. On these images torchmetrics' FID is itself up to 1.7e-6 off what its own network
# gives in float64 (300 px, layer 2048); another resize or rounding would be 6e-5 and more.
REL = 5e-6


@pytest.fixture(scope="module")
def compat(inception_weights: str) -> NoTrainInceptionV3:
    return NoTrainInceptionV3("inception-v3-compat", LAYERS[:4], inception_weights)


@pytest.fixture(scope="module")
def fidelity(inception_weights: str) -> FeatureExtractorInceptionV3:
    return FeatureExtractorInceptionV3("inception", LAYERS, feature_extractor_weights_path=inception_weights)


def exact_fid(x: Tensor, y: Tensor) -> float:
    """From features (n, d), (m, d): tr (C1 C2)^1/2 is the nuclear norm of A Bᵀ, A and B the scaled centred features."""
    x, y = (z.double().numpy() for z in (x, y))
    gap = x.mean(0) - y.mean(0)
    a, b = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    return float(gap @ gap + (a**2).sum() + (b**2).sum() - 2 * np.linalg.svd(a @ b.T, compute_uv=False).sum())


def ours(weights: str, real: Tensor, fake: Tensor, **kwargs: object) -> float:
    fid = FrechetInceptionDistance(feature_extractor_weights_path=weights, **kwargs)
    fid.update(real, real=True)
    fid.update(fake, real=False)
    return fid.compute().item()


def pair(n: int, size: int | tuple[int, int] = 32) -> tuple[Tensor, Tensor]:
    return random_images(n, size, seed=1), random_images(n + 1, size, seed=2, power=1.3)


CASES = [(32, 2048, True), (64, 768, True), (256, 192, True), (299, 64, True), (512, 2048, True), ((48, 80), 768, True)]
CASES += [(32, 768, False), (512, 192, False), ((48, 80), 2048, False)]


@pytest.mark.parametrize(("size", "feature", "antialias"), CASES, ids=str)
def test_torchmetrics_features(
    inception_weights: str,
    compat: NoTrainInceptionV3,
    size: int | tuple[int, int],
    feature: int,
    antialias: bool,
) -> None:
    real, fake = pair(3, size)
    compat.use_antialias = antialias
    expected = exact_fid(*(compat._torch_fidelity_forward(x)[LAYERS.index(str(feature))] for x in (real, fake)))
    value = ours(inception_weights, real, fake, feature=feature, antialias=antialias)
    assert value == pytest.approx(expected, rel=REL)


def test_torchmetrics_compute(inception_weights: str) -> None:
    """Where both covariances have full rank, torchmetrics' own number."""
    real, fake = pair(70)
    theirs = TorchmetricsFID(feature=64, feature_extractor_weights_path=inception_weights)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    assert ours(inception_weights, real, fake, feature=64) == pytest.approx(theirs.compute().item(), rel=REL)


def test_float_images_truncate_as_torchmetrics_does(inception_weights: str) -> None:
    real, fake = (torch.rand(n, 3, 40, 40, generator=torch.Generator().manual_seed(n)) for n in (3, 4))
    theirs = TorchmetricsFID(feature=192, normalize=True, feature_extractor_weights_path=inception_weights)
    features = [theirs.inception((x * 255).byte()) for x in (real, fake)]
    theirs.update(real, real=True)
    torch.testing.assert_close(theirs.real_features_sum, features[0].double().sum(0))  # it does truncate
    value = ours(inception_weights, real, fake, feature=192, normalize=True)
    assert value == pytest.approx(exact_fid(*features), rel=REL)
    rounded = exact_fid(*(theirs.inception((x * 255).round().byte()) for x in (real, fake)))
    assert value != pytest.approx(rounded, rel=1e-5)


def test_overshoot_is_clamped_and_does_not_wrap(inception_weights: str) -> None:
    real, fake = (x.float() / 250 for x in pair(3))  # up to 1.02
    assert fake.max() > 1
    value = ours(inception_weights, real, fake, feature=64, normalize=True)
    clamped = ours(inception_weights, *((x.clamp(max=1) * 255).byte() for x in (real, fake)), feature=64)
    assert value == pytest.approx(clamped, rel=1e-9)


def test_torch_fidelity_protocol(inception_weights: str, fidelity: FeatureExtractorInceptionV3) -> None:
    """torch-fidelity's own features with the exact distance, and with its own arithmetic to the noise of that."""
    real, fake = pair(3, 300)
    features = [fidelity(x) for x in (real, fake)]
    for layer in ("2048", "64"):
        x, y = (f[LAYERS.index(layer)] for f in features)
        value = ours(inception_weights, real, fake, feature=int(layer), protocol="torch-fidelity")
        assert value == pytest.approx(exact_fid(x, y), rel=REL)
    stats = [fid_features_to_statistics(z.double()) for z in (x, y)]
    theirs = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert value == pytest.approx(theirs, rel=1e-5)


def test_pytorch_fid_protocol(inception_weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own network, resize and `calculate_frechet_distance`, whose images are float in [0, 1]."""
    inception = pytest.importorskip("pytorch_fid.inception")
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    weights = torch.load(inception_weights, weights_only=True)
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *args, **kwargs: weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its torchvision calls are deprecated
        network = inception.InceptionV3([0, 3]).eval()

    def features(images: Tensor, block: int) -> Tensor:
        with torch.no_grad():
            return network(images / 255)[block].mean((2, 3))

    real, fake = pair(3, 200)
    value = ours(inception_weights, real, fake, protocol="pytorch-fid")
    assert value == pytest.approx(exact_fid(features(real, 1), features(fake, 1)), rel=REL)

    network = inception.InceptionV3([0]).eval()
    real, fake = pair(70)
    stats = [(x.mean(0), np.cov(x, rowvar=False)) for x in (features(y, 0).double().numpy() for y in (real, fake))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls scipy.linalg.sqrtm with `disp`
        expected = fid_score.calculate_frechet_distance(*stats[0], *stats[1])
    value = ours(inception_weights, real, fake, feature=64, protocol="pytorch-fid")
    assert value == pytest.approx(expected, rel=REL)


@pytest.mark.parametrize("size", [32, 340])
def test_clean_fid_protocol(inception_weights: str, fidelity: FeatureExtractorInceptionV3, size: int) -> None:
    """PIL's bicubic on float channels, clipped and not rounded, through torch-fidelity's graph."""

    def resized(image: Tensor) -> Tensor:
        channels = [Image.fromarray(c.numpy().astype(np.float32), mode=None).resize((299, 299), 3) for c in image]
        return torch.from_numpy(np.stack([np.asarray(c) for c in channels])).clamp(0, 255)

    def features(images: Tensor) -> Tensor:
        x = (torch.stack([resized(image) for image in images]) - 128) / 128
        blocks = list(fidelity.children())
        for block in blocks[: blocks.index(fidelity.AvgPool)]:
            x = block(x)
        return x.mean((2, 3))

    real, fake = pair(3, size)
    value = ours(inception_weights, real, fake, protocol="clean-fid")
    assert value == pytest.approx(exact_fid(features(real), features(fake)), rel=1e-4)


def test_protocols_differ(inception_weights: str) -> None:
    real, fake = pair(3, 32)
    protocols = ["torchmetrics", "torch-fidelity", "pytorch-fid", "clean-fid"]
    values = [ours(inception_weights, real, fake, feature=64, protocol=p) for p in protocols]
    assert len({f"{value:.4e}" for value in values}) == len(values)


def test_one_pass_gives_all_layers_of_torch_fidelity(
    inception_weights: str, fidelity: FeatureExtractorInceptionV3
) -> None:
    images = random_images(3, 128)
    extractor = InceptionExtractor(resize="tf1-bilinear", weights=inception_weights)
    features = extractor([images], LAYERS, CPU)
    for layer, expected in zip(LAYERS, fidelity(images), strict=True):
        assert features[layer].shape == (3, extractor.dim(layer))
        assert (features[layer] - expected).abs().max() / expected.abs().max() < 1e-4
    one = extractor([images], ["192"], CPU)
    assert list(one) == ["192"]
    assert torch.equal(one["192"], features["192"])
