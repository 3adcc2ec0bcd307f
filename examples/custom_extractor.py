"""Measure in the features of your own network, where ImageNet features do not suit the images.

    python examples/custom_extractor.py

A small classifier learns scikit-learn's handwritten digits; its hidden layer is the feature space. Held-out digits are
compared with three "generators" of typical failures: blurred digits, sevens alone, and copies of the reference.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_imgmetrics import (
    Authenticity,
    DensityCoverage,
    FrechetDistance,
    KernelInceptionDistance,
    MetricSuite,
    PrecisionRecall,
    VendiScore,
)
from lightning_imgmetrics.models.base.extractor import Extractor, Features
from lightning_imgmetrics.models.base.weights import ModelCard


def digits() -> tuple[Tensor, Tensor]:
    """(images uint8 (n, 3, 8, 8), labels (n,))."""
    data = load_digits()
    images = (torch.from_numpy(data.images) * 255 / 16).to(torch.uint8)[:, None].repeat(1, 3, 1, 1)
    return images, torch.from_numpy(data.target)


def train(images: Tensor, labels: Tensor) -> nn.Sequential:
    """A classifier of digits; its hidden layer gives the features."""
    torch.manual_seed(0)
    body = nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 64), nn.ReLU()
    network = nn.Sequential(*body, nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(150):
        loss = F.cross_entropy(network(images[:, :1] / 255), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


@dataclass(frozen=True)
class DigitExtractor(Extractor):
    """What a suite needs of a network: how images are prepared, its layers, and its name in signatures.

    Equal extractors share one pass over each batch. A plain `nn.Module` can be passed instead; an extractor of its own
    names layers and weights, and prepares the images.
    """

    classifier: nn.Sequential
    card = ModelCard("digit-classifier", "examples/custom_extractor.py", license="Apache-2.0")
    default_layer = "hidden"

    @property
    def key(self) -> Hashable:
        return self.classifier

    def load(self) -> nn.Module:
        return self.classifier

    def prepare(self, images: Tensor) -> Tensor:
        return images[:, :1].float() / 255

    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        hidden = network[:-1](x)
        return {"hidden": hidden, "logits": network[-1](hidden)}

    def dim(self, layer: str) -> int:
        return {"hidden": 64, "logits": 10}[layer]

    def signature_fields(self) -> dict[str, str]:
        return {"resize": "none", "training": "seed 0, 150 steps"}


def metrics(network: Extractor) -> MetricSuite:
    """All of them share one pass and one bank of features."""
    return MetricSuite(
        {
            "frechet": FrechetDistance(network),
            "kid": KernelInceptionDistance(network, subset_size=100),
            "precision": PrecisionRecall("precision", network),
            "recall": PrecisionRecall("recall", network),
            "coverage": DensityCoverage("coverage", network),
            "authenticity": Authenticity(network),
            "vendi": VendiScore(network),
        }
    )


def main() -> dict[str, dict[str, float]]:
    """Prints the table and returns it: set of images -> metric -> value."""
    images, labels = digits()
    held_out = torch.arange(len(images)) % 4 == 3
    suite = metrics(DigitExtractor(train(images[~held_out], labels[~held_out])))
    reference, others = images[held_out], images[~held_out]
    suite.update_reference(reference, ids=range(len(reference)))
    generated = {
        "other real digits": others[:449],
        "blurred": F.avg_pool2d(others[:449].float(), 3, stride=1, padding=1).to(torch.uint8),
        "sevens alone": others[labels[~held_out] == 7],
        "copies of the reference": reference[:200].repeat(2, 1, 1, 1),
    }
    rows = {}
    for name, batch in generated.items():
        suite.reset_generated()
        suite.update(batch, ids=range(len(batch)))
        rows[name] = {metric: result.value for metric, result in suite.results().items()}
    table = Table("", *rows)
    for metric in suite.named():
        table.add_row(metric, *(f"{values[metric]:.3f}" for values in rows.values()))
    console = Console()
    console.print(table)
    console.print(suite.results()["kid"].signature, style="dim")
    return rows


if __name__ == "__main__":
    main()
