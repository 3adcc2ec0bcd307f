"""What `_compat/lightning.py` uses of Lightning is there and does what it did; else the messages say what to change."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch.utils.data import DataLoader

from lightning_imgmetrics._compat import lightning as compat

CHANGED = "Lightning has changed: adapt lightning_imgmetrics/_compat/lightning.py and the bound in pyproject.toml. "


class Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return (self.weight - batch).square().mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Probe(Callback):
    """Runs an action once, at the first hook of the given name."""

    def __init__(self, hook: str, action: Any) -> None:
        self.answers: list[Any] = []
        setattr(self, hook, lambda *args: self.answers or self.answers.append(action(*args[:2])))


def fit(folder: Path, *callbacks: Callback, validate_every: int = 1) -> None:
    trainer = Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        max_epochs=1,
        check_val_every_n_epoch=validate_every,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Line(), DataLoader(torch.ones(4)), DataLoader(torch.ones(2)))


def test_methods_of_weight_averaging() -> None:
    assert hasattr(WeightAveraging, "_swap_models"), f"{CHANGED}`WeightAveraging._swap_models` is gone."


def test_swapping_twice_leaves_the_weights_as_they_were(tmp_path: Path) -> None:
    def swap(trainer: Trainer, module: LightningModule) -> list[float]:
        averaging = compat.find_weight_averaging(trainer)
        assert averaging is not None
        assert compat.is_averaging(averaging), f"{CHANGED}`_average_model` is not there when training begins."
        before = [module.weight.item(), compat.has_averaged(averaging)]
        compat.swap_weights(averaging, module)
        between = module.weight.item()
        compat.swap_weights(averaging, module)
        return [*before, between, module.weight.item()]

    class Second(EMAWeightAveraging):
        def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
            return step_idx == 1

    start = Probe("on_train_start", swap)
    end = Probe("on_train_epoch_end", swap)
    fit(tmp_path, start, end, Second(decay=0.5))
    ((raw, averaged, between, after),) = start.answers
    assert not averaged, f"{CHANGED}`_average_model.n_averaged` is not 0 before the first update."
    assert raw == between == after == 0.0
    ((raw, averaged, between, after),) = end.answers
    assert averaged, f"{CHANGED}`_average_model.n_averaged` does not count updates."
    assert between != raw, f"{CHANGED}`_swap_models` does not put the average into the module."
    assert after == raw, f"{CHANGED}`_swap_models` twice is not what was there."


def test_without_a_fit_there_is_no_average() -> None:
    assert not compat.is_averaging(WeightAveraging())
    assert not compat.has_averaged(WeightAveraging())


def test_the_average_is_swapped_in_for_the_whole_validation() -> None:
    hooks = "on_validation_epoch_start", "on_validation_epoch_end"
    for hook in hooks:
        source = inspect.getsource(getattr(WeightAveraging, hook))
        assert "_swap_models" in source, f"{CHANGED}`WeightAveraging.{hook}` does not swap: see callback/weights.py."


def test_callbacks_are_in_the_order_of_the_list(tmp_path: Path) -> None:
    def look(trainer: Trainer, module: LightningModule) -> tuple[list[Callback], Any]:
        return compat.callbacks_of(trainer), compat.find_weight_averaging(trainer)

    first, second = Probe("on_fit_start", look), Probe("on_fit_start", look)
    fit(tmp_path, first, second)
    ((callbacks, averaging),) = first.answers
    own = [c for c in callbacks if isinstance(c, Probe)]
    assert own == [first, second], f"{CHANGED}`trainer.callbacks` is not the list of callbacks."
    assert averaging is None


def test_the_validation_loader_is_there_before_the_first_validation(tmp_path: Path) -> None:
    def set_up(trainer: Trainer, module: LightningModule) -> tuple[Any, ...]:
        before = trainer.val_dataloaders
        compat.set_up_validation(trainer)
        return before, trainer.val_dataloaders, trainer.training, trainer.validating

    probe = Probe("on_train_start", set_up)
    fit(tmp_path, probe, validate_every=2)  # else Lightning makes it first
    ((before, after, training, validating),) = probe.answers
    assert before is None
    assert after is not None, f"{CHANGED}`val_loop.setup_data()` makes no validation loader."
    assert (training, validating) == (True, False)


def test_the_warning_of_a_missing_logger_is_silenced(tmp_path: Path) -> None:
    def log(trainer: Trainer, module: LightningModule) -> list[str]:
        texts = []
        for name in ("loud", "quiet"):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                if name == "loud":
                    module.log(name, 1.0, logger=True)
                else:
                    with compat.logging_without_logger():
                        module.log(name, 1.0, logger=True)
            texts.append("".join(str(w.message) for w in caught))
        return texts

    probe = Probe("on_train_epoch_end", log)
    fit(tmp_path, probe)
    ((loud, quiet),) = probe.answers
    assert "no logger" in loud, f"{CHANGED}the warning that there is no logger has another text."
    assert quiet == ""
