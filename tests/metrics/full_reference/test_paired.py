"""Paired metrics: as torchmetrics where it has them, on any kind of image, batch, rank and option."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_msssim
import torch
import torchmetrics.image
from conftest import TinyNet, Worlds, random_images
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from lightning_imgmetrics import FrechetDistance, MetricSuite, ReferenceStatistics
from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError, SignatureMismatch, UnknownName, ValueRangeError
from lightning_imgmetrics.metrics.distribution.rfid import ReconstructionFrechetDistance
from lightning_imgmetrics.metrics.full_reference.perceptual import (
    DeepImageStructureAndTextureSimilarity,
    LearnedPerceptualImagePatchSimilarity,
)
from lightning_imgmetrics.metrics.full_reference.psnr import (
    MeanSquaredError,
    PeakSignalNoiseRatio,
    VisualInformationFidelity,
)
from lightning_imgmetrics.metrics.full_reference.ssim import (
    MultiScaleStructuralSimilarityIndexMeasure,
    StructuralSimilarityIndexMeasure,
)

Metric = Callable[..., Any]
SINGLE = {"betas": (0.4, 0.6), "kernel_size": 7}  # two scales, for small images
# name -> makes it, for images of at least 41 pixels
METRICS: dict[str, Metric] = {
    "mse": MeanSquaredError,
    "psnr": PeakSignalNoiseRatio,
    "psnr of each": lambda **kw: PeakSignalNoiseRatio(dim=(1, 2, 3), **kw),
    "ssim": StructuralSimilarityIndexMeasure,
    "ssim valid": lambda **kw: StructuralSimilarityIndexMeasure(window="valid", **kw),
    "ms_ssim": lambda **kw: MultiScaleStructuralSimilarityIndexMeasure(**SINGLE, **kw),
    "vif": lambda **kw: VisualInformationFidelity(value_range=(0, 1), **kw),
}
EVERY = pytest.mark.parametrize("key", METRICS)


def pair(n: int, size: int | tuple[int, int] = 48, seed: int = 0, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Noisy images and what they should be, uint8."""
    target = random_images(n, size, seed)
    grain = noise * 255 * torch.randn(target.shape, generator=torch.Generator().manual_seed(seed + 1))
    return (0.9 * target + grain).clamp(0, 255).to(torch.uint8), target


def value(metric: Any, preds: Any, target: Any, **kwargs: Any) -> Any:
    metric.update(preds, target, **kwargs)
    return metric.compute()


def close(left: Any, right: Any, rtol: float = 1e-6) -> None:
    for x, y in zip(left, right, strict=True) if isinstance(left, tuple) else [(left, right)]:
        torch.testing.assert_close(x.double(), y.double(), rtol=rtol, atol=1e-7)


# As torchmetrics

DROP_INS: list[tuple[str, dict[str, Any]]] = [
    *(("PeakSignalNoiseRatio", {"data_range": r}) for r in (1.0, 255.0, 0.5, (0.2, 0.9), (-1.0, 1.0))),
    ("PeakSignalNoiseRatio", {"data_range": 1.0, "base": 2.0}),
    *(("PeakSignalNoiseRatio", {"data_range": 1.0, "dim": dim}) for dim in (1, 2, -1, (2, 3), (1, 2, 3), [1, 2, -1])),
    *(("PeakSignalNoiseRatio", {"data_range": 1.0, "dim": (1, 2, 3), "reduction": r}) for r in ("sum", "none", None)),
    ("PeakSignalNoiseRatio", {"data_range": 1.0, "dim": (2, 3), "reduction": "sum"}),
    *(("StructuralSimilarityIndexMeasure", {"data_range": r}) for r in (1.0, 3.0, (0.2, 0.9), (-1.0, 1.0))),
    *(("StructuralSimilarityIndexMeasure", {"data_range": 1.0, "reduction": r}) for r in ("sum", "none", None)),
    ("StructuralSimilarityIndexMeasure", {"data_range": 1.0, "gaussian_kernel": False, "kernel_size": (5, 7)}),
    ("StructuralSimilarityIndexMeasure", {"data_range": 1.0, "sigma": (0.8, 1.2), "k1": 0.02, "k2": 0.05}),
    ("StructuralSimilarityIndexMeasure", {"data_range": 1.0, "return_full_image": True}),
    ("StructuralSimilarityIndexMeasure", {"data_range": 1.0, "return_full_image": True, "reduction": "none"}),
    ("StructuralSimilarityIndexMeasure", {"data_range": 1.0, "return_contrast_sensitivity": True}),
    *(
        ("MultiScaleStructuralSimilarityIndexMeasure", {"data_range": 1.0, **SINGLE, **kw})
        for kw in ({}, {"normalize": "simple"}, {"reduction": "none"}, {"reduction": "sum"}, {"gaussian_kernel": False})
    ),
]


