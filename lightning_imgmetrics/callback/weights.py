"""Which weights are evaluated, and a module that leaves an evaluation as it entered it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_imgmetrics._compat.lightning import (
    callbacks_of,
    find_weight_averaging,
    has_averaged,
    is_averaging,
    swap_weights,
)

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer

WEIGHTS = ("auto", "raw", "ema")


@contextmanager
def evaluation_mode(module: LightningModule, gradients: bool) -> Iterator[None]:
    """The module in eval mode, outside inference mode; its modes and all random streams are restored on exit."""
    modes = {m: m.training for m in module.modules()}
    failure = None
    with isolate_rng(), torch.inference_mode(False), torch.set_grad_enabled(gradients):
        try:
            module.eval()
            yield
        except BaseException as error:  # held back until the streams are restored: isolate_rng skips that on errors
            failure = error
        finally:
            for m, mode in modes.items():
                m.training = mode
    if failure is not None:
        raise failure


@contextmanager
def selected_weights(
    trainer: Trainer, module: LightningModule, callback: Callback, hook: str, weights: str
) -> Iterator[str]:
    """The module with the `weights` ("auto", "raw", "ema"); yields "raw" or "ema", restores on exit.

    `hook` of `callback` is running.
    After an exception the module holds the raw weights: training is over, and what is saved then must be them.
    `WeightAveraging` swaps its average in before a validation epoch and out in `on_validation_epoch_end`, so what the
    module holds there depends on which callback is listed first; swapping again undoes it, in place and exactly.
    An average that was never updated is a copy of the initial weights: the raw ones are taken until then.
    """
    averaging = find_weight_averaging(trainer)
    average = averaging if averaging is not None and is_averaging(averaging) else None
    label = "ema" if weights != "raw" and average is not None and has_averaged(average) else "raw"
    if label == "raw" and weights == "ema":
        rank_zero_warn("`weights='ema'`: WeightAveraging has not averaged yet, the raw weights are evaluated")
    if average is None:
        yield label
        return
    order = callbacks_of(trainer)
    average_inside = hook == "on_validation_epoch_end" and order.index(callback) < order.index(average)
    if average_inside != (label == "ema"):
        swap_weights(average, module)
    try:
        yield label
    except BaseException:
        if label == "ema":
            swap_weights(average, module)
        raise
    if average_inside != (label == "ema"):
        swap_weights(average, module)
