"""What `_compat/torchmetrics.py` uses of torchmetrics is there and does what it did; else the messages say so."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torchmetrics import Metric, MetricCollection

from lightning_imgmetrics import FrechetDistance
from lightning_imgmetrics._compat import torchmetrics as compat

CHANGED = (
    "torchmetrics has changed: adapt lightning_imgmetrics/_compat/torchmetrics.py and the bound in pyproject.toml. "
)
HOOKS = {
    "_sync_dist": ["self", "dist_sync_fn", "process_group"],
    "_copy_state_dict": ["self"],
    "_reduce_states": ["self", "incoming_state"],
    "_apply": ["self", "fn", "exclude_state"],
    "_move_list_states_to_cpu": ["self"],
    "_wrap_update": ["self", "update"],
    "_wrap_compute": ["self", "compute"],
    "state_dict": ["self", "destination", "prefix", "keep_vars"],
}
ATTRIBUTES = ("_computed", "_update_count", "_to_sync", "_should_unsync", "_is_synced", "_forward_cache", "_defaults")


class Sum(Metric):
    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, x: float) -> None:
        self.total += x

    def compute(self) -> Any:
        return self.total


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_have_the_arguments_that_ours_have(hook: str) -> None:
    theirs = getattr(Metric, hook, None)
    assert theirs is not None, f"{CHANGED}`Metric.{hook}` is gone."
    assert list(inspect.signature(theirs).parameters) == HOOKS[hook], f"{CHANGED}`Metric.{hook}` takes other arguments."


def test_loading_a_state_dict_passes_the_arguments_of_torch() -> None:
    parameters = list(inspect.signature(Metric._load_from_state_dict).parameters)
    assert parameters[:3] == ["self", "state_dict", "prefix"], (
        f"{CHANGED}`_load_from_state_dict` takes other arguments."
    )


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_attributes_are_there(attribute: str) -> None:
    assert hasattr(Sum(), attribute), f"{CHANGED}`Metric.{attribute}` is gone."


def test_counts_and_values_are_where_they_were() -> None:
    metric = Sum()
    metric.update(1)
    assert compat.update_count(metric) == 1, f"{CHANGED}`update` no longer counts."
    assert metric.compute() == 1
    metric.total += 1
    assert metric.compute() == 1
    compat.forget_value(metric)
    assert metric.compute() == 2, f"{CHANGED}a value is remembered elsewhere."
    assert compat.attribute_states(metric) == ["total"]
    with compat.this_rank_alone(metric):
        assert not compat.syncs_on_compute(metric)
    assert compat.syncs_on_compute(metric)


def test_names_in_a_collection() -> None:
    assert compat.prefixed(MetricCollection({"a": Sum()}, prefix="x_"), "a") == "x_a", f"{CHANGED}`_set_name` is gone."


def test_persistent_states_are_saved_and_loaded() -> None:
    """In a checkpoint of the module that holds the metric, as torchmetrics offers."""
    metric, other = (FrechetDistance("digits-clip") for _ in range(2))
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    metric.update(images[:3], real=True, ids=range(3))
    metric.update(images[3:], real=False, ids=range(3))
    assert metric.state_dict() == {}
    for m in (metric, other):
        m.persistent(True)
    other.load_state_dict(metric.state_dict())
    assert other.compute() == metric.compute()
    metric.update(images[:3], real=False, ids=range(3, 6))
    assert other.compute() != metric.compute()


def test_lists_of_batches_move_to_the_cpu_where_that_is_asked_for() -> None:
    metric = FrechetDistance("digits-clip", compute_on_cpu=True)
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for real in (True, False):
        metric.update(images[3 * real :][:3], real=real)
    assert metric.compute() > 0
