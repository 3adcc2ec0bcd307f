"""Benchmarks: fixed prompts, questions about the images made from each, and the published way to add up."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import Decoding
from lightning_imgmetrics.judges.backends.resolve import as_judge
from lightning_imgmetrics.judges.calibration.record import Calibration
from lightning_imgmetrics.judges.metrics.judge_protocol import JUDGES_TIMEOUT, JudgeProtocol
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.verdict_metric import VerdictMetric
from lightning_imgmetrics.judges.metrics.verdicts import Verdict
from lightning_imgmetrics.metrics.base.inputs import Ids, check_ids
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.base.summary import Category, Column, Summary
from lightning_imgmetrics.models.base.extractor import Features
from lightning_imgmetrics.prompt_benchmarks.base.categories import category_of, sample_deviation
from lightning_imgmetrics.prompt_benchmarks.base.group_scores import group_means, mean_of
from lightning_imgmetrics.prompt_benchmarks.base.item_set import ItemSet
from lightning_imgmetrics.states.tables import Reservoir

_QUESTIONS = 1 << 10  # most questions about one image; their keys are those of the image times this
_MOST_IDS = (1 << 53) // _QUESTIONS


class BenchmarkMetric(VerdictMetric):
    """The mean over items of the mean score of their images, as a judge's answers to fixed questions give them.

    `prompts` of an update hold the prompt, or the name, of each image's item; images of items that are left out are
    passed over. Where more than `max_failed` of the questions have no answer, JudgeFailed. `details`: `n_items`,
    `n_missing_items`, `n_failed_questions`, and "category:..." for each kind of question. See `categories`, `missing`
    and `records`. Sample ids lie below 2^43.

    Args:
        items: the items and their prompts.
        judge: see `JudgeMetric`, as are `retries`, `repeats`, `decoding` and `calibration`.
        kinds: the kinds of questions, which are the categories.
        kwargs: those of `VerdictMetric`.
    """

    sync_timeout = JUDGES_TIMEOUT
    default_decoding: ClassVar[Decoding] = Decoding()
    scale: ClassVar[float] = 1.0  # of categories: a question scores 0 to 1
    items: ItemSet[Any]

    def __init__(
        self,
        items: ItemSet[Any],
        judge: Judge | str,
        *,
        kinds: Sequence[str] = (),
        retries: int = 1,
        repeats: int = 1,
        decoding: Decoding | None = None,
        calibration: Calibration | None = None,
        **kwargs: Any,
    ):
        decoding = self.default_decoding if decoding is None else decoding
        self.protocol = JudgeProtocol(as_judge(judge), retries, repeats, decoding, calibration)
        super().__init__(**kwargs)
        self.items, self.kinds = items, list(dict.fromkeys(kinds))
        self.add_stream("questions", Stream(Reservoir(None, 3), 3))

    @property
    def prompts(self) -> list[str]:
        """The prompts of all items, in order."""
        return self.items.prompts

    def columns(self) -> tuple[Column, ...]:
        marks = (Column(name, "mark") for name in ("item", "questions", "failed_questions"))
        return (*marks, *super().columns(), Column("n_missing_items", "detail", logged=True))

    # Samples

    @abstractmethod
    def queries(self, sample: Sample) -> Sequence[Query]:
        """What is asked about one sample."""

    @abstractmethod
    def conclude(self, sample: Sample, answers: Sequence[Any]) -> Verdict:
        """The verdict from one parsed answer per query; None stands for those that could not be parsed."""

    def check_inputs(self, n: int, **inputs: Any) -> None:
        super().check_inputs(n, **inputs)
        self.items.check_prompts(inputs.get("prompts") or ())

    def identified(self, sample: Sample) -> Sample:
        return self.items.identified(sample)

    def is_judged(self, sample: Sample) -> bool:
        return sample.item in self.items

    def verdicts(self, samples: Sequence[Sample]) -> list[Verdict]:
        assert self.protocol is not None
        return self.protocol.verdicts(samples, self.queries, self._counted, self.device)

    def _counted(self, sample: Sample, answers: Sequence[Any]) -> Verdict:
        """`conclude`, with the number of questions and of those that have no answer."""
        if len(answers) > _QUESTIONS:
            raise ValueError(f"{self.name}: at most {_QUESTIONS} questions an image, got {len(answers)}")
        verdict = self.conclude(sample, answers)
        failed = sum(answer is None for answer in answers)
        return replace(verdict, extra={**verdict.extra, "questions": len(answers), "failed_questions": failed})

    def values(self, sample: Sample, verdict: Verdict) -> Mapping[str, float | None]:
        return {**super().values(sample, verdict), "item": self.items.numbers[sample.item]}

    def stage(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> Callable[[], None]:
        numbers = [] if ids is None else check_ids(ids, len(features["pixels"])).tolist()
        if numbers and max(numbers) >= _MOST_IDS:
            raise ValueError(f"`ids` must lie in [0, 2^43) for {self.name}, got {max(numbers)}")
        commit_scores = super().stage(features, ids=ids, **inputs)

        def commit() -> None:
            before = len(self.log.records)
            commit_scores()
            self._add_questions(self.log.records[before:], ids is not None)

        return commit

    def counted_rows(self, record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The questions of a record that count for their category."""
        return record["rows"]

    def _add_questions(self, records: Sequence[Mapping[str, Any]], have_ids: bool) -> None:
        rows, keys = [], []
        for record in records if self.kinds else ():
            item = float(self.items.numbers[record["item"]])
            for j, row in enumerate(self.counted_rows(record)):
                score = math.nan if row["score"] is None else float(row["score"])
                rows.append([item, float(self.kinds.index(row["category"])), score])
                keys.append((record["id"] or 0) * _QUESTIONS + j)
        if rows:
            self.streams["questions"].add(torch.tensor(rows, dtype=torch.float64), keys if have_ids else None)

    def signature_parameters(self) -> dict[str, object]:
        return {"questions": self.items.digest, **super().signature_parameters()}

    # Reading the state

    def summarize(self) -> Summary:
        summary = super().summarize()
        rows = self.streams["score"].read()[:, 1:]
        n, failed = (float(self.table.column(rows, name).sum()) for name in ("questions", "failed_questions"))
        if failed > self.max_failed * n:
            what = f"{failed:g} of {n:g} questions have no answer that can be used"
            raise self.failure(what, self.log.failed_questions())
        categories: Mapping[str, Category] = summary.categories
        if self.kinds:
            _, item, kind, score = self.streams["questions"].read().unbind(1)
            categories = self.by_category(item.long(), kind.long(), score)
        details = {f"category:{name}": category.value for name, category in categories.items()}
        details = {**summary.details, "n_failed_questions": failed, **details}
        return replace(summary, details=details, categories=categories)

    def item_means(self, rows: Tensor) -> dict[str, dict[str, float]]:
        """ "score" and the other columns with a mean -> item -> mean over its images."""
        owners = self.items.names_of(self.table.column(rows, "item"))
        columns = {"score": rows[:, 0], **{name: self.table.column(rows, name) for name in self.table.of_kind("mean")}}
        return {name: group_means(owners, column.tolist()).mean for name, column in columns.items()}

    def over_samples(self, rows: Tensor) -> Summary:
        by_item = self.item_means(rows)
        means = {name: list(of.values()) for name, of in by_item.items()}
        scores = means.pop("score")
        k, value = len(scores), mean_of(scores, self.name, "no image has a score")
        deviation = sample_deviation(scores)
        error = None if deviation is None else deviation / math.sqrt(k)
        missing = self.items.missing(list(by_item["score"]))
        details = {"n_items": float(k), "n_missing_items": float(len(missing))}
        details |= {name: math.fsum(values) / len(values) for name, values in means.items() if values}
        details |= self.item_details(scores)
        interval = self.interval_of(value, error, k)
        return Summary(
            rows.new_tensor(value), len(rows), error, units=k, details=details, interval=interval, missing=missing
        )

    def item_details(self, scores: Sequence[float]) -> dict[str, float]:
        """Further details, of the scores of the items."""
        return {}

    def by_category(self, item: Tensor, kind: Tensor, score: Tensor) -> dict[str, Category]:
        """The mean over all questions of each kind, those without an answer left out."""
        selections = {name: (kind == i) & score.isfinite() for i, name in enumerate(self.kinds)}
        return {name: category_of(score[x], item[x], self.scale) for name, x in selections.items() if x.any()}
