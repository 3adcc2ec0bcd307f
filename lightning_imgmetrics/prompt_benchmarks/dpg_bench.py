"""DPG-Bench: yes/no questions about dense prompts, of which those that depend on a "no" count as "no"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics.errors import ShapeError, UnknownName, UnreadableQuestions
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import Decoding
from lightning_imgmetrics.judges.metrics.closed_questions import yes_no_query
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.quoting import template_digest
from lightning_imgmetrics.judges.metrics.verdicts import Verdict
from lightning_imgmetrics.metrics.base.summary import Category
from lightning_imgmetrics.prompt_benchmarks.base.benchmark_metric import BenchmarkMetric
from lightning_imgmetrics.prompt_benchmarks.base.categories import category_of, mean_known, records_of
from lightning_imgmetrics.prompt_benchmarks.base.item_set import ItemSet
from lightning_imgmetrics.prompt_benchmarks.base.question_files import DpgQuestion, read_dpg
from lightning_imgmetrics.prompt_benchmarks.base.question_scores import dependent_scores, dpg_category

_CROPS = ("last", "all")
Questions = tuple[DpgQuestion, ...]


class DPGBench(BenchmarkMetric):
    """Share of the questions about a dense prompt that a judge answers yes, looking at its image; in percent.

    A question scores 1 for yes, and 0 for no or where a question that it depends on scores 0. The value is the mean
    over items of the mean over their images of the mean over their questions: from 0 to 100, higher is better.
    `categories`, "L1/entity" and "L2/entity - whole": means over questions of the answers before zeros spread. The
    published judge is mPLUG-large; the numbers of another are on a scale of their own. Reference: Hu et al. 2024
    (ELLA).

    Args:
        questions: the CSV file that DPG-Bench publishes, or `DpgQuestion`s.
        judge: see `JudgeMetric`.
        grid: 2: an image is four in a square, the published layout, and is cut into them; 1: it is one.
        crops: of which of the four categories are: "last" (bottom right), as published, or "all".
        skip_first_row: leave out what the published loader lost: one item of 1065.
        kwargs: those of `BenchmarkMetric`.

    Raises:
        UnreadableQuestions: the file is malformed, or two propositions of an item have one number.
        ValueError: `grid` is neither 1 nor 2, or `skip_first_row` without a file.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import Answer, DPGBench, DpgQuestion, Judge
        >>> class Agreeable(Judge):
        ...     def reply(self, questions, decoding, device):
        ...         return [Answer("yes") for _ in questions]
        >>> question = DpgQuestion("0", "a cat", 1, (), "entity", "whole", "entity - whole (cat)", "Is there a cat?")
        >>> metric = DPGBench([question], Agreeable())
        >>> metric.update(images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8), prompts=metric.prompts)
        >>> metric.compute()
        tensor(100., dtype=torch.float64)
    """

    name: ClassVar[str] = "dpg_bench"
    unit: ClassVar[str] = "%"
    scale = 100.0
    default_decoding = Decoding(max_tokens=256)
    items: ItemSet[Questions]
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 100.0

    def __init__(
        self,
        questions: str | Path | Sequence[DpgQuestion],
        judge: Judge | str,
        *,
        grid: int = 1,
        crops: str = "last",
        skip_first_row: bool = False,
        **kwargs: Any,
    ):
        if grid not in (1, 2):
            raise ValueError(f"`grid` must be 1 (an image is one) or 2 (it is four in a square), got {grid!r}")
        if crops not in _CROPS:
            raise UnknownName("crops", crops, _CROPS)
        if skip_first_row and not isinstance(questions, str | Path):
            raise ValueError("`skip_first_row` needs `questions` to be the path of the published file")
        listed = records_of(questions, DpgQuestion, lambda path: read_dpg(path).questions)
        texts = {q.item_id: q.item_id for q in listed} | {q.item_id: q.text for q in listed if q.text.strip()}
        if skip_first_row:
            listed = read_dpg(questions, skip_first_row=True).questions  # type: ignore[arg-type]
        content = [asdict(question) for question in listed]
        items = ItemSet(self.name, _items(listed), texts=texts, content=content)
        super().__init__(items, judge, kinds=sorted({dpg_category(q.tuple)[1] for q in listed}), **kwargs)
        self.grid, self.crops, self.skip_first_row = grid, crops, skip_first_row

    def queries(self, sample: Sample) -> list[Query]:
        questions = self.items[sample.item]
        return [yes_no_query(question.question, crop) for crop in self._crops(sample.image) for question in questions]

    def conclude(self, sample: Sample, answers: Sequence[bool | None]) -> Verdict:
        questions, scores = self.items[sample.item], [None if x is None else float(x) for x in answers]
        k = len(questions)
        shares, rows = [], []
        for crop in range(len(scores) // k):
            own = {q.proposition: x for q, x in zip(questions, scores[crop * k : crop * k + k], strict=True)}
            counted = dependent_scores(own, {q.proposition: q.parents for q in questions})
            shares.append(mean_known(counted.values(), self.scale))
            rows += [_row(q, crop, own[q.proposition], counted[q.proposition]) for q in questions]
        missed = dict.fromkeys(row["question"] for row in rows if row["score"] == 0)
        return Verdict(mean_known(shares), {}, "; ".join(f"no: {question}" for question in missed), rows)

    def counted_rows(self, record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        last = max(row["crop"] for row in record["rows"])
        return [row for row in record["rows"] if self.crops == "all" or row["crop"] == last]

    def by_category(self, item: Tensor, kind: Tensor, score: Tensor) -> dict[str, Category]:
        broad: dict[str, list[int]] = {}
        for i, name in enumerate(self.kinds):
            broad.setdefault(dpg_category(name)[0], []).append(i)
        selections = {name: torch.isin(kind, kind.new_tensor(of)) & score.isfinite() for name, of in broad.items()}
        pooled = {name: category_of(score[x], item[x], self.scale) for name, x in selections.items() if x.any()}
        detailed = super().by_category(item, kind, score)
        return {f"L1/{name}": x for name, x in pooled.items()} | {f"L2/{name}": x for name, x in detailed.items()}

    def _crops(self, image: Tensor) -> list[Tensor]:
        """Top left, top right, bottom left, bottom right; or the image itself."""
        if self.grid == 1:
            return [image]
        height, width = image.shape[1:]
        if height % 2 or width % 2:
            raise ShapeError(f"with `grid=2` an image must have an even height and width, got {height} x {width}")
        h, w = height // 2, width // 2
        return [image[:, y : y + h, x : x + w].contiguous() for y in (0, h) for x in (0, w)]

    def signature_parameters(self) -> dict[str, object]:
        template = template_digest([yes_no_query("question", torch.zeros(3, 1, 1, dtype=torch.uint8))])
        rows = {"skip_first_row": True} if self.skip_first_row else {}
        return {"grid": self.grid, "crops": self.crops, **rows, "template": template, **super().signature_parameters()}


def _items(questions: Sequence[DpgQuestion]) -> dict[str, Questions]:
    """Item -> its questions; errors as of the file for those that did not come from one."""
    items: dict[str, Questions] = {}
    for question in questions:
        items[question.item_id] = (*items.get(question.item_id, ()), question)
    for name, of in items.items():
        numbers = [question.proposition for question in of]
        if len(set(numbers)) < len(numbers):
            raise UnreadableQuestions(f"the propositions of item {name!r} must differ, got {numbers}")
        dependent_scores(dict.fromkeys(numbers), {q.proposition: q.parents for q in of})
    return items


def _row(question: DpgQuestion, crop: int, own: float | None, counted: float | None) -> dict[str, Any]:
    """The answer itself is the score; `counted` is what it is worth where parents are 0."""
    about = {"question": question.question, "category": dpg_category(question.tuple)[1], "expected": "yes"}
    answer = None if own is None else "yes" if own else "no"
    number = {"proposition": question.proposition, "crop": crop}
    return {**about, "read": answer, "score": own, "counted": counted, **number}
