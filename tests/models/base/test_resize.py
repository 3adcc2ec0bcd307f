"""Qwen2-VL's image sizes: published vectors, what the rule promises, and the distance to Pillow's pixels."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import random_images
from hypothesis import given, strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from transformers.models.qwen2_vl import image_processing_qwen2_vl as qwen

from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.models.base.resize import smart_resize, smart_resize_image

AREA = 256 * 28 * 28
SIDES = st.tuples(st.integers(1, 4000), st.integers(1, 4000)).filter(lambda s: max(s) <= 200 * min(s))
VECTORS = {
    (1024, 1024): (448, 448),
    (768, 512): (532, 364),
    (512, 768): (364, 532),
    (1024, 576): (588, 336),
    (1080, 1920): (336, 588),
    (256, 256): (448, 448),
    (333, 777): (280, 672),
}


def hpsv3(height: int, width: int) -> tuple[int, int]:
    return smart_resize(height, width, min_pixels=AREA, max_pixels=AREA)


@pytest.mark.parametrize(("size", "expected"), VECTORS.items())
def test_published_vectors(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert hpsv3(*size) == expected


@pytest.mark.parametrize(("side", "expected"), [(2, 28), (14, 28), (42, 56), (43, 56), (70, 56), (71, 84), (98, 112)])
def test_within_the_limits_sides_round_to_the_nearest_and_halves_to_even(side: int, expected: int) -> None:
    """42 / 28 = 1.5 and 70 / 28 = 2.5 both become 2, 98 / 28 = 3.5 becomes 4; no side vanishes."""
    assert smart_resize(side, 280, min_pixels=1, max_pixels=10**9) == (expected, 280)
    assert smart_resize(280, side, min_pixels=1, max_pixels=10**9) == (280, expected)


@given(SIDES)
def test_hpsv3_sizes_are_those_of_transformers(size: tuple[int, int]) -> None:
    assert hpsv3(*size) == qwen.smart_resize(*size, factor=28, min_pixels=AREA, max_pixels=AREA)


@given(SIDES, st.integers(1, 400), st.integers(1, 8))
def test_sides_and_area_keep_to_their_bounds(size: tuple[int, int], least: int, span: int) -> None:
    """Whole tokens: the nearest where their number is within limits; else at most the largest, at least the least."""
    rows, columns = (side / 28 for side in smart_resize(*size, min_pixels=least * 784, max_pixels=least * span * 784))
    assert rows == int(rows) >= 1
    assert columns == int(columns) >= 1
    nearest = [max(1, round(side / 28)) for side in size]
    if least <= math.prod(nearest) <= least * span:
        assert [rows, columns] == nearest
        return
    shrinks = math.prod(nearest) > least * span
    bound = least * span if shrinks else least
    exact = [math.sqrt(bound * side / other) for side, other in (size, size[::-1])]
    for side, wanted in zip((rows, columns), exact, strict=True):
        if shrinks:
            assert max(1, side) - 1e-9 <= max(1, wanted)
            assert side > wanted - 1 - 1e-9
        else:
            assert wanted - 1e-9 <= side < wanted + 1 + 1e-9
    assert shrinks or rows * columns >= least
    assert not shrinks or rows * columns <= bound or min(rows, columns) == 1


def test_the_factor_is_an_argument() -> None:
    assert smart_resize(100, 200, min_pixels=1, max_pixels=10**9, factor=32) == (96, 192)
    assert smart_resize(1000, 1000, min_pixels=1, max_pixels=64 * 64, factor=32) == (64, 64)


@pytest.mark.parametrize("size", [(10, 2001), (2001, 10), (1, 201), (0, 5), (0, 0)])
def test_slivers_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match=f"`images` must not be longer than 200 times .* got {size[0]} x {size[1]}"):
        hpsv3(*size)


def test_200_to_1_is_read() -> None:
    assert hpsv3(10, 2000) == (56, 6356)
    assert hpsv3(2000, 10) == (6356, 56)


def by_pillow(image: Tensor) -> Tensor:
    """Rows before columns, as published numbers were made; asked at once, Pillow 13 may begin with the columns."""
    height, width = hpsv3(*image.shape[1:])
    pil = Image.fromarray(image.permute(1, 2, 0).numpy())
    for size in ((width, pil.height), (width, height)):
        pil = pil.resize(size, Image.Resampling.BICUBIC)
    return pil_to_tensor(pil)


@pytest.mark.parametrize("size", [(1024, 1024), (512, 768), (768, 512), (300, 320), (333, 777), (2000, 300), (1, 1)])
def test_pixels_are_those_of_pillow(size: tuple[int, int]) -> None:
    """One level off in a pixel of thousands: Pillow's weights have 22 bits and ours float32's 24."""
    image = random_images(1, size, seed=3)[0]
    image = (image // 128 * 255) if size == (300, 320) else image  # hard edges: bicubic overshoots
    ours = smart_resize_image(image, min_pixels=AREA, max_pixels=AREA)
    off = (ours.int() - by_pillow(image).int()).abs()
    assert ours.dtype == torch.uint8
    assert off.max() <= 1
    assert off.float().mean() < 1e-3


def test_where_pixels_lie_halfway_more_of_them_are_one_level_off() -> None:
    """256 -> 448 has weights of few digits, so that exact halves are common."""
    image = random_images(1, 256, seed=3)[0]
    off = (smart_resize_image(image, min_pixels=AREA, max_pixels=AREA).int() - by_pillow(image).int()).abs()
    assert off.max() <= 2
    assert off.float().mean() < 0.01


def test_an_image_of_that_size_is_left_alone() -> None:
    for size in ((448, 448), (224, 896), (896, 224)):
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        assert torch.equal(smart_resize_image(image, min_pixels=AREA, max_pixels=AREA), image)
