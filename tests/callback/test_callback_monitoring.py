"""Values that ModelCheckpoint and EarlyStopping can see, and when evaluations happen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from callback_parts import Painter, Pixels, data, loaders, monitor, trainer, values
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_imgmetrics import Every, FrechetDistance, ImageMetricsCallback, LPIPSDiversity, MetricSuite


class Seen(Callback):
    """What `callback_metrics` holds at the end of each validation."""

    def __init__(self, key: str = "val/fd") -> None:
        self.key = key
        self.values: list[float] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.values.append(float(trainer.callback_metrics[self.key]))


def steps(callback: ImageMetricsCallback) -> list[int]:
    return [record["step"] for record in callback.history]


def epochs(callback: ImageMetricsCallback) -> list[int]:
    return [record["epoch"] for record in callback.history]


def worse_each_time() -> Any:
    calls = iter(range(100))

    def sampler(module: LightningModule, ids: list[int]) -> torch.Tensor:
        shade = 1 - 0.1 * next(calls)
        return shade * data(24, seed=1).tensors[0][ids]

    return sampler


def test_model_checkpoint_keeps_the_best(tmp_path: Path) -> None:
    checkpoints = [ModelCheckpoint(tmp_path / m, monitor="val/fd", mode=m, filename="{epoch}") for m in ("min", "max")]
    callback = monitor()
    trainer(tmp_path, callback, *checkpoints, max_epochs=4, enable_checkpointing=True).fit(Painter(), *loaders())
    assert len(set(values(callback))) == 4
    for checkpoint, best in zip(checkpoints, (min(values(callback)), max(values(callback))), strict=True):
        assert float(checkpoint.best_model_score) == best
        assert checkpoint.best_model_path.endswith(f"epoch={values(callback).index(best)}.ckpt")
    assert callback.best == {"fd": min(values(callback))}


def test_best_follows_the_direction_of_the_metric(tmp_path: Path) -> None:
    callback = monitor({"diversity": LPIPSDiversity("digits-clip")}, prompts=["a", "b"], every="1 steps")
    trainer(tmp_path, callback, max_epochs=1).fit(Painter(), *loaders())
    assert callback.best == {"diversity": max(values(callback, "diversity"))}


def test_the_last_value_is_present_at_every_validation(tmp_path: Path) -> None:
    seen, callback = Seen(), monitor(every=2)
    trainer(tmp_path, callback, seen, max_epochs=5).fit(Painter(), *loaders())
    assert epochs(callback) == [0, 2, 4]
    first, second, third = values(callback)
    assert seen.values == [first, first, second, second, third]


def test_early_stopping_counts_every_validation(tmp_path: Path) -> None:
    stopping = EarlyStopping(monitor="val/fd", mode="min", patience=3)
    callback = monitor(every=2, sampler=worse_each_time(), num_samples=24, batch_size=24)
    run = trainer(tmp_path, stopping, callback, max_epochs=9)
    run.fit(Painter(), *loaders())
    assert values(callback) == sorted(values(callback))
    assert stopping.stopped_epoch == 3  # the best was at epoch 0; 1, 2 and 3 did not improve on it
    assert epochs(callback) == [0, 2]


def resume(folder: Path, every: int | str, epochs: int, more: int) -> tuple[ImageMetricsCallback, ...]:
    """Train for `epochs`, then go on from the checkpoint for `more`; the two callbacks and what monitors saw."""
    first, resumed, seen = monitor(every=every), monitor(every=every), Seen()

    def run(max_epochs: int, *callbacks: Any) -> Trainer:
        checkpoint = ModelCheckpoint(folder, filename="last", save_top_k=1)
        return trainer(folder, *callbacks, checkpoint, max_epochs=max_epochs, enable_checkpointing=True)

    run(epochs, first).fit(Painter(), *loaders())
    again = run(epochs + more, EarlyStopping(monitor="val/fd", mode="min", patience=9), resumed, seen)
    again.fit(Painter(), *loaders(), ckpt_path=folder / "last.ckpt", weights_only=True)
    return first, resumed, seen


def test_resume_carries_history_and_schedule(tmp_path: Path) -> None:
    first, resumed, seen = resume(tmp_path, 2, 2, 2)
    assert epochs(first) == [0]
    assert resumed.history[0] == first.history[0]
    assert epochs(resumed) == [0, 2]
    assert seen.values == [values(resumed)[1]] * 2
    assert resumed.best == {"fd": min(values(resumed))}


def test_resume_carries_the_last_value(tmp_path: Path) -> None:
    first, resumed, seen = resume(tmp_path, 3, 1, 2)
    assert resumed.history == first.history
    assert seen.values == values(first) * 2


def test_resume_at_step_cadence(tmp_path: Path) -> None:
    first, resumed, _ = resume(tmp_path, "2 steps", 1, 2)
    assert steps(first) == [2]
    assert steps(resumed) == [2, 4, 6, 8]


def test_the_sanity_check_evaluates_nothing(tmp_path: Path) -> None:
    logged: list[str] = []

    class AfterSanity(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            logged.extend(key for key in trainer.callback_metrics if key.startswith("val/"))
            assert callback.history == []

    callback = monitor()
    run = trainer(tmp_path, callback, AfterSanity(), num_sanity_val_steps=2, max_epochs=1)
    run.fit(Painter(), *loaders())
    assert logged == []
    assert steps(callback) == [3]


def test_a_dry_run_sends_two_samples_through_everything(tmp_path: Path) -> None:
    batches: list[list[int]] = []

    def sampler(module: LightningModule, ids: list[int]) -> torch.Tensor:
        batches.append(ids)
        return data(24, seed=2).tensors[0][ids]

    def run(**kwargs: Any) -> ImageMetricsCallback:
        callback = monitor(sampler=sampler, batch_size=64, **kwargs)
        trainer(tmp_path, callback, num_sanity_val_steps=1, max_epochs=1).fit(Painter(), *loaders())
        return callback

    dry = run(dry_run=True)
    assert batches == [[0, 1], list(range(12))]
    assert (steps(dry), values(dry)) == ([3], values(run()))


def test_a_dry_run_surfaces_a_broken_sampler(tmp_path: Path) -> None:
    def sampler(ids: list[int]) -> None:
        return None

    run = trainer(tmp_path, monitor(sampler=sampler, dry_run=True), num_sanity_val_steps=1)
    with pytest.raises(ValueError, match="for 2 ids, got None"):
        run.fit(Painter(), *loaders())
    assert run.global_step == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_step_cadence_counts_optimizer_steps(tmp_path: Path, accumulate: int) -> None:
    callback = monitor(every="3 steps")
    run = trainer(tmp_path, callback, max_epochs=1, accumulate_grad_batches=accumulate)
    run.fit(Painter(), *loaders(n=80 * accumulate))
    assert run.global_step == 10
    assert steps(callback) == [3, 6, 9]


def test_step_cadence_is_visible_to_a_checkpoint_by_steps(tmp_path: Path) -> None:
    """A ModelCheckpoint that saves between validations finds the value of the step it saves at."""
    checkpoint = ModelCheckpoint(tmp_path, monitor="val/fd", mode="min", every_n_train_steps=2, save_top_k=-1)
    callback = monitor(every="2 steps")
    run = trainer(tmp_path, callback, checkpoint, max_epochs=1, enable_checkpointing=True)
    run.fit(Painter(), *loaders(n=48))
    assert steps(callback) == [2, 4, 6]
    assert [float(score) for score in checkpoint.best_k_models.values()] == values(callback)


def test_step_cadence_keeps_the_key_at_validations(tmp_path: Path) -> None:
    seen, callback = Seen(), monitor(every="2 steps")
    trainer(tmp_path, callback, seen, max_epochs=2).fit(Painter(), *loaders())
    assert steps(callback) == [2, 4, 6]
    assert seen.values == [values(callback)[0], values(callback)[2]]


def test_a_validation_before_the_first_step_due_evaluates(tmp_path: Path) -> None:
    seen, callback = Seen(), monitor(every="100 steps")
    trainer(tmp_path, callback, seen, max_epochs=2).fit(Painter(), *loaders())
    assert steps(callback) == [3]
    assert seen.values == values(callback) * 2


def test_listed_steps(tmp_path: Path) -> None:
    callback = monitor(every=Every(steps=(0, 1, 4, 50)))
    trainer(tmp_path, callback, max_epochs=2).fit(Painter(), *loaders())
    assert steps(callback) == [0, 1, 4]


def test_step_zero_is_the_untrained_model(tmp_path: Path) -> None:
    model, callback = Painter(), monitor(every=Every(steps=[0]))
    untrained = trainer(tmp_path, same := monitor(), max_epochs=1)
    untrained.validate(Painter(), loaders()[1], verbose=False)
    trainer(tmp_path, callback, max_epochs=1).fit(model, *loaders())
    assert values(callback) == values(same)


class NoValidation(Painter):
    validation_step = LightningModule.validation_step


@pytest.mark.parametrize("order", ["callback first", "stopping first"])
@pytest.mark.parametrize("model", [Painter, NoValidation])
def test_without_a_validation_loader(tmp_path: Path, model: type[Painter], order: str) -> None:
    """Evaluations at the end of training epochs, in time for monitors whatever their place in the list."""
    checkpoint = ModelCheckpoint(tmp_path, monitor="val/fd", mode="min", filename="{epoch}", save_top_k=-1)
    stopping = EarlyStopping(monitor="val/fd", mode="min", patience=9)
    callback = monitor(reference=data(24, seed=1), every=2)
    pair = [callback, stopping] if order == "callback first" else [stopping, callback]
    run = trainer(tmp_path, *pair, checkpoint, max_epochs=3, enable_checkpointing=True)
    run.fit(model(), loaders()[0])
    first, second = values(callback)
    assert epochs(callback) == [0, 2]
    assert [float(score) for score in checkpoint.best_k_models.values()] == [first, first, second]
    assert float(stopping.best_score) == min(first, second)


def test_without_a_validation_loader_at_step_cadence(tmp_path: Path) -> None:
    callback = monitor(reference=data(24, seed=1), every="2 steps")
    checkpoint = ModelCheckpoint(tmp_path, monitor="val/fd", mode="min", filename="{epoch}", save_top_k=-1)
    run = trainer(tmp_path, callback, checkpoint, max_epochs=2, enable_checkpointing=True)
    run.fit(Painter(), loaders()[0])
    assert steps(callback) == [2, 4, 6]
    assert [float(s) for s in checkpoint.best_k_models.values()] == [values(callback)[0], values(callback)[2]]


def test_val_check_interval(tmp_path: Path) -> None:
    """Every validation finds a value; each epoch is evaluated once, at its first validation."""
    seen, callback = Seen(), monitor()
    trainer(tmp_path, callback, seen, max_epochs=2, val_check_interval=0.5).fit(Painter(), *loaders(n=32))
    assert steps(callback) == [2, 6]
    first, second = values(callback)
    assert seen.values == [first, first, second, second]


def test_val_check_interval_at_step_cadence(tmp_path: Path) -> None:
    callback = monitor(every="2 steps")
    trainer(tmp_path, callback, max_epochs=2, val_check_interval=2).fit(Painter(), *loaders(n=32))
    assert steps(callback) == [2, 4, 6, 8]


def test_check_val_every_n_epoch(tmp_path: Path) -> None:
    callback = monitor()
    checkpoint = ModelCheckpoint(tmp_path, monitor="val/fd", mode="min", save_top_k=-1)
    run = trainer(tmp_path, callback, checkpoint, max_epochs=4, check_val_every_n_epoch=2, enable_checkpointing=True)
    run.fit(Painter(), *loaders())
    assert epochs(callback) == [1, 3]
    assert [float(score) for score in checkpoint.best_k_models.values()] == values(callback)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("average", [False, True])
def test_validate_gives_the_number_of_the_fit(tmp_path: Path, average: bool) -> None:
    checkpoint = ModelCheckpoint(tmp_path, monitor="val/fd", mode="min", filename="best")
    others = [EMAWeightAveraging(decay=0.6)] if average else []
    callback = monitor()
    run = trainer(tmp_path, callback, *others, checkpoint, max_epochs=3, enable_checkpointing=True)
    run.fit(Painter(), *loaders())
    trained = values(callback)
    again = monitor()
    fresh = trainer(tmp_path, again)
    fresh.validate(Painter(), loaders()[1], ckpt_path=tmp_path / "best.ckpt", verbose=False, weights_only=True)
    assert values(again)[-1] == min(trained)
    assert float(fresh.callback_metrics["val/fd"]) == min(trained)
    assert again.results["fd"].difference(callback.results["fd"]) == min(trained) - trained[-1]


def test_validate_in_the_same_trainer(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, monitor="val/fd", mode="min", filename="best")
    callback = monitor()
    run = trainer(tmp_path, callback, checkpoint, max_epochs=3, enable_checkpointing=True)
    run.fit(Painter(), *loaders())
    trained = values(callback)
    (logged,) = run.validate(None, loaders()[1], ckpt_path="best", verbose=False, weights_only=True)
    assert logged["val/fd"] == callback.results["fd"].value == min(trained)


def test_a_validation_before_the_fit_leaves_the_schedule(tmp_path: Path) -> None:
    """A baseline of the untrained model does not stand in for the evaluation of the first epoch."""
    callback, model = monitor(), Painter()
    run = trainer(tmp_path, callback)
    run.validate(model, loaders()[1], verbose=False)
    run.fit(model, *loaders())
    assert steps(callback) == [0, 3, 6]


def test_a_second_fit_has_its_own_schedule(tmp_path: Path) -> None:
    callback = monitor()
    for _ in range(2):
        trainer(tmp_path, callback).fit(Painter(), *loaders())
    assert steps(callback) == [3, 6, 3, 6]


def test_the_number_is_that_of_a_suite(tmp_path: Path) -> None:
    """What the callback logs is what a MetricSuite says of the same images."""
    callback = monitor(sampler=lambda ids: data(24, seed=2).tensors[0][ids], num_samples=24)
    trainer(tmp_path, callback, max_epochs=1).fit(Painter(), *loaders())
    suite = MetricSuite({"fd": FrechetDistance(Pixels())})
    suite.update_reference(data(24, seed=1).tensors[0])
    suite.update(data(24, seed=2).tensors[0])
    assert values(callback) == pytest.approx([suite.results()["fd"].value], rel=1e-9)


def test_two_callbacks_in_one_trainer(tmp_path: Path) -> None:
    first, second = monitor(every=1, prefix="quick"), monitor(every=2, prefix="full", num_samples=20)
    checkpoint = ModelCheckpoint(tmp_path, monitor="full/fd", mode="min", filename="last", save_top_k=1)
    assert first.state_key != second.state_key
    run = trainer(tmp_path, first, second, checkpoint, max_epochs=3, enable_checkpointing=True)
    run.fit(Painter(), *loaders())
    saved = torch.load(checkpoint.best_model_path, weights_only=True)["callbacks"]
    assert {first.state_key, second.state_key} < set(saved)
    assert epochs(first) == [0, 1, 2]
    assert epochs(second) == [0, 2]


@pytest.mark.parametrize("cache", [True, False])
def test_other_validation_data_are_another_reference(tmp_path: Path, cache: bool) -> None:
    """One callback object in two runs."""
    callback, alone = monitor(cache=cache), monitor(cache=False)
    model, other = Painter(), DataLoader(data(24, seed=9), 8)
    trainer(tmp_path, alone).validate(model, other, verbose=False)
    run = trainer(tmp_path, callback)
    run.validate(model, loaders()[1], verbose=False)
    run.validate(model, other, verbose=False)
    assert values(callback)[0] != values(alone)[0]
    assert values(callback)[1] == pytest.approx(values(alone)[0], rel=1e-9)


def test_a_dry_run_with_too_few_samples_for_a_metric_goes_on(tmp_path: Path) -> None:
    """Two samples of two prompts have no diversity; the training that follows has."""
    metrics = {"diversity": LPIPSDiversity("digits-clip")}
    callback = monitor(metrics, prompts=["a", "b"], dry_run=True)
    trainer(tmp_path, callback, num_sanity_val_steps=1, max_epochs=1).fit(Painter(), *loaders())
    assert len(values(callback, "diversity")) == 1