@pytest.mark.parametrize(("name", "options"), DROP_INS)
def test_float_tensors_as_torchmetrics_takes_them(name: str, options: dict[str, Any]) -> None:
    """Any range and number of channels, over two batches; in float64, as theirs loses digits in float32."""
    ours, theirs = globals()[name](**options), getattr(torchmetrics.image, name)(**options)
    preds, target = (torch.cat([x, x[:, :1]], 1).double() / 255 for x in pair(5))
    for rows in (slice(0, 2), slice(2, 5)):
        ours.update(preds[rows], target[rows])
        theirs.update(preds[rows], target[rows])
    close(ours.compute(), theirs.compute())
    close(ours(preds[:2], target[:2]), theirs(preds[:2], target[:2]))


def test_volumes_vectors_and_other_types() -> None:
    preds, target = torch.rand(2, 2, 3, 13, 14, 15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name in ("StructuralSimilarityIndexMeasure", "PeakSignalNoiseRatio"):
        ours, theirs = globals()[name](data_range=1.0), getattr(torchmetrics.image, name)(data_range=1.0)
        close(value(ours, preds, target), value(theirs, preds, target))
        close(value(globals()[name](data_range=1.0), preds.half(), target.half()), ours.compute(), rtol=3e-3)
    for kind in (torch.int64, torch.int32, torch.float64):
        x, y = (torch.randint(0, 10, (4, 7), generator=torch.Generator().manual_seed(s)).to(kind) for s in (0, 1))
        close(value(PeakSignalNoiseRatio(9.0), x, y), value(torchmetrics.image.PeakSignalNoiseRatio(9.0), x, y))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_vif_as_torchmetrics(reduction: str) -> None:
    preds, target = (x.float() for x in pair(3))
    ours = VisualInformationFidelity(1.5, reduction)
    theirs = torchmetrics.image.VisualInformationFidelity(1.5, reduction)
    close(value(ours, preds, target), value(theirs, preds, target), rtol=1e-4)  # theirs is in float32
    gray = VisualInformationFidelity(1.5, reduction)
    theirs.reset()
    close(value(gray, preds[:, :1], target[:, :1]), value(theirs, preds[:, :1], target[:, :1]), rtol=1e-4)


# Images of any kind


@EVERY
def test_kinds_of_images(key: str) -> None:
    """uint8, floats, lists and PIL images are the same images."""
    preds, target = pair(3)
    expected = value(METRICS[key](), preds, target)
    kinds: list[Callable[[Tensor], Any]] = [
        lambda x: x.float() / 255,
        lambda x: x.double() / 255,
        list,
        lambda x: list(x.float() / 255),
        lambda x: [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in x],
    ]
    for kind in kinds:
        close(value(METRICS[key](), kind(preds), kind(target)), expected, rtol=2e-6)
        close(value(METRICS[key](), preds, kind(target)), expected, rtol=2e-6)
    kw = {"value_range": (-1, 1)}
    maker = VisualInformationFidelity if key == "vif" else METRICS[key]
    close(value(maker(**kw), preds / 127.5 - 1, target / 127.5 - 1), expected, rtol=1e-5)


@EVERY
def test_mixed_sizes(key: str) -> None:
    sizes = [48, (50, 43), (50, 43), 48]
    pairs = [pair(1, size, seed) for seed, size in enumerate(sizes)]
    expected = [value(METRICS[key](), *p) for p in pairs]
    metric = METRICS[key]()
    metric.update([p[0] for p, _ in pairs], [t[0] for _, t in pairs], ids=range(4))
    close(metric.scores()[1], torch.stack(expected), rtol=2e-6)
    if key == "psnr":
        errors = [((p.double() - t.double()) / 255).square() for p, t in pairs]
        pooled = sum(e.sum() for e in errors) / sum(e.numel() for e in errors)
        close(metric.compute(), -10 * pooled.log10())
    else:
        close(metric.compute(), torch.stack(expected).mean(), rtol=2e-6)


@EVERY
@pytest.mark.parametrize("keep_scores", [True, False])
def test_batch_sizes(key: str, keep_scores: bool) -> None:
    preds, target = pair(16)
    whole, single = METRICS[key](keep_scores=keep_scores), METRICS[key](keep_scores=keep_scores)
    whole.update(preds, target, ids=range(16))
    for i in reversed(range(16)):
        single.update(preds[[i]], target[[i]], ids=[i])
    single.update(preds[:1], target[:1], ids=[0])  # seen before
    ours, theirs = whole.result(), single.result()
    assert (ours.n, theirs.n) == (16, 16)
    assert theirs.value == pytest.approx(ours.value, rel=1e-6)
    assert theirs.interval == pytest.approx(ours.interval, rel=1e-5)
    if keep_scores:
        close(single.scores()[1], whole.scores()[1])
        assert ours.details["lowest_id"] == theirs.details["lowest_id"] == whole.scores()[1].argmin()


@EVERY
def test_suites_measure_8_bit_images(key: str) -> None:
    preds, target = pair(4)
    suite = MetricSuite({"m": METRICS[key](), "again": METRICS[key]()})
    suite.update(preds / 255 + 0.001, target=target / 255 - 0.001, ids=range(4))
    found = suite.results()
    close(torch.tensor(found["m"].value), value(METRICS[key](), preds, target), rtol=2e-6)
    assert found["m"].value == found["again"].value


# Options


def test_luma_and_border_as_super_resolution_papers() -> None:
    preds, target = pair(3)
    y = [rgb2ycbcr(x.numpy(), channel_axis=1)[:, 0, 4:-4, 4:-4] for x in (preds, target)]
    psnr = [peak_signal_noise_ratio(b, a, data_range=255) for a, b in zip(*y, strict=True)]
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "full": True}
    ssim = [structural_similarity(b, a, **window)[1][5:-5, 5:-5].mean() for a, b in zip(*y, strict=True)]
    options: dict[str, Any] = {"channel": "y", "crop_border": 4}
    for images, kw in (((preds, target), {}), ((preds / 127.5 - 1, target / 127.5 - 1), {"data_range": (-1.0, 1.0)})):
        found = value(PeakSignalNoiseRatio(dim=(1, 2, 3), **options, **kw), *images)
        assert found.item() == pytest.approx(np.mean(psnr), rel=1e-5)
        found = value(StructuralSimilarityIndexMeasure(window="valid", **options, **kw), *images)
        assert found.item() == pytest.approx(np.mean(ssim), rel=1e-5)


