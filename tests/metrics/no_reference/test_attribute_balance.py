"""Attribute balance: labels, counts and divergences by hand, zero-shot and with a classifier; targets; bad input."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Worlds, random_images
from helpers.classifiers import logits, save_classifier
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from lightning_imgmetrics import MetricSuite
from lightning_imgmetrics.errors import (
    MissingWeights,
    NonFiniteFeatures,
    NotEnoughSamples,
    ShapeError,
    SignatureMismatch,
    UnknownName,
    ValueRangeError,
)
from lightning_imgmetrics.functional.balance import balance_interval
from lightning_imgmetrics.metrics.no_reference.attribute_balance import AttributeBalance

DIGITS = str(Path("lightning_imgmetrics/models/digits_clip"))
TEMPLATE = "a handwritten {}"
WORDS = ("zero", "one", "two", "three")
LABELS = ["woman", "man", "nobody"]
PROMPTS = ["a doctor", "a nurse", "a pilot"]
N = 24


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_classifier(tmp_path_factory.mktemp("classifier"), LABELS, seed=3)


def images(n: int = N) -> Tensor:
    return random_images(n, 16, 5)


def prompts(n: int = N) -> list[str]:
    return [PROMPTS[i % 3] for i in range(n)]


def classified(checkpoint: str, *args: Any, **kwargs: Any) -> AttributeBalance:
    return AttributeBalance(*args, classifier=checkpoint, **kwargs)


def divergence(labels: list[str], target: dict[str, float]) -> float:
    """sum p log(p / q), by the definition."""
    shares = {label: labels.count(label) / len(labels) for label in target}
    return sum(p * math.log(p / target[label]) for label, p in shares.items() if p)


def by_prompt(labels: list[str]) -> list[list[str]]:
    return [[label for label, at in zip(labels, prompts(), strict=True) if at == prompt] for prompt in PROMPTS]


def told(checkpoint: str, batch: Tensor) -> list[str]:
    return [LABELS[i] for i in logits(checkpoint, batch).argmax(1).tolist()]


@torch.no_grad()
def nearest(batch: Tensor) -> tuple[list[str], Tensor]:
    """Zero-shot labels of 8 x 8 images and the probabilities of the labels, by transformers alone."""
    model, tokenizer = AutoModel.from_pretrained(DIGITS).eval(), AutoTokenizer.from_pretrained(DIGITS)
    tokens = tokenizer([f"a handwritten {word}" for word in WORDS], padding=True, return_tensors="pt")
    processor = {"mean": 0.30539703369140625, "std": 0.37583085894584656}
    pixels = (batch / 255 - processor["mean"]) / processor["std"]
    rows = model(**tokens, pixel_values=pixels).logits_per_image.softmax(1)
    return [WORDS[i] for i in rows.argmax(1).tolist()], rows


def test_zero_shot_labels() -> None:
    batch = random_images(N, 8, 5)
    labels, probabilities = nearest(batch)
    assert len(set(labels)) > 1
    metric = AttributeBalance(WORDS, network="digits-clip", template=TEMPLATE)
    metric.update(batch, prompts())
    result = metric.result()
    assert result.value == pytest.approx(divergence(labels, dict.fromkeys(WORDS, 0.25)), abs=1e-12)
    for word in WORDS:
        assert result.details[f"share_{word}"] == pytest.approx(labels.count(word) / N, abs=1e-15)
    assert result.details["mean_confidence"] == pytest.approx(float(probabilities.amax(1).mean()), abs=1e-5)
    assert "unlabeled_fraction" not in result.details
    assert result.n == N
    assert (result.unit, result.higher_is_better) == ("nats", False)


@pytest.mark.parametrize("zero_shot", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_cannot_be_labeled_is_an_error(checkpoint: str, zero_shot: bool, bad: float) -> None:
    """An accelerator hands on what the CPU refuses; it is nobody's first label."""
    metric = AttributeBalance(WORDS, network="digits-clip") if zero_shot else classified(checkpoint, LABELS)
    features = metric.extract([images(3)])
    (layer,) = metric.layers
    metric.update_features(features, prompts=PROMPTS)
    assert metric.result().n == 3
    features[layer] = features[layer].clone()
    features[layer][1] = bad
    metric.update_features(features, prompts=PROMPTS)
    with pytest.raises(NonFiniteFeatures, match="attribute_balance: the network returned NaN or infinity for 1 image"):
        metric.compute()
    metric.reset()
    metric.update(images(), prompts())
    assert metric.result().n == N


