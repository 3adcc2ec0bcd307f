"""GEdit-Bench: real users' edits in 11 groups, judged by VIEScore."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from lightning_imgmetrics.data.decode import decode
from lightning_imgmetrics.errors import UnknownName, UnreadableQuestions
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.metrics.queries import Ask, Sample, Verdict
from lightning_imgmetrics.judges.metrics.vie_score import VIEScore
from lightning_imgmetrics.judges.parsing.answers import Reading
from lightning_imgmetrics.metrics.base.summary import Summary
from lightning_imgmetrics.prompt_benchmarks.base.benchmark_metric import BenchmarkMetric
from lightning_imgmetrics.prompt_benchmarks.base.categories import Category, records_of, sample_deviation
from lightning_imgmetrics.prompt_benchmarks.base.group_scores import GEDIT_GROUPS, group_means, mean_of
from lightning_imgmetrics.prompt_benchmarks.base.prompt_files import GEditItem, StoredImage, read_gedit

_LANGUAGES = {"en": "en", "cn": "cn", "zh": "cn"}
_SIDE = 16  # of the thumbnails by which sources are told apart
_CLEARLY = 0.5


class GEditBench(BenchmarkMetric[GEditItem], VIEScore):
    """Mean over the 11 groups of edits of the mean of VIEScore's sqrt(SC * PQ) within each, from 0 to 10.

    `questions`: what `read_gedit` reads, or `GEditItem`s. `prompts` are instructions, `source` the image before an
    edit; the edited one is judged at its size. Where items share an instruction, an image belongs to the one whose
    source looks like the `source` given; a name of `items` in place of the instruction needs no looks. `language`: "en"
    or "cn" ("zh"). `intersection_only`: the items that all published models have answered. Images of other items are
    passed over. `details`: the same mean of `sc`, `pq`, ...; `categories`: each group. Judge and other arguments: see
    `VIEScore`. Source: Liu et al. 2025 (Step1X-Edit).
    """

    name: ClassVar[str] = "gedit_bench"

    def __init__(
        self,
        questions: str | Path | Sequence[GEditItem],
        judge: Judge | str,
        *,
        language: str = "en",
        intersection_only: bool = False,
        **kwargs: Any,
    ):
        if language not in _LANGUAGES:
            raise UnknownName("language", language, _LANGUAGES)
        self.language, self.intersection_only = _LANGUAGES[language], intersection_only
        listed = records_of(questions, GEditItem, read_gedit)
        for item in listed:
            if item.task_type not in GEDIT_GROUPS:
                raise UnknownName("task_type", item.task_type, GEDIT_GROUPS)
        every = {item.name: item for item in listed}
        if len(every) < len(listed):
            raise UnreadableQuestions(f"items must have a name each, got {len(every)} names for {len(listed)} items")
        kept = {
            name: item
            for name, item in every.items()
            if item.language == self.language and (item.intersection or not intersection_only)
        }
        super().__init__(
            kept,
            judge,
            texts={name: item.instruction for name, item in every.items()},
            content=[[name, item.instruction, item.intersection] for name, item in kept.items()],
            task="tie",
            **kwargs,
        )
        self.logged = (*BenchmarkMetric.logged, "sc", "pq")
        self._every = every
        self._looks: dict[str, Tensor] = {}

    def told_apart(self, names: Sequence[str], sample: Sample) -> str:
        given = _thumbnail(sample.source[0])
        off = sorted((float((given - self._look(name)).abs().mean()), name) for name in names)
        if off[0][0] < _CLEARLY * off[1][0]:
            return off[0][1]
        raise ValueError(
            f"the instruction {sample.prompt[:200]!r} is that of several items, and their sources look too much alike,"
            f" or none like the `source` given: say which one in `prompts`, by its name: {', '.join(map(repr, names))}"
        )

    def _look(self, name: str) -> Tensor:
        if name not in self._looks:
            stored = self._every[name].source
            self._looks[name] = _thumbnail(decode(stored.read() if isinstance(stored, StoredImage) else stored))
        return self._looks[name]

    def asks(self, sample: Sample) -> list[Ask]:
        edited = resized_to(sample.image, sample.source[0])
        return super().asks(replace(sample, prompt=self.item_of(sample).instruction, image=edited))

    def conclude(self, sample: Sample, readings: Sequence[Reading | None]) -> Verdict:
        group = self.item_of(sample).task_type
        rows = [
            {
                "question": question,
                "category": group,
                "expected": None,
                "read": None if reading is None else list(reading.scores),
                "score": None if reading is None else min(reading.scores),
            }
            for question, reading in zip(("semantic consistency", "perceptual quality"), readings, strict=True)
        ]
        return replace(super().conclude(sample, readings), rows=rows)

    def over_samples(self, rows: Tensor) -> Summary:
        means = self.item_means(rows)
        group = {name: item.task_type for name, item in self.items.items()}
        scores: dict[str, list[float]] = {name: [] for name in GEDIT_GROUPS}
        for name, score in means["score"].items():
            scores[group[name]].append(score)
        self._categories = {name: self._category(values) for name, values in scores.items() if values}
        values = {}
        for figure, by_item in means.items():
            of = group_means([group[name] for name in by_item], list(by_item.values()), expected=GEDIT_GROUPS)
            values[figure] = mean_of(of.mean.values(), self.name, "no sample has both scores")
        value, k = values.pop("score"), len(means["score"])
        details = {"n_items": float(k), "n_missing_items": float(len(self._missing)), **values}
        error, units = _stratified([x for x in scores.values() if x])
        interval = None if units is None else self.interval_of(value, error, units)
        return Summary(rows.new_tensor(value), len(rows), error, units=units, details=details, interval=interval)

    def _category(self, scores: list[float]) -> Category:
        mean, deviation, n = math.fsum(scores) / len(scores), sample_deviation(scores), len(scores)
        return Category(mean, n, self.interval_of(mean, None if deviation is None else deviation / math.sqrt(n), n))

    def signature_parameters(self) -> dict[str, object]:
        some = {"intersection_only": True} if self.intersection_only else {}
        return {"language": self.language, **some, **super().signature_parameters()}


def resized_to(image: Tensor, like: Tensor) -> Tensor:
    """A uint8 image (3, h, w) at the size of another, by PIL's bicubic."""
    if image.shape == like.shape:
        return image
    height, width = like.shape[1:]
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def _thumbnail(image: Tensor) -> Tensor:
    return adaptive_avg_pool2d(image.float(), _SIDE)


def _stratified(groups: list[list[float]]) -> tuple[float | None, int | None]:
    """The standard error of the unweighted mean of group means, and units whose number less 1 are its freedom.

    The groups are fixed, the items within each a sample. None where a group has one item and shows no spread.
    """
    deviations = [sample_deviation(values) for values in groups]
    if any(deviation is None for deviation in deviations):
        return None, None
    variances = [d**2 / len(values) for d, values in zip(deviations, groups, strict=True) if d is not None]
    return math.sqrt(math.fsum(variances)) / len(groups), sum(map(len, groups)) - len(groups) + 1