def test_valid_windows_as_pytorch_msssim() -> None:
    preds, target = (x.double() / 255 for x in pair(2, (165, 170)))
    for ours, theirs in (
        (StructuralSimilarityIndexMeasure, pytorch_msssim.ssim),
        (MultiScaleStructuralSimilarityIndexMeasure, pytorch_msssim.ms_ssim),
    ):
        expected = theirs(preds, target, data_range=1.0, size_average=True)
        close(value(ours(data_range=1.0, window="valid"), preds, target), expected, rtol=1e-5)


def test_signatures_name_what_changes_the_number() -> None:
    base = StructuralSimilarityIndexMeasure().signature()
    for same in (StructuralSimilarityIndexMeasure(data_range=r) for r in (1.0, 255.0, (0.0, 1.0))):
        base.require_like(same.signature())
    for kw in (
        {"window": "valid"},
        {"channel": "y"},
        {"crop_border": 1},
        {"sigma": 1.0},
        {"k1": 0.1},
        {"data_range": (0.1, 1.0)},
    ):
        with pytest.raises(SignatureMismatch, match="against"):
            base.require_like(StructuralSimilarityIndexMeasure(**kw).signature())
    with pytest.raises(SignatureMismatch, match=r"dim: all against 1\+2\+3"):
        PeakSignalNoiseRatio().signature().require_like(PeakSignalNoiseRatio(dim=(1, 2, 3)).signature())