@pytest.mark.parametrize("target", [None, {"woman": 0.5, "man": 0.3, "nobody": 0.2}, [0.2, 0.5, 0.3]])
def test_a_classifier_and_a_target(checkpoint: str, target: Any) -> None:
    labels = told(checkpoint, images())
    assert set(labels) == set(LABELS)
    shares = dict.fromkeys(LABELS, 1 / 3) if target is None else target
    shares = shares if isinstance(shares, dict) else dict(zip(LABELS, shares, strict=True))
    pooled, apart = (classified(checkpoint, LABELS, target, per_prompt=p) for p in (False, True))
    each = torch.tensor([divergence(part, shares) for part in by_prompt(labels)], dtype=torch.float64)
    for metric, value in ((pooled, divergence(labels, shares)), (apart, float(each.mean()))):
        metric.update(images(), prompts())
        details = metric.result().details
        assert float(metric.compute()) == pytest.approx(value, abs=1e-12)
        assert details["kl_pooled"] == pytest.approx(divergence(labels, shares), abs=1e-12)
        assert details["kl_per_prompt"] == pytest.approx(float(each.mean()), abs=1e-12)
        skews = {label: math.log(labels.count(label) / N / shares[label]) for label in LABELS}
        for label, skew in skews.items():
            assert details[f"skew_{label}"] == pytest.approx(skew, abs=1e-12)
        assert details["largest_skew"] == pytest.approx(max(map(abs, skews.values())), abs=1e-12)
        assert (details["n_prompts"], details["unlabeled_fraction"]) == (3, 0)


def test_the_interval_is_the_bootstrap_over_prompts(checkpoint: str) -> None:
    labels = told(checkpoint, images())
    counts = torch.tensor([[part.count(label) for label in LABELS] for part in by_prompt(labels)])
    order = sorted(range(3), key=lambda i: _key(PROMPTS[i]))
    for seed in (0, 7):
        metric = classified(checkpoint, LABELS, seed=seed)
        metric.update(images(), prompts())
        expected = balance_interval(counts[order], torch.full((3,), 1 / 3, dtype=torch.float64), seed=seed)
        assert metric.result().interval == pytest.approx(expected[1:], abs=1e-12)
    apart = classified(checkpoint, LABELS, per_prompt=True)
    apart.update(images(), prompts())
    each = torch.tensor([divergence(part, dict.fromkeys(LABELS, 1 / 3)) for part in by_prompt(labels)])
    weights = np.random.default_rng(0).dirichlet(np.ones(3), 200_000)
    expected = np.quantile(weights @ each.numpy(), [0.025, 0.975])
    assert apart.result().interval == pytest.approx(tuple(expected), abs=0.05 * float(each.max() - each.min()))
    one = classified(checkpoint, LABELS)
    one.update(images(), "a doctor")
    assert one.result().interval is None


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_labels_that_were_not_asked_for_are_left_out_and_told(checkpoint: str) -> None:
    labels = told(checkpoint, images())
    left = [label for label in labels if label != "nobody"]
    assert 0 < len(left) < N
    metric = classified(checkpoint, ["man", "woman"])
    metric.update(images(), prompts())
    result = metric.result()
    assert result.value == pytest.approx(divergence(left, {"man": 0.5, "woman": 0.5}), abs=1e-12)
    assert result.n == len(left)
    assert result.details["unlabeled_fraction"] == pytest.approx(1 - len(left) / N)


def test_extremes(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "all", LABELS, bias=[0.0, 3.0, 0.0])
    metric = classified(folder, LABELS)
    metric.update(images(6), PROMPTS * 2)
    result = metric.result()
    assert result.value == pytest.approx(math.log(3))
    assert result.interval == pytest.approx((math.log(3), math.log(3)))
    assert (result.details["skew_woman"], result.details["largest_skew"]) == (-math.inf, math.inf)
    forbidden = classified(folder, LABELS, {"woman": 1.0})
    forbidden.update(images(6), PROMPTS * 2)
    assert forbidden.compute() == math.inf
    forbidden_apart = classified(folder, LABELS, {"woman": 1.0}, per_prompt=True)
    forbidden_apart.update(images(6), PROMPTS * 2)
    assert forbidden_apart.result().interval == (math.inf, math.inf)
    none = classified(folder, ["woman", "nobody"])
    none.update(images(6), PROMPTS * 2)
    with pytest.raises(NotEnoughSamples, match="of 6 images none has one of the labels"):
        none.compute()


def test_opposite_prompts_cancel_only_when_pooled(tmp_path: Path) -> None:
    folders = [save_classifier(tmp_path / str(i), LABELS[:2], bias=[float(i), 1.0 - i]) for i in (0, 1)]
    one, other = (classified(folder, LABELS[:2]) for folder in folders)
    one.update(images(4), "a doctor", ids=range(4))
    other.update(images(4), "a nurse", ids=range(4, 8))
    one.merge_state({name: other.metric_state[name] for name in one.metric_state})
    details = one.result().details
    assert details["kl_pooled"] == pytest.approx(0, abs=1e-12)
    assert details["kl_per_prompt"] == pytest.approx(math.log(2))


