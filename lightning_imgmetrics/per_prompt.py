"""Several samples of one prompt: what one draw gives, what the best of them would, and what decides, prompt or seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_imgmetrics._images import Images, ImageSets, as_image_sets
from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError
from lightning_imgmetrics.functional.intervals import clustered_wilson_interval
from lightning_imgmetrics.functional.prompt_statistics import (
    PromptStatistics,
    best_of_k,
    intraclass_correlation,
    per_prompt_statistics,
    prompt_mean,
    variance_components,
    worst_of_k,
)
from lightning_imgmetrics.metrics.base.inputs import Ids, as_texts
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.base.score_metric import ScoreMetric
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.base.summary import Column, Summary
from lightning_imgmetrics.models.base.extractor import Features
from lightning_imgmetrics.models.base.network import Network
from lightning_imgmetrics.result import Signature
from lightning_imgmetrics.states.hash import text_key
from lightning_imgmetrics.states.tables import Reservoir


class PerPrompt(ImageMetric):
    """A score metric over several samples per prompt: the mean over prompts of their means, clustered by prompt.

    In the details: "best_of_k" and "worst_of_k" for k = 1, 2, 4, ... up to the samples that every prompt has
    ("best_of_n", "worst_of_n": at that n), exact expectations over all choices of k samples, so that a showcase of
    cherry-picked samples can be told from the model; "spread", the standard deviation over the seeds of one prompt;
    "variance_between" and "variance_within" prompts (a random-effects model; the former is below 0 where prompts differ
    less than chance would make them), "prompt_share" of the variance; "n_prompts", "samples_per_prompt"; "n_undefined"
    where some pairs have no score (PSNR of equal images), "n_failed" where a judge failed, which are left out.

    Args:
        metric: any score of single images, of pairs, or of images and prompts; a copy is used, without its samples.
        kwargs: those of `ImageMetric`.

    Returns:
        A scalar in the unit, range and direction of `metric`; the interval is that of the mean over prompts.

    Raises:
        TypeError: `metric` scores no single samples.
        ValueError: `metric` is of pairs, and its reduction is no mean.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import PerPrompt, Saturation
        >>> images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
        >>> images[1:3, 0] = 255
        >>> metric = PerPrompt(Saturation())
        >>> metric.update(images=images, prompts=["a cat", "a cat", "a dog", "a dog"])
        >>> result = metric.result()
        >>> result.value, result.details["best_of_n"], result.details["n_prompts"]
        (0.5, 1.0, 2.0)
    """

    inputs: tuple[str, ...]

    def __init__(self, metric: ScoreMetric, **kwargs: Any):
        if not getattr(metric, "scores_samples", False):
            raise TypeError(f"`metric` must be a score of single samples, got {type(metric).__name__}")
        if not metric.value_is_mean:
            reduction = getattr(metric, "reduction", None)
            raise ValueError(f"`metric` must have a mean as its reduction, got {reduction!r}")
        super().__init__(value_range=metric.value_range, **{"offload": metric.offload, **kwargs})
        self._inner = (deepcopy(metric),)  # not a module of this one: its states are never used, but for the counters
        self.metric.reset()
        self.name = f"{metric.name}_per_prompt"
        self.unit = metric.unit
        self.inputs = tuple(dict.fromkeys([*metric.inputs, "prompts"]))
        self.extractor, self.layers = metric.extractor, metric.layers
        for name in metric.counter_names:
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_stream("score", Stream(Reservoir(None, 2), 2))

    def columns(self) -> tuple[Column, ...]:
        return tuple(Column(name, "detail", logged=True) for name in ("best_of_n", "worst_of_n", "spread"))

    @property
    def metric(self) -> ScoreMetric:
        """The metric of single samples, which is this one's own."""
        return self._inner[0]

    @property
    def higher_is_better(self) -> bool | None:
        return self.metric.higher_is_better

    @property
    def networks(self) -> tuple[Network, ...]:
        return self.metric.networks

    def update(
        self,
        *,
        images: Images,
        prompts: str | Sequence[str],
        target: Images | None = None,
        source: ImageSets | None = None,
        rivals: ImageSets | None = None,
        ids: Ids | None = None,
    ) -> None:
        """Add images (n, 3, h, w), n prompts, and `target`, `source` or `rivals` for metrics that take them."""
        if ("target" in self.inputs) != (target is not None):
            raise TypeError(f"{self.metric.name} {'needs' if target is None else 'takes no'} `target`")
        batches = self.validate_images(images)
        texts = as_texts(prompts, sum(map(len, batches)))
        inputs: dict[str, Any] = {"prompts": texts}
        for name, sets in (("source", source), ("rivals", rivals)):
            if (name in self.inputs) != (sets is not None):
                raise TypeError(f"{self.metric.name} {'needs' if sets is None else 'takes no'} `{name}`")
            if sets is not None:
                inputs[name] = as_image_sets(sets, len(texts), name=name, value_range=self.value_range)
        self.check_inputs(len(texts), **inputs)
        targets = [] if target is None else self.validate_images(target, "target")
        if target is not None and sum(map(len, targets)) != len(texts):
            raise ShapeError(f"`target` must hold one entry per image, got {sum(map(len, targets))} for {len(texts)}")
        scores = self.metric.to(self.device).scores_of_images(batches, targets, **inputs, ids=ids)
        self._add_scores(scores, texts, ids)

    def check_inputs(self, n: int, **inputs: Any) -> None:
        self.metric.check_inputs(n, **inputs)

    def stage(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> Callable[[], None]:
        scores = self.metric.to(self.device).scores_of(features, **inputs, ids=ids)
        return partial(self._add_scores, scores, inputs["prompts"], ids)

    def _add_scores(self, scores: Tensor, prompts: Sequence[str], ids: Ids | None) -> None:
        for name in self.metric.counter_names:  # counted here, where ranks are joined
            setattr(self, name, getattr(self, name) + getattr(self.metric, name))
            setattr(self.metric, name, torch.zeros_like(getattr(self.metric, name)))
        scores = (scores[:, None] if scores.ndim == 1 else scores)[:, :1].to(self.home, torch.float64)
        keys = torch.tensor([[text_key(prompt)] for prompt in prompts], dtype=torch.float64)
        self.streams["score"].add(torch.cat([keys.to(scores.device), scores], 1), ids)

    def summarize(self) -> Summary:
        scores, prompts, missing = self._defined()
        each = per_prompt_statistics(scores, prompts)
        mean, error = prompt_mean(scores, prompts) if len(each.n) > 1 else (each.mean[0], None)
        fewest = int(each.n.min())
        details = {"n_prompts": float(len(each.n)), "samples_per_prompt": float(len(scores) / len(each.n))}
        ks = sorted({2**i for i in range(fewest.bit_length())} | {fewest})
        for k in ks:
            best, worst = best_of_k(scores, prompts, k), worst_of_k(scores, prompts, k)
            best, worst = (worst, best) if self.higher_is_better is False else (best, worst)
            details |= {f"best_of_{k}": float(best), f"worst_of_{k}": float(worst)}
        details |= {"best_of_n": details[f"best_of_{fewest}"], "worst_of_n": details[f"worst_of_{fewest}"]}
        details |= self._variances(scores, prompts, each) | missing
        details |= self.metric.counter_details({name: float(getattr(self, name)) for name in self.metric.counter_names})
        spread = 0.0 if error is None else float(error)
        interval = None
        if self.metric.scores_are_binary and len(each.n) > 1 and len(each.n.unique()) == 1:
            interval = clustered_wilson_interval(scores, prompts)
        # Prompts that all score alike show no spread, but that is not certainty.
        return Summary(mean, len(scores), spread or None, len(each.n), details, interval=interval)

    def _defined(self) -> tuple[Tensor, Tensor, dict[str, float]]:
        """The scores that there are, their prompts as integers, and for the details how many samples have none."""
        _, keys, scores = self.streams["score"].read().unbind(1)
        defined = scores.isfinite()
        details = self.metric.undefined_details(int((~defined).sum()), len(scores), name=self.name)
        if not defined.any():
            why = f"none of {len(scores)} samples has a score" if len(scores) else "call `update` first"
            raise NotEnoughSamples(self.name, 0, 1, why)
        return scores[defined], (keys[defined] * 2.0**53).long(), details

    def _variances(self, scores: Tensor, prompts: Tensor, each: PromptStatistics) -> dict[str, float]:
        if int(each.n.max()) < 2:
            return {}
        if len(each.n) == 1:
            within = float(each.variance[0])
            return {"variance_within": within, "spread": within**0.5}
        between, within = (float(x) for x in variance_components(scores, prompts))
        parts = {"variance_between": between, "variance_within": within, "spread": within**0.5}
        share = float(intraclass_correlation(scores, prompts))
        return parts | ({"prompt_share": max(share, 0.0)} if share == share else {})  # undefined for equal scores

    def signature(self) -> Signature:
        inner = self.metric.signature().fields
        return Signature.of(**{**inner, "metric": self.name})
