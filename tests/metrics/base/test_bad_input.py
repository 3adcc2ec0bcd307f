"""Bad input gets one clear error that names the argument, what was expected and what came."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import TinyNet, random_images
from PIL import Image

from lightning_imgmetrics import (
    CLIPScore,
    FrechetDistance,
    FrechetInceptionDistance,
    LearnedPerceptualImagePatchSimilarity,
    LPIPSDiversity,
    MetricSuite,
    WinRate,
)
from lightning_imgmetrics._images import as_images
from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError, UnknownName, ValueRangeError

NAN = torch.full((2, 3, 8, 8), torch.nan)
UNIT = torch.linspace(0, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)

BAD_IMAGES: dict[str, tuple[Any, type[Exception], str]] = {
    "NaN": (NAN, ValueRangeError, "`images` must be finite"),
    "infinity": (UNIT / 0, ValueRangeError, "`images` must be finite"),
    "0..255 float": (255 * UNIT, ValueRangeError, r"must lie in \[0, 1\], got 0..255"),
    "-1..1 float": (2 * UNIT - 1, ValueRangeError, r"must lie in \[0, 1\], got -1..1; declare another `value_range`"),
    "uint8 of 0 and 1": (UNIT.round().byte(), ValueRangeError, r"must hold 0..255, got 0..1"),
    "int beyond a byte": ((300 * UNIT).int(), ValueRangeError, r"must hold 0..255, got 0..300"),
    "2 channels": (UNIT[:, :2], ShapeError, r"`images` must be \(n, 3, h, w\), got shape \(2, 2, 8, 8\)"),
    "4 channels": (torch.cat([UNIT, UNIT[:, :1]], 1), ShapeError, r"\(2, 4, 8, 8\)"),
    "channels last": (UNIT.permute(0, 2, 3, 1), ShapeError, "channels-last"),
    "empty batch": (UNIT[:0], ShapeError, "at least one image"),
    "empty list": ([], ShapeError, "at least one image"),
    "no height": (UNIT[:, :, :0], ShapeError, "positive height"),
    "2 axes": (UNIT[0, 0], ShapeError, r"got shape \(8, 8\)"),
    "list of batches": ([UNIT], ShapeError, r"`images\[0\]` must be \(3, h, w\)"),
    "list of texts": (["a"], ShapeError, r"`images\[0\]` must be a \(3, h, w\) tensor or a PIL image, got str"),
    "complex": (UNIT.to(torch.complex64), ValueRangeError, "uint8 or float, got torch.complex64"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_images(case: str) -> None:
    images, error, message = BAD_IMAGES[case]
    with pytest.raises(error, match=message):
        as_images(images)
    with pytest.raises(error, match=message):
        FrechetDistance(TinyNet()).update(images, real=True)


def test_grey_becomes_rgb() -> None:
    grey = random_images(2, 8)[:, :1]
    assert torch.equal(as_images(grey)[0][0], grey.expand(-1, 3, -1, -1))
    picture = Image.fromarray(grey[0, 0].numpy())
    assert torch.equal(as_images(picture)[0][0], grey[:1].expand(-1, 3, -1, -1))


def test_lists_keep_order_and_sizes() -> None:
    singles = [random_images(1, size, seed)[0] for seed, size in enumerate((8, 8, (8, 12), 8))]
    batches, _ = as_images(singles)
    assert [tuple(b.shape) for b in batches] == [(2, 3, 8, 8), (1, 3, 8, 12), (1, 3, 8, 8)]
    assert all(torch.equal(a, b) for a, b in zip(singles, (x for b in batches for x in b), strict=True))


def test_an_overshoot_is_clamped_and_counted() -> None:
    images = UNIT.clone()
    images[0, 0, 0, :3] = torch.tensor([-0.04, 1.04, 1.0])
    batches, clamped = as_images(images)
    assert clamped == 2
    assert batches[0].min() == 0
    assert batches[0].max() == 1
    metric = FrechetDistance(TinyNet())
    metric.update(images, real=True)
    metric.update(UNIT, real=False)
    assert metric.result().details["n_clamped"] == 2
    with pytest.raises(ValueRangeError, match=r"got 0..1.06"):
        as_images(UNIT * 1.06)


def test_declared_range_is_mapped() -> None:
    for low, high in ((-1, 1), (0, 255)):
        batches, _ = as_images(low + (high - low) * UNIT, value_range=(low, high))
        torch.testing.assert_close(batches[0], UNIT)


def test_too_few_samples() -> None:
    metric = FrechetDistance(TinyNet())
    metric.update(random_images(5), real=True)
    metric.update(random_images(1), real=False)
    with pytest.raises(NotEnoughSamples, match="has 1 samples and needs 2: 5 real and 1 generated"):
        metric.compute()
    with pytest.raises(RuntimeError, match="More than one sample is required"):  # torchmetrics' type and words
        metric.compute()
    with pytest.raises(NotEnoughSamples, match="clip_score has 0 samples and needs 1: call `update` first"):
        CLIPScore("digits-clip").compute()
    diversity = LPIPSDiversity("digits-clip")
    diversity.update(random_images(2, 8), ["a", "b"])
    with pytest.raises(NotEnoughSamples, match="has 1 samples and needs 2: samples of one prompt"):
        diversity.compute()


def test_counts_that_differ() -> None:
    images = random_images(3, 8)
    with pytest.raises(ShapeError, match="got 3 and 2"):
        CLIPScore("digits-clip").update(images, ["a", "b"])
    with pytest.raises(ShapeError, match="one entry per image, got 2 for 3 images"):
        LPIPSDiversity("digits-clip").update(images, ["a", "b"])
    with pytest.raises(TypeError, match="one per image or one for all, got Tensor"):
        LPIPSDiversity("digits-clip").update(images, images)
    with pytest.raises(ShapeError, match="a mixture"):
        CLIPScore("digits-clip").update([images[0], "text", images[1]], ["a", "b", "c"])
    with pytest.raises(ShapeError, match="same sizes"):
        LearnedPerceptualImagePatchSimilarity("digits-clip", normalize=True).update(images, images[:2])
    suite = MetricSuite({"clip_score": CLIPScore("digits-clip")})
    with pytest.raises(ShapeError, match="`prompts` must hold one entry per image, got 2 for 3 images"):
        suite.update(images, prompts=["a", "b"])
    with pytest.raises(TypeError, match="`prompts` must be texts"):
        suite.update(images, prompts=images)
    with pytest.raises(TypeError, match="'clip_score' needs `prompts=`"):
        suite.update(images)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1, 2], ShapeError, r"`ids` must be \(3,\)"),
        ([-1, 0, 1], ValueError, r"must lie in \[0, 2\^53\), got -1..1"),
        ([0, 1, 2**53], ValueError, r"must lie in \[0, 2\^53\)"),
    ],
)
@pytest.mark.parametrize("metric", [lambda: FrechetDistance(TinyNet()), lambda: CLIPScore("digits-clip")])
def test_ids(metric: Any, ids: list[int], error: type[Exception], message: str) -> None:
    images = random_images(3, 8)
    other = True if isinstance(metric(), FrechetDistance) else ["a", "b", "c"]
    with pytest.raises(error, match=message):
        metric().update(images, other, ids=ids)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(UnknownName, match=r"`metric` must be one of 'fid', .*'clip_score'.*; got 'fdi'"):
        MetricSuite(["fdi"])
    with pytest.raises(ValueError, match=r"`protocol` must be one of 'torchmetrics', 'torch-fidelity'.*got 'tf'"):
        FrechetInceptionDistance(protocol="tf")
    with pytest.raises(KeyError, match="`network` must be one of 'alex', 'vgg', 'squeeze'; got 'resnet'"):
        LearnedPerceptualImagePatchSimilarity("resnet")
    with pytest.raises(UnknownName, match="`reduction` must be one of 'mean', 'sum', 'none', None; got 'max'"):
        LearnedPerceptualImagePatchSimilarity(reduction="max")


def test_arguments_of_fid() -> None:
    with pytest.raises(ValueError, match="Integer input to argument `feature` must be one of"):
        FrechetInceptionDistance(feature=100)
    with pytest.raises(TypeError, match="Got unknown input to argument `feature`"):
        FrechetInceptionDistance(feature=[1, 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`normalize` expected to be a bool"):
        FrechetInceptionDistance(normalize=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`reset_real_features` expected to be a bool"):
        FrechetInceptionDistance(TinyNet(), reset_real_features="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="belongs to protocol 'torchmetrics'"):
        FrechetInceptionDistance(protocol="clean-fid", antialias=False)
    with pytest.raises(ValueError, match=r"Expecting image as torch.Tensor with dtype=torch.uint8.*normalize=True"):
        FrechetInceptionDistance(TinyNet()).update(UNIT, real=True)
    with pytest.raises(ValueError, match="Unexpected keyword arguments"):
        FrechetInceptionDistance(TinyNet(), antialiased=True)


def test_outcomes_of_pairs() -> None:
    metric = WinRate()
    with pytest.raises(ValueRangeError, match=r"`outcome` must be 1, 0.5 or 0, got \[2.0\]"):
        metric.update(torch.tensor([0]), torch.tensor([1]), torch.tensor([2.0]))
    with pytest.raises(ShapeError, match=r"`outcome` must be \(n\) with n = 1"):
        metric.update(torch.tensor([0]), torch.tensor([1]), torch.tensor([1.0, 0.0]))
    with pytest.raises(TypeError, match="call `update`"):
        metric.update_features({})


def test_two_metrics_of_one_name() -> None:
    with pytest.raises(ValueError, match="one name each"):
        MetricSuite([CLIPScore("digits-clip"), CLIPScore("digits-clip")])


@pytest.mark.parametrize("ids", [[0.1, 0.2, 0.3], torch.tensor([1.0, 2.0, 3.0]), torch.ones(3).bool(), ["1", "2", "3"]])
def test_ids_that_are_no_integers(ids: Any) -> None:
    """Cut down to integers, fractions would be one sample."""
    with pytest.raises((TypeError, ValueError), match="`ids` must"):
        CLIPScore("digits-clip").update(random_images(3, 8), ["a", "b", "c"], ids=ids)


@pytest.mark.parametrize("prompts", [[1, 1, 2], [None, None, None], ["a", "b", None]])
@pytest.mark.parametrize("key", ["clip_score", "lpips_diversity"])
def test_prompts_that_are_no_texts(key: str, prompts: list[Any]) -> None:
    metric = CLIPScore("digits-clip") if key == "clip_score" else LPIPSDiversity("digits-clip")
    with pytest.raises((TypeError, ValueError), match=r"text|string|str"):
        MetricSuite({key: metric}).update(random_images(3, 8), prompts=prompts)


@pytest.mark.parametrize("value_range", [(0, 0), (1, 0), (0, float("inf")), (0, float("nan"))])
def test_ranges_that_are_none(value_range: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="`value_range` must"):
        FrechetDistance(TinyNet(), value_range=value_range).update(UNIT * 0, real=True)


def test_arguments_that_name_nothing() -> None:
    with pytest.raises(UnknownName, match=r"`layer` must be one of .*got 'embe'"):
        FrechetDistance("digits-clip", layer="embe")
    with pytest.raises((TypeError, ValueError), match="`network` must"):
        FrechetDistance(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`max_prompts` must"):
        LPIPSDiversity("digits-clip", max_prompts=0)


def test_float_images_in_a_list_are_float_images_too() -> None:
    with pytest.raises(ValueError, match="normalize=True"):
        FrechetInceptionDistance(TinyNet()).update(list(UNIT), real=True)


def test_arguments_that_make_no_sense() -> None:
    with pytest.raises(ValueRangeError, match=r"`value_range` must be \(low, high\)"):
        FrechetDistance(TinyNet(), value_range=(1, 1)).update(UNIT, real=True)
    with pytest.raises(UnknownName, match="`layer` must be one of 'embed', 'maps'; got 'fc'"):
        FrechetDistance("digits-clip", layer="fc")
    for argument in ("image_size", "max_prompts"):
        with pytest.raises(ValueError, match=f"`{argument}` must be at least 1, got 0"):
            LPIPSDiversity("digits-clip", **{argument: 0})
    with pytest.raises(TypeError, match=r"metrics of this package, got \{'a': 'Linear'\}"):
        MetricSuite({"a": torch.nn.Linear(1, 1)})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="got none"):
        MetricSuite([])
    with pytest.raises(ValueRangeError, match="integers that name contestants"):
        WinRate().update(torch.tensor([0.5]), torch.tensor([1]), torch.tensor([1.0]))
