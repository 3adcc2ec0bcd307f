"""References as files: measured and read back to the same bits, published by others, and refused where they differ."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import TinyNet, random_images
from torch import Tensor, nn

from lightning_imgmetrics import (
    Authenticity,
    CLIPMaximumMeanDiscrepancy,
    DensityCoverage,
    FeatureLikelihoodDivergence,
    FrechetDistance,
    FrechetInceptionDistance,
    FrechetInceptionDistanceInfinity,
    InceptionScore,
    IntraFrechetInceptionDistance,
    KernelInceptionDistance,
    MemorizationInformedFrechetInceptionDistance,
    MetricSuite,
    PrecisionRecall,
    ReferenceStatistics,
    SpatialFrechetInceptionDistance,
    VendiScore,
)
from lightning_imgmetrics.errors import (
    IncompatibleStates,
    NonFiniteFeatures,
    NotEnoughSamples,
    SignatureMismatch,
    UnknownName,
)
from lightning_imgmetrics.functional.frechet import frechet_distance
from lightning_imgmetrics.functional.mmd import gaussian_mmd, polynomial_mmd
from lightning_imgmetrics.metrics.distribution import reference_statistics as statistics
from lightning_imgmetrics.models.encoders import clip, dinov2, inception

N = 40
REAL, FAKE = random_images(N, 16, 0), random_images(N, 16, 1)
LABELS = torch.arange(N) % 2
NETWORK = TinyNet()

MAKES: dict[str, Callable[..., Any]] = {
    "fid": lambda **kw: FrechetInceptionDistance(NETWORK, **kw),
    "fid_intervals": lambda **kw: FrechetDistance(NETWORK, groups=3, **kw),
    "fid_infinity": lambda **kw: FrechetInceptionDistanceInfinity(NETWORK, groups=16, **kw),
    "intra_fid": lambda **kw: IntraFrechetInceptionDistance(NETWORK, **kw),
    "mifid": lambda **kw: MemorizationInformedFrechetInceptionDistance(NETWORK, **kw),
    "kid": lambda **kw: KernelInceptionDistance(NETWORK, subsets=3, subset_size=20, **kw),
    "cmmd": lambda **kw: CLIPMaximumMeanDiscrepancy(NETWORK, **kw),
    "cmmd_moments": lambda **kw: CLIPMaximumMeanDiscrepancy(NETWORK, streaming=True, **kw),
    "precision": lambda **kw: PrecisionRecall("precision", NETWORK, max_samples=30, **kw),
    "density": lambda **kw: DensityCoverage("density", NETWORK, bank="float16", **kw),
    "authenticity": lambda **kw: Authenticity(NETWORK, bank="float64", **kw),
    "fld": lambda **kw: FeatureLikelihoodDivergence(NETWORK, **kw),
    "vendi": lambda **kw: VendiScore(NETWORK, **kw),
    "inception_score": lambda **kw: InceptionScore(NETWORK, splits=2, **kw),
}
IDS = torch.arange(N) + 90  # each of 16 hashed groups has some


def whole_suite() -> MetricSuite:
    return MetricSuite({key: make() for key, make in MAKES.items() if key != "fid_infinity"})


def refer(metric: Any, images: Tensor = REAL, **kwargs: Any) -> Any:
    labels = {"labels": LABELS} if isinstance(metric, IntraFrechetInceptionDistance | MetricSuite) else {}
    metric.update(images, real=True, ids=IDS, **labels, **kwargs)
    return metric


def generate(metric: Any) -> Any:
    labels = {"labels": LABELS} if isinstance(metric, IntraFrechetInceptionDistance | MetricSuite) else {}
    metric.update(FAKE, real=False, ids=IDS, **labels)
    return metric


def filled(metric: Any, stats: ReferenceStatistics) -> Any:
    stats.fill([metric])
    return generate(metric)


# Our own files


@pytest.mark.parametrize("name", ["reference.safetensors", "reference"])
def test_measured_saved_and_loaded_it_is_the_same(tmp_path: Path, name: str) -> None:
    """To the last bit, for each metric of the suite it was taken from and for each alone."""
    suite = refer(whole_suite())
    stats = suite.reference(content="digits 1.0")
    stats.save(tmp_path / name)
    loaded = ReferenceStatistics.load(tmp_path / name)
    assert (loaded.n, loaded.content) == (N, "digits 1.0")
    assert [e.signature for e in loaded.entries] == [e.signature for e in stats.entries]
    expected = {key: result.value for key, result in generate(suite).results().items()}
    again = whole_suite()
    again.update_reference(tmp_path / name)
    assert {key: result.value for key, result in generate(again).results().items()} == expected
    for key, make in MAKES.items():
        if key in expected and "real" in make().inputs:
            assert filled(make(), loaded).result().value == pytest.approx(expected[key], rel=1e-12), key


def test_one_bank_serves_what_needs_less() -> None:
    """Kept whole in float32, it is the bank of a metric that bounds or narrows its own, and the moments of another."""
    stats = ReferenceStatistics.of([refer(MAKES["kid"]())])
    assert len(stats.entries) == 1
    for key in ("precision", "density", "fid", "fid_intervals", "mifid"):
        measured = generate(refer(MAKES[key]())).result()
        served = filled(MAKES[key](), stats).result()
        assert served.value == pytest.approx(measured.value, rel=1e-6), key
        assert served.signature == measured.signature
    bounded = MAKES["precision"]()
    stats.fill([bounded])
    assert (
        bounded.state("real_bank").numpy().tobytes() == refer(MAKES["precision"]()).state("real_bank").numpy().tobytes()
    )


def test_exact_entries_come_before_conversions() -> None:
    """Moments that were summed in float64 are not made anew of a float32 bank."""
    stats = ReferenceStatistics.of([refer(MAKES["kid"]()), refer(MAKES["fid"]())])
    for served in (stats, ReferenceStatistics(stats.entries[::-1], N)):
        assert torch.equal(filled(MAKES["fid"](), served).compute(), generate(refer(MAKES["fid"]())).compute())


@pytest.mark.parametrize(
    ("key", "wanted", "message"),
    [
        ("precision", "kid", r"needs all features \(float32, d = 8\) of .*hold 30 features \(float32"),
        ("density", "kid", r"needs all features \(float32.*hold all features \(float16"),
        ("fid", "kid", r"needs all features \(float32, d = 8\).*hold moments \(d = 8\)"),
        ("precision", "fid", r"needs moments \(d = 8\).*hold 30 features"),
        ("density", "fid", r"needs moments .*hold all features \(float16"),
        ("fid", "cmmd_moments", "transform:unit_rows, the reference statistics hold .*layer:features$"),
        ("cmmd_moments", "fid", "layer:features, the reference statistics hold .*transform:unit_rows$"),
        ("kid", "cmmd", "transform:unit_rows"),
        ("intra_fid", "kid", r"d = 8\).*hold all features \(float32, d = 9\)"),
    ],
)
def test_what_holds_less_does_not_serve(key: str, wanted: str, message: str) -> None:
    stats = ReferenceStatistics.of([refer(MAKES[key]())])
    metric = MAKES[wanted]()
    with pytest.raises(SignatureMismatch, match=message):
        stats.fill([metric])
    assert metric.streams.untouched


def test_another_network_does_not_serve() -> None:
    stats = ReferenceStatistics.of([refer(MAKES["fid"]())])
    with pytest.raises(SignatureMismatch, match=r"weights:[0-9a-f]+\|.* hold .*weights:[0-9a-f]+"):
        stats.fill([FrechetInceptionDistance(TinyNet(1))])
    with pytest.raises(SignatureMismatch, match=r"network:digits-clip.* hold .*network:custom-TinyNet"):
        stats.fill([FrechetDistance("digits-clip")])


def test_nothing_changes_where_one_metric_is_refused() -> None:
    suite = generate(refer(MetricSuite({"fid": MAKES["fid"](), "kid": MAKES["kid"]()})))
    before = {key: result.value for key, result in suite.results().items()}
    with pytest.raises(SignatureMismatch, match="'kid'"):
        suite.update_reference(ReferenceStatistics.of([refer(MAKES["fid"](), FAKE)]))
    assert {key: result.value for key, result in suite.results().items()} == before


def test_a_reference_is_replaced_not_joined() -> None:
    """What was there before is forgotten, as are its ids; a cached value too."""
    stats = ReferenceStatistics.of([refer(MAKES["fid"]()), refer(MAKES["kid"]())])
    for key in ("fid", "kid", "mifid"):
        metric = generate(refer(MAKES[key](), FAKE.flip(0)))
        before = metric.result().value
        stats.fill([metric])
        assert metric.result().value == pytest.approx(generate(refer(MAKES[key]())).result().value, rel=1e-6)
        assert metric.result().value != before


def test_statistics_and_metrics_go_separate_ways() -> None:
    """Neither a metric that goes on nor one that was filled changes what others hold."""
    source = refer(MAKES["fid"]())
    stats = ReferenceStatistics.of([source])
    kept = stats.entries[0].value.clone()
    first, second = MAKES["fid"](), MAKES["fid"]()
    stats.fill([first, second])
    for metric in (source, first):
        metric.update(FAKE, real=True)
        metric.reset()
    source.update(FAKE, real=True)
    assert torch.equal(stats.entries[0].value, kept)
    assert second.real_features_num_samples == N


def test_held_out_images_are_no_reference() -> None:
    """FLD's own test set is neither saved nor filled."""
    metric = MAKES["fld"]()
    metric.update_test(FAKE, ids=IDS)
    assert len(ReferenceStatistics.of([refer(metric)]).entries) == 1
    stats = ReferenceStatistics.of([refer(MAKES["kid"]())])
    assert "test:held-out" in filled(MAKES["fld"](), stats).result().signature


