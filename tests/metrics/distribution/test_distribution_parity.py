"""Distribution metrics against the tools they come from: one random Inception on both sides, non-square images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_images
from scipy.spatial.distance import cdist
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.kid import poly_mmd
from torchmetrics.image.mifid import _mifid_compute

from lightning_imgmetrics import (
    CLIPMaximumMeanDiscrepancy,
    DensityCoverage,
    FrechetInceptionDistance,
    InceptionScore,
    KernelInceptionDistance,
    MemorizationInformedFrechetInceptionDistance,
    MetricSuite,
    PrecisionRecall,
    SpatialFrechetInceptionDistance,
    VendiScore,
)
from lightning_imgmetrics.metrics.distribution.inception_protocols import inception

# The tools and we compute features in float32, each in its own order; what is made of them is held to REL.
FEATURES = 1e-5
REL = 1e-6
SIZE = (48, 80)
N = 24


@pytest.fixture(scope="module")
def sides() -> tuple[Tensor, Tensor]:
    return random_images(N, SIZE, seed=1), random_images(N, SIZE, seed=2, power=1.3)


@pytest.fixture(scope="module")
def theirs(inception_weights: str, sides: tuple[Tensor, Tensor]) -> list[dict[str, Tensor]]:
    """torch-fidelity's own features of both sides."""
    layers = ["64", "2048", "logits_unbiased"]
    network = FeatureExtractorInceptionV3("inception", layers, feature_extractor_weights_path=inception_weights)
    return [dict(zip(layers, network(side), strict=True)) for side in sides]


@pytest.fixture(scope="module")
def suite(inception_weights: str, sides: tuple[Tensor, Tensor]) -> MetricSuite:
    """Every Inception metric in torch-fidelity's protocol, from one pass."""
    common = {"protocol": "torch-fidelity", "feature_extractor_weights_path": inception_weights}
    network = inception("torch-fidelity", inception_weights)
    suite = MetricSuite(
        {
            "kid": KernelInceptionDistance(subsets=1, subset_size=N, **common),
            "is": InceptionScore(splits=1, **common),
            "precision": PrecisionRecall("precision", network),
            "recall": PrecisionRecall("recall", network),
            "f_score": PrecisionRecall("f_score", network),
            "density": DensityCoverage("density", network),
            "coverage": DensityCoverage("coverage", network),
            "mifid": MemorizationInformedFrechetInceptionDistance(feature=64, **common),
            "mifid_paper": MemorizationInformedFrechetInceptionDistance(feature=64, orientation="paper", **common),
            "vendi": VendiScore(network),
        }
    )
    suite.update_reference(sides[0], ids=range(N))
    suite.update(sides[1], ids=range(N))
    return suite


def kept(suite: MetricSuite, name: str, side: str) -> Tensor:
    """The features a member holds, in float64."""
    return suite[name].features(side).double()


def test_features(suite: MetricSuite, theirs: list[dict[str, Tensor]]) -> None:
    for side, features in zip(("real", "fake"), theirs, strict=True):
        mine = kept(suite, "kid", side)
        order = suite["kid"].store.ids(suite["kid"].state(f"{side}_bank"))
        assert (mine - features["2048"][order]).norm() / mine.norm() < FEATURES


