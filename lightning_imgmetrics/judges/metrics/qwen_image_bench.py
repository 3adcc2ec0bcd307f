"""Qwen-Image-Bench: 56 facets of a generated image by checklists, added up in three levels."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import IMAGE, Decoding, Question, turn
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.published_prompts import WordedMetric
from lightning_imgmetrics.judges.metrics.queries import Ask, Sample, Verdict
from lightning_imgmetrics.judges.metrics.qwen_scores import Marks, heading_scores, known_mean, read_marks
from lightning_imgmetrics.judges.prompts.qwen_image_bench import (
    QWEN_BODY,
    QWEN_CHECKLISTS,
    QWEN_FACETS,
    QWEN_HEADER,
    QWEN_SYSTEM,
)
from lightning_imgmetrics.metrics.base.summary import Summary

Dimensions = Sequence[str] | Mapping[str, Sequence[str]]

_SIDE = 1024
_FORM = (
    'Answer with the JSON object alone: the headings of the checklist, below each its facets, each {"score": 0, 1, 2'
    ' or "N/A"}.'
)


class QwenImageBench(WordedMetric):
    """The mean over dimensions of the mean over their headings of the mean over their facets; 0 to 100.

    A judge marks each facet of a checklist 0, 1 or 2, worth 0, 60 and 100, or "N/A", which is left out; there is one
    question per dimension. `dimensions`: which, or a mapping from each prompt to those asked about its images, as the
    published prompts have them (`dims_en`, see `dimensions_of`). An image with a side above 1024 is shown as a square
    of 1024, whatever its shape, as published. `details`: the mean of each dimension (`quality`) and heading
    (`quality_detail`) over the samples that have it; `n_failed_dimensions`, how many could not be read: the score of
    such a sample is the mean over the others, as published, and without any it has none. A sample to which nothing
    applies is no failure: it is left out, and counted in `n_void`. `records` hold the facets.
    Source: the judge's card on the hub.
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
        **kwargs: Any,
    ):
        if not dimensions:
            raise ValueError(f"`dimensions` must be one or more of {list(QWEN_CHECKLISTS)}, got {dimensions!r}")
        self.by_prompt = (
            {p: _known(some) for p, some in dimensions.items()} if isinstance(dimensions, Mapping) else None
        )
        used = _known(dimensions) if self.by_prompt is None else {d for some in self.by_prompt.values() for d in some}
        self.dimensions = tuple(dimension for dimension in QWEN_CHECKLISTS if dimension in used)
        means = [_key(dimension) for dimension in self.dimensions]
        headings = [_key(dimension, heading) for dimension in self.dimensions for heading in QWEN_FACETS[dimension]]
        self.figures = (*means, *headings, "n_failed_dimensions")
        self.logged = (*JudgeMetric.logged, "n_failed_dimensions", *means)
        self.cards = (QWEN_SYSTEM, QWEN_HEADER, QWEN_BODY, *(QWEN_CHECKLISTS[d] for d in self.dimensions))
        super().__init__(judge, **kwargs)

    def check_inputs(self, n: int, **inputs: Any) -> None:
        super().check_inputs(n, **inputs)
        for i, prompt in enumerate(inputs.get("prompts") or ()):
            if self.by_prompt is not None and prompt not in self.by_prompt:
                raise ValueError(f"`prompts[{i}]` is none of those in `dimensions`, got {prompt[:200]!r}")

    def asks(self, sample: Sample) -> list[Ask]:
        image = _shown(sample.image)
        return [self._ask(dimension, image, sample.prompt) for dimension in self._asked(sample)]

    def _asked(self, sample: Sample) -> Sequence[str]:
        return self.dimensions if self.by_prompt is None else self.by_prompt[sample.prompt]

    def _ask(self, dimension: str, image: Tensor, prompt: str) -> Ask:
        checklist = self.wording(QWEN_CHECKLISTS[dimension]).fill()
        body = self.wording(QWEN_BODY).fill(level1_dim=dimension, format_checklist=checklist)
        system = turn(self.wording(QWEN_SYSTEM).fill(), role="system")
        question = Question((image,), (system, turn(self.wording(QWEN_HEADER).fill(prompt=prompt), IMAGE, body)))
        return Ask(question, partial(read_marks, checklist=QWEN_FACETS[dimension]), _FORM, dimension)

    def conclude(self, sample: Sample, readings: Sequence[Marks | None]) -> Verdict:
        found = dict(zip(self._asked(sample), readings, strict=True))
        figures: dict[str, float | None] = dict.fromkeys(self.figures)
        figures["n_failed_dimensions"] = float(sum(marks is None for marks in readings))
        for dimension, marks in found.items():
            scores = heading_scores(marks or {})
            figures[_key(dimension)] = known_mean(scores.values())
            figures |= {_key(dimension, heading): scores.get(heading) for heading in QWEN_FACETS[dimension]}
        score = known_mean(figures[_key(dimension)] for dimension in found)
        void = score is None and None not in readings
        return Verdict(score, figures, _told(found), _rows(found), void=void)

    def over_samples(self, rows: Tensor) -> Summary:
        summary = super().over_samples(rows)
        failed = rows[:, 1 + [column.name for column in self.row].index("n_failed_dimensions")].sum()
        return replace(summary, details={**summary.details, "n_failed_dimensions": float(failed)})

    def signature_parameters(self) -> dict[str, object]:
        asked = "+".join(map(_key, self.dimensions))
        if self.by_prompt is not None:
            told = json.dumps(self.by_prompt, sort_keys=True)
            asked = f"by prompt@{hashlib.sha256(told.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
        return {"dimensions": asked, **super().signature_parameters()}


def _known(dimensions: Collection[str]) -> tuple[str, ...]:
    """The dimensions in their order; UnknownName for another, ValueError without any."""
    if isinstance(dimensions, str) or not dimensions:
        raise ValueError(f"`dimensions` must be one or more of {list(QWEN_CHECKLISTS)}, got {dimensions!r}")
    for dimension in dimensions:
        if dimension not in QWEN_CHECKLISTS:
            raise UnknownName("dimensions", dimension, QWEN_CHECKLISTS)
    return tuple(dimension for dimension in QWEN_CHECKLISTS if dimension in dimensions)


def _key(*names: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", " ".join(names).lower())


def _shown(image: Tensor) -> Tensor:
    """uint8 (3, h, w), as the judge is shown it."""
    if max(image.shape[1:]) <= _SIDE:
        return image
    return pil_to_tensor(to_pil_image(image).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))


def _told(found: Mapping[str, Marks | None]) -> str:
    """Which facets fail, which excel, and what could not be read."""
    marked = [
        (facet, mark) for marks in found.values() for some in (marks or {}).values() for facet, mark in some.items()
    ]
    groups = {
        "fails": [facet for facet, mark in marked if mark == 0],
        "excels": [facet for facet, mark in marked if mark == 100],
        "unread": [dimension for dimension, marks in found.items() if marks is None],
    }
    return "; ".join(f"{name}: {', '.join(members)}" for name, members in groups.items() if members)


def _rows(found: Mapping[str, Marks | None]) -> list[dict[str, Any]]:
    """One for each facet that was asked about."""
    return [
        {"question": facet, "category": f"{dimension} / {heading}", "score": (marks or {}).get(heading, {}).get(facet)}
        for dimension, marks in found.items()
        for heading, facets in QWEN_FACETS[dimension].items()
        for facet in facets
    ]
