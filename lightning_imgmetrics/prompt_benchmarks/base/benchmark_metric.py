"""Benchmarks: fixed prompts, questions about the images made from each, and the published way to add up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from lightning_imgmetrics.errors import JudgeFailed
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.queries import ReadAnswer, Sample, Verdict
from lightning_imgmetrics.metrics.base.inputs import Ids, check_ids
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.base.summary import Summary
from lightning_imgmetrics.models.base.extractor import Features
from lightning_imgmetrics.prompt_benchmarks.base.categories import Category, category_of, sample_deviation
from lightning_imgmetrics.prompt_benchmarks.base.group_scores import group_means, mean_of
from lightning_imgmetrics.prompt_benchmarks.base.item_metric import ItemMetric
from lightning_imgmetrics.states.tables import Reservoir

T = TypeVar("T")
_QUESTIONS = 1 << 10  # most questions about one image; their keys are those of the image times this
_MOST_IDS = (1 << 53) // _QUESTIONS


class BenchmarkMetric(ItemMetric[T], JudgeMetric):
    """A benchmark of items; an image belongs to the item whose prompt, or name, it comes with in `prompts=`.

    `items`: name -> what is asked about its images; `texts`: the prompt of each, also of items that are left out, whose
    images are passed over. Spaces do not tell prompts apart. The value is the mean over items of the mean over their
    images. Where more than `max_failed` of the questions have no answer, JudgeFailed. `details`: `n_items`,
    `n_missing_items`, `n_failed_questions`, and "category:..." for each kind of question, of `kinds`. `prompts`: those
    of all items, in order; see `categories`, `missing` and `records`. Sample ids lie below 2^43.
    """

    marks = (*ItemMetric.marks, "questions", "failed_questions")
    logged = (*JudgeMetric.logged, "n_missing_items")
    scale: ClassVar[float] = 1.0  # of categories: a question scores 0 to 1

    def __init__(
        self,
        items: Mapping[str, T],
        judge: Judge | str,
        *,
        texts: Mapping[str, str],
        kinds: Sequence[str] = (),
        content: object = (),
        **kwargs: Any,
    ):
        super().__init__(items, texts=texts, content=content, judge=judge, **kwargs)
        self.kinds = list(dict.fromkeys(kinds))
        self.add_stream("questions", Stream(Reservoir(None, 3), 3))

    # Answers

    def stage(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> Callable[[], None]:
        numbers = [] if ids is None else check_ids(ids, len(features["pixels"])).tolist()
        if numbers and max(numbers) >= _MOST_IDS:
            raise ValueError(f"`ids` must lie in [0, 2^43) for {self.name}, got {max(numbers)}")
        before = super().stage(features, ids=ids, **inputs)

        def finish() -> None:
            known = len(self._records)
            before()
            self._add_questions(self._records[known:], ids is not None)

        return finish

    def counted_rows(self, record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The questions of a record that count for their category."""
        return record["rows"]

    def _add_questions(self, records: Sequence[Mapping[str, Any]], numbered: bool) -> None:
        rows, keys = [], []
        for record in records if self.kinds else ():
            item = float(self._numbers[record["item"]])
            for j, row in enumerate(self.counted_rows(record)):
                score = math.nan if row["score"] is None else float(row["score"])
                rows.append([item, float(self.kinds.index(row["category"])), score])
                keys.append((record["id"] or 0) * _QUESTIONS + j)
        if rows:
            self.streams["questions"].add(torch.tensor(rows, dtype=torch.float64), keys if numbered else None)

    def _verdict(self, sample: Sample, readings: Sequence[ReadAnswer]) -> Verdict:
        if len(readings) > _QUESTIONS:
            raise ValueError(f"{self.name}: at most {_QUESTIONS} questions an image, got {len(readings)}")
        verdict = super()._verdict(sample, readings)
        failed = [reading.problem for reading in readings if reading.value is None]
        told = {"questions": len(readings), "failed_questions": len(failed)}
        return replace(verdict, figures={**verdict.figures, **self.mark_of(sample), **told})

    # Reading the state

    def summarize(self) -> Summary:
        summary = super().summarize()
        rows = self.streams["score"].read()[:, 1:]
        asked, failed = (float(self.column(rows, name).sum()) for name in ("questions", "failed_questions"))
        if failed > self.max_failed * asked:
            problems = Counter(row["problem"] for record in self._records for row in record["rows"] if "problem" in row)
            reasons = "; ".join(f"{reason} ({n}x)" for reason, n in problems.most_common(3))
            raise JudgeFailed(
                f"{self.name}: {failed:g} of {asked:g} questions have no answer that can be used, `max_failed` is"
                f" {self.max_failed:g}. {reasons or 'The other ranks know why'}"
            )
        if self.kinds:
            _, item, kind, score = self.streams["questions"].read().unbind(1)
            self._categories = self.by_category(item.long(), kind.long(), score)
        told = {f"category:{name}": category.value for name, category in self._categories.items()}
        return replace(summary, details={**summary.details, "n_failed_questions": failed, **told})

    def item_means(self, rows: Tensor) -> dict[str, dict[str, float]]:
        """Name of the figure, "score" among them -> item -> mean over its images."""
        owners = self.owners(rows)
        columns = {"score": rows[:, 0]} | {name: self.column(rows, name) for name in self.figures}
        return {name: group_means(owners, column.tolist()).mean for name, column in columns.items()}

    def over_samples(self, rows: Tensor) -> Summary:
        means = {name: list(by_item.values()) for name, by_item in self.item_means(rows).items()}
        scores = means.pop("score")
        k, value = len(scores), mean_of(scores, self.name, "no image has a score")
        deviation = sample_deviation(scores)
        error = None if deviation is None else deviation / math.sqrt(k)
        details = {"n_items": float(k), "n_missing_items": float(len(self._missing))}
        details |= {name: math.fsum(values) / len(values) for name, values in means.items() if values}
        details |= self.item_details(scores)
        interval = self.interval_of(value, error, k)
        return Summary(rows.new_tensor(value), len(rows), error, units=k, details=details, interval=interval)

    def item_details(self, scores: Sequence[float]) -> dict[str, float]:
        """Further details, of the scores of the items."""
        return {}

    def by_category(self, item: Tensor, kind: Tensor, score: Tensor) -> dict[str, Category]:
        """The mean over all questions of each kind, those without an answer left out."""
        taken = {name: (kind == i) & score.isfinite() for i, name in enumerate(self.kinds)}
        return {name: category_of(score[of], item[of], self.scale) for name, of in taken.items() if of.any()}