def test_full_images_follow_the_scores() -> None:
    """Ordered by id, each once; a list where sizes differ."""
    preds, target = pair(3)
    each = [value(StructuralSimilarityIndexMeasure(return_full_image=True), preds[[i]], target[[i]]) for i in range(3)]
    metric = StructuralSimilarityIndexMeasure(return_full_image=True, reduction="none")
    metric.update(preds[[2, 0]], target[[2, 0]], ids=[2, 0])
    metric.update(preds[[0, 1]], target[[0, 1]], ids=[0, 1])
    scores, maps = metric.compute()
    assert maps.shape == (3, 3, 48, 48)
    close(maps, torch.cat([x for _, x in each]))
    close(maps.mean((1, 2, 3)), scores)
    metric.update(*pair(1, 40), ids=[9])
    assert [x.shape[-1] for x in metric.compute()[1]] == [48, 48, 48, 40]
    metric.plot()
    assert metric.result().n == 4
    suite = MetricSuite({"ssim": StructuralSimilarityIndexMeasure(return_full_image=True)})
    suite.update(preds, target=target)
    close(suite["ssim"].compute()[1], maps)


# Pairs without a score


@pytest.mark.parametrize("keep_scores", [True, False])
def test_exact_images_have_infinite_psnr(keep_scores: bool) -> None:
    preds, target = pair(4)
    preds[1] = target[1]
    rest = [0, 2, 3]
    finite = PeakSignalNoiseRatio(dim=(1, 2, 3), keep_scores=keep_scores)
    finite.update(preds[rest], target[rest], ids=rest)
    metric = PeakSignalNoiseRatio(dim=(1, 2, 3), keep_scores=keep_scores)
    metric.update(preds, target, ids=range(4))
    result = metric.result()
    assert (result.value, result.n, result.interval) == (math.inf, 4, None)
    assert result.details["n_infinite"] == 1
    assert result.details["finite_mean"] == pytest.approx(finite.compute().item(), rel=1e-12)
    assert not any(math.isnan(x) for x in result.details.values())
    if keep_scores:
        assert metric.scores()[1].isinf().tolist() == [False, True, False, False]
        assert {k: result.details[k] for k in ("p05", "median", "lowest_id")} == {
            k: finite.result().details[k] for k in ("p05", "median", "lowest_id")
        }
    assert type(result).from_json(result.to_json()) == result
    metric.reset()
    metric.update(target, target)
    assert metric.compute() == math.inf
    assert metric.result().details["n_infinite"] == 4


def test_pooled_psnr_of_exact_images() -> None:
    preds, target = pair(4)
    preds[1] = target[1]
    metric = PeakSignalNoiseRatio()
    metric.update(preds, target)
    result = metric.result()
    assert result.value == pytest.approx(peak_signal_noise_ratio(target.numpy(), preds.numpy()), rel=1e-6)
    assert result.details["mean_of_images"] == math.inf
    assert result.details["n_infinite"] == 1
    assert result.interval is not None
    metric.reset()
    metric.update(target, target)
    assert metric.result().value == math.inf
    assert metric.result().interval is None


@pytest.mark.parametrize("keep_scores", [True, False])
def test_error_of_the_pooled_psnr(keep_scores: bool) -> None:
    """The delta method against a jackknife over images of unlike sizes."""
    pairs = [pair(1, 30 + i % 3, seed=i, noise=0.05 + 0.001 * i) for i in range(60)]
    metric = PeakSignalNoiseRatio(keep_scores=keep_scores)
    metric.update([p[0] for p, _ in pairs], [t[0] for _, t in pairs])
    errors = np.array([((p.double() - t.double()) / 255).square().sum() for p, t in pairs])
    sizes = np.array([p.numel() for p, _ in pairs])
    leave = -10 * np.log10((errors.sum() - errors) / (sizes.sum() - sizes))
    jackknife = np.sqrt(59 / 60 * ((leave - leave.mean()) ** 2).sum())
    result = metric.result()
    assert result.value == pytest.approx(-10 * np.log10(errors.sum() / sizes.sum()), rel=1e-6)
    assert result.details["standard_error"] == pytest.approx(jackknife, rel=0.03)
    each = -10 * np.log10(errors / sizes)
    assert result.details["mean_of_images"] == pytest.approx(each.mean(), rel=1e-6)


