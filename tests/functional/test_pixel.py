"""Pixel distances against their definitions, scikit-image and torchmetrics; luma against published values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr

from lightning_imgmetrics.errors import ShapeError, ValueRangeError
from lightning_imgmetrics.functional.pixel import mse, psnr, studio_luma


def pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, noise = (torch.rand(*shape, dtype=torch.float64, generator=generator) for _ in range(2))
    return x, (x + 0.2 * noise).clamp(max=1)


@pytest.mark.parametrize(
    ("rgb", "y"),
    [((0, 0, 0), 16), ((1, 1, 1), 235), ((1, 0, 0), 81.481), ((0, 1, 0), 144.553), ((0, 0, 1), 40.966)],
)
def test_luma_of_the_corners_of_rgb(rgb: tuple[int, int, int], y: float) -> None:
    images = torch.tensor(rgb, dtype=torch.float64)[None, :, None, None].expand(2, 3, 4, 5)
    found = studio_luma(images)
    assert found.shape == (2, 1, 4, 5)
    torch.testing.assert_close(found, torch.full_like(found, y / 255), rtol=1e-14, atol=0)


def test_luma_as_scikit_image() -> None:
    images = pair(3, 3, 7, 5)[0]
    expected = rgb2ycbcr(images.numpy(), channel_axis=1)[:, :1] / 255
    np.testing.assert_allclose(studio_luma(images).numpy(), expected, rtol=1e-14)
    assert studio_luma(images.half()).dtype == torch.float32


@pytest.mark.parametrize("shape", [(4, 3, 9, 7), (1, 1, 1, 1), (3, 2, 4, 5, 6), (5, 8)])
@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_one_value_per_image_as_scikit_image(shape: tuple[int, ...], data_range: float) -> None:
    preds, target = (data_range * x for x in pair(*shape))
    for ours, theirs, options in (
        (mse, mean_squared_error, {}),
        (psnr, peak_signal_noise_ratio, {"data_range": data_range}),
    ):
        expected = [theirs(y.numpy(), x.numpy(), **options) for x, y in zip(preds, target, strict=True)]
        found = ours(preds, target, **options)
        assert found.shape == (len(preds),)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("base", [10.0, 2.0, math.e])
def test_psnr_as_torchmetrics(base: float) -> None:
    preds, target = pair(4, 3, 8, 8)
    theirs = torchmetrics_psnr(preds, target, data_range=2.0, base=base, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr(preds, target, data_range=2.0, base=base), theirs, rtol=1e-6, atol=0)


def test_constant_offsets() -> None:
    """An offset of a tenth of the range is 20 dB, of a thousandth 60 dB, of nothing infinite."""
    target = pair(3, 3, 6, 6)[0]
    preds = target + torch.tensor([0.1, 0.001, 0])[:, None, None, None]
    torch.testing.assert_close(mse(preds, target), torch.tensor([1e-2, 1e-6, 0]).double(), rtol=1e-6, atol=0)
    found = psnr(preds, target)
    assert found[:2].tolist() == pytest.approx([20, 60], abs=1e-5)
    assert found[2] == math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_types_are_widened(dtype: torch.dtype) -> None:
    preds, target = (x.to(dtype) for x in pair(2, 3, 64, 64))
    for function in (mse, psnr):
        found = function(preds, target)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), function(preds.double(), target.double()), rtol=1e-6, atol=0)
    assert mse(preds, target.double()).dtype == torch.float64


def test_batch_size_and_empty_batches() -> None:
    preds, target = (x.float() for x in pair(16, 3, 33, 31))
    for function in (mse, psnr):
        singles = torch.cat([function(preds[[i]], target[[i]]) for i in range(16)])
        torch.testing.assert_close(function(preds, target), singles, rtol=1e-6, atol=0)
        assert function(preds[:0], target[:0]).shape == (0,)


def test_refusals() -> None:
    x = torch.zeros(2, 3, 4, 4)
    for function in (mse, psnr):
        with pytest.raises(ShapeError, match=r"`target` must have the shape of `preds`, \(2, 3, 4, 4\), got \(2, 1"):
            function(x, x[:, :1])
        with pytest.raises(ShapeError, match=r"`preds` must be \(n, c, ...\)"):
            function(x[0, 0, 0], x[0, 0, 0])
        with pytest.raises(ShapeError, match="not empty"):
            function(x[..., :0], x[..., :0])
        with pytest.raises(ValueRangeError, match=r"`target` must be float, got torch.uint8"):
            function(x, x.byte())
    for data_range in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueRangeError, match="`data_range` must be positive"):
            psnr(x, x, data_range=data_range)
    with pytest.raises(ValueRangeError, match="`base` must be above 1, got 1"):
        psnr(x, x, base=1)
    with pytest.raises(ShapeError, match="`images`"):
        studio_luma(x[:, :1])
    with pytest.raises(ValueRangeError, match="`images` must be float"):
        studio_luma(x.byte())
