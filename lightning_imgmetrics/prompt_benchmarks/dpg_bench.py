"""DPG-Bench: yes/no questions about dense prompts, of which those that hang on a "no" count as "no"."""

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
from lightning_imgmetrics.judges.metrics.closed_questions import yes_no_ask
from lightning_imgmetrics.judges.metrics.queries import Ask, Sample, Verdict
from lightning_imgmetrics.judges.metrics.quoting import wording_digest
from lightning_imgmetrics.prompt_benchmarks.base.benchmark_metric import BenchmarkMetric
from lightning_imgmetrics.prompt_benchmarks.base.categories import Category, category_of, mean_known, records_of
from lightning_imgmetrics.prompt_benchmarks.base.question_files import DpgQuestion, read_dpg
from lightning_imgmetrics.prompt_benchmarks.base.question_scores import dependent_scores, dpg_category

_CROPS = ("last", "all")
Questions = tuple[DpgQuestion, ...]


class DPGBench(BenchmarkMetric[Questions]):
    """Share of the questions about a prompt that are answered yes, 0 where a question it depends on is 0; in percent.

    The value is the mean over items of the mean over images. `questions`: the CSV file that DPG-Bench publishes, or
    `DpgQuestion`s. `grid=2`: an image is four in a square, the published layout, and is cut into them; 1: it is one.
    `categories`, "L1/entity" and "L2/entity - whole": means over questions of the answers before zeros spread, of the
    `crops` "last" (bottom right) of each square, as published, or "all". `skip_first_row` leaves out what the published
    loader lost: one item of 1065. The published judge is mPLUG-large; the numbers of another are on a scale of their
    own. Other arguments: see `JudgeMetric`. Source: Hu et al. 2024 (ELLA).
    """

    name: ClassVar[str] = "dpg_bench"
    unit: ClassVar[str] = "%"
    scale = 100.0
    default_decoding = Decoding(max_tokens=256)
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
        super().__init__(
            _items(listed),
            judge,
            texts=texts,
            kinds=sorted({dpg_category(question.tuple)[1] for question in listed}),
            content=[asdict(question) for question in listed],
            **kwargs,
        )
        self.grid, self.crops, self.skip_first_row = grid, crops, skip_first_row

    def asks(self, sample: Sample) -> list[Ask]:
        questions = self.item_of(sample)
        return [yes_no_ask(question.question, crop) for crop in self._crops(sample.image) for question in questions]

    def conclude(self, sample: Sample, readings: Sequence[bool | None]) -> Verdict:
        questions, answers = self.item_of(sample), [None if x is None else float(x) for x in readings]
        k = len(questions)
        shares, rows = [], []
        for crop in range(len(answers) // k):
            own = {q.proposition: x for q, x in zip(questions, answers[crop * k : crop * k + k], strict=True)}
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
        taken = {name: torch.isin(kind, kind.new_tensor(of)) & score.isfinite() for name, of in broad.items()}
        pooled = {name: category_of(score[of], item[of], self.scale) for name, of in taken.items() if of.any()}
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
        template = wording_digest([yes_no_ask("question", torch.zeros(3, 1, 1, dtype=torch.uint8))])
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
    """The answer as it was given is the score; `counted` is what it is worth where parents are 0."""
    told = {"question": question.question, "category": dpg_category(question.tuple)[1], "expected": "yes"}
    said = None if own is None else "yes" if own else "no"
    return {**told, "read": said, "score": own, "counted": counted, "proposition": question.proposition, "crop": crop}
