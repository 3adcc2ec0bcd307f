"""Single scores in other hands than their metric's: `PerPrompt` beside it, pairs of mixed sizes, what `score` gets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import scipy.stats
import torch
from conftest import Worlds, random_images
from helpers.judges import Grade, ScriptedJudge, chance
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from lightning_imgmetrics import BlankRate, CLIPScore, MetricSuite, PairwiseJudge, PerPrompt, score
from lightning_imgmetrics.errors import JudgeFailed, NonFiniteFeatures, NotEnoughSamples, ShapeError
from lightning_imgmetrics.metrics.full_reference.perceptual import LearnedPerceptualImagePatchSimilarity
from lightning_imgmetrics.metrics.full_reference.psnr import (
    MeanSquaredError,
    PeakSignalNoiseRatio,
    VisualInformationFidelity,
)
from lightning_imgmetrics.metrics.full_reference.ssim import StructuralSimilarityIndexMeasure
from lightning_imgmetrics.metrics.text_image.base import CosineMetric, ScorerMetric
from lightning_imgmetrics.models.base.extractor import BatchFeatures, Features, PixelExtractor
from lightning_imgmetrics.models.encoders.clip import ClipExtractor

CPU = torch.device("cpu")
TEXTS = ["a handwritten one", "a handwritten two"]
CAPTION = "A photo depicts "


@dataclass(frozen=True, kw_only=True)
class Ink(PixelExtractor):
    """The share of ink, times the letters of the prompt: a scorer that reads both."""

    asked: ClassVar[list[int]] = []

    def score(self, features: Features, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, int]:
        self.asked.append(len(prompts))
        ink = torch.stack([image.mean() for image in features["pixels"]])
        letters = torch.tensor([math.nan if prompt == "unreadable" else len(prompt) for prompt in prompts])
        return ink * letters, sum(len(prompt) > 10 for prompt in prompts)


class InkScore(ScorerMetric):
    name: ClassVar[str] = "ink"
    layers = ("pixels",)
    extractor = Ink()


class Maps(nn.Module):
    """A network of two layers that does not resize."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.ParameterList([torch.randn(4, 3, 3, 3, generator=generator) for _ in range(2)])

    def forward(self, x: Tensor) -> list[Tensor]:
        return [nn.functional.conv2d(x, weight).relu() for weight in self.weights]


# Beside its metric


@pytest.mark.parametrize("order", ["metric first", "metric last"])
def test_both_count_what_they_see(order: str) -> None:
    images, long = random_images(4, 8), "a handwritten one " * 40
    clip = CLIPScore("digits-clip")
    members = {"clip": clip, "per prompt": PerPrompt(clip)}
    suite = MetricSuite(members if order == "metric first" else dict(reversed(members.items())))
    suite.update(images, prompts=[long, TEXTS[0], TEXTS[1], TEXTS[1]])
    results = suite.results()
    assert clip.texts == 4
    assert {name: result.details["truncated_fraction"] for name, result in results.items()} == {
        "clip": 0.25,
        "per prompt": 0.25,
    }


def test_the_samples_of_the_metric_are_not_those_of_the_copy() -> None:
    images = random_images(3, 8)
    clip = CLIPScore("digits-clip")
    clip.update(images=images, prompts="a handwritten one " * 40)
    metric = PerPrompt(clip)
    assert metric.extractor is clip.extractor
    metric.update(images=images, prompts=TEXTS[0])
    assert metric.result().details["truncated_fraction"] == 0
    assert metric.result().n == 3
    assert (float(clip.texts), float(clip.truncated)) == (3, 3)


