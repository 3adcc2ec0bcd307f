"""Rates by a classifier and by pixels: their values by hand, Wilson's interval by scipy, black images, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import torch
from conftest import Worlds, random_images
from helpers.classifiers import logits, save_classifier
from torch import Tensor
from transformers import CLIPModel

from lightning_imgmetrics import MetricSuite
from lightning_imgmetrics.errors import (
    MissingWeights,
    NotEnoughSamples,
    SignatureMismatch,
    UnknownName,
    WeightsMismatch,
)
from lightning_imgmetrics.metrics.no_reference.rates import BlankRate, ClassifierRate, Rate, SafetyRate
from lightning_imgmetrics.models.scorers.classifier import ClassifierExtractor
from lightning_imgmetrics.per_prompt import PerPrompt

LABELS = ["normal", "hands", "nsfw", "text"]
N = 23


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_classifier(tmp_path_factory.mktemp("classifier"), LABELS)


def images(n: int = N, seed: int = 0) -> Tensor:
    return random_images(n, 16, seed)


def wilson(hits: int, n: int) -> tuple[float, float]:
    return tuple(scipy.stats.binomtest(hits, n).proportion_ci(method="wilson"))  # type: ignore[return-value]


def rate(metric: Rate, *batches: Any) -> Any:
    for batch in batches:
        metric.update(batch)
    return metric.result()


@pytest.mark.parametrize(
    ("labels", "columns"),
    [("hands", [1]), (1, [1]), (["hands", "text"], [1, 3]), ([3, "hands", 1, "hands"], [1, 3]), ((0, 2, 3), [0, 2, 3])],
)
@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.9])
def test_the_share_is_that_of_the_summed_probabilities(
    checkpoint: str, labels: Any, columns: list[int], threshold: float
) -> None:
    expected = logits(checkpoint, images()).softmax(1)[:, columns].sum(1)
    assert expected.std() > 0.05
    assert (expected - threshold).abs().min() > 1e-5  # no image hangs on rounding
    result = rate(ClassifierRate(checkpoint, labels, threshold=threshold), images())
    hits = int((expected >= threshold).sum())
    assert result.n == N
    assert result.value == pytest.approx(hits / N, abs=1e-15)
    assert result.interval == pytest.approx(wilson(hits, N), abs=1e-12)
    assert result.details["mean_probability"] == pytest.approx(float(expected.mean()), abs=1e-6)
    assert result.higher_is_better is False


def test_a_probability_at_the_threshold_counts(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, LABELS, bias=[0.0] * 4)
    assert rate(ClassifierRate(folder, "nsfw", threshold=0.25), images(3)).value == 1
    assert rate(ClassifierRate(folder, ["nsfw", "text"], threshold=0.5), images(3)).value == 1
    assert rate(ClassifierRate(folder, "nsfw", threshold=0.2501), images(3)).value == 0


def test_probabilities_of_a_multi_label_checkpoint_are_not_summed(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, LABELS, bias=[2.0, -0.4, -0.4, 0.5], multi_label=True)
    below = rate(ClassifierRate(folder, ["hands", "nsfw"]), images(3))
    assert below.value == 0
    assert below.details["mean_probability"] == pytest.approx(1 / (1 + 2.718281828459045**0.4), abs=1e-6)
    assert rate(ClassifierRate(folder, ["hands", "nsfw", "text"]), images(3)).value == 1


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 7), (7, 7), (3, 7), (1, 300)])
@pytest.mark.parametrize("keep_scores", [True, False])
def test_the_interval_is_wilsons(hits: int, n: int, keep_scores: bool) -> None:
    batch = images(n)
    batch[:hits] = 0
    result = rate(BlankRate(keep_scores=keep_scores), *batch.split(64))
    assert result.value == pytest.approx(hits / n, abs=1e-15)
    assert result.interval == pytest.approx(wilson(hits, n), abs=1e-12)
    assert ("standard_error" in result.details) == (n > 1)


def test_of_no_image_there_is_no_rate() -> None:
    with pytest.raises(NotEnoughSamples, match="blank_rate has 0 samples"):
        BlankRate().compute()


def test_blank_images() -> None:
    flat, split = torch.full((3, 8, 8), 140, dtype=torch.uint8), torch.full((3, 8, 8), 140, dtype=torch.uint8)
    split[:, 0, 0] = 142
    shown = split.clone()
    shown[:, 0, 0] = 143
    dark = torch.zeros(3, 8, 8, dtype=torch.uint8)
    dark[2] = 3  # a blue of 3 is one flat luma and not black
    batch = [flat, split, shown, 0 * flat, 0 * flat[:, :5] + 255, dark, images(1)[0]]
    metric = BlankRate()
    metric.update(batch, ids=range(7))
    assert metric.scores()[1].tolist() == [1, 1, 0, 1, 1, 1, 0]
    result = metric.result()
    assert result.value == pytest.approx(5 / 7)
    assert result.details["black_fraction"] == pytest.approx(1 / 7)


def test_black_images_are_refusals(checkpoint: str) -> None:
    batch = images(10)
    batch[2], batch[5] = 0, 2
    batch[7], batch[7, 1, 3, 4] = 0, 3  # one pixel above black
    probability = logits(checkpoint, batch).softmax(1)[:, 2]
    expected = probability >= 0.5
    assert not expected[[2, 5, 7]].any()
    expected[[2, 5]] = True
    metric = SafetyRate(checkpoint)
    metric.update(batch, ids=range(10))
    assert metric.scores()[1].bool().tolist() == expected.tolist()
    result = metric.result()
    assert result.details["black_fraction"] == pytest.approx(0.2)
    assert result.details["mean_probability"] == pytest.approx(float(probability.mean()), abs=1e-6)
    assert result.interval == pytest.approx(wilson(int(expected.sum()), 10), abs=1e-12)


def test_black_is_told_before_resizing(checkpoint: str) -> None:
    speck = torch.zeros(3, 160, 160, dtype=torch.uint8)
    speck[:, 80, 80] = 40  # gone once the image is 16 pixels wide
    result = rate(SafetyRate(checkpoint, "normal", threshold=0.999), [speck, 0 * speck, torch.zeros(3, 20, 30)])
    assert result.details["black_fraction"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", [SafetyRate, ClassifierRate])
def test_batches_floats_and_duplicates(checkpoint: str, kind: type[ClassifierRate]) -> None:
    batch = images()
    batch[4] = 0
    whole, single, double = (kind(checkpoint, "hands", threshold=0.75) for _ in range(3))
    whole.update(batch[:16], ids=range(16))
    whole.update(batch[16:], ids=range(16, N))
    for i in range(N):
        single.update(batch[i : i + 1], ids=[i])
    double.update(batch.float() / 255, ids=range(N))
    double.update(batch[5:9], ids=range(5, 9))
    expected = whole.result()
    for other in (single.result(), double.result()):
        assert (other.value, other.n, other.interval) == (expected.value, expected.n, expected.interval)
        assert other.details == pytest.approx(expected.details, abs=1e-6)
    assert 0 < expected.value < 1


def test_a_suite_runs_the_classifier_once(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run = ClassifierExtractor.run
    monkeypatch.setattr(ClassifierExtractor, "run", lambda self, *args: calls.append(1) or run(self, *args))
    suite = MetricSuite({"a": ClassifierRate(checkpoint, "text"), "b": SafetyRate(checkpoint), "c": BlankRate()})
    batch = images()
    batch[3] = 0
    suite.update(batch)
    assert len(calls) == 1
    alone = rate(SafetyRate(checkpoint), batch)
    assert suite.results()["b"].value == alone.value
    assert suite.results()["b"].interval == alone.interval
    assert suite.results()["c"].value == pytest.approx(1 / N)


def test_per_prompt(checkpoint: str) -> None:
    batch = images(8)
    batch[:3] = 0
    metric = PerPrompt(SafetyRate(checkpoint, threshold=0.999999))
    metric.update(images=batch, prompts=["a", "b"] * 4)
    result = metric.result()
    assert result.value == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert result.details["best_of_4"] == 0


def test_the_signature_says_what_was_counted(checkpoint: str) -> None:
    fields = ClassifierRate(checkpoint, ["text", 1], threshold=0.3).signature().fields
    assert (fields["labels"], fields["threshold"], fields["resize"]) == ("hands+text", "0.3", "processor")
    assert len(fields["weights"]) == 8
    other = ClassifierRate(checkpoint, ["text", 1], threshold=0.4)
    with pytest.raises(SignatureMismatch, match=r"threshold: 0\.3 against 0\.4"):
        ClassifierRate(checkpoint, ["text", 1], threshold=0.3).merge_state(other)


@pytest.mark.parametrize("label", ["gore", 4, -1, True, "1"])
def test_unknown_labels(checkpoint: str, label: Any) -> None:
    with pytest.raises(UnknownName, match="`labels` must be one of 'normal', 'hands', 'nsfw', 'text'; got"):
        ClassifierRate(checkpoint, ["nsfw", label])


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 1.5, float("nan")])
def test_thresholds_out_of_range(checkpoint: str, threshold: float) -> None:
    with pytest.raises(ValueError, match=r"`threshold` must lie in \(0, 1\), got"):
        ClassifierRate(checkpoint, "nsfw", threshold=threshold)


def test_no_labels(checkpoint: str) -> None:
    with pytest.raises(ValueError, match="`labels` must name at least one label"):
        ClassifierRate(checkpoint, [])


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    single = save_classifier(tmp_path / "single", ["score"])
    with pytest.raises(WeightsMismatch, match="must classify into two labels or more"):
        ClassifierRate(single, 0)
    clip = tmp_path / "clip"
    CLIPModel.from_pretrained("lightning_imgmetrics/models/digits_clip").save_pretrained(clip)
    with pytest.raises(WeightsMismatch, match=r"keys missing: classifier\.bias, classifier\.weight"):
        ClassifierRate(str(clip), 0).update(images(1))


def test_offline_without_weights() -> None:
    with pytest.raises(MissingWeights, match="Falconsai/nsfw_image_detection"):
        SafetyRate()


def test_layers(checkpoint: str) -> None:
    extractor = ClassifierExtractor(checkpoint)
    features = extractor([images(3), 0 * images(2)], ("probabilities", "peak"), torch.device("cpu"))
    assert [features[layer].shape[1] for layer in ("probabilities", "peak")] == [4, 3]
    assert [extractor.dim(layer) for layer in ("probabilities", "peak")] == [4, 3]
    assert torch.equal(features["peak"], torch.cat([images(3), 0 * images(2)]).amax((2, 3)) / 255)
    with pytest.raises(UnknownName, match="`layer` must be one of 'probabilities', 'peak'"):
        extractor.dim("logits")


def _ranks(rank: int, size: int, folder: str) -> list[float]:
    batch = images()
    batch[[1, 20]] = 0
    kept, summed = SafetyRate(folder, "hands", threshold=0.75), BlankRate(keep_scores=False)
    for start, stop in {1: [(0, N)], 2: [(0, 17), (16, N)], 3: [(0, 9), (0, 0), (8, N)]}[size][rank : rank + 1]:
        for first in range(start, stop, 4):
            rows = list(range(first, min(first + 4, stop)))
            kept.update(batch[rows], ids=rows)
        own = list(range(start if rank == 0 else start + 1, stop))
        if own:
            summed.update(batch[own], ids=own)
    results = [kept.result(), summed.result()]
    return [x for r in results for x in (r.value, r.n, *r.interval, r.details["black_fraction"])]


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_agree(worlds: Worlds, checkpoint: str, size: int) -> None:
    alone = _ranks(0, 1, checkpoint)
    assert 2 / N < alone[0] < 1
    assert alone[1] == alone[6] == N
    for answer in worlds(size, _ranks, checkpoint):
        assert answer == pytest.approx(alone, abs=1e-12)
