"""All that this package uses of Lightning beyond its public interface; checked by tests/_compat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from warnings import catch_warnings, filterwarnings

from lightning.pytorch.callbacks import WeightAveraging

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The trainer's callbacks in the order in which it calls them; it has the attribute, but its class does not."""
    return trainer.callbacks  # type: ignore[attr-defined]


def find_weight_averaging(trainer: Trainer) -> WeightAveraging | None:
    """The trainer's weight averaging, if it has one."""
    return next((c for c in callbacks_of(trainer) if isinstance(c, WeightAveraging)), None)


def is_averaging(averaging: WeightAveraging) -> bool:
    """Whether there is an average, as there is from the setup of a fit on."""
    return averaging._average_model is not None


def has_averaged(averaging: WeightAveraging) -> bool:
    """Whether the average was updated at least once; until then it is a copy of the initial weights."""
    average = averaging._average_model
    return average is not None and int(average.n_averaged) > 0


def swap_weights(averaging: WeightAveraging, module: LightningModule) -> None:
    """Exchange the weights of the module and the average in place; doing it again undoes it exactly."""
    averaging._swap_models(module)


def set_up_validation(trainer: Trainer) -> None:
    """Make `trainer.val_dataloaders` before the first validation of a fit, as Lightning does when that begins."""
    trainer.validating = True
    try:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
    finally:
        trainer.training = True


@contextmanager
def logging_without_logger() -> Iterator[None]:
    """`self.log(...)` without the warning that there is no logger: the value is for monitors."""
    with catch_warnings():
        filterwarnings("ignore", "You called `self.log.* but have no logger")
        yield