def test_a_scorer_is_asked_once_per_batch() -> None:
    """By a metric, another one like it, and both `PerPrompt` of them; a new batch or prompt is another question."""
    Ink.asked.clear()
    first, second = random_images(4, 8, 1), random_images(2, 8, 2)
    metric = InkScore()
    suite = MetricSuite({"a": metric, "b": PerPrompt(metric), "c": InkScore(), "d": PerPrompt(InkScore())})
    suite.update(first, prompts=["one", "two and more", "one", "two and more"])
    assert Ink.asked == [4]
    suite.update(second, prompts="three")
    assert Ink.asked == [4, 2]
    expected = [float(x.float().mean() / 255) * n for x, n in zip([*first, *second], [3, 12, 3, 12, 5, 5], strict=True)]
    results = suite.results()
    means = [statistics.fmean(expected[i] for i in pair) for pair in ((0, 2), (1, 3), (4, 5))]
    for name, value in zip("abcd", [statistics.fmean(expected), statistics.fmean(means)] * 2, strict=True):
        assert results[name].value == pytest.approx(value, rel=1e-6), name
        assert results[name].details["truncated_fraction"] == pytest.approx(2 / 6), name


def test_the_same_features_with_other_prompts() -> None:
    features = BatchFeatures({"pixels": [torch.full((3, 4, 4), 0.5)] * 2})
    metric, prompts = InkScore(), ["abcd", "ab"]
    assert metric.scores_of(features, prompts=prompts).tolist() == [2, 1]
    prompts[0] = "abcdef"  # the list is the same one
    assert metric.scores_of(features, prompts=prompts).tolist() == [3, 1]


# Scores that some samples do not have