def test_kid(suite: MetricSuite, theirs: list[dict[str, Tensor]]) -> None:
    """With one subset of all samples both draw the same subset."""
    options = {"kid_subsets": 1, "kid_subset_size": N, "kid_kernel": "poly", "kid_kernel_poly_degree": 3}
    options |= {"kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1.0, "rng_seed": 2020, "verbose": False}
    options |= {"kid_kernel_rbf_sigma": 10.0}
    own = [kept(suite, "kid", side).numpy() for side in ("fake", "real")]
    features = [x["2048"].double().numpy() for x in theirs]
    value = suite["kid"].compute()[0].item()
    name = "kernel_inception_distance_mean"
    assert value == pytest.approx(kid_features_to_metric(*map(torch.from_numpy, own), **options)[name], rel=REL)
    assert value == pytest.approx(
        kid_features_to_metric(*map(torch.from_numpy, features), **options)[name], rel=10 * FEATURES
    )


def test_kid_of_several_subsets(inception_weights: str, sides: tuple[Tensor, Tensor]) -> None:
    """Mean and deviation over the subsets, each as torchmetrics computes it in float64."""
    from lightning_imgmetrics.functional.mmd import random_subsets

    kid = KernelInceptionDistance(64, subsets=7, subset_size=10, feature_extractor_weights_path=inception_weights)
    kid.update(sides[0], True)
    kid.update(sides[1], False)
    mean, deviation = kid.compute()
    real, fake = kid.real_features[0].double(), kid.fake_features[0].double()
    rows = [random_subsets(N, 10, 7, seed) for seed in (0, 1)]
    values = torch.stack([poly_mmd(real[i], fake[j], 3, None, 1.0) for i, j in zip(*rows, strict=True)])
    assert mean.item() == pytest.approx(values.mean().item(), rel=REL)
    assert deviation.item() == pytest.approx(values.std(correction=0).item(), rel=10 * REL)


def test_inception_score(suite: MetricSuite, theirs: list[dict[str, Tensor]]) -> None:
    """One split of all samples."""
    logits = theirs[1]["logits_unbiased"].double()
    expected = isc_features_to_metric(logits, splits=1)["inception_score_mean"]
    assert suite["is"].compute()[0].item() == pytest.approx(expected, rel=REL)
    assert suite["is"].compute()[1].isnan()


def test_precision_recall(suite: MetricSuite) -> None:
    fake, real = kept(suite, "kid", "fake"), kept(suite, "kid", "real")
    expected = prc_features_to_metric(
        fake, real, prc_neighborhood=3, prc_batch_size=100, verbose=False, save_cpu_ram=False
    )
    for name in ("precision", "recall", "f_score"):
        assert suite[name].compute().item() == pytest.approx(expected[name], rel=REL)


def test_density_coverage(suite: MetricSuite) -> None:
    """The definition of Naeem et al. 2020, k = 5."""
    fake, real = kept(suite, "kid", "fake").numpy(), kept(suite, "kid", "real").numpy()
    radius = np.sort(cdist(real, real), 1)[:, 5]
    across = cdist(real, fake)
    density = (across < radius[:, None]).sum(0).mean() / 5
    coverage = (across.min(1) < radius).mean()
    assert suite["density"].compute().item() == pytest.approx(density, rel=REL)
    assert suite["coverage"].compute().item() == pytest.approx(coverage, rel=REL)


def test_mifid(suite: MetricSuite) -> None:
    """torchmetrics' function on our features, both ways around."""
    real, fake = kept(suite, "mifid", "real"), kept(suite, "mifid", "fake")
    stats = [(x.mean(0), torch.cov(x.mT), x) for x in (real, fake)]
    fid = suite["mifid"].result().details["fid"]
    for name, (a, b) in {"mifid": stats, "mifid_paper": stats[::-1]}.items():
        theirs = _mifid_compute(*a, *b).item()
        distance = suite[name].result().details["memorization_distance"]
        their_fid = theirs * (distance if distance < 0.1 else 1)  # off by 1e-6 where n < d, ours is exact
        assert fid == pytest.approx(their_fid, rel=1e-4)
        assert suite[name].compute().item() == pytest.approx(
            fid / ((distance if distance < 0.1 else 1) + 1e-14), rel=REL
        )
        cosine = (torch.nn.functional.normalize(a[2]) @ torch.nn.functional.normalize(b[2]).mT).abs().amax(1)
        assert distance == pytest.approx((1 - cosine).mean().item(), rel=REL)


def test_mifid_sees_a_generator_that_copies_part_of_the_training_set() -> None:
    """The paper averages over generated images; averaging over the real ones hides copies of a few of them."""
    g = torch.Generator().manual_seed(0)
    real = torch.randint(0, 255, (200, 3, 4, 4), dtype=torch.uint8, generator=g)
    copies = real[:10].repeat(4, 1, 1, 1)
    distances = {}
    for orientation in ("paper", "torchmetrics"):
        network = torch.nn.Flatten()
        network.num_features = 48
        mifid = MemorizationInformedFrechetInceptionDistance(Float(network), orientation=orientation)
        mifid.update(real, True)
        mifid.update(copies, False)
        distances[orientation] = mifid.result().details["memorization_distance"]
    assert distances["paper"] < 1e-12
    assert distances["torchmetrics"] > 0.01


class Float(torch.nn.Module):
    """Pixels as centred features."""

    num_features = 48

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).double() - 127


