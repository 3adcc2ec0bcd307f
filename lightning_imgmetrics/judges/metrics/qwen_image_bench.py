"""Qwen-Image-Bench: 56 facets of a generated image by checklists, added up in three levels."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import IMAGE, Decoding, Question, turn
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.published_prompts import PublishedPrompts
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.qwen_scores import Marks, heading_scores, known_mean, parse_marks
from lightning_imgmetrics.judges.metrics.verdicts import Verdict
from lightning_imgmetrics.judges.prompts.qwen_image_bench import (
    QWEN_BODY,
    QWEN_CHECKLISTS,
    QWEN_FACETS,
    QWEN_HEADER,
    QWEN_SYSTEM,
)
from lightning_imgmetrics.metrics.base.summary import Column, Summary

Dimensions = Sequence[str] | Mapping[str, Sequence[str]]

_SIDE = 1024
_REMINDER = (
    'Answer with the JSON object alone: the headings of the checklist, below each its facets, each {"score": 0, 1, 2'
    ' or "N/A"}.'
)


class QwenImageBench(JudgeMetric):
    """56 facets of a generated image by checklists: a judge marks each 0, 1 or 2, or "N/A", which is left out.

    The mean over dimensions of the mean over their headings of the mean over their facets, marks being worth 0, 60 and
    100: from 0 to 100, higher is better. There is one query per dimension. An image with a side above 1024 is shown as
    a square of 1024, whatever its shape, as published. `details`: the mean of each dimension (`quality`) and heading
    (`quality_detail`) over the samples that have it; `n_failed_dimensions`, how many could not be parsed: the score of
    such a sample is the mean over the others, as published, and without any it has none. A sample to which nothing
    applies is no failure: it is left out, and counted in `n_not_applicable`. `records` hold the facets. Reference: the
    judge's card on the hub.

    Args:
        judge: see `JudgeMetric`; by default the published one.
        dimensions: which are asked about, or a mapping from each prompt to those asked about its images, as the
            published prompts have them (`dims_en`, see `dimensions_of`).
        template: a copy of the published source of the prompts, or a folder with it.
        kwargs: those of `JudgeMetric`.

    Raises:
        UnknownName: an unknown dimension.
        ValueError: no dimension at all.

    Example:
        >>> from lightning_imgmetrics import QwenImageBench
        >>> metric = QwenImageBench("Qwen/Qwen-Image-Bench", dimensions=["Quality", "Aesthetics"])
        >>> metric.inputs  # what `update` takes beside images
        ('prompts',)
        >>> metric.range_of("qwen_image_bench")
        (0.0, 100.0)
    """

    name: ClassVar[str] = "qwen_image_bench"
    default_decoding = Decoding(max_tokens=4096, repetition_penalty=1.05, thinking=True)
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 100.0

    def __init__(
        self,
        judge: Judge | str = "Qwen/Qwen-Image-Bench",
        *,
        dimensions: Dimensions = tuple(QWEN_CHECKLISTS),
        template: str | Path | None = None,
        **kwargs: Any,
    ):
        if not dimensions:
            raise ValueError(f"`dimensions` must be one or more of {list(QWEN_CHECKLISTS)}, got {dimensions!r}")
        self.by_prompt = (
            {p: _in_order(some) for p, some in dimensions.items()} if isinstance(dimensions, Mapping) else None
        )
        selection = [dimensions] if self.by_prompt is None else self.by_prompt.values()
        used = {dimension for some in selection for dimension in _in_order(some)}
        self.dimensions = tuple(dimension for dimension in QWEN_CHECKLISTS if dimension in used)
        checklists = (QWEN_CHECKLISTS[dimension] for dimension in self.dimensions)
        self.prompts = PublishedPrompts((QWEN_SYSTEM, QWEN_HEADER, QWEN_BODY, *checklists), template)
        super().__init__(judge, **kwargs)

    def columns(self) -> tuple[Column, ...]:
        headings = (Column(_key(d, heading)) for d in self.dimensions for heading in QWEN_FACETS[d])
        own = *(Column(_key(d), logged=True) for d in self.dimensions), *headings
        return (*own, Column("n_failed_dimensions", logged=True), *super().columns())

    def check_inputs(self, n: int, **inputs: Any) -> None:
        super().check_inputs(n, **inputs)
        for i, prompt in enumerate(inputs.get("prompts") or ()):
            if self.by_prompt is not None and prompt not in self.by_prompt:
                raise ValueError(f"`prompts[{i}]` is none of those in `dimensions`, got {prompt[:200]!r}")

    def queries(self, sample: Sample) -> list[Query]:
        image = _resized(sample.image)
        return [self._query(dimension, image, sample.prompt) for dimension in self._dimensions_of(sample)]

    def _dimensions_of(self, sample: Sample) -> Sequence[str]:
        return self.dimensions if self.by_prompt is None else self.by_prompt[sample.prompt]

    def _query(self, dimension: str, image: Tensor, prompt: str) -> Query:
        checklist = self.prompts.template(QWEN_CHECKLISTS[dimension]).fill()
        body = self.prompts.template(QWEN_BODY).fill(level1_dim=dimension, format_checklist=checklist)
        system = turn(self.prompts.template(QWEN_SYSTEM).fill(), role="system")
        message = turn(self.prompts.template(QWEN_HEADER).fill(prompt=prompt), IMAGE, body)
        parse = partial(parse_marks, checklist=QWEN_FACETS[dimension])
        return Query(Question((image,), (system, message)), parse, _REMINDER, dimension)

    def conclude(self, sample: Sample, answers: Sequence[Marks | None]) -> Verdict:
        by_dimension = dict(zip(self._dimensions_of(sample), answers, strict=True))
        extra: dict[str, float | None] = {}
        for dimension in self.dimensions:
            scores = heading_scores(by_dimension.get(dimension) or {})
            extra[_key(dimension)] = known_mean(scores.values())
            extra |= {_key(dimension, heading): scores.get(heading) for heading in QWEN_FACETS[dimension]}
        extra["n_failed_dimensions"] = float(sum(marks is None for marks in answers))
        score = known_mean(extra[_key(dimension)] for dimension in by_dimension)
        not_applicable = score is None and None not in answers
        return Verdict(score, extra, _rationale(by_dimension), _rows(by_dimension), not_applicable)

    def over_samples(self, rows: Tensor) -> Summary:
        summary = super().over_samples(rows)
        failed = self.table.column(rows, "n_failed_dimensions").sum()
        return replace(summary, details={**summary.details, "n_failed_dimensions": float(failed)})

    def signature_parameters(self) -> dict[str, object]:
        dimensions = "+".join(map(_key, self.dimensions))
        if self.by_prompt is not None:
            content = json.dumps(self.by_prompt, sort_keys=True)
            dimensions = f"by prompt@{hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
        return {"dimensions": dimensions, **self.prompts.signature(), **super().signature_parameters()}


def _in_order(dimensions: Collection[str]) -> tuple[str, ...]:
    """The dimensions in their order; UnknownName for another, ValueError without any."""
    if isinstance(dimensions, str) or not dimensions:
        raise ValueError(f"`dimensions` must be one or more of {list(QWEN_CHECKLISTS)}, got {dimensions!r}")
    for dimension in dimensions:
        if dimension not in QWEN_CHECKLISTS:
            raise UnknownName("dimensions", dimension, QWEN_CHECKLISTS)
    return tuple(dimension for dimension in QWEN_CHECKLISTS if dimension in dimensions)


def _key(*names: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", " ".join(names).lower())


def _resized(image: Tensor) -> Tensor:
    """uint8 (3, h, w), as the judge is shown it."""
    if max(image.shape[1:]) <= _SIDE:
        return image
    return pil_to_tensor(to_pil_image(image).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))


def _rationale(by_dimension: Mapping[str, Marks | None]) -> str:
    """Which facets fail, which excel, and what could not be read."""
    headings = [facets for marks in by_dimension.values() for facets in (marks or {}).values()]
    marked = [(facet, mark) for facets in headings for facet, mark in facets.items()]
    groups = {
        "fails": [facet for facet, mark in marked if mark == 0],
        "excels": [facet for facet, mark in marked if mark == 100],
        "unparsed": [dimension for dimension, marks in by_dimension.items() if marks is None],
    }
    return "; ".join(f"{name}: {', '.join(members)}" for name, members in groups.items() if members)


def _rows(by_dimension: Mapping[str, Marks | None]) -> list[dict[str, Any]]:
    """One for each facet that was asked about."""
    return [
        {"question": facet, "category": f"{dimension} / {heading}", "score": (marks or {}).get(heading, {}).get(facet)}
        for dimension, marks in by_dimension.items()
        for heading, facets in QWEN_FACETS[dimension].items()
        for facet in facets
    ]
