"""Image metrics during training: sample, measure, log, monitor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_imgmetrics._compat.lightning import find_weight_averaging, logging_without_logger
from lightning_imgmetrics._distributed import rendezvous, world
from lightning_imgmetrics._images import check_value_range
from lightning_imgmetrics.callback.cadence import due_now, last_values, parse_cadence
from lightning_imgmetrics.callback.guards import guards_among, parted
from lightning_imgmetrics.callback.media import Panel, gathered_panel
from lightning_imgmetrics.callback.progress import sampling_bar
from lightning_imgmetrics.callback.reference import measure_reference, validation_loader
from lightning_imgmetrics.callback.sampler import accepted, module_sample
from lightning_imgmetrics.callback.sampling import feed_samples, passes_for
from lightning_imgmetrics.callback.schedule import Every
from lightning_imgmetrics.callback.weights import borrowed, chosen_weights
from lightning_imgmetrics.callback.writers import Writer, writers_of
from lightning_imgmetrics.data.images import ImageBatches, Source
from lightning_imgmetrics.data.prompts import read_prompts
from lightning_imgmetrics.errors import JudgeFailed, NotEnoughSamples, NothingToJudge, UnknownName
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.distribution.reference_statistics import ReferenceStatistics
from lightning_imgmetrics.result import Result
from lightning_imgmetrics.suite import MetricSuite

_DAY = 86400.0  # ranks may sample at unlike speeds; that all of them take part was checked before


class ImageMetricsCallback(Callback):
    """Samples images at validation, measures them, and logs values, panels and timings as `<prefix>/...`.

    `metrics`: keys, a mapping of names to metrics, or a `MetricSuite`. `sampler`: see `ImageSampler`; default
    `pl_module.sample`. `reference`: dataset, loader, folder, archive, tensor or iterable of batches with the real
    images of distribution metrics, or `ReferenceStatistics`; default the trainer's validation loader. `prompts`: texts
    or a file of them; sample i takes prompt i mod their number. `num_samples` in all, over all ranks; `every`: see
    `Every`. `weights`: "ema" or "raw"; "auto" takes those of `WeightAveraging` once it has averaged. `value_range` of
    float samples and reference, default [0, 1]. `media`: how many samples go into the panel. `folder`: also write
    panels as PNG and `results.jsonl`. `dry_run`: send two samples through everything during the sanity check.
    `gradients`: for samplers that need them. `cadence`: metrics that only some evaluations measure, such as judges,
    by name: {"vie_score": "5 epochs"}. `reward`: the metric that the model is trained on, if any; a warning, and
    `guards_parted`, tell when it rises while others move as they do under reward hacking (see `GUARDS`). Training is
    bitwise the same with and without the callback.
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
        if weights not in ("auto", "raw", "ema"):
            raise UnknownName("weights", weights, ("auto", "raw", "ema"))
        for name, number in (("num_samples", num_samples), ("batch_size", batch_size), ("media", media)):
            least = int(name != "media")
            if number < least:
                raise ValueError(f"`{name}` must be at least {least}, got {number}")
        self.suite = metrics if isinstance(metrics, MetricSuite) else MetricSuite(metrics)
        if value_range is not None:
            self.suite.value_range = value_range
        check_value_range(self.suite.value_range)
        for name, m in self.suite.named().items():
            if m.extractor is None:
                raise ValueError(f"metric {name!r} does not measure images: it cannot be used here")
            for field, needed in (("labels", "class labels"), ("rivals", "the images of a rival")):
                if field in m.inputs:
                    raise ValueError(f"metric {name!r} needs {needed}: use a MetricSuite or the command line")
        self.sampler = sampler or module_sample
        accepted(self.sampler)
        self.reference = reference
        self.prompts = read_prompts(prompts)
        self.num_samples, self.batch_size, self.every = num_samples, batch_size, Every.parse(every)
        self.seed, self.weights, self.prefix, self.media = seed, weights, prefix, media
        self.image_key, self.folder = image_key, folder
        self.cache, self.progress, self.dry_run, self.gradients = cache, progress, dry_run, gradients
        self.reward = reward
        self.cadence = parse_cadence(cadence, self.suite.named())
        self._guards = {} if reward is None else guards_among(self.suite.named(), reward)
        self.history: list[dict[str, Any]] = []  # of each evaluation: step, epoch, weights, values, seconds
        self._last: tuple[int, int] | None = None  # (step, epoch) of this fit's last evaluation
        self._since = 0  # where in the history this fit begins
        self._results: dict[str, Result] = {}
        self._has_reference = False
        self._writers: Sequence[Writer] | None = None
        needing = [name for name, m in self.suite.named().items() if "prompts" in m.inputs]
        if needing and self.prompts is None:
            raise ValueError(f"metric {needing[0]!r} needs `prompts`")
        for m in self.suite.named().values():
            if self.prompts is not None and "labels" not in m.inputs:
                m.check_inputs(len(self.prompts), prompts=self.prompts)

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
        if self.weights == "ema" and stage == "fit" and find_weight_averaging(trainer) is None:
            raise ValueError("`weights='ema'` needs Lightning's WeightAveraging (or EMAWeightAveraging) callback")
        self._writers = None
        self._last = None  # a resumed fit restores it
        self._since = len(self.history)
        if self.reference is None:  # this trainer may have another validation loader
            self._has_reference = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for m in self.suite.named().values():  # what is missing shows now and not at the first validation
            for network in m.networks:
                network.network(pl_module.device)
                if m.offload:
                    network.offload(pl_module.device)
            m.signature()  # which needs the wordings of judges, too

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every.by_step and not isinstance(self.every.steps, int):
            self._evaluate_if_due(trainer, pl_module, "on_train_start")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.every.by_step and self.every.due(trainer.global_step, trainer.current_epoch, self._last):
            averaging = find_weight_averaging(trainer)
            if averaging is not None:  # its turn may come after ours; it counts a step once
                averaging.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self.evaluate(trainer, pl_module, "on_train_batch_end")
            self._log(pl_module, "on_train_batch_end")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation:  # else the validation of this epoch has seen to it
            if not self.every.by_step:
                self._evaluate_if_due(trainer, pl_module, "on_train_epoch_end")
            self._log(pl_module, "on_train_epoch_end")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            if self.dry_run:
                with suppress(NotEnoughSamples):  # two may be too few for a metric; all else has been tried
                    self._evaluate(trainer, pl_module, "on_validation_epoch_end", num_samples=2)
                self.suite.reset_generated()
            return
        alone = trainer.state.fn == "validate"
        if alone or self._last is None:
            self.evaluate(trainer, pl_module, "on_validation_epoch_end")
        elif not self.every.by_step:
            self._evaluate_if_due(trainer, pl_module, "on_validation_epoch_end")
        self._log(pl_module, "on_validation_epoch_end", alone)

    @property
    def state_key(self) -> str:
        return f"{type(self).__name__}[{self.prefix}]"

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = list(state_dict["history"])
        self._since = 0
        self._last = (self.history[-1]["step"], self.history[-1]["epoch"]) if self.history else None

    # Evaluation

    def _evaluate_if_due(self, trainer: Trainer, pl_module: LightningModule, hook: str) -> None:
        if self.every.due(trainer.global_step, trainer.current_epoch, self._last):
            self.evaluate(trainer, pl_module, hook)

    def evaluate(self, trainer: Trainer, pl_module: LightningModule, hook: str = "") -> dict[str, Result]:
        """Sample, measure and log now; every rank must call it. Returns name -> Result, the same on every rank."""
        step, epoch = trainer.global_step, trainer.current_epoch
        measured = due_now(self.suite.named(), self.cadence, self.history[self._since :], step, epoch)
        results, label, seconds, panel = self._evaluate(
            trainer, pl_module, hook, num_samples=self.num_samples, only=measured
        )
        self._results = results
        values = {name: result.value for name, result in results.items()}
        errors = {k: r.details["standard_error"] for k, r in results.items() if "standard_error" in r.details}
        record = {"step": step, "epoch": epoch, "weights": label, "values": values, "errors": errors}
        self.history.append(record | {"seconds": seconds, "measured": measured})
        if trainer.state.fn == "fit":
            self._last = step, epoch
        if self._writers is None:
            folder = Path(trainer.log_dir or trainer.default_root_dir) / "imgmetrics"  # a broadcast: on every rank
            self._writers = writers_of(trainer.loggers, self.folder, folder) if trainer.is_global_zero else ()
        figures = {f"seconds_{k}": v for k, v in seconds.items()} | {"weights_ema": float(label == "ema")}
        if trainer.state.fn != "validate":  # which sends the logged values to the loggers itself
            figures |= values
        figures["sampled_images_per_second"] = self.num_samples / max(seconds["sampling"], 1e-9)
        figures |= self._guarded() | self._details(results)
        scalars = {f"{self.prefix}/{name}": value for name, value in figures.items()}
        scalars["epoch"] = float(trainer.current_epoch)
        named = {f"{self.prefix}/{name}": result for name, result in results.items()}
        for writer in self._writers:
            writer.write(step, scalars, named, f"{self.prefix}/samples", panel)
        return results

    def _details(self, results: Mapping[str, Result]) -> dict[str, float]:
        logged = {name: m.logged_details for name, m in self.suite.named().items()}
        return {f"{k}_{name}": r.details[name] for k, r in results.items() for name in logged[k] if name in r.details}

    def _guarded(self) -> dict[str, float]:
        if self.reward is None:
            return {}
        found = parted(self.history, self.reward, self.suite.named()[self.reward].higher_is_better, self._guards)
        if found:
            told = ", ".join(f"{name} {how}" for name, how in found.items())
            rank_zero_warn(f"{self.prefix}/{self.reward} improved, but {told}: the model may be gaming its reward")
        return {"guards_parted": float(len(found))}

    def _evaluate(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        hook: str,
        *,
        num_samples: int,
        only: Sequence[str] | None = None,
    ) -> tuple[dict[str, Result], str, dict[str, float], Panel | None]:
        rendezvous("an evaluation of ImageMetricsCallback")
        inside = hook == "on_validation_epoch_end"
        with (
            borrowed(pl_module, self.gradients),
            chosen_weights(trainer, pl_module, self, self.weights, in_validation_end=inside) as label,
        ):
            if label == "raw" and self.weights == "ema":
                rank_zero_warn("`weights='ema'`: WeightAveraging has not averaged yet, the raw weights are evaluated")
            seconds = {"sampling": 0.0, "networks": 0.0}
            shown, failure = [], ""
            self.suite.to(pl_module.device)
            try:
                if not self._has_reference:
                    self._measure_reference(trainer)
                self.suite.reset_generated()
                passes = passes_for(num_samples, self.batch_size)
                with sampling_bar(trainer, passes, f"Sampling {self.prefix}/", self.progress) as advance:
                    shown = feed_samples(
                        self.suite,
                        trainer,
                        pl_module,
                        self.sampler,
                        self.prompts,
                        num_samples=num_samples,
                        batch_size=self.batch_size,
                        seed=self.seed,
                        media=self.media,
                        seconds=seconds,
                        advance=advance,
                        only=only,
                    )
            except BaseException as error:
                failure = f"{type(error).__name__}: {error}"
                raise
            finally:
                rendezvous("the end of sampling", timeout=_DAY, failure=failure)
            started = time.perf_counter()
            results, failed = self.suite.outcomes(only, errors=(JudgeFailed, NothingToJudge))
            for name, error in failed.items():  # a judge that is down ends no training
                rank_zero_warn(f"{self.prefix}/{name} has no value at step {trainer.global_step}: {error}")
            seconds["compute"] = time.perf_counter() - started
            panel = gathered_panel(shown, self.suite.scores(), self.prompts, self.suite.rationales())
        tail = f"|seed:{self.seed}|model_weights:{label}"
        return {k: replace(r, signature=r.signature + tail) for k, r in results.items()}, label, seconds, panel

    def _measure_reference(self, trainer: Trainer) -> None:
        self.suite.reset_all()
        if any("real" in m.inputs for m in self.suite.named().values()):
            source = self.reference
            if isinstance(source, ReferenceStatistics):
                self.suite.update_reference(source)
                self._has_reference = True
                return
            source = validation_loader(trainer) if source is None else source
            batches = ImageBatches(source, self.batch_size, self.image_key, *world())
            measure_reference(self.suite, batches, cache=self.cache)
        self._has_reference = True

    def _log(self, pl_module: LightningModule, hook: str, alone: bool = False) -> None:
        """The last values as logged metrics of this hook, so that monitors find them at every validation.

        `alone`: in `trainer.validate`, which returns what goes to the loggers.
        """
        if not self.history:
            return
        by_step = hook == "on_train_batch_end"
        dtype = torch.float32 if pl_module.device.type == "mps" else torch.float64
        with logging_without_logger():
            for name, value in last_values(self.history, self.suite.named()).items():
                # The writers have sent the values to the loggers. All ranks hold the same bits: their maximum is it.
                pl_module.log(
                    f"{self.prefix}/{name}",
                    torch.tensor(value, dtype=dtype, device=pl_module.device),
                    logger=alone,
                    prog_bar=self.progress,
                    on_step=by_step,
                    on_epoch=not by_step,
                    reduce_fx="max",
                    sync_dist=not by_step,
                    batch_size=1,
                )