def two_of(kind: str) -> tuple[Any, Tensor, Tensor, list[int]]:
    """A metric, pairs of two prompts in turn, and which of them have a score."""
    images, target = random_images(6, 48, 1), random_images(6, 48, 2)
    if kind == "psnr":
        target[2] = images[2]
        return PeakSignalNoiseRatio(), images, target, [0, 1, 3, 4, 5]
    target[1] = 77
    return VisualInformationFidelity(), images, target, [0, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", ["psnr", "vif"])
def test_samples_without_a_score_are_left_out(kind: str) -> None:
    single, images, target, known = two_of(kind)
    metric = PerPrompt(single)
    metric.update(images=images, prompts=TEXTS * 3, target=target)
    alone = []
    for i in known:
        single.reset()
        single.update(images[i : i + 1], target[i : i + 1])
        alone.append(float(single.compute()))
    groups = [[x for i, x in zip(known, alone, strict=True) if i % 2 == side] for side in (0, 1)]
    result = metric.result()
    assert result.value == pytest.approx(statistics.fmean(map(statistics.fmean, groups)), rel=1e-6)
    assert (result.n, result.details["n_undefined"], result.details["samples_per_prompt"]) == (5, 1, 2.5)
    assert result.details["best_of_1"] == pytest.approx(result.value)
    assert math.isfinite(result.interval[0])


@pytest.mark.parametrize("kind", ["psnr", "vif"])
def test_no_sample_has_a_score(kind: str) -> None:
    metric = PerPrompt(two_of(kind)[0])
    flat = torch.full((2, 3, 48, 48), 9, dtype=torch.uint8)
    metric.update(images=flat, prompts=TEXTS, target=flat)
    with pytest.raises(NotEnoughSamples, match=f"{kind}_per_prompt.* none of 2 samples has a score"):
        metric.compute()


def test_what_a_network_should_not_return_is_an_error() -> None:
    metric = PerPrompt(InkScore())
    metric.update(images=random_images(3, 8), prompts=["one", "unreadable", "two"])
    with pytest.raises(NonFiniteFeatures, match="ink_per_prompt: 1 of 3 scores are NaN or infinity"):
        metric.compute()
    metric.reset()
    metric.update(images=random_images(3, 8), prompts=TEXTS[0])
    assert "n_undefined" not in metric.result().details


def test_undefined_over_ranks(worlds: Worlds) -> None:
    _, images, target, _ = two_of("psnr")
    [alone] = worlds(1, over_ranks, images, target)
    assert alone[0]["n_undefined"] == 1
    for size in (2, 3):
        assert worlds(size, over_ranks, images, target) == [alone] * size


def over_ranks(rank: int, size: int, images: Tensor, target: Tensor) -> tuple[dict[str, float], float]:
    metric, mine = PerPrompt(PeakSignalNoiseRatio()), range(rank, 6, size)
    metric.update(images=images[mine], prompts=[TEXTS[i % 2] for i in mine], target=target[mine], ids=mine)
    result = metric.result()
    return dict(result.details), result.value


# What is reported


@pytest.mark.parametrize("reduction", ["sum", "none", None])
@pytest.mark.parametrize(
    "kind", [MeanSquaredError, StructuralSimilarityIndexMeasure, LearnedPerceptualImagePatchSimilarity]
)
def test_reductions_that_are_no_mean(kind: Any, reduction: Any) -> None:
    first = (Maps(),) if kind is LearnedPerceptualImagePatchSimilarity else ()
    with pytest.raises(ValueError, match=f"`metric` must have a mean as its reduction, got {reduction!r}"):
        PerPrompt(kind(*first, reduction=reduction))
    assert "mean" in PerPrompt(kind(*first)).signature().fields["reduction"]


def test_the_spread_of_one_prompt() -> None:
    metric, images = PerPrompt(InkScore()), random_images(5, 8)
    metric.update(images=images, prompts="four")
    expected = statistics.variance(float(x.double().mean()) / 255 * 4 for x in images)
    details = metric.result().details
    assert details["variance_within"] == pytest.approx(expected, rel=1e-4)
    assert details["spread"] == pytest.approx(expected**0.5, rel=1e-4)
    assert "variance_between" not in details


def test_the_interval_below_the_floor() -> None:
    """The value is floored at 0, the interval is that of the scores."""
    scores = torch.tensor([-50.0, 10.0, -20.0, 12.0], dtype=torch.float64)  # mean -12, variance 856
    half = 3.182446305284263 * (856 / 4) ** 0.5  # Student's t of 3 degrees of freedom, 97.5 %
    for sign, value in ((1, 0), (-1, 12)):
        metric = CLIPScore("digits-clip")
        metric.add_scores(sign * scores)
        result = metric.result()
        assert float(metric.compute()) == result.value == pytest.approx(value, rel=1e-12)
        assert result.interval == pytest.approx((-12 * sign - half, -12 * sign + half), rel=1e-12)


def test_probabilities_put_nothing_before_the_prompt() -> None:
    images = random_images(4, 8)
    plain, hessel = (CLIPScore("digits-clip", formula=formula) for formula in ("plain", "hessel"))
    assert isinstance(hessel, CosineMetric)
    extractor = ClipExtractor("digits-clip")
    with torch.no_grad():
        image = extractor([images], ["embed"], CPU)["embed"]
        cosines = cosine_similarity(image, extractor.embed_text([TEXTS[0]], CPU)[0])
        worded = cosine_similarity(image, extractor.embed_text([CAPTION + TEXTS[0]], CPU)[0])
        expected = (extractor.logits(CPU)[0] * cosines).softmax(0)
    assert (cosines - worded).abs().max() > 1e-3
    for metric in (plain, hessel):
        torch.testing.assert_close(metric.probabilities(images=images, prompt=TEXTS[0]), expected, rtol=1e-4, atol=1e-6)
    found = hessel.similarity(images=images, prompts=TEXTS[:1])[0]
    torch.testing.assert_close(found, 2.5 * worded.clamp(min=0), rtol=1e-5, atol=1e-6)


# Pairs of mixed sizes


def mixed() -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Pairs of three sizes, and the LPIPS of each by the definition, all channels weighing alike."""
    sizes = [16, (20, 12), (20, 12), 16, 24]
    images, target = ([random_images(1, size, i + shift)[0] for i, size in enumerate(sizes)] for shift in (0, 10))
    network, expected = Maps(), []
    for x, y in zip(images, target, strict=True):
        both = network(torch.stack([x, y]).float() / 127.5 - 1)
        unit = [maps / (maps.square().sum(1, keepdim=True).sqrt() + 1e-10) for maps in both]
        expected.append(sum((a - b).square().sum(0).mean() for a, b in unit).item())
    return images, target, torch.tensor(expected, dtype=torch.float64)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_score_of_pairs_of_mixed_sizes(batch_size: int) -> None:
    images, target, expected = mixed()
    found = score("lpips", images=images, target=target, net_type=Maps(), batch_size=batch_size)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    floats = [x.float() / 255 for x in images[:2]], target[:2]
    found = score("lpips", images=floats[0], target=floats[1], net_type=Maps(), batch_size=batch_size)
    torch.testing.assert_close(found, expected[:2], rtol=1e-4, atol=1e-6)


def test_per_prompt_of_pairs_of_mixed_sizes() -> None:
    images, target, expected = mixed()
    metric = PerPrompt(LearnedPerceptualImagePatchSimilarity(Maps()))
    metric.update(images=images, prompts=["a", "a", "a", "b", "b"], target=target)
    assert float(metric.compute()) == pytest.approx(float(expected[:3].mean() + expected[3:].mean()) / 2, rel=1e-4)
    metric.reset()
    alike = [x.float() / 127.5 - 1 if i == 2 else x for i, x in enumerate(images)]  # one size, two types
    metric.update(images=alike, prompts="a", target=target)
    assert float(metric.compute()) == pytest.approx(float(expected.mean()), rel=1e-4)
    with pytest.raises(ShapeError, match="`images` and `target` must hold images of the same sizes"):
        metric.update(images=images, prompts="a", target=target[1:] + target[:1])


def test_a_suite_says_that_pairs_must_have_one_size() -> None:
    """Before any metric took a part of the batch."""
    images, target, expected = mixed()
    suite = MetricSuite({"lpips": LearnedPerceptualImagePatchSimilarity(Maps()), "mse": MeanSquaredError()})
    with pytest.raises(ShapeError, match="needs images of one size in a batch, got"):
        suite.update(images, target=target)
    suite.update(images[1:3], target=target[1:3])
    results = suite.results()
    assert (results["lpips"].n, results["mse"].n) == (2, 2)
    assert results["lpips"].value == pytest.approx(float(expected[1:3].mean()), rel=1e-4)


def test_a_rate_that_never_hits_is_not_certain() -> None:
    """Ten images of two prompts, none blank: Wilson's interval with each prompt as one trial."""
    metric = PerPrompt(BlankRate())
    metric.update(images=random_images(10, 8), prompts=TEXTS * 5)
    quantile = scipy.stats.t.ppf(0.975, 1) ** 2
    found = metric.result()
    assert (found.value, found.n) == (0, 10)
    assert found.interval == pytest.approx((0, quantile / (2 + quantile)))


def test_answers_that_a_judge_did_not_give_are_left_out_and_counted() -> None:
    images, prompts = random_images(12, 8), [f"p{i % 3}" for i in range(12)]
    judge = ScriptedJudge(script=lambda q: "hm" if chance(q) < 0.2 else f"{chance(q):.6f}")
    plain, grouped = Grade(judge, retries=0, max_failed=0.5), PerPrompt(Grade(judge, retries=0, max_failed=0.5))
    for m in (plain, grouped):
        m.update(images=images, prompts=prompts, ids=range(12))
    failed = plain.result().details["n_failed"]
    assert 0 < failed < 6
    assert grouped.result().details["n_failed"] == failed
    assert grouped.result().n == 12 - failed
    strict = PerPrompt(Grade(judge, retries=0, max_failed=0.01))
    strict.update(images=images, prompts=prompts)
    with pytest.raises(JudgeFailed, match="the judge gave no usable answer for"):
        strict.compute()


def test_pairs_of_a_judge_by_prompt() -> None:
    images = random_images(4, 8)
    first = ScriptedJudge(script=lambda q: '{"reasoning": "so", "winner": 1}')
    m = PerPrompt(PairwiseJudge(first))
    with pytest.raises(TypeError, match="pairwise_judge needs `rivals`"):
        m.update(images=images, prompts="p")
    m.update(images=images, prompts=["a", "a", "b", "b"], rivals=images.flip(0))
    assert m.compute() == 0.5
