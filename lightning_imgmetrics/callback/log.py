"""Which keys an evaluation is logged under, for loggers, the folder and monitors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lightning_imgmetrics._compat.lightning import logging_without_logger
from lightning_imgmetrics.callback.writers import Entry, Writer, writers_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from lightning_imgmetrics.callback.evaluation import Evaluation
    from lightning_imgmetrics.suite import MetricSuite

_DEFAULT_PREFIX = "val"


class EvaluationLog:
    """Metrics and their details under `<prefix>/`; timings, counts and alerts under `imgmetrics/`.

    A callback with another prefix than the default has the latter under `imgmetrics/<prefix>/`, so that two callbacks
    of one trainer do not overwrite each other's.
    """

    def __init__(self, suite: MetricSuite, prefix: str, folder: str | None, progress: bool):
        self.prefix, self.folder, self.progress = prefix, folder, progress
        self.details = {name: tuple(m.logged_details) for name, m in suite.named().items()}
        self.housekeeping = "imgmetrics" if prefix == _DEFAULT_PREFIX else f"imgmetrics/{prefix}"
        self._writers: Sequence[Writer] | None = None

    def start_run(self) -> None:
        """To be called when a trainer begins, which has loggers of its own."""
        self._writers = None

    def write(self, trainer: Trainer, evaluation: Evaluation, alerts: Mapping[str, str] | None) -> None:
        """Write an evaluation on rank 0; `alerts`: of reward hacking, None where there is no reward."""
        if self._writers is None:
            folder = Path(trainer.log_dir or trainer.default_root_dir) / "imgmetrics"  # a broadcast: on every rank
            self._writers = writers_of(trainer.loggers, self.folder, folder) if trainer.is_global_zero else ()
        scalars = {f"{self.housekeeping}/{name}": x for name, x in _housekeeping(evaluation, alerts).items()}
        results = {f"{self.prefix}/{name}": result for name, result in evaluation.results.items()}
        if trainer.state.fn != "validate":  # which sends the logged values to the loggers itself
            scalars |= {key: result.value for key, result in results.items()}
        scalars |= self._details(evaluation)
        scalars["epoch"] = float(trainer.current_epoch)
        entry = Entry(evaluation.step, scalars, results, evaluation.panel, f"{self.prefix}/samples")
        for writer in self._writers:
            writer.write(entry)

    def _details(self, evaluation: Evaluation) -> dict[str, float]:
        """What metrics log beside their value: counts among the housekeeping figures, the rest beside the value."""
        details = {}
        for name, result in evaluation.results.items():
            for detail in self.details[name]:
                if detail in result.details:
                    place = self.housekeeping if detail.startswith("n_") else self.prefix
                    details[f"{place}/{name}_{detail}"] = result.details[detail]
        return details

    def log_last_values(
        self, module: LightningModule, history: Sequence[Mapping[str, Any]], *, by_step: bool, logger: bool
    ) -> None:
        """Log the newest value of each metric in this hook, so that monitors find it at every validation.

        NaN for a judge that has given none, so that a monitored key exists. `logger`: also send it to the loggers, as
        `trainer.validate` does; in a fit the writers have done so.
        """
        values = dict.fromkeys(self.details, math.nan)
        for record in history:
            values |= record["values"]
        dtype = torch.float32 if module.device.type == "mps" else torch.float64
        with logging_without_logger():
            for name, value in values.items():
                # All ranks have the same value, to the last bit: so has their maximum.
                module.log(
                    f"{self.prefix}/{name}",
                    torch.tensor(value, dtype=dtype, device=module.device),
                    logger=logger,
                    prog_bar=self.progress,
                    on_step=by_step,
                    on_epoch=not by_step,
                    reduce_fx="max",
                    sync_dist=not by_step,
                    batch_size=1,
                )


def _housekeeping(evaluation: Evaluation, alerts: Mapping[str, str] | None) -> dict[str, float]:
    figures = {f"seconds_{phase}": seconds for phase, seconds in evaluation.seconds.items()}
    figures["sampled_images_per_second"] = evaluation.num_samples / max(evaluation.seconds["sampling"], 1e-9)
    figures["weights_ema"] = float(evaluation.weights == "ema")
    if alerts is not None:
        figures["reward_hacking_alerts"] = float(len(alerts))
    return figures