def test_adm_protocol_is_the_tensorflow_graph(inception_weights: str, sides: tuple[Tensor, Tensor]) -> None:
    """ADM and torch-fidelity feed the same graph in the same way; their numbers are the same, their names are not."""
    values, signatures = [], []
    for protocol in ("adm", "torch-fidelity"):
        fid = FrechetInceptionDistance(64, feature_extractor_weights_path=inception_weights, protocol=protocol)
        fid.update(sides[0], True)
        fid.update(sides[1], False)
        values.append(fid.compute().item())
        signatures.append(fid.result().signature)
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    assert signatures[0] != signatures[1]


def test_sfid_is_the_frechet_distance_of_the_spatial_layer(
    inception_weights: str, sides: tuple[Tensor, Tensor]
) -> None:
    """Mixed_6d's first branch of torch-fidelity's graph, 7 channels at 17 x 17 positions, channels last."""
    network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=inception_weights)
    seen: list[Tensor] = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda module, args, out: seen.append(out))
    sfid = SpatialFrechetInceptionDistance(feature_extractor_weights_path=inception_weights)
    for real, side in zip((True, False), sides, strict=True):
        network(side)
        sfid.update(side, real)
    x, y = (z[:, :7].permute(0, 2, 3, 1).flatten(1).double().numpy() for z in seen)
    a, b = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    gap = x.mean(0) - y.mean(0)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    expected = gap @ gap + (a**2).sum() + (b**2).sum() - 2 * overlap
    assert x.shape[1] == 2023
    assert sfid.compute().item() == pytest.approx(expected, rel=FEATURES)


def test_vendi(suite: MetricSuite) -> None:
    """The n x n kernel's eigenvalues (Friedman & Dieng 2023); ours come from the d x d second moment."""
    network = inception("torch-fidelity", suite["vendi"].extractor.weights)
    x = kept(suite, "kid", "fake")
    assert network.dim("2048") == x.shape[1]
    unit = x / x.norm(dim=1, keepdim=True)
    values = torch.linalg.eigvalsh(unit @ unit.mT / N)
    values = values[values > 1e-15]
    assert suite["vendi"].compute().item() == pytest.approx((-(values * values.log()).sum()).exp().item(), rel=REL)


@pytest.mark.parametrize("streaming", [False, True])
def test_cmmd(streaming: bool) -> None:
    """The definition with N x N kernels in float64; streaming within its stated bound."""
    real, fake = random_images(40, 32, 1), random_images(30, 32, 2, power=1.5)
    cmmd = CLIPMaximumMeanDiscrepancy("digits-clip", streaming=streaming)
    exact = CLIPMaximumMeanDiscrepancy("digits-clip")
    for m in (cmmd, exact):
        m.update(real, True, ids=range(40))
        m.update(fake, False, ids=range(30))
    x, y = (exact.features(side).double().numpy() for side in ("real", "fake"))

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-cdist(a, b, "sqeuclidean") / 200).mean())

    expected = 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    assert expected > 0.01
    if streaming:
        assert abs(cmmd.compute().item() - expected) < cmmd.truncation_bound == pytest.approx(6.6e-4, rel=0.1)
    else:
        assert cmmd.compute().item() == pytest.approx(expected, rel=REL)
