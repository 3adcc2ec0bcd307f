"""Files of states: one format with a checksum; files of the first format are read, other ones refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TinyNet, random_images
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_imgmetrics import FrechetDistance, InceptionScore, MetricSuite, PrecisionRecall
from lightning_imgmetrics.errors import IncompatibleStates
from lightning_imgmetrics.metrics.base.state_file import read_about, read_states, save_states

NETWORK = TinyNet()


def make() -> MetricSuite:
    return MetricSuite(
        {
            "fd": FrechetDistance(NETWORK),
            "precision": PrecisionRecall("precision", NETWORK, nearest_k=1),
            "recall": PrecisionRecall("recall", NETWORK, nearest_k=1),
        }
    )


@pytest.fixture
def suite() -> MetricSuite:
    suite = make()
    for real in (True, False):
        suite.update(random_images(5, 16, int(real)), real=real, ids=range(5))
    return suite


def content(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        return file.metadata(), {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118


def values(suite: MetricSuite) -> dict[str, float]:
    return {name: result.value for name, result in suite.results().items()}


def first_format(path: Path) -> None:
    """The file as the first release wrote it: other names of tensors, no version, no checksum."""
    metadata, tensors = content(path)
    names = {"value": "", "ids": "_ids", "pending_ids": "_late_ids", "pending": "_late"}
    renamed = {}
    for key, x in tensors.items():
        metric, state, *part = key.split("/")
        renamed[f"{metric}/{state}{names[part[0]] if part else ''}"] = x
    old = {"side": metadata["side"], "signatures": metadata["signatures"], "lent": metadata["shared"], "about": "{}"}
    save_file(renamed, path, metadata=old)


def test_states_come_back_to_the_same_bits(suite: MetricSuite, tmp_path: Path) -> None:
    suite.save(tmp_path / "a.safetensors", about={"step": 3})
    again = make()
    assert again.load(tmp_path / "a.safetensors") == {"step": 3} == read_about(tmp_path / "a.safetensors")
    assert values(again) == values(suite)


def test_files_of_the_first_format_are_read(suite: MetricSuite, tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    suite.save(path)
    first_format(path)
    loaded, merged = make(), make()
    loaded.load(path)
    merged.merge(path)
    assert values(loaded) == values(merged) == values(suite)


def test_a_reference_of_the_first_format_leaves_the_generated_samples(suite: MetricSuite, tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    suite.save(path, side="real")
    first_format(path)
    before = values(suite)
    suite.load(path)
    assert values(suite) == before


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("fd/fake_moments/value", lambda x: x + 1e-9),
        ("precision/real_bank/value", lambda x: x.flip(0)),
        ("fd/clamped", lambda x: x + 1),
    ],
)
def test_a_changed_tensor_is_noticed(suite: MetricSuite, tmp_path: Path, key: str, change: Any) -> None:
    path = tmp_path / "a.safetensors"
    suite.save(path)
    metadata, tensors = content(path)
    save_file({**tensors, key: change(tensors[key]).contiguous()}, path, metadata=metadata)
    with pytest.raises(IncompatibleStates, match=r"a\.safetensors is damaged: its tensors are not those"):
        make().load(path)


def test_another_version_is_refused_in_words(suite: MetricSuite, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    suite.save(path)
    metadata, tensors = content(path)
    save_file(tensors, path, metadata={**metadata, "format": "lightning-imgmetrics states 3"})
    with pytest.raises(IncompatibleStates, match=r"written by another version \(lightning-imgmetrics states 3\)"):
        make().load(path)
    save_file(tensors, path, metadata={"about": json.dumps({"format": "lightning-imgmetrics run 1"})})
    with pytest.raises(IncompatibleStates, match=r"run of an earlier version, start the run again"):
        make().load(path)


def test_parts_of_sums_may_stay_apart(tmp_path: Path) -> None:
    """Going on from a file rounds as going on does, where sums are kept in parts."""

    class Probabilities(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.double().mean((2, 3))

    def batches(metric: Any, start: int, stop: int) -> None:
        for i in range(start, stop):
            metric.update(random_images(3, 8, i), ids=range(3 * i, 3 * i + 3))

    whole, first, again = (InceptionScore(Probabilities(), splits=3, input_img_size=(3, 8, 8)) for _ in range(3))
    batches(whole, 0, 9)
    batches(first, 0, 4)
    save_states({"is": first}, tmp_path / "run.safetensors", exact=True)
    read_states({"is": again}, tmp_path / "run.safetensors").restore({"is": again})
    batches(again, 4, 9)
    assert again.compute()[0] == whole.compute()[0]
    assert len(again.streams["fake_splits"].content.value) == len(whole.streams["fake_splits"].content.value)
