"""GEdit-Bench: real users' edits in 11 groups, judged by VIEScore."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.verdicts import Verdict
from lightning_imgmetrics.judges.metrics.vie_score import VIESCORE_DECODING, VIEQuestions
from lightning_imgmetrics.judges.parsing.answers import Reading
from lightning_imgmetrics.metrics.base.summary import Category, Column, Summary
from lightning_imgmetrics.prompt_benchmarks.base.benchmark_metric import BenchmarkMetric
from lightning_imgmetrics.prompt_benchmarks.base.categories import records_of, sample_deviation
from lightning_imgmetrics.prompt_benchmarks.base.group_scores import GEDIT_GROUPS, group_means, mean_of
from lightning_imgmetrics.prompt_benchmarks.base.item_set import ItemSet
from lightning_imgmetrics.prompt_benchmarks.base.prompt_files import GEditItem, StoredImage, read_gedit

_LANGUAGES = {"en": "en", "cn": "cn", "zh": "cn"}
_SIDE = 16  # of the thumbnails by which sources are compared
_CLEARLY = 0.5


class GEditBench(BenchmarkMetric):
    """VIEScore of real users' edits, averaged within 11 groups of edits and then over these; from 0 to 10.

    The mean over groups of the mean over their items of sqrt(SC * PQ), see `VIEScore`; higher is better. The edited
    image is judged at the size of its source. Where items share an instruction, an image belongs to the one whose
    source looks like the `source` of the update; the name of an item in place of the instruction needs no looks.
    `details`: the same mean of `sc`, `pq`, ...; `categories`: each group. Reference: Liu et al. 2025 (Step1X-Edit).

    Args:
        questions: what `read_gedit` reads, or `GEditItem`s. `prompts` of an update are their instructions, `source` the
            images before the edit.
        judge: see `JudgeMetric`.
        language: of the items that are judged, "en" or "cn" ("zh"); images of others are passed over.
        intersection_only: judge only the items that all published models have answered.
        template: a copy of the published source of VIEScore's prompts, or a folder with it.
        kwargs: those of `BenchmarkMetric`.

    Raises:
        UnreadableQuestions: the file is malformed, or two items have one name.
        UnknownName: another language or group.

    Example:
        >>> from pathlib import Path
        >>> from lightning_imgmetrics import GEditBench, GEditItem
        >>> item = GEditItem("0", "color_alter", "make it red", "en", Path("before.png"), True)
        >>> metric = GEditBench([item], "Qwen/Qwen2.5-VL-72B-Instruct")
        >>> metric.prompts, list(metric.items)
        (['make it red'], ['fullset/color_alter/en/0'])
        >>> metric.inputs  # what `update` takes beside images
        ('prompts', 'source')
    """

    name: ClassVar[str] = "gedit_bench"
    default_decoding = VIESCORE_DECODING
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 10.0
    items: ItemSet[GEditItem]

    def __init__(
        self,
        questions: str | Path | Sequence[GEditItem],
        judge: Judge | str,
        *,
        language: str = "en",
        intersection_only: bool = False,
        template: str | Path | None = None,
        **kwargs: Any,
    ):
        if language not in _LANGUAGES:
            raise UnknownName("language", language, _LANGUAGES)
        self.language, self.intersection_only = _LANGUAGES[language], intersection_only
        self.questions = VIEQuestions("tie", template)
        self.inputs, self.images_per_sample = self.questions.inputs, self.questions.images_per_sample
        super().__init__(self._item_set(records_of(questions, GEditItem, read_gedit)), judge, **kwargs)

    def _item_set(self, items: Sequence[GEditItem]) -> ItemSet[GEditItem]:
        for item in items:
            if item.task_type not in GEDIT_GROUPS:
                raise UnknownName("task_type", item.task_type, GEDIT_GROUPS)
        every = {item.name: item for item in items}
        if len(every) < len(items):
            raise UnreadableQuestions(f"items must have a name each, got {len(every)} names for {len(items)} items")
        own = {
            name: item
            for name, item in every.items()
            if item.language == self.language and (item.intersection or not self.intersection_only)
        }
        return ItemSet(
            self.name,
            own,
            texts={name: item.instruction for name, item in every.items()},
            content=[[name, item.instruction, item.intersection] for name, item in own.items()],
            disambiguate=SourceMatcher(every),
        )

    def columns(self) -> tuple[Column, ...]:
        return (*self.questions.columns(), *super().columns())

    def range_of(self, name: str) -> tuple[float, float] | None:
        return super().range_of(self.name if name in self.questions.extra else name)

    def queries(self, sample: Sample) -> list[Query]:
        instruction, edited = self.items[sample.item].instruction, resized_to(sample.image, sample.source[0])
        return self.questions.queries(replace(sample, prompt=instruction, image=edited))

    def conclude(self, sample: Sample, answers: Sequence[Reading | None]) -> Verdict:
        group = self.items[sample.item].task_type
        rows = [
            {
                "question": question,
                "category": group,
                "expected": None,
                "read": None if answer is None else list(answer.scores),
                "score": None if answer is None else min(answer.scores),
            }
            for question, answer in zip(("semantic consistency", "perceptual quality"), answers, strict=True)
        ]
        return replace(self.questions.conclude(answers), rows=rows)

    def over_samples(self, rows: Tensor) -> Summary:
        means = self.item_means(rows)
        group = {name: item.task_type for name, item in self.items.items()}
        scores: dict[str, list[float]] = {name: [] for name in GEDIT_GROUPS}
        for name, score in means["score"].items():
            scores[group[name]].append(score)
        values = {}
        for column, by_item in means.items():
            of = group_means([group[name] for name in by_item], list(by_item.values()), expected=GEDIT_GROUPS)
            if of.mean or column == "score":
                values[column] = mean_of(of.mean.values(), self.name, "no sample has both scores")
        value, k = values.pop("score"), len(means["score"])
        missing = self.items.missing(list(means["score"]))
        error, units = _stratified([x for x in scores.values() if x])
        return Summary(
            rows.new_tensor(value),
            len(rows),
            error,
            units=units,
            details={"n_items": float(k), "n_missing_items": float(len(missing)), **values},
            interval=None if units is None else self.interval_of(value, error, units),
            categories={name: self._category(x) for name, x in scores.items() if x},
            missing=missing,
        )

    def _category(self, scores: list[float]) -> Category:
        mean, deviation, n = math.fsum(scores) / len(scores), sample_deviation(scores), len(scores)
        return Category(mean, n, self.interval_of(mean, None if deviation is None else deviation / math.sqrt(n), n))

    def signature_parameters(self) -> dict[str, object]:
        intersection = {"intersection_only": True} if self.intersection_only else {}
        questions = {"questions": self.items.digest, **self.questions.signature()}
        return {"language": self.language, **intersection, **questions, **super().signature_parameters()}


class SourceMatcher:
    """Which of the items with one instruction a sample belongs to: that whose source looks most like the sample's."""

    def __init__(self, items: Mapping[str, GEditItem]):
        self.items = items
        self._thumbnails: dict[str, Tensor] = {}

    def __call__(self, names: Sequence[str], sample: Sample) -> str:
        """ValueError where none looks clearly more like it than the others."""
        thumbnail = _thumbnail(sample.source[0])
        distances = sorted((float((thumbnail - self._thumbnail_of(name)).abs().mean()), name) for name in names)
        if distances[0][0] < _CLEARLY * distances[1][0]:
            return distances[0][1]
        raise ValueError(
            f"the instruction {sample.prompt[:200]!r} is that of several items, and their sources look too much alike,"
            f" or none like the `source` given: say which one in `prompts`, by its name: {', '.join(map(repr, names))}"
        )

    def _thumbnail_of(self, name: str) -> Tensor:
        if name not in self._thumbnails:
            stored = self.items[name].source
            self._thumbnails[name] = _thumbnail(decode(stored.read() if isinstance(stored, StoredImage) else stored))
        return self._thumbnails[name]


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