def test_nothing_to_keep() -> None:
    for metrics in ([], [MAKES["fid"]()], [MAKES["vendi"](), MAKES["inception_score"]()]):
        with pytest.raises(NotEnoughSamples, match="update the metrics with reference images first"):
            ReferenceStatistics.of(metrics)
    assert ReferenceStatistics.of([refer(MAKES["precision"]())]).n is None  # 30 of an unknown number


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "reference.safetensors"
    ReferenceStatistics.of([refer(MAKES["fid"]())]).save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-10], whole[: len(whole) // 2], whole[:5], b"", b"\x00" * 64):
        path.write_bytes(damaged)
        with pytest.raises(IncompatibleStates, match="is not a whole statistics file"):
            ReferenceStatistics.load(path)
    with pytest.raises(FileNotFoundError):
        ReferenceStatistics.load(tmp_path / "nowhere.safetensors")
    refer(whole_suite()).save(path)
    with pytest.raises(IncompatibleStates, match="holds no reference statistics: make them with"):
        ReferenceStatistics.load(path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "reference.safetensors"
    old = ReferenceStatistics.of([refer(MAKES["fid"]())])
    old.save(path)

    def full(tensors: Any, part: Path, metadata: Any) -> None:
        part.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(statistics, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        ReferenceStatistics.of([refer(MAKES["fid"](), FAKE)]).save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert torch.equal(ReferenceStatistics.load(path).entries[0].value, old.entries[0].value)


# Published files

D, D_S, D_DINO = 6, 9, 7


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The public networks with few features; none is loaded, as the tests feed features."""
    for layer, d in (("2048", D), ("sfid", D_S)):
        monkeypatch.setitem(inception._DIMS, layer, d)
    monkeypatch.setattr(dinov2.Dinov2Extractor, "dim", lambda self, layer: D_DINO)
    monkeypatch.setattr(clip.ClipExtractor, "dim", lambda self, layer: D_DINO)


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.5 + 1


def published(x: Tensor, suffix: str = "") -> dict[str, np.ndarray]:
    return {f"mu{suffix}": x.mean(0).numpy(), f"sigma{suffix}": np.cov(x.numpy(), rowvar=False)}


def formula(real: Tensor, fake: Tensor) -> float:
    """The published implementations' scipy line."""
    (mean, cov), (mean_fake, cov_fake) = ((x.mean(0).numpy(), np.cov(x.numpy(), rowvar=False)) for x in (real, fake))
    root = scipy.linalg.sqrtm(cov @ cov_fake)
    return float(((mean - mean_fake) ** 2).sum() + np.trace(cov + cov_fake - 2 * np.real(root)))


def measured(metric: Any, stats: ReferenceStatistics, fake: Tensor) -> Any:
    stats.fill([metric])
    metric.update_features({metric.layers[0]: fake}, real=False)
    return metric.result()


@pytest.mark.parametrize("protocol", ["pytorch-fid", "clean-fid", "adm"])
def test_mu_and_sigma(small: None, tmp_path: Path, protocol: str) -> None:
    real, fake = normal(300, D, 0), normal(200, D, 1)
    np.savez(tmp_path / "ref.npz", **published(real))
    with pytest.raises(SignatureMismatch, match=r"ref.npz does not say which tool made it.*protocol='pytorch-fid'"):
        ReferenceStatistics.load(tmp_path / "ref.npz")
    stats = ReferenceStatistics.load(tmp_path / "ref.npz", protocol=protocol)
    assert stats.n is None
    result = measured(FrechetInceptionDistance(protocol=protocol), stats, fake)
    assert result.value == pytest.approx(formula(real, fake), rel=1e-9)
    assert "|n_real:unknown|n:200" in result.signature
    known = ReferenceStatistics.load(tmp_path / "ref.npz", protocol=protocol, n=300)
    again = measured(FrechetInceptionDistance(protocol=protocol), known, fake)
    assert again.value == pytest.approx(result.value, rel=1e-12)
    assert "|n_real:300|" in again.signature
    with pytest.raises(SignatureMismatch, match=r"resize:bilinear-antialias-299.* hold moments .*resize:"):
        stats.fill([FrechetInceptionDistance()])
    with pytest.raises(UnknownName, match="`protocol` must be one of"):
        ReferenceStatistics.load(tmp_path / "ref.npz", protocol="edm")


def test_an_unknown_number_survives_our_own_file(small: None, tmp_path: Path) -> None:
    real, fake = normal(300, D, 0), normal(200, D, 1)
    np.savez(tmp_path / "ref.npz", **published(real))
    metric = FrechetInceptionDistance(protocol="adm")
    ReferenceStatistics.load(tmp_path / "ref.npz", protocol="adm").fill([metric])
    stats = ReferenceStatistics.of([metric])
    assert stats.n is None
    stats.save(tmp_path / "own.safetensors")
    result = measured(
        FrechetInceptionDistance(protocol="adm"), ReferenceStatistics.load(tmp_path / "own.safetensors"), fake
    )
    assert "|n_real:unknown|" in result.signature
    assert result.value == pytest.approx(formula(real, fake), rel=1e-9)
    intervals = FrechetInceptionDistance(protocol="adm", groups=5)
    low, high = measured(intervals, stats, fake).interval
    assert low < formula(real, fake) < high


def test_adm_files_hold_both(small: None, tmp_path: Path) -> None:
    """Their own protocol, two layers, and images that no metric reads here."""
    real, fake = (normal(300, D, 0), normal(300, D_S, 2)), (normal(200, D, 1), normal(200, D_S, 3))
    images = np.zeros((3, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "adm.npz", arr_0=images, **published(real[0]), **published(real[1], "_s"))
    stats = ReferenceStatistics.load(tmp_path / "adm.npz")
    makes = (lambda: FrechetInceptionDistance(protocol="adm"), SpatialFrechetInceptionDistance)
    for make, x, y in zip(makes, real, fake, strict=True):
        assert measured(make(), stats, y).value == pytest.approx(formula(x, y), rel=1e-9)
    same_rules = FrechetInceptionDistance(protocol="torch-fidelity")
    assert measured(same_rules, stats, fake[0]).value == pytest.approx(formula(real[0], fake[0]), rel=1e-9)
    np.savez(tmp_path / "images.npz", arr_0=images)
    with pytest.raises(IncompatibleStates, match="holds images and no statistics"):
        ReferenceStatistics.load(tmp_path / "images.npz")


def test_edm2_files_hold_inception_and_dinov2(small: None, tmp_path: Path) -> None:
    real, fake = (normal(300, D, 0), normal(300, D_DINO, 2)), (normal(200, D, 1), normal(200, D_DINO, 3))
    content = {"num_images": 300, "fid": published(real[0]), "fd_dinov2": published(real[1])}
    (tmp_path / "edm2.pkl").write_bytes(pickle.dumps(content))
    stats = ReferenceStatistics.load(tmp_path / "edm2.pkl")
    assert stats.n == 300
    fid = measured(FrechetInceptionDistance(protocol="adm"), stats, fake[0])
    assert fid.value == pytest.approx(formula(real[0], fake[0]), rel=1e-9)
    assert "|n_real:300|" in fid.signature
    network = dinov2.Dinov2Extractor(resize="bicubic-antialias-unclamped")
    assert measured(FrechetDistance(network), stats, fake[1]).value == pytest.approx(
        formula(real[1], fake[1]), rel=1e-9
    )
    with pytest.raises(SignatureMismatch, match=r"bicubic-antialias-rounded.* hold .*bicubic-antialias-unclamped"):
        stats.fill([FrechetDistance(dinov2.Dinov2Extractor())])


def test_features_for_kid(small: None, tmp_path: Path) -> None:
    real, fake = normal(50, D, 0).float(), normal(50, D, 1)
    np.savez(tmp_path / "kid.npz", feats=real.numpy())
    stats = ReferenceStatistics.load(tmp_path / "kid.npz", protocol="clean-fid")
    assert stats.n == 50
    metric = KernelInceptionDistance(subsets=1, subset_size=50, protocol="clean-fid")
    expected = polynomial_mmd(real, fake.float()).item()
    assert measured(metric, stats, fake).value == pytest.approx(expected, rel=1e-9)
    fid = measured(FrechetInceptionDistance(protocol="clean-fid"), stats, fake)
    assert fid.value == pytest.approx(formula(real.double(), fake), rel=1e-6)
    assert "|n_real:50|" in fid.signature


def test_embeddings_for_cmmd(small: None, tmp_path: Path) -> None:
    """Of any length: the metric scales them."""
    real, fake = normal(40, D_DINO, 0).float(), normal(30, D_DINO, 1)
    np.save(tmp_path / "clip.npy", real.numpy())
    stats = ReferenceStatistics.load(tmp_path / "clip.npy")
    units = [nn.functional.normalize(x.double(), dim=1) for x in (real, fake)]
    expected = 1000 * gaussian_mmd(*units).item()
    network = clip.ClipExtractor(CLIPMaximumMeanDiscrepancy.default_network, resize="crop-bicubic")
    metric = CLIPMaximumMeanDiscrepancy(network)
    assert measured(metric, stats, fake).value == pytest.approx(expected, rel=1e-5)  # float32 bank
    streaming = CLIPMaximumMeanDiscrepancy(network, streaming=True)
    found = measured(streaming, stats, fake).value
    assert abs(found - expected) <= streaming.truncation_bound
    with pytest.raises(SignatureMismatch, match=r"needs .*resize:processor.* hold .*resize:crop-bicubic"):
        stats.fill([CLIPMaximumMeanDiscrepancy(clip.ClipExtractor(CLIPMaximumMeanDiscrepancy.default_network))])


def test_another_length_does_not_serve(small: None, tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", **published(normal(50, D + 2, 0)))
    stats = ReferenceStatistics.load(tmp_path / "ref.npz", protocol="adm")
    with pytest.raises(SignatureMismatch, match=r"needs moments \(d = 6\).*hold moments \(d = 8\)"):
        stats.fill([FrechetInceptionDistance(protocol="adm")])


def test_numbers_that_are_none(small: None, tmp_path: Path) -> None:
    arrays = published(normal(50, D, 0))
    arrays["sigma"][0, 0] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    with pytest.raises(NonFiniteFeatures, match="`sigma` must be finite"):
        ReferenceStatistics.load(tmp_path / "nan.npz", protocol="adm")
    whole = (tmp_path / "nan.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IncompatibleStates, match=r"half.npz"):
        ReferenceStatistics.load(tmp_path / "half.npz", protocol="adm")
    poisoned = refer(MAKES["fid"]())
    poisoned.streams["real_moments"].content.value[3] = torch.nan
    with pytest.raises(NonFiniteFeatures):
        ReferenceStatistics.of([poisoned])


# Intervals


def test_the_interval_covers_the_distance_of_the_population() -> None:
    """In 200 draws from a known Gaussian, of the bias-corrected estimate, to the reference as it is given."""
    d, n = 8, 1000
    reference = normal(500, d, 99)
    scale = torch.linspace(0.3, 0.9, d, dtype=torch.float64)
    mean = torch.linspace(0.8, 1.3, d, dtype=torch.float64)
    truth = frechet_distance(reference.mean(0), reference.T.cov(), mean, torch.diag(scale**2)).item()
    flat = nn.Flatten()
    flat.num_features = d  # type: ignore[assignment]
    metric = FrechetDistance(flat, groups=20, reset_real_features=False)
    covered, widths, estimates = 0, [], []
    metric.update_features({"features": reference}, real=True)
    for seed in range(200):
        metric.update_features(
            {"features": normal(n, d, seed) * scale * 2 + mean - scale * 2}, ids=seed * n + torch.arange(n)
        )
        result = metric.result()
        low, high = result.interval
        covered += low <= truth <= high
        widths.append(high - low)
        estimates.append(result.details["bias_corrected"])
        metric.reset()
    assert 180 <= covered <= 197
    estimate, spread = np.mean(estimates), np.std(estimates, ddof=1)
    assert abs(estimate - truth) < 4 * spread / 200**0.5  # the correction leaves no bias
    assert np.mean(widths) == pytest.approx(2 * 2.093 * spread, rel=0.15)


def test_no_network_is_guessed_for_a_published_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "reps.npz", reps=np.zeros((4, 2048), np.float32))
    with pytest.raises(IncompatibleStates, match="a network that it does not name"):
        ReferenceStatistics.load(tmp_path / "reps.npz", protocol="pytorch-fid")
    other = {"num_images": 4, "fd_other": {"mu": np.zeros(3), "sigma": np.eye(3)}}
    (tmp_path / "other.pkl").write_bytes(pickle.dumps(other))
    with pytest.raises(IncompatibleStates, match="got 'fd_other'"):
        ReferenceStatistics.load(tmp_path / "other.pkl")