def test_batches_and_duplicates(checkpoint: str) -> None:
    whole, single = (classified(checkpoint, LABELS) for _ in range(2))
    for start in range(0, N, 16):
        whole.update(images()[start : start + 16], prompts()[start : start + 16], ids=range(start, min(start + 16, N)))
    for i in [*range(N), 3, 7]:
        single.update(images()[i : i + 1].float() / 255, prompts()[i : i + 1], ids=[i])
    assert single.compute() == whole.compute()
    assert single.result().interval == whole.result().interval
    assert single.result().n == N


def test_in_a_suite(checkpoint: str) -> None:
    metric, alone = (classified(checkpoint, LABELS) for _ in range(2))
    suite = MetricSuite({"balance": metric})
    with pytest.raises(TypeError, match="metric 'balance' needs `prompts=`"):
        suite.update(images())
    suite.update(images(), prompts=prompts())
    alone.update(images(), prompts())
    assert suite.results()["balance"].value == alone.result().value


def test_the_signature_says_what_was_measured(checkpoint: str) -> None:
    metric = AttributeBalance(WORDS, [0.1, 0.2, 0.3, 0.4], network="digits-clip", template=TEMPLATE)
    metric.update(random_images(2, 8), ["a", "b"])
    for part in (
        "labels:zero+one+two+three",
        "target:0.1+0.2+0.3+0.4",
        "template:a handwritten {}",
        "over:pooled",
        "|n:2|prompts:2",
    ):
        assert part in metric.result().signature
    with pytest.raises(SignatureMismatch, match="over: pooled against mean over prompts"):
        classified(checkpoint, LABELS).merge_state(classified(checkpoint, LABELS, per_prompt=True))


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ([0.5, 0.5, 0.5, 0.5], ValueRangeError, r"`target` must be shares that sum to 1, got \[0.5, 0.5"),
        ([0.5, 0.7, 0.3, -0.5], ValueRangeError, "`target` must be shares that sum to 1"),
        ([math.nan, 0.5, 0.5, 0.0], ValueRangeError, "`target` must be shares that sum to 1"),
        ([0.5, 0.5], ShapeError, r"`target` must hold 4 shares, one per label, got shape \(2,\)"),
        (0.25, ShapeError, r"`target` must hold 4 shares, one per label, got shape \(\)"),
        ({"zero": 0.5, "ten": 0.5}, UnknownName, "`target` must be one of 'zero', 'one', 'two', 'three'; got 'ten'"),
        ({"zero": 0.5}, ValueRangeError, "`target` must be shares that sum to 1"),
    ],
)
def test_targets_that_are_no_distribution(target: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        AttributeBalance(WORDS, target, network="digits-clip")


@pytest.mark.parametrize("labels", [[], ["man"], ["man", "man"], ["man", ""], ["man", 2], "man"])
def test_labels_that_are_none(labels: Any) -> None:
    with pytest.raises(ValueError, match="`labels` must be two or more different texts"):
        AttributeBalance(labels, network="digits-clip")


def test_other_bad_input(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`template` must have \{\} where the label goes, got 'a photo'"):
        AttributeBalance(WORDS, template="a photo")
    with pytest.raises(UnknownName, match="`labels` must be one of 'woman', 'man', 'nobody'; got 'robot'"):
        classified(checkpoint, ["man", "robot"])
    multi = save_classifier(tmp_path, LABELS, multi_label=True)
    with pytest.raises(ValueError, match="`classifier` must give each image one label"):
        classified(multi, LABELS)
    with pytest.raises(MissingWeights, match="openai/clip-vit-large-patch14"):
        AttributeBalance(WORDS).update(images(2), PROMPTS[:2])
    metric = classified(checkpoint, LABELS)
    with pytest.raises(ShapeError, match="`prompts` must hold one entry per image, got 3 for 4 images"):
        metric.update(images(4), PROMPTS)
    with pytest.raises(NotEnoughSamples):
        metric.compute()


def _ranks(rank: int, size: int, folder: str) -> list[float]:
    out: list[float] = []
    for per_prompt in (False, True):
        metric = classified(folder, LABELS, per_prompt=per_prompt)
        start, stop = {1: [(0, N)], 2: [(0, 14), (12, N)], 3: [(0, 9), (0, 0), (7, N)]}[size][rank]
        for first in range(start, stop, 5):
            rows = list(range(first, min(first + 5, stop)))
            metric.update(images()[rows], [prompts()[i] for i in rows], ids=rows)
        result = metric.result()
        assert result.interval is not None
        out += [result.value, result.n, *result.interval, *(x for _, x in sorted(result.details.items()))]
    return out


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_agree(worlds: Worlds, checkpoint: str, size: int) -> None:
    alone = _ranks(0, 1, checkpoint)
    answers = worlds(size, _ranks, checkpoint)
    assert all(answer == answers[0] for answer in answers)
    assert answers[0] == pytest.approx(alone, abs=1e-6)  # the mean confidence is float32 of batches of other sizes
    assert answers[0][:4] == pytest.approx(alone[:4], abs=1e-12)
