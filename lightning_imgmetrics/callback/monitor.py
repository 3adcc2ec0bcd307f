"""Image metrics during training: sample, measure, log, monitor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_imgmetrics._compat.lightning import find_weight_averaging
from lightning_imgmetrics.callback.evaluation import Evaluator, suite_for_samples
from lightning_imgmetrics.callback.log import EvaluationLog
from lightning_imgmetrics.callback.reference import Reference
from lightning_imgmetrics.callback.reward_hacking import RewardGuard
from lightning_imgmetrics.callback.sampling import SampleSource
from lightning_imgmetrics.callback.schedule import Every, Schedule
from lightning_imgmetrics.callback.weights import WEIGHTS
from lightning_imgmetrics.data.images import Source
from lightning_imgmetrics.data.prompts import read_prompts
from lightning_imgmetrics.errors import NotEnoughSamples, UnknownName
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.distribution.reference_statistics import ReferenceStatistics
from lightning_imgmetrics.result import Result
from lightning_imgmetrics.suite import MetricSuite


class ImageMetricsCallback(Callback):
    """Samples images at validation, measures them, and logs values and panels, for monitors and all loggers.

    Values are logged as `<prefix>/<metric>`, and what only accompanies them (timings, counts, reward alerts) below
    `imgmetrics/`. Training is bitwise the same with and without the callback.

    Args:
        metrics: keys of `METRICS` or `PRESETS`, a mapping of names to metrics, or a `MetricSuite`.
        sampler: see `ImageSampler`; default `pl_module.sample`.
        reference: the real images of distribution metrics (dataset, loader, folder, archive, tensor or iterable of
            batches), or `ReferenceStatistics`; default the trainer's validation loader.
        prompts: texts, or a file of them; sample i takes prompt i mod their number.
        num_samples: how many images an evaluation samples, all ranks together.
        batch_size: images per forward pass of a rank; a batch that is out of memory is halved.
        every: see `Every`; a number of epochs, or text such as "2 epochs" or "500 steps".
        seed: fixes, with the sample id, the noise of each sample.
        weights: "raw", or "ema", those of Lightning's `WeightAveraging`; "auto" takes "ema" once it has averaged.
        prefix: what the keys of metrics and panels begin with.
        media: how many samples go into the panel.
        value_range: (low, high) of float samples and reference; default [0, 1], or that of the suite.
        image_key: where an item of the reference is a record, the name or position of its image.
        folder: also write panels as PNG and `results.jsonl` there; default only where no logger takes images.
        cache: keep the measured reference on disk, by content.
        progress: show a bar while sampling, and values in the trainer's bar.
        dry_run: send two samples through everything during the sanity check.
        gradients: sample with gradients enabled, for samplers that need them.
        reward: the metric that the model is trained on, if any: warn, and log `imgmetrics/reward_hacking_alerts`, when
            it rises while others move as they do under reward hacking.
        cadence: metrics that only some evaluations measure, such as judges, by name: {"vie_score": "5 epochs"}.

    Raises:
        ValueError: an argument is out of range, a metric needs something that a callback does not have (class labels,
            the images of a rival, `prompts` that were not given), or nothing can guard `reward`.
        UnknownName: a metric, or a name in `cadence`, `reward` or `weights`, is not known.
        SamplerError: the sampler demands an argument that there is not.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import ImageMetricsCallback
        >>> real = torch.randint(256, (32, 3, 8, 8), dtype=torch.uint8)
        >>> callback = ImageMetricsCallback(
        ...     ["fd_digits_clip", "sharpness"], sampler=lambda ids: real[ids], reference=real, every="500 steps"
        ... )
        >>> list(callback.suite.named()), callback.state_key  # for Trainer(callbacks=[callback])
        (['fd_digits_clip', 'sharpness'], 'ImageMetricsCallback[val]')
    """

    def __init__(
        self,
        metrics: MetricSuite | Mapping[str, ImageMetric] | Iterable[str | ImageMetric],
        sampler: Callable[..., Any] | None = None,
        reference: Source | ReferenceStatistics | None = None,
        prompts: Sequence[str] | str | Path | None = None,
        *,
        num_samples: int = 1000,
        batch_size: int = 64,
        every: Every | int | str = 1,
        seed: int = 0,
        weights: str = "auto",
        prefix: str = "val",
        media: int = 16,
        value_range: tuple[float, float] | None = None,
        image_key: int | str | None = None,
        folder: str | None = None,
        cache: bool = True,
        progress: bool = True,
        dry_run: bool = False,
        gradients: bool = False,
        reward: str | None = None,
        cadence: Mapping[str, Every | int | str] | None = None,
    ):
        if weights not in WEIGHTS:
            raise UnknownName("weights", weights, WEIGHTS)
        if media < 0:
            raise ValueError(f"`media` must be at least 0, got {media}")
        source = SampleSource(sampler, read_prompts(prompts), num_samples, batch_size, seed)
        self.suite = suite_for_samples(metrics, value_range, source.prompts)
        self.schedule = Schedule.parse(every, cadence, self.suite.named())
        self._reference = Reference(reference, batch_size=batch_size, image_key=image_key, cache=cache)
        self._evaluator = Evaluator(
            self.suite, source, self._reference, weights, gradients, panel_size=media, title=prefix, progress=progress
        )
        self._log = EvaluationLog(self.suite, prefix, folder, progress)
        self.prefix, self.dry_run = prefix, dry_run
        self._reward_guard = None if reward is None else RewardGuard.of(reward, self.suite.named())
        self.history: list[dict[str, Any]] = []  # of each evaluation: step, epoch, weights, values, seconds
        self._start = 0  # where in the history this fit begins
        self._results: Mapping[str, Result] = {}

    @property
    def results(self) -> dict[str, Result]:
        """name -> Result of the last evaluation of this process."""
        return dict(self._results)

    @property
    def best(self) -> dict[str, float]:
        """name -> the best value so far, of the metrics with a direction."""
        best: dict[str, float] = {}
        for name, m in self.suite.named().items():
            values = [record["values"][name] for record in self.history if name in record["values"]]
            if values and m.higher_is_better is not None:
                best[name] = max(values) if m.higher_is_better else min(values)
        return best

    # Hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._evaluator.weights == "ema" and stage == "fit" and find_weight_averaging(trainer) is None:
            raise ValueError("`weights='ema'` needs Lightning's WeightAveraging (or EMAWeightAveraging) callback")
        self._start = len(self.history)  # a resumed fit goes on with the history that it restores
        self._reference.start_run()
        self._log.start_run()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for m in self.suite.named().values():  # what is missing shows now and not at the first validation
            for network in m.networks:
                network.network(pl_module.device)
                if m.offload:
                    network.offload(pl_module.device)
            m.signature()  # which needs the prompt templates of judges, too

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.schedule.every.lists_steps and self._due(trainer):
            self.evaluate(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.schedule.every.by_step and self._due(trainer):
            averaging = find_weight_averaging(trainer)
            if averaging is not None:  # its turn may come after ours; it counts a step once
                averaging.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self.evaluate(trainer, pl_module)
            self._log_values(pl_module, by_step=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation:  # else the validation of this epoch has evaluated
            if not self.schedule.every.by_step and self._due(trainer):
                self.evaluate(trainer, pl_module)
            self._log_values(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            if self.dry_run:
                self._dry_run(trainer, pl_module)
            return
        validate_only = trainer.state.fn == "validate"
        first = len(self.history) == self._start
        if validate_only or first or (not self.schedule.every.by_step and self._due(trainer)):
            self.evaluate(trainer, pl_module, "on_validation_epoch_end")
        self._log_values(pl_module, logger=validate_only)

    @property
    def state_key(self) -> str:
        return f"{type(self).__name__}[{self.prefix}]"

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = list(state_dict["history"])
        self._start = 0

    # Evaluation

    def evaluate(self, trainer: Trainer, pl_module: LightningModule, hook: str = "") -> dict[str, Result]:
        """Sample, measure and log now; every rank must call it. Returns name -> Result, the same on every rank.

        `hook`: that of a callback in which it is called; the weights in `pl_module` may depend on it.
        """
        step, epoch, records = trainer.global_step, trainer.current_epoch, self.history[self._start :]
        metrics = self.schedule.metrics_due(step, epoch, records)
        evaluation = self._evaluator.run(trainer, pl_module, self, hook, metrics)
        self._results = evaluation.results
        self.history.append(evaluation.record())
        self._log.write(trainer, evaluation, self._alerts() if self._reward_guard else None)
        return dict(evaluation.results)

    def _alerts(self) -> dict[str, str]:
        """Of reward hacking, with a warning."""
        assert self._reward_guard is not None
        alerts = self._reward_guard.alerts(self.history)
        if alerts:
            moves = ", ".join(f"{name} {values}" for name, values in alerts.items())
            reward = f"{self.prefix}/{self._reward_guard.reward}"
            rank_zero_warn(f"{reward} improved, but {moves}: the model may be gaming its reward")
        return alerts

    def _dry_run(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with suppress(NotEnoughSamples):  # two may be too few for a metric; all else has been tried
            self._evaluator.run(trainer, pl_module, self, "on_validation_epoch_end", self.schedule.metrics, 2)
        self.suite.reset_generated()

    def _due(self, trainer: Trainer) -> bool:
        return self.schedule.due(trainer.global_step, trainer.current_epoch, self.history[self._start :])

    def _log_values(self, pl_module: LightningModule, *, by_step: bool = False, logger: bool = False) -> None:
        if self.history:
            self._log.log_last_values(pl_module, self.history, by_step=by_step, logger=logger)
