"""Distribution metrics in the callback: shared features, a reference from a file, what needs labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from callback_parts import Painter, Pixels, data, monitor, trainer
from torch.utils.data import DataLoader

from lightning_imgmetrics import (
    Authenticity,
    CLIPMaximumMeanDiscrepancy,
    FrechetDistance,
    IntraFrechetInceptionDistance,
    KernelInceptionDistance,
    MetricSuite,
    PrecisionRecall,
    ReferenceStatistics,
    VendiScore,
)
from lightning_imgmetrics.errors import SignatureMismatch
from lightning_imgmetrics.metrics.base.metric import ImageMetric


def metrics(network: Pixels) -> dict[str, ImageMetric]:
    return {
        "fd": FrechetDistance(network, groups=3),
        "kid": KernelInceptionDistance(network, subsets=4, subset_size=10),
        "precision": PrecisionRecall("precision", network),
        "recall": PrecisionRecall("recall", network),
        "authenticity": Authenticity(network),
        "cmmd": CLIPMaximumMeanDiscrepancy(network, streaming=True),
        "vendi": VendiScore(network),
    }


def test_all_in_one_pass_and_as_a_suite_measures_them(tmp_path: Path) -> None:
    network = Pixels()
    callback = monitor(metrics(network), num_samples=21, batch_size=5, value_range=(0, 1))
    trainer(tmp_path, callback).validate(Painter(), DataLoader(data(), 8), verbose=False)
    passed = network.passes
    assert passed <= 24 + 21 + 1  # and an image to learn the width from
    assert list(callback.results) == list(metrics(network))
    assert callback.results["fd"].interval is not None
    assert all(torch.tensor(r.value).isfinite() for r in callback.results.values())
    assert 1 <= callback.results["vendi"].value <= 21


def test_the_reference_from_a_file_is_the_measured_one(tmp_path: Path) -> None:
    network, images = Pixels(), data().tensors[0]
    suite = MetricSuite(metrics(network))
    suite.update_reference(images, ids=range(24))
    suite.reference().save(tmp_path / "reference.safetensors")
    values = []
    for reference in (ReferenceStatistics.load(tmp_path / "reference.safetensors"), images):
        callback = monitor(metrics(network), reference=reference, num_samples=21, batch_size=5)
        trainer(tmp_path, callback).validate(Painter(), DataLoader(data(), 8), verbose=False)
        values.append([r.value for r in callback.results.values()])
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_the_cached_reference_is_the_measured_one(tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        network = Pixels()
        callback = monitor(metrics(network), reference=data(), num_samples=21, batch_size=5)
        trainer(tmp_path, callback).validate(Painter(), DataLoader(data(), 8), verbose=False)
        runs.append(([r.value for r in callback.results.values()], network.passes))
    assert runs[0][0] == runs[1][0]
    assert runs[0][1] - runs[1][1] == 24


def test_a_reference_of_another_network_is_refused(tmp_path: Path) -> None:
    suite = MetricSuite({"fd": FrechetDistance("digits-clip")})
    suite.update_reference(data().tensors[0])
    callback = monitor({"fd": FrechetDistance(Pixels())}, reference=suite.reference())
    with pytest.raises(SignatureMismatch, match="digits-clip"):
        trainer(tmp_path, callback).validate(Painter(), DataLoader(data(), 8), verbose=False)


def test_labels_are_not_guessed() -> None:
    with pytest.raises(ValueError, match="'intra' needs class labels"):
        monitor({"intra": IntraFrechetInceptionDistance(Pixels())})
