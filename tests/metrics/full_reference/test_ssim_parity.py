"""SSIM, MS-SSIM and VIF against torchmetrics, scikit-image, pytorch_msssim and their definitions in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import pytorch_msssim
import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure as torchmetrics_ms_ssim,
    structural_similarity_index_measure as torchmetrics_ssim,
    visual_information_fidelity as torchmetrics_vif,
)

from lightning_imgmetrics.errors import ShapeError, UnknownName, ValueRangeError
from lightning_imgmetrics.functional.structural_similarity import ms_ssim, ssim, ssim_maps
from lightning_imgmetrics.functional.visual_information import vif

SHAPES = [(2, 3, 33, 47), (3, 1, 12, 11), (1, 3, 64, 64), (2, 2, 12, 15, 13)]
UNIFORM = {"gaussian_kernel": False, "kernel_size": 5}


def pair(*shape: int, seed: int = 0, noise: float = 0.2) -> tuple[Tensor, Tensor]:
    """Smooth images with grain, float64 in [0, 1], and noisy copies of unlike brightness and contrast."""
    g = torch.Generator().manual_seed(seed)
    mode = "trilinear" if len(shape) == 5 else "bilinear"
    coarse = torch.rand(*shape[:2], *[5] * (len(shape) - 2), dtype=torch.float64, generator=g)
    target = 0.8 * torch.nn.functional.interpolate(coarse, shape[2:], mode=mode)
    target = target + 0.2 * torch.rand(shape, dtype=torch.float64, generator=g)
    preds = 0.9 * target + 0.05 + noise * torch.randn(shape, dtype=torch.float64, generator=g)
    return preds.clamp(0, 1), target


def gaussian(size: int, sigma: float) -> np.ndarray:
    taps = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    return taps / taps.sum()


def close(found: Tensor, expected: Any, tolerance: float = 1e-11) -> None:
    np.testing.assert_allclose(found.numpy(), np.asarray(expected), rtol=0, atol=tolerance)


def definition(x: np.ndarray, y: np.ndarray, weights: np.ndarray, padded: bool) -> float:
    """SSIM of one channel, window by window, from weighted means, variances and covariances."""
    if padded:
        x, y = (np.pad(z, [(k // 2, k // 2) for k in weights.shape], mode="reflect") for z in (x, y))
    values = []
    for i in np.ndindex(*(side - k + 1 for side, k in zip(x.shape, weights.shape, strict=True))):
        window = tuple(slice(start, start + k) for start, k in zip(i, weights.shape, strict=True))
        a, b = x[window], y[window]
        mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
        var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
        cov = (weights * (a - mean_a) * (b - mean_b)).sum()
        luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        values.append(luminance * (2 * cov + 9e-4) / (var_a + var_b + 9e-4))
    return float(np.mean(values))


@pytest.mark.parametrize("window", ["padded", "valid"])
@pytest.mark.parametrize("shape", [(2, 1, 14, 17), (1, 2, 11, 12, 13)])
def test_definition(window: str, shape: tuple[int, ...]) -> None:
    preds, target = pair(*shape)
    taps = gaussian(11, 1.5)
    weights = taps
    for _ in shape[3:]:
        weights = np.multiply.outer(weights, taps)
    expected = [
        np.mean([definition(x, y, weights, window == "padded") for x, y in zip(a, b, strict=True)])
        for a, b in zip(preds.numpy(), target.numpy(), strict=True)
    ]
    close(ssim(preds, target, window=window), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        UNIFORM,
        {"sigma": 0.8},
        {"sigma": [0.8, 1.2, 1.0]},
        {"gaussian_kernel": False, "kernel_size": [3, 5, 7]},
        {"sigma": 1.1, "kernel_size": 9, "k1": 0.05, "k2": 0.1},
    ],
    ids=str,
)
def test_padded_is_torchmetrics(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    """The value and both maps, in each range; anisotropic windows too, which torchmetrics pads oddly in volumes."""
    axes = len(shape) - 2
    options = {key: value[:axes] if isinstance(value, list) else value for key, value in options.items()}
    for data_range in (1.0, 255.0):
        preds, target = (data_range * x for x in pair(*shape))
        both = {"data_range": data_range, **options}
        value, image = torchmetrics_ssim(preds, target, reduction="none", return_full_image=True, **both)
        _, contrast = torchmetrics_ssim(preds, target, reduction="none", return_contrast_sensitivity=True, **both)
        close(ssim(preds, target, **both), value)
        found, inner = ssim_maps(preds, target, **both)
        close(found, image)
        close(inner.flatten(1).mean(1), contrast)


def test_padded_images_smaller_than_the_window() -> None:
    """Reflection needs half a window; no position is free of it, so the map of the contrast term is empty."""
    preds, target = pair(2, 3, 6, 8)
    close(ssim(preds, target), torchmetrics_ssim(preds, target, data_range=1.0, reduction="none"))
    assert ssim_maps(preds, target)[1].shape == (2, 3, 0, 0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("data_range", [1.0, 255.0])
@pytest.mark.parametrize("gauss", [True, False])
def test_valid_is_scikit_image(shape: tuple[int, ...], data_range: float, gauss: bool) -> None:
    preds, target = (data_range * x for x in pair(*shape))
    theirs = {"gaussian_weights": True, "sigma": 1.5} if gauss else {"win_size": 7}
    ours = {} if gauss else {"gaussian_kernel": False, "kernel_size": 7}
    theirs |= {"use_sample_covariance": False, "channel_axis": 0, "data_range": data_range}
    expected = [structural_similarity(x, y, **theirs) for x, y in zip(preds.numpy(), target.numpy(), strict=True)]
    close(ssim(preds, target, window="valid", data_range=data_range, **ours), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("size", "sigma"), [(11, 1.5), (7, 1.0)])
def test_valid_is_pytorch_msssim(shape: tuple[int, ...], size: int, sigma: float) -> None:
    preds, target = pair(*shape)
    win = torch.tensor(gaussian(size, sigma)).expand(shape[1], *[1] * (len(shape) - 2), size)
    exact = pytorch_msssim.ssim(preds, target, data_range=1.0, size_average=False, win=win)
    found = ssim(preds, target, window="valid", kernel_size=size, sigma=sigma)
    close(found, exact)
    # Its own window is rounded to float32.
    own = pytorch_msssim.ssim(preds, target, 1.0, size_average=False, win_size=size, win_sigma=sigma)
    close(found, own, 1e-6)


@pytest.mark.parametrize("window", ["padded", "valid"])
@pytest.mark.parametrize(("size", "factor"), [((300, 383), 1), ((384, 500), 2), ((700, 650), 3)])
def test_downsampling_averages_blocks(window: str, size: tuple[int, int], factor: int) -> None:
    preds, target = pair(1, 1, *size)
    small = []
    for x in (preds, target):
        height, width = (side // factor for side in size)
        cut = x[..., : height * factor, : width * factor]
        small.append(cut.reshape(1, 1, height, factor, width, factor).mean((3, 5)))
    expected = (
        torchmetrics_ssim(*small, data_range=1.0, reduction="none")
        if window == "padded"
        else [structural_similarity(*(x[0, 0].numpy() for x in small), data_range=1, gaussian_weights=True,
                                    use_sample_covariance=False)]
    )  # fmt: skip
    close(ssim(preds, target, window=window, downsample=True), expected)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 3, 181, 176), {}),
        ((1, 1, 200, 333), {"normalize": "simple"}),
        ((2, 3, 65, 64), {"betas": (0.2, 0.3, 0.5), "normalize": None}),
        ((2, 1, 33, 35), {"betas": (0.5, 0.5), **UNIFORM}),
        ((1, 2, 25, 27, 24), {"betas": (0.5, 0.5)}),
        ((1, 1, 11, 13), {"betas": (1.0,)}),
    ],
    ids=str,
)
def test_padded_multiscale_is_torchmetrics(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    for data_range in (1.0, 255.0):
        preds, target = (data_range * x for x in pair(*shape, noise=0.05))
        theirs = torchmetrics_ms_ssim(
            preds, target, reduction="none", data_range=data_range, **{"normalize": "relu", **options}
        )
        # Its exponents are rounded to float32.
        close(ms_ssim(preds, target, data_range=data_range, **options), theirs, 1e-7)


@pytest.mark.parametrize("shape", [(2, 3, 181, 176), (1, 1, 161, 333), (1, 2, 21, 161, 162)], ids=str)
@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_valid_multiscale_is_pytorch_msssim(shape: tuple[int, ...], noise: float) -> None:
    weights = [0.4, 0.6] if len(shape) == 5 else None
    preds, target = pair(*shape, noise=noise)
    win = torch.tensor(gaussian(11, 1.5)).expand(shape[1], *[1] * (len(shape) - 2), 11)
    theirs = pytorch_msssim.ms_ssim(preds, target, 1.0, size_average=False, win=win, weights=weights)
    options = {} if weights is None else {"betas": weights}
    close(ms_ssim(preds, target, window="valid", **options), theirs)


@pytest.mark.parametrize("window", ["padded", "valid"])
def test_negative_terms_are_zero_or_nan(window: str) -> None:
    target = pair(2, 1, 48, 48)[1]
    preds = 1 - target
    assert ms_ssim(preds, target, window=window, betas=(0.5, 0.5)).tolist() == [0, 0]
    assert ms_ssim(preds, target, window=window, betas=(0.5, 0.5), normalize=None).isnan().all()
    assert (ssim(preds, target, window=window) < 0).all()


@pytest.mark.parametrize("window", ["padded", "valid"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_equal_images_are_exactly_one(window: str, dtype: torch.dtype) -> None:
    x = pair(2, 3, 176, 177)[0].to(dtype)
    for function in (ssim, ms_ssim):
        assert function(x, x.clone(), window=window).tolist() == [1, 1]
    assert ssim(torch.full_like(x, 0.9), torch.full_like(x, 0.9), window=window).tolist() == [1, 1]
    assert vif(255 * x, 255 * x).tolist() == pytest.approx([1, 1], abs=1e-7)


@pytest.mark.parametrize("window", ["padded", "valid"])
@pytest.mark.parametrize("noise", [0, 5e-4, 0.01])
def test_flat_regions_keep_their_digits_in_float32(window: str, noise: float) -> None:
    """Bright flat regions, where E[x^2] - E[x]^2 in float32 costs torchmetrics up to 5e-4."""
    target = torch.full((2, 3, 64, 64), 0.9)
    target[..., 20:30, 20:30] = 0.1
    preds = (0.98 * target + noise * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    exact = ssim(preds.double(), target.double(), window=window)
    close(ssim(preds, target, window=window), exact, 3e-7)
    maps = ssim_maps(preds, target, window=window, gaussian_kernel=False, kernel_size=3, k2=1e-7)
    assert all((x.abs() <= 1).all() for x in maps)


def test_flat_regions_keep_their_digits_in_vif() -> None:
    target = torch.full((1, 3, 64, 64), 200.0)
    target[..., 20:30, 20:30] = 20
    preds = target + torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    exact = torchmetrics_vif(preds.double(), target.double(), reduction="none")
    close(vif(preds, target), exact, 1e-6)


def test_value_does_not_depend_on_the_batch() -> None:
    preds, target = (x.float() for x in pair(16, 3, 176, 176))
    for function, scale in ((ssim, 1), (ms_ssim, 1), (vif, 255)):
        whole = function(scale * preds, scale * target)
        singles = torch.cat([function(scale * preds[[i]], scale * target[[i]]) for i in (0, 7, 15)])
        close(whole[[0, 7, 15]], singles, 1e-6)
        assert function(preds[:0], target[:0]).shape == (0,)
        mixed = function(scale * preds[:2].double(), scale * target[:2])
        assert mixed.dtype == torch.float64
        close(mixed, whole[:2], 1e-6)


def test_autocast_changes_nothing() -> None:
    preds, target = (x.float() for x in pair(2, 3, 176, 176))
    for function, scale in ((ssim, 1), (ms_ssim, 1), (vif, 255)):
        expected = function(scale * preds, scale * target)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(function(scale * preds, scale * target), expected)


@pytest.mark.parametrize("shape", [(3, 3, 41, 41), (2, 1, 67, 50), (1, 3, 96, 128)], ids=str)
@pytest.mark.parametrize("sigma_n_sq", [2.0, 0.01])
def test_vif_is_torchmetrics(shape: tuple[int, ...], sigma_n_sq: float) -> None:
    preds, target = (255 * x for x in pair(*shape))
    theirs = torchmetrics_vif(preds, target, sigma_n_sq, reduction="none")
    close(vif(preds, target, sigma_n_sq=sigma_n_sq), theirs)
    stretched = 2 * (target - 128) + 128
    assert (vif(stretched, target) > 1).all()
    theirs = torchmetrics_vif(stretched, target, sigma_n_sq, reduction="none")
    close(vif(stretched, target, sigma_n_sq=sigma_n_sq), theirs, 3e-10)  # what a linear map leaves is rounding


@pytest.mark.parametrize("level", [0, 5.1, 77.7, 200.3, 254.9])
def test_vif_leaves_out_channels_without_information(level: float) -> None:
    preds, target = (255 * x for x in pair(2, 3, 48, 48))
    preds[0, 1] = target[0, 1] = level
    target[1] = level
    channels = torch.cat([torchmetrics_vif(preds[:1, [c]], target[:1, [c]], reduction="none") for c in (0, 2)])
    found = vif(preds, target)
    close(found[0], channels.mean())
    assert found[1].isnan()
    preds[0, 1, 3, 3] = math.nan
    assert vif(preds, target)[0].isnan()


@pytest.mark.parametrize(
    ("window", "betas", "side"),
    [
        ("padded", 5, 176),
        ("valid", 5, 161),
        ("padded", 3, 44),
        ("valid", 3, 41),
        ("padded", 2, 12),
        ("padded", 1, 11),
        ("valid", 1, 11),
    ],
)
def test_multiscale_names_the_true_smallest_side(window: str, betas: int, side: int) -> None:
    x, y = pair(1, 1, side, side, noise=0.01)
    exponents = (1 / betas,) * betas
    assert 0 < ms_ssim(x, y, window=window, betas=exponents) < 1
    with pytest.raises(ShapeError, match=f"`preds` must be at least {side} x {side} pixels"):
        ms_ssim(x[..., 1:], y[..., 1:], window=window, betas=exponents)
    if window == "padded":
        with pytest.raises((ValueError, RuntimeError)):
            torchmetrics_ms_ssim(x[..., 1:], y[..., 1:], data_range=1.0, betas=exponents)


@pytest.mark.parametrize("function", [ssim, ssim_maps, ms_ssim, vif])
def test_refused_images(function: Any) -> None:
    x = torch.zeros(2, 3, 176, 176)
    with pytest.raises(ShapeError, match=r"`target` must be \(n c h w\) with n = 2"):
        function(x, x[:1])
    with pytest.raises(ShapeError, match=r"`preds` must be \(n c h w\), got shape \(3, 176, 176\)"):
        function(x[0], x[0])
    with pytest.raises(ShapeError, match=r"`preds` must be at least .* got shape \(2, 3, 5, 176\)"):
        function(x[:, :, :5], x[:, :, :5])
    with pytest.raises(ValueRangeError, match=r"`preds` must be float, got torch.uint8"):
        function(x.byte(), x.byte())


@pytest.mark.parametrize("function", [ssim, ssim_maps, ms_ssim])
def test_refused_arguments(function: Any) -> None:
    x = torch.zeros(1, 1, 176, 176)
    with pytest.raises(UnknownName, match="`window` must be one of 'padded', 'valid'; got 'same'"):
        function(x, x, window="same")
    with pytest.raises(ShapeError, match=r"at least 11 x 11|at least 161 x 161"):
        function(x[..., :10], x[..., :10], window="valid")
    for options, error, match in (
        ({"data_range": 0}, ValueRangeError, "`data_range` must be positive"),
        ({"sigma": [1.5, 0]}, ValueRangeError, "`sigma` must be positive"),
        ({"sigma": [1.5]}, ShapeError, "`sigma` must be one number or 2"),
        ({"kernel_size": 8}, ValueRangeError, "`kernel_size` must be odd and positive, got 8"),
        ({"kernel_size": -3}, ValueRangeError, "`kernel_size`"),
        ({"kernel_size": [3, 3, 3]}, ShapeError, "`kernel_size` must be one number or 2"),
    ):
        with pytest.raises(error, match=match):
            function(x, x, **options)


def test_refused_exponents_and_noise() -> None:
    x = torch.zeros(1, 1, 176, 176)
    with pytest.raises(UnknownName, match="`normalize` must be one of 'relu', 'simple', None; got 'sigmoid'"):
        ms_ssim(x, x, normalize="sigmoid")
    with pytest.raises(ValueRangeError, match="`betas`"):
        ms_ssim(x, x, betas=())
    with pytest.raises(ShapeError, match="`preds` must be at least 41 x 41 pixels"):
        vif(x[..., :40], x[..., :40])
    with pytest.raises(ValueRangeError, match="`sigma_n_sq` must be positive"):
        vif(x, x, sigma_n_sq=0)
