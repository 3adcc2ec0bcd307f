"""Sharpness, noise, light and color of images whose figures are known."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.signal import convolve2d
from torch import Tensor

from lightning_imgmetrics.errors import ShapeError, ValueRangeError
from lightning_imgmetrics.functional.photometry import (
    black,
    blank,
    clipped_fraction,
    colorfulness,
    contrast,
    exposure,
    luma,
    saturation,
)
from lightning_imgmetrics.functional.sharpness import laplacian_variance, noise_level, tenengrad

SHARPNESS = (laplacian_variance, tenengrad, noise_level)
PHOTOMETRY = (exposure, contrast, clipped_fraction, saturation, colorfulness, blank, black)
BT601 = np.array([0.299, 0.587, 0.114])


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def grey(y: Tensor) -> Tensor:
    """Images (n, 3, h, w) with luma (n, h, w)."""
    return y[:, None].expand(-1, 3, -1, -1)


def flat(*color: float, size: int = 8) -> Tensor:
    return torch.tensor(color, dtype=torch.float64)[None, :, None, None].expand(1, 3, size, size)


def checkerboard(size: int = 8) -> Tensor:
    i = torch.arange(size)
    return grey(((i[:, None] + i) % 2).double()[None])


def lumas(images: Tensor) -> list[np.ndarray]:
    return [np.einsum("c,chw->hw", BT601, x) for x in images.numpy()]


@pytest.mark.parametrize("level", [0.0, 0.1, 1 / 3, 77 / 255, 1.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_constant_image_has_no_edge_no_noise_no_contrast_no_color(level: float, dtype: torch.dtype) -> None:
    images = torch.full((2, 3, 9, 7), level, dtype=dtype)
    for function in (*SHARPNESS, saturation, colorfulness):
        assert function(images).tolist() == [0, 0]
    assert contrast(images).tolist() == pytest.approx([0, 0], abs=1e-7)  # the mean of equal numbers rounds
    assert torch.equal(luma(images), images[:, 0].to(torch.promote_types(dtype, torch.float32)))
    assert exposure(images).tolist() == pytest.approx([float(images[0, 0, 0, 0])] * 2, rel=1e-6)
    assert blank(images).all()


def test_a_checkerboard() -> None:
    """Every inner Laplacian is 4 or -4; opposite neighbors are equal, so there is no Sobel gradient."""
    board = checkerboard()
    assert float(laplacian_variance(board)) == 16
    assert float(tenengrad(board)) == 0
    assert float(noise_level(board)) == pytest.approx(16 * math.sqrt(math.pi / 2) / 12, rel=1e-12)  # |N * I| is 8
    assert (float(exposure(board)), float(contrast(board)), float(clipped_fraction(board))) == (0.5, 0.5, 1)


@pytest.mark.parametrize(("down", "across"), [(0.01, 0.0), (0.0, 0.02), (0.02, -0.01)])
def test_a_linear_ramp(down: float, across: float) -> None:
    i, j = torch.arange(12.0).double()[:, None], torch.arange(20.0).double()
    images = grey((0.4 + down * i + across * j)[None])
    assert float(laplacian_variance(images)) == pytest.approx(0, abs=1e-28)
    assert float(noise_level(images)) == pytest.approx(0, abs=1e-14)
    assert float(tenengrad(images)) == pytest.approx(64 * (down**2 + across**2), rel=1e-10)
    variance = down**2 * (12**2 - 1) / 12 + across**2 * (20**2 - 1) / 12
    assert float(contrast(images)) == pytest.approx(math.sqrt(variance), rel=1e-10)


def test_filters_are_the_textbook_convolutions() -> None:
    images = rand(3, 3, 10, 14)
    inner = (slice(1, -1), slice(1, -1))
    laplacians = [ndimage.laplace(y)[inner].var() for y in lumas(images)]
    sobels = [(ndimage.sobel(y, 0)[inner] ** 2 + ndimage.sobel(y, 1)[inner] ** 2).mean() for y in lumas(images)]
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    total = [np.abs(convolve2d(y, kernel, mode="valid")).sum() for y in lumas(images)]
    noise = [math.sqrt(math.pi / 2) / (6 * (14 - 2) * (10 - 2)) * t for t in total]
    assert laplacian_variance(images).tolist() == pytest.approx(laplacians, rel=1e-12)
    assert tenengrad(images).tolist() == pytest.approx(sobels, rel=1e-12)
    assert noise_level(images).tolist() == pytest.approx(noise, rel=1e-12)


def test_figures_of_scikit_image() -> None:
    filters = pytest.importorskip("skimage.filters")
    color = pytest.importorskip("skimage.color")
    images = rand(2, 3, 9, 11)
    inner = (slice(1, -1), slice(1, -1))
    assert laplacian_variance(images).tolist() == pytest.approx(
        [filters.laplace(y)[inner].var() for y in lumas(images)], rel=1e-12
    )
    # Its Sobel kernels are divided by 4, its magnitude by the root of 2.
    expected = [32 * (filters.sobel(y)[inner] ** 2).mean() for y in lumas(images)]
    assert tenengrad(images).tolist() == pytest.approx(expected, rel=1e-12)
    hsv = color.rgb2hsv(images.permute(0, 2, 3, 1).numpy())
    assert saturation(images).tolist() == pytest.approx(hsv[..., 1].mean((1, 2)).tolist(), rel=1e-12)


@pytest.mark.parametrize("sigma", [0.003, 0.02, 0.08])
def test_noise_of_known_strength_is_found(sigma: float) -> None:
    """Within 4 standard errors, each 0.006 of sigma: the spread over 200 such images."""
    noise = torch.randn(1, 3, 256, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    same = 0.5 + sigma * noise[:, :1].expand(-1, 3, -1, -1)
    assert float(noise_level(same)) == pytest.approx(sigma, rel=0.024)
    assert float(noise_level(0.5 + sigma * noise)) == pytest.approx(sigma * np.linalg.norm(BT601), rel=0.024)


def test_blur_lowers_sharpness_and_noise() -> None:
    sharp = rand(1, 3, 32, 32)
    blurred = torch.nn.functional.avg_pool2d(sharp, 3, stride=1, padding=1, count_include_pad=False)
    for function in SHARPNESS:
        assert float(function(blurred)) < 0.5 * float(function(sharp))


@pytest.mark.parametrize("color", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.25, 0.75), (0.9, 0.9, 0.6), (0, 0, 0)])
def test_flat_colors(color: tuple[float, float, float]) -> None:
    images = flat(*color)
    red, green, blue = (255 * x for x in color)
    assert float(exposure(images)) == pytest.approx(float(BT601 @ color), abs=1e-15)
    assert float(saturation(images)) == pytest.approx(colorsys.rgb_to_hsv(*color)[1], abs=1e-15)
    assert float(colorfulness(images)) == pytest.approx(
        0.3 * math.hypot(red - green, (red + green) / 2 - blue), abs=1e-10
    )
    assert bool(blank(images))
    assert bool(black(images)) is (max(color) == 0)
    assert float(clipped_fraction(images)) == (max(color) == 0)


def test_saturation_is_that_of_each_pixel() -> None:
    images = rand(2, 3, 5, 6)
    pixels = images.permute(0, 2, 3, 1).flatten(1, 2).tolist()
    expected = [np.mean([colorsys.rgb_to_hsv(*p)[1] for p in image]) for image in pixels]
    assert saturation(images).tolist() == pytest.approx(expected, rel=1e-12)


def test_colorfulness_is_its_definition() -> None:
    images = rand(3, 3, 6, 7)
    expected = []
    for red, green, blue in 255 * images.numpy():
        rg, yb = red - green, 0.5 * (red + green) - blue
        expected.append(math.hypot(rg.std(), yb.std()) + 0.3 * math.hypot(rg.mean(), yb.mean()))
    assert colorfulness(images).tolist() == pytest.approx(expected, rel=1e-12)


def test_levels_of_8_bits_fall_on_their_side_in_every_precision() -> None:
    levels = torch.arange(256)
    for dtype in (torch.float32, torch.float64):
        images = grey((levels.to(dtype) / 255)[:, None, None].expand(-1, 2, 2))
        assert clipped_fraction(images).nonzero().flatten().tolist() == [0, 1, 254, 255]
        assert black(images).nonzero().flatten().tolist() == [0, 1, 2]
        for spread in (0, 1, 2, 3):
            low = levels[: 256 - spread].to(dtype) / 255
            high = levels[spread:].to(dtype) / 255
            assert blank(grey(torch.stack([low, high], 1)[:, None])).unique().tolist() == [spread <= 2]


def test_black_and_blank_are_of_every_pixel() -> None:
    images = torch.zeros(3, 3, 4, 4)
    images[1, 2, 3, 3] = 4 / 255  # a blue too dark to show in luma
    images[2, :, 0, 0] = 0.5
    assert black(images).tolist() == [True, False, False]
    assert blank(images).tolist() == [True, True, False]
    assert black(images).dtype == blank(images).dtype == torch.bool
    assert clipped_fraction(images).tolist() == [1, 1, 15 / 16]


@pytest.mark.parametrize("function", [*SHARPNESS, *PHOTOMETRY])
def test_each_image_is_scored_alone(function: Callable[[Tensor], Tensor]) -> None:
    images = rand(4, 3, 7, 5).float()
    together = function(images)
    assert together.shape == (4,)
    alone = torch.cat([function(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=0)
    assert function(images[:0]).shape == (0,)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(function(images), together)


def test_half_precision_is_widened() -> None:
    images = rand(1, 3, 16, 16).half()
    for function in (*SHARPNESS, exposure, contrast, saturation, colorfulness):
        assert function(images).dtype == torch.float32
        assert float(function(images)) == pytest.approx(float(function(images.double())), rel=1e-5)


@pytest.mark.parametrize("function", [*SHARPNESS, *PHOTOMETRY])
def test_refusals(function: Callable[[Tensor], Tensor]) -> None:
    for shape in ((1, 1, 8, 8), (3, 8, 8), (1, 8, 8, 3), (1, 3, 0, 8)):
        with pytest.raises(ShapeError, match="`images`"):
            function(torch.zeros(shape))
    with pytest.raises(ValueRangeError, match=r"`images`.*uint8"):
        function(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("function", SHARPNESS)
def test_an_image_smaller_than_the_filter(function: Callable[[Tensor], Tensor]) -> None:
    assert function(torch.zeros(1, 3, 3, 3)).tolist() == [0]
    for shape in ((1, 3, 2, 8), (1, 3, 8, 2)):
        with pytest.raises(ShapeError, match="`images` must be at least 3 x 3"):
            function(torch.zeros(shape))
