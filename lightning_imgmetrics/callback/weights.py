"""Which weights are evaluated, and leaving the module as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
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


@contextmanager
def borrowed(module: LightningModule, gradients: bool) -> Iterator[None]:
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
def chosen_weights(
    trainer: Trainer, module: LightningModule, guest: Callback, wanted: str, *, in_validation_end: bool
) -> Iterator[str]:
    """The module with the `wanted` weights ("auto", "raw", "ema"); yields "raw" or "ema", restores on exit.

    After an exception the module holds the raw weights: training is over, and what is saved then must be them.
    `WeightAveraging` swaps its average in before a validation epoch and out in `on_validation_epoch_end`, so what the
    module holds there depends on which callback is listed first; swapping again undoes it, in place and exactly.
    An average that was never updated is a copy of the initial weights: "auto" takes the raw ones until then.
    """
    averaging = find_weight_averaging(trainer)
    if averaging is None or not is_averaging(averaging):
        yield "raw"
        return
    order = callbacks_of(trainer)
    swapped = in_validation_end and order.index(guest) < order.index(averaging)
    label = "ema" if wanted != "raw" and has_averaged(averaging) else "raw"
    if swapped != (label == "ema"):
        swap_weights(averaging, module)
    try:
        yield label
    except BaseException:
        if label == "ema":
            swap_weights(averaging, module)
        raise
    if swapped != (label == "ema"):
        swap_weights(averaging, module)