@pytest.mark.parametrize("keep_scores", [True, False])
def test_flat_targets_have_no_vif(keep_scores: bool) -> None:
    preds, target = pair(5)
    target[3] = 100
    rest = [0, 1, 2, 4]
    plain = VisualInformationFidelity(keep_scores=keep_scores)
    plain.update(preds[rest], target[rest])
    metric = VisualInformationFidelity(keep_scores=keep_scores)
    metric.update(preds, target, ids=range(5))
    found, expected = metric.result(), plain.result()
    assert (found.n, found.details["n_flat"]) == (4, 1)
    assert (expected.n, expected.details["n_flat"]) == (4, 0)
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    assert found.interval == pytest.approx(expected.interval, rel=1e-9)
    if keep_scores:
        assert metric.scores()[1].isnan().tolist() == [False, False, False, True, False]
        every = VisualInformationFidelity(reduction="none")
        assert value(every, preds, target).isnan().tolist() == [False, False, False, True, False]
    metric.reset()
    metric.update(preds[3:4], target[3:4])
    with pytest.raises(NotEnoughSamples, match="the targets of all 1 pairs are flat"):
        metric.compute()


# Ranks


class Maps(nn.Module):
    """Feature maps in float64."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.conv = nn.Conv2d(3, 4, 3).double()

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x.double()).relu()]


def made(key: str, weights: str) -> Any:
    if key == "lpips":
        return LearnedPerceptualImagePatchSimilarity(Maps())
    if key == "dists":
        return DeepImageStructureAndTextureSimilarity(weights=weights)
    if key == "rfid":
        return ReconstructionFrechetDistance(TinyNet())
    if key == "ssim maps":
        return StructuralSimilarityIndexMeasure(return_full_image=True, reduction="none")
    return METRICS[key]()


N = 7


def over_ranks(rank: int, size: int, keys: list[str], weights: str) -> dict[str, Any]:
    """Ragged shards with a duplicate; of three ranks the second has none."""
    torch.set_num_threads(1)
    rows = {1: [range(N)], 2: [range(5), range(5, N)], 3: [range(5), range(0), range(4, N)]}[size][rank]
    preds, target = pair(N)
    out = {}
    for key in keys:
        metric = made(key, weights)
        for part in (rows[:2], rows[2:]):
            if part:
                metric.update(preds[list(part)], target[list(part)], ids=list(part))
        out[key] = metric.compute()
        again = metric.compute()
        assert torch.equal(again[0], out[key][0]) if isinstance(again, tuple) else torch.equal(again, out[key])
    return out


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks(size: int, worlds: Worlds, lpips_weights: dict[str, str]) -> None:
    keys = [*METRICS, "lpips", "dists", "rfid", "ssim maps"]
    answers = worlds(size, over_ranks, keys, lpips_weights["vgg"])
    preds, target = pair(N)
    for key in keys:
        expected = value(made(key, lpips_weights["vgg"]), preds, target)
        for answer in answers:
            close(answer[key], expected, rtol=1e-5 if key in ("rfid", "dists") else 2e-6)
            same = (
                zip(answer[key], answers[0][key], strict=True)
                if key == "ssim maps"
                else [(answer[key], answers[0][key])]
            )
            assert all(torch.equal(x, y) for x, y in same)


# A metric within a module


def test_modules_that_hold_metrics_keep_their_state_dict(lpips_weights: dict[str, str]) -> None:
    module = nn.Linear(2, 2)
    before = list(module.state_dict())
    for key in (*METRICS, "lpips", "dists", "rfid", "ssim maps"):
        metric = made(key, lpips_weights["vgg"])
        setattr(module, key.replace(" ", "_"), metric)
        metric.update(*pair(2))
        metric.compute()
    assert list(module.state_dict()) == before
    assert len(list(module.parameters())) == 2


# Bad input


@EVERY
def test_unlike_sizes_and_numbers(key: str) -> None:
    preds, target = pair(3)
    metric = METRICS[key]()
    for a, b in ((preds, target[..., :47]), (preds, target[:2]), (list(preds), list(target)[:2])):
        with pytest.raises(ShapeError, match="`preds` and `target` must hold images of the same sizes"):
            metric.update(a, b)
    with pytest.raises(ShapeError, match="at least one image"):
        metric.update(preds[:0], target[:0])
    with pytest.raises(ValueRangeError, match="`target` must be finite"):
        metric.update(preds / 255, target / 255 * torch.nan)
    suite = MetricSuite({"m": METRICS[key]()})
    with pytest.raises(ShapeError, match="same sizes"):
        suite.update(preds, target=target[..., :47])
    with pytest.raises(ShapeError, match="`target` must hold one entry per image, got 2 for 3"):
        suite.update(preds, target=target[:2])
    assert metric.streams.untouched
    assert suite["m"].streams.untouched


@pytest.mark.parametrize(
    ("metric", "least"),
    [
        (StructuralSimilarityIndexMeasure, 6),
        (lambda: StructuralSimilarityIndexMeasure(window="valid"), 11),
        (MultiScaleStructuralSimilarityIndexMeasure, 176),
        (lambda: MultiScaleStructuralSimilarityIndexMeasure(window="valid"), 161),
        (VisualInformationFidelity, 41),
    ],
)
def test_images_smaller_than_the_window(metric: Metric, least: int) -> None:
    assert value(metric(), *pair(1, least)).isfinite()
    with pytest.raises(ShapeError, match=f"`preds` must be at least {least} x {least} pixels"):
        metric().update(*pair(1, least - 1))


def test_numbers_that_are_not_what_they_are_declared_as() -> None:
    preds, target = pair(2)
    with pytest.raises(ValueRangeError, match=r"`preds` is uint8 and measured on \[0, 1\]; `data_range` says 10"):
        PeakSignalNoiseRatio(10).update(preds, target)
    with pytest.raises(ValueRangeError, match=r"`target` must lie in \[0, 1\]|float `target` must lie in \[0, 1\]"):
        PeakSignalNoiseRatio().update(preds, target.float())
    with pytest.raises(ValueRangeError, match="`preds` must be finite, got NaN or infinity"):
        PeakSignalNoiseRatio(1.0).update(preds / 0.0, target.float())
    with pytest.raises(ShapeError, match="`target` must have the shape of `preds`"):
        PeakSignalNoiseRatio(1.0).update(preds.float(), target.float()[:1])
    with pytest.raises(ShapeError, match="at least one image"):
        PeakSignalNoiseRatio(1.0).update(preds.float()[:0], target.float()[:0])
    with pytest.raises(ValueRangeError, match=r"float `preds` must lie in \[0, 255\]; declare value_range=\(0, 1\)"):
        VisualInformationFidelity().update(preds / 255, target / 255)
    with pytest.raises(ShapeError, match="`crop_border` of 24 pixels leaves nothing"):
        MeanSquaredError(crop_border=24).update(preds, target)
    with pytest.raises(ShapeError, match="`images`"):
        PeakSignalNoiseRatio(1.0, channel="y").update(preds[:, :2].float(), target[:, :2].float())
    with pytest.raises(ShapeError, match=r"`dim` must name axes of an image of shape \(2, 3, 48, 48\), got \(4,\)"):
        PeakSignalNoiseRatio(dim=4).update(preds, target)
    with pytest.raises(ShapeError, match="`dim` must name axes of an image"):
        PeakSignalNoiseRatio(dim=(1, -4)).update(preds, target)
    with pytest.raises(ValueError, match="`reduction` 'none' needs all axes of an image in `dim`"):
        PeakSignalNoiseRatio(dim=(2, 3), reduction="none").update(preds, target)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PeakSignalNoiseRatio(1.0, base=1), ValueRangeError, "`base` must be above 1, got 1"),
        (lambda: PeakSignalNoiseRatio(1.0, dim=0), ValueError, "`dim` must name axes of an image, which begin at 1"),
        (lambda: PeakSignalNoiseRatio(1.0, dim=()), ValueError, "`dim` must name axes of an image"),
        (lambda: PeakSignalNoiseRatio(1.0, dim=1, reduction="mean"), UnknownName, "`reduction` must be one of 'elem"),
        (lambda: PeakSignalNoiseRatio(0), ValueRangeError, "`data_range` must be positive, got 0"),
        (lambda: PeakSignalNoiseRatio((1.0, 0.0)), ValueRangeError, "`data_range` must be positive"),
        (lambda: MeanSquaredError(channel="l"), UnknownName, "`channel` must be one of 'rgb', 'y'; got 'l'"),
        (lambda: MeanSquaredError(crop_border=-1), ValueRangeError, "`crop_border` must be a number of pixels, got -1"),
        (lambda: MeanSquaredError(crop_border=1.5), ValueRangeError, "`crop_border` must be a number of pixels"),
        (lambda: StructuralSimilarityIndexMeasure(window="same"), UnknownName, "`window` must be one of 'padded', 'v"),
        (
            lambda: StructuralSimilarityIndexMeasure(return_full_image=True, return_contrast_sensitivity=True),
            ValueError,
            "mutually exclusive",
        ),
        (lambda: MultiScaleStructuralSimilarityIndexMeasure(kernel_size=1.5), ValueError, "`kernel_size` must be an"),
        (lambda: MultiScaleStructuralSimilarityIndexMeasure(kernel_size=(3, 3, 3, 3)), ValueError, "`kernel_size`"),
        (lambda: MultiScaleStructuralSimilarityIndexMeasure(betas=[0.5, 0.5]), ValueError, "`betas` must be a tuple"),
        (lambda: MultiScaleStructuralSimilarityIndexMeasure(betas=()), ValueError, "`betas` must be a tuple"),
        (lambda: MultiScaleStructuralSimilarityIndexMeasure(normalize="max"), UnknownName, "`normalize` must be one"),
        (lambda: VisualInformationFidelity(-1), ValueRangeError, "`sigma_n_sq` must be positive"),
        (lambda: VisualInformationFidelity(reduction="sum"), UnknownName, "`reduction` must be one of 'mean', 'none'"),
    ],
)
def test_bad_arguments(make: Metric, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
    assert issubclass(error, ValueError)


def test_a_reduction_without_effect_is_told() -> None:
    with pytest.warns(UserWarning, match="The `reduction=none` will not have any effect when `dim` is None"):
        metric = PeakSignalNoiseRatio(1.0, reduction="none")
    preds, target = pair(2)
    close(value(metric, preds, target), value(PeakSignalNoiseRatio(1.0), preds, target))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PeakSignalNoiseRatio(1.0, reduction="none", dim=(1, 2, 3))


# rFID


def test_rfid_is_the_distance_to_the_originals() -> None:
    preds, target = pair(12)
    plain = FrechetDistance(TinyNet())
    plain.update(preds, real=False)
    plain.update(target, real=True)
    expected = plain.compute()
    metric = ReconstructionFrechetDistance(TinyNet())
    metric.update(preds[:5], target[:5], ids=range(5))
    metric.update(list(preds[4:]), list(target[4:]), ids=range(4, 12))
    close(metric.compute(), expected, rtol=1e-5)
    assert metric.result().n == 12
    assert "metric:rfid" in metric.result().signature
    again = [torch.cat([x, x[:4]]) for x in (preds, target)]
    close(metric(preds[:4], target[:4]), _distance(*again), rtol=1e-5)  # of all so far, as FID's
    metric.reset()
    assert metric.streams.untouched


def _distance(preds: Tensor, target: Tensor) -> Tensor:
    metric = FrechetDistance(TinyNet())
    metric.update(preds, real=False)
    metric.update(target, real=True)
    return metric.compute()


class Counted(TinyNet):
    """Counts the images that it sees."""

    seen = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).seen += len(x)
        return super().forward(x)


def test_rfid_beside_fid_in_a_suite() -> None:
    """One pass over images and targets; the reference of FID is another set, and stays."""
    network = Counted()
    preds, target = pair(10)
    reference = random_images(20, 48, 7)
    suite = MetricSuite({"fid": FrechetDistance(network), "rfid": ReconstructionFrechetDistance(network)})
    suite.update(reference, real=True)
    Counted.seen = 0
    suite.update(preds[:6], target=target[:6])
    suite.update(preds[6:], target=target[6:])
    assert Counted.seen == 20
    found = suite.compute()
    close(found["rfid"], _distance(preds, target), rtol=1e-5)
    close(found["fid"], _distance(preds, reference), rtol=1e-5)
    assert ReferenceStatistics.of(suite.named().values()).n == 20
    suite.reset_generated()
    assert suite["rfid"].streams.untouched
    suite.update(preds[:4], target=target[:4])
    close(suite.compute()["rfid"], _distance(preds[:4], target[:4]), rtol=1e-5)
    with pytest.raises(TypeError, match="metric 'rfid' needs `target=`"):
        suite.update(preds)


def test_rfid_refuses() -> None:
    preds, target = pair(3)
    metric = ReconstructionFrechetDistance(TinyNet())
    with pytest.raises(ShapeError, match="`target` must hold one entry per image, got 2 for 3 images"):
        metric.update(preds, target[:2])
    metric.update(preds[:1], target[:1])
    with pytest.raises(NotEnoughSamples, match="rfid has 1 samples and needs 2"):
        metric.compute()
    with pytest.raises(ValueError, match="Unexpected keyword arguments: `groups`"):
        ReconstructionFrechetDistance(TinyNet(), groups=4)
