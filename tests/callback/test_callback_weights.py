"""Which weights an evaluation sees, whatever the order of the callbacks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from callback_parts import Painter, Pixels, data, loaders, monitor, trainer, values
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging

from lightning_imgmetrics import FrechetDistance, ImageMetricsCallback, MetricSuite

ORDERS = ["callback first", "average first"]
AVERAGES = {"mean": WeightAveraging, "ema": lambda: EMAWeightAveraging(decay=0.6)}


class Snapshots(Callback):
    """Copies of the raw and of the averaged model each time training continues after an evaluation."""

    def __init__(self) -> None:
        self.raw: list[LightningModule] = []
        self.averaged: list[LightningModule] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.raw.append(_twin(pl_module))
        average = next((c for c in trainer.callbacks if isinstance(c, WeightAveraging)), None)
        if average is not None:
            self.averaged.append(_twin(average._average_model.module))


def _twin(module: LightningModule) -> Painter:
    twin = Painter()
    twin.load_state_dict(copy.deepcopy(module.state_dict()))
    return twin.eval()


def by_hand(model: Painter, callback: ImageMetricsCallback) -> float:
    """The distance of the callback's samples, drawn from `model` without a trainer."""
    from lightning_imgmetrics.callback.sampling import generators_of

    suite = MetricSuite({"fd": FrechetDistance(Pixels())})
    suite.update_reference(data(24, seed=1).tensors[0])
    with torch.no_grad():
        suite.update(model.sample(generators_of(0, range(12))))
    return suite.results()["fd"].value


def fit(folder: Path, order: str, average: Callback, *others: Callback, **kwargs: Any) -> ImageMetricsCallback:
    torch.manual_seed(3)
    fit_kwargs = {k: kwargs.pop(k) for k in ("max_epochs", "val_check_interval") if k in kwargs}
    callback = monitor(**kwargs)
    pair = [callback, average] if order == "callback first" else [average, callback]
    trainer(folder, *pair, *others, **fit_kwargs).fit(Painter(), *loaders())
    return callback


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("average", AVERAGES)
def test_the_average_is_evaluated_and_labelled(tmp_path: Path, average: str, order: str) -> None:
    snapshots = Snapshots()
    callback = fit(tmp_path, order, AVERAGES[average](), snapshots)
    assert [record["weights"] for record in callback.history] == ["ema", "ema"]
    assert values(callback) == pytest.approx([by_hand(m, callback) for m in snapshots.averaged], rel=1e-9)
    assert values(callback) != pytest.approx([by_hand(m, callback) for m in snapshots.raw], rel=1e-3)
    assert "model_weights:ema" in callback.results["fd"].signature


@pytest.mark.parametrize("order", ORDERS)
def test_raw_weights_on_request(tmp_path: Path, order: str) -> None:
    snapshots = Snapshots()
    callback = fit(tmp_path, order, EMAWeightAveraging(decay=0.6), snapshots, weights="raw")
    assert [record["weights"] for record in callback.history] == ["raw", "raw"]
    assert values(callback) == pytest.approx([by_hand(m, callback) for m in snapshots.raw], rel=1e-9)
    assert "model_weights:raw" in callback.results["fd"].signature


@pytest.mark.parametrize("order", ORDERS)
def test_an_average_that_has_not_started_is_not_taken(tmp_path: Path, order: str) -> None:
    """Until its first update the average is a copy of the initial weights."""
    snapshots = Snapshots()
    average = EMAWeightAveraging(decay=0.6, update_starting_at_step=4)  # three steps an epoch
    callback = fit(tmp_path, order, average, snapshots)
    assert [record["weights"] for record in callback.history] == ["raw", "ema"]
    expected = [by_hand(snapshots.raw[0], callback), by_hand(snapshots.averaged[1], callback)]
    assert values(callback) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("order", ORDERS)
def test_ema_on_request_says_that_it_has_not_started(tmp_path: Path, order: str) -> None:
    average = EMAWeightAveraging(decay=0.6, update_starting_at_step=100)
    with pytest.warns(UserWarning, match="not averaged yet"):
        callback = fit(tmp_path, order, average, weights="ema", max_epochs=1)
    assert [record["weights"] for record in callback.history] == ["raw"]


def test_ema_on_request_without_an_average_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="WeightAveraging"):
        trainer(tmp_path, monitor(weights="ema")).fit(Painter(), *loaders())


def test_both_orders_agree_at_step_cadence(tmp_path: Path) -> None:
    """The evaluation after step n sees the average that includes step n."""
    numbers = {order: values(fit(tmp_path, order, EMAWeightAveraging(decay=0.6), every="2 steps")) for order in ORDERS}
    assert len(numbers["callback first"]) == 3
    assert numbers["callback first"] == numbers["average first"]


@pytest.mark.parametrize("order", ORDERS)
def test_the_average_at_step_cadence_equals_the_one_by_hand(tmp_path: Path, order: str) -> None:
    torch.manual_seed(3)
    callback, average, snapshots = monitor(every="3 steps"), EMAWeightAveraging(decay=0.6), Snapshots()
    pair = [callback, average] if order == "callback first" else [average, callback]
    trainer(tmp_path, *pair, snapshots, max_epochs=1).fit(Painter(), *loaders())  # step 3 ends the epoch
    assert values(callback) == pytest.approx([by_hand(snapshots.averaged[0], callback)], rel=1e-9)


class States(Callback):
    """Listed first: the state right before the hook of the callback, and the one that an exception leaves."""

    def __init__(self) -> None:
        self.raw: dict[str, torch.Tensor] = {}
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.before = self.note(pl_module)
        self.raw = self.before["state"]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before = self.note(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.after = self.note(pl_module)

    @staticmethod
    def note(module: LightningModule) -> dict[str, Any]:
        return {
            "state": copy.deepcopy(module.state_dict()),
            "modes": {name: m.training for name, m in module.named_modules()},
            "needed": [p.requires_grad for p in module.parameters()],
            "rng": torch.get_rng_state(),
        }


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("weights", ["auto", "raw"])
@pytest.mark.parametrize("every", [1, "2 steps"])
def test_an_exception_leaves_everything_as_it_was(tmp_path: Path, order: str, weights: str, every: int | str) -> None:
    def sampler(module: LightningModule, ids: list[int]) -> torch.Tensor:
        torch.rand(5)
        seen.append(copy.deepcopy(module.state_dict()))
        raise RuntimeError("the sampler broke")

    seen: list[dict[str, torch.Tensor]] = []
    states, average = States(), EMAWeightAveraging(decay=0.6)
    callback = monitor(sampler=sampler, weights=weights, every=every)
    pair = [callback, average] if order == "callback first" else [average, callback]
    with pytest.raises(RuntimeError, match="the sampler broke"):
        trainer(tmp_path, states, *pair).fit(Painter(), *loaders())
    states.before.pop("state")  # inside a validation that is the average, which Lightning has swapped in
    assert _equal(states.after.pop("state"), states.raw)
    assert not _equal(average._average_model.module.state_dict(), states.raw)
    rng = states.before.pop("rng"), states.after.pop("rng")
    assert torch.equal(*rng), "the random stream moved"
    assert states.after == states.before
    assert _equal(seen[0], states.raw) == (weights == "raw")


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
