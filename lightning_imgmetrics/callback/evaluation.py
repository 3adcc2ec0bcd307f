"""One evaluation: sample, feed the metrics, read their values."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_imgmetrics._distributed import DAY, rendezvous, world
from lightning_imgmetrics._images import check_value_range
from lightning_imgmetrics.callback.panel import Panel, gather_panel
from lightning_imgmetrics.callback.progress import sampling_bar
from lightning_imgmetrics.callback.weights import evaluation_mode, selected_weights
from lightning_imgmetrics.errors import JudgeFailed, NothingToJudge
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.suite import MetricSuite

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer

    from lightning_imgmetrics.callback.reference import Reference
    from lightning_imgmetrics.callback.sampling import SampleSource
    from lightning_imgmetrics.result import Result


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation gave: `results` by metric, the `weights` measured, `seconds` by phase, a panel on rank 0.

    `metrics` are the names of those that took part; a judge that failed has no result.
    """

    step: int
    epoch: int
    num_samples: int
    weights: str
    metrics: Sequence[str]
    results: Mapping[str, Result]
    seconds: Mapping[str, float]
    panel: Panel | None

    def record(self) -> dict[str, Any]:
        """As plain values, for the history of a callback and for checkpoints."""
        errors = {k: r.details["standard_error"] for k, r in self.results.items() if "standard_error" in r.details}
        return {
            "step": self.step,
            "epoch": self.epoch,
            "weights": self.weights,
            "values": {name: result.value for name, result in self.results.items()},
            "errors": errors,
            "seconds": dict(self.seconds),
            "measured": list(self.metrics),
        }


@dataclass(frozen=True)
class Evaluator:
    """What all evaluations of a callback have in common."""

    suite: MetricSuite
    source: SampleSource
    reference: Reference
    weights: str
    gradients: bool
    panel_size: int
    title: str  # of the progress bar, and of warnings: the prefix of the logged keys
    progress: bool

    def run(
        self,
        trainer: Trainer,
        module: LightningModule,
        callback: Callback,
        hook: str,
        metrics: Sequence[str],
        num_samples: int | None = None,
    ) -> Evaluation:
        """Sample and measure; collective. The module, its weights and all random streams are left as they were.

        `hook` of `callback` is running. `num_samples`: default those of the source.
        """
        rendezvous("an evaluation of ImageMetricsCallback")
        rank, size = world()
        clock, num_samples = Clock(module.device), num_samples or self.source.num_samples
        with (
            evaluation_mode(module, self.gradients),
            selected_weights(trainer, module, callback, hook, self.weights) as weights,
        ):
            self.suite.to(module.device)
            with _ends_together("the end of sampling"):
                if not self.reference.measured:
                    self.reference.measure(self.suite, trainer, rank, size)
                self.suite.reset_generated()
                passes = self.source.passes(num_samples, rank, size)
                images = self._feed(trainer, module, clock, passes, metrics)
            with clock.phase("compute"):
                results = self._results(trainer.global_step, metrics, weights)
            scores, rationales = self.suite.scores(), self.suite.rationales()
            panel = gather_panel(images, scores, self.source.prompts, rationales, rank, size)
        step, epoch = trainer.global_step, trainer.current_epoch
        return Evaluation(step, epoch, num_samples, weights, metrics, results, clock.seconds, panel)

    def _feed(
        self,
        trainer: Trainer,
        module: LightningModule,
        clock: Clock,
        passes: Sequence[range],
        metrics: Collection[str],
    ) -> list[tuple[int, Tensor]]:
        """Feed `metrics` with the samples of each pass; returns (id, image) of those for the panel."""
        panel: list[tuple[int, Tensor]] = []
        clamped = 0
        with sampling_bar(trainer, len(passes), f"Sampling {self.title}/", self.progress) as advance:
            for ids in passes:
                with clock.phase("sampling"), trainer.precision_plugin.val_step_context():
                    samples = self.source.draw(module, ids or range(1), self.suite.value_range)
                advance()
                if not ids:  # a pass that only other ranks needed
                    continue
                with clock.phase("networks"):
                    self.suite.update_checked(
                        samples.images,
                        prompts=samples.prompts,
                        target=samples.target,
                        source=samples.source,
                        ids=ids,
                        only=metrics,
                    )
                    images = (image for batch in samples.images for image in batch)
                    panel += [(i, image.cpu()) for i, image in zip(ids, images, strict=True) if i < self.panel_size]
                clamped += samples.clamped
        self.suite.count_clamped(clamped)
        return panel

    def _results(self, step: int, metrics: Collection[str], weights: str) -> dict[str, Result]:
        results, failures = self.suite.outcomes(metrics, errors=(JudgeFailed, NothingToJudge))
        for name, error in failures.items():  # a judge that is down ends no training
            rank_zero_warn(f"{self.title}/{name} has no value at step {step}: {error}")
        fields = f"|seed:{self.source.seed}|model_weights:{weights}"
        return {name: replace(result, signature=result.signature + fields) for name, result in results.items()}


class Clock:
    """Seconds by phase; it waits for the device at both ends of a phase."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds = {"sampling": 0.0, "networks": 0.0, "compute": 0.0}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to a phase."""
        start = self._now()
        yield
        self.seconds[name] += self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@contextmanager
def _ends_together(what: str) -> Iterator[None]:
    """All ranks leave the block, or all raise: one that failed in it tells the others, which wait for it."""
    failure = ""
    try:
        yield
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"
        raise
    finally:  # ranks may sample at different speeds; that all of them take part was checked before
        rendezvous(what, timeout=DAY, failure=failure)


def suite_for_samples(
    metrics: MetricSuite | Mapping[str, ImageMetric] | Iterable[str | ImageMetric],
    value_range: tuple[float, float] | None,
    prompts: Sequence[str] | None,
) -> MetricSuite:
    """A suite of metrics that sampled images and `prompts` are enough for; ValueError names one that needs more."""
    suite = metrics if isinstance(metrics, MetricSuite) else MetricSuite(metrics)
    if value_range is not None:
        suite.value_range = value_range
    check_value_range(suite.value_range)
    for name, m in suite.named().items():
        if m.extractor is None:
            raise ValueError(f"metric {name!r} does not measure images: it cannot be used here")
        for field, noun in (("labels", "class labels"), ("rivals", "the images of a rival")):
            if field in m.inputs:
                raise ValueError(f"metric {name!r} needs {noun}: use a MetricSuite or the command line")
        if "prompts" in m.inputs and prompts is None:
            raise ValueError(f"metric {name!r} needs `prompts`")
        if prompts is not None:
            m.check_inputs(len(prompts), prompts=prompts)
    return suite
