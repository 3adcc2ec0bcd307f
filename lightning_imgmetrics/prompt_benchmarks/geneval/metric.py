"""GenEval: whether an image shows the objects that its prompt names, in their number, colors and places."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from lightning_imgmetrics.errors import UnreadableQuestions, ValueRangeError
from lightning_imgmetrics.judges.metrics.queries import Sample
from lightning_imgmetrics.judges.metrics.verdict_metric import VerdictMetric
from lightning_imgmetrics.judges.metrics.verdicts import Verdict
from lightning_imgmetrics.metrics.base.summary import Category, Column, Summary
from lightning_imgmetrics.models.base.extractor import Extractor, PixelExtractor
from lightning_imgmetrics.models.base.network import Network
from lightning_imgmetrics.models.detection.detections import Detection
from lightning_imgmetrics.models.detection.mask2former import MASK2FORMER, DetectorExtractor
from lightning_imgmetrics.models.encoders.clip import ClipExtractor
from lightning_imgmetrics.prompt_benchmarks.base.categories import category_of, ratio_error, records_of
from lightning_imgmetrics.prompt_benchmarks.base.item_set import ItemSet, single_spaced
from lightning_imgmetrics.prompt_benchmarks.geneval.colors import CLIP_L14, ColorClassifier
from lightning_imgmetrics.prompt_benchmarks.geneval.detections_file import read_detections
from lightning_imgmetrics.prompt_benchmarks.geneval.files import read_geneval
from lightning_imgmetrics.prompt_benchmarks.geneval.prompts import TASKS, GenEvalPrompt
from lightning_imgmetrics.prompt_benchmarks.geneval.rules import PUBLISHED, Rules, check, geneval_scores, select

Found = Mapping[int, Sequence[Detection]]


class GenEval(VerdictMetric):
    """Whether images show the objects that their prompts name, in their number, colors and places.

    The unweighted mean, over up to six tasks, of the share of images that are what their prompts say: in [0, 1], higher
    is better. `details`: each task, `any_correct` (the share of prompts with a correct image), `correct_images`. An
    image without an entry in `detections` has failed. Reference: Ghosh, Hajishirzi & Schmidt 2023.

    Args:
        questions: the published evaluation_metadata.jsonl, or `GenEvalPrompt`s.
        detector: what finds objects. The default is not the published one, for whose scores the thresholds of `rules`
            were set: compare with no published number.
        colors: the CLIP that names the color of objects that come without one.
        detections: objects that were found elsewhere: a file (see `read_detections`), or a mapping by sample id, or by
            the `names` of samples 0, 1, ...; no detector runs then.
        names: of samples 0, 1, ..., in `detections`.
        rules: the constants of the protocol.
        kwargs: those of `VerdictMetric`.

    Raises:
        UnreadableQuestions: a file is malformed, or two prompts with one text ask for different things.
        ValueError: `names` without `detections`, or no `colors` for prompts that ask for some.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import GenEval, GenEvalPrompt
        >>> from lightning_imgmetrics.models.detection.detections import Detection
        >>> row = {"tag": "counting", "prompt": "two cats", "include": [{"class": "cat", "count": 2}]}
        >>> cat = Detection("cat", 0.95, (0.0, 0.0, 4.0, 4.0))
        >>> metric = GenEval([GenEvalPrompt.of(row)], detections={0: [cat, cat], 1: [cat]})
        >>> metric.update(images=torch.zeros(2, 3, 8, 8, dtype=torch.uint8), prompts="two cats", ids=[0, 1])
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
        >>> metric.rationales()
        {1: 'cat: expected 2, found 1'}
    """

    name: ClassVar[str] = "geneval"
    failure_message = "there are no detections"
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    extractor: Extractor
    items: ItemSet[GenEvalPrompt]

    def __init__(
        self,
        questions: str | Path | Sequence[GenEvalPrompt],
        *,
        detector: DetectorExtractor | str = MASK2FORMER,
        colors: ClipExtractor | str | None = CLIP_L14,
        detections: str | Path | Mapping[Any, Sequence[Detection]] | None = None,
        names: Sequence[str] | None = None,
        rules: Rules = PUBLISHED,
        **kwargs: Any,
    ):
        items, texts = _items(records_of(questions, GenEvalPrompt, read_geneval))
        super().__init__(**kwargs)
        self.items = ItemSet(self.name, items, texts=texts, content=[asdict(prompt) for prompt in items.values()])
        if names is not None and detections is None:
            raise ValueError("`names` are those of images in `detections`, which is missing")
        colored = any(clause.color for prompt in items.values() for clause in prompt.include)
        if colored and colors is None and detections is None:
            raise ValueError("`colors` is needed: prompts ask for colors, and the detector tells none")
        self.rules = rules
        self._detections = {} if detections is None else _by_id(detections, names)
        self.extractor = _detector(detector, rules) if detections is None else PixelExtractor()
        clip = ClipExtractor(colors) if isinstance(colors, str) else colors
        self.classifier = ColorClassifier(clip) if clip is not None and colored else None

    @property
    def networks(self) -> tuple[Network, ...]:
        return super().networks if self.classifier is None else (*super().networks, self.classifier.clip)

    @property
    def prompts(self) -> list[str]:
        """The prompts of all items, in order."""
        return self.items.prompts

    def columns(self) -> tuple[Column, ...]:
        return (Column("item", "mark"), *super().columns(), Column("n_missing_items", "detail", logged=True))

    def check_inputs(self, n: int, **inputs: Any) -> None:
        super().check_inputs(n, **inputs)
        self.items.check_prompts(inputs.get("prompts") or ())

    def identified(self, sample: Sample) -> Sample:
        return self.items.identified(sample)

    def values(self, sample: Sample, verdict: Verdict) -> Mapping[str, float | None]:
        return {**super().values(sample, verdict), "item": self.items.numbers[sample.item]}

    def verdicts(self, samples: Sequence[Sample]) -> list[Verdict]:
        return list(map(self._verdict, samples, self._detect(samples)))

    def _detect(self, samples: Sequence[Sample]) -> Iterator[Sequence[Detection] | None]:
        if isinstance(self.extractor, DetectorExtractor):
            size = self.extractor.max_batch  # masks of a whole batch would fill the device
            for start in range(0, len(samples), size):
                part = samples[start : start + size]
                yield from self.extractor.detect([sample.image for sample in part], self.device)
            return
        for sample in samples:
            if sample.id is None:
                raise TypeError(f"{self.name} with `detections` needs `ids=` in update")
            yield self._detections.get(sample.id)

    def _verdict(self, sample: Sample, detections: Sequence[Detection] | None) -> Verdict:
        prompt = self.items[sample.item]
        about = {"question": prompt.prompt, "category": prompt.tag}
        if detections is None:
            return Verdict(None, {}, "`detections` has no entry of it", [{**about, "score": None, "found": None}])
        objects = select(detections, prompt.tag, rules=self.rules)
        colors = None if self.classifier is None else partial(self._colors, self.classifier, sample.image)
        correct, reason = check(prompt, objects, margin=self.rules.margin, colors=colors)
        boxes = {label: [[*one.box, one.score] for one in some] for label, some in objects.items()}
        return Verdict(float(correct), {}, reason, [{**about, "score": float(correct), "found": boxes}])

    def _colors(self, classifier: ColorClassifier, image: Tensor, detections: Sequence[Detection]) -> list[str]:
        unknown = [detection for detection in detections if detection.color is None]
        names = iter(classifier(image, unknown, self.device))
        return [next(names) if detection.color is None else detection.color for detection in detections]

    def over_samples(self, rows: Tensor) -> Summary:
        item = self.table.column(rows, "item").long()
        names = self.items.names_of(item)
        prompts = [self.items[name] for name in names]
        scores = geneval_scores((rows[:, 0] == 1).tolist(), prompts)
        task = item.new_tensor([TASKS.index(prompt.tag) for prompt in prompts])
        parts = [(rows[task == i, 0], item[task == i]) for i in map(TASKS.index, scores.tasks)]
        categories = {name: category_of(*part) for name, part in zip(scores.tasks, parts, strict=True)}
        missing = self.items.missing(names)
        details = {"any_correct": scores.prompts, "correct_images": scores.images}
        details |= {"n_items": float(len(set(names))), "n_missing_items": float(len(missing))}
        details |= {f"category:{name}": value for name, value in scores.tasks.items()}
        return Summary(
            rows.new_tensor(scores.overall),
            len(rows),
            _mean_error([ratio_error(*part) for part in parts]),
            details=details,
            interval=_mean_interval(list(categories.values())),
            categories=categories,
            missing=missing,
        )

    def signature_parameters(self) -> dict[str, object]:
        own_rules = {name: f"{x:g}" for name, x in asdict(self.rules).items() if x != getattr(PUBLISHED, name)}
        source = {} if isinstance(self.extractor, DetectorExtractor) else {"detections": "given"}
        clip = {} if self.classifier is None else self.classifier.clip.signature()
        colors = {f"colors_{name}": x for name, x in clip.items()}
        questions = {"questions": self.items.digest}
        return {**source, **colors, **own_rules, **questions, **super().signature_parameters()}


def _items(prompts: Sequence[GenEvalPrompt]) -> tuple[dict[str, GenEvalPrompt], dict[str, str]]:
    """Prompts, and their texts, by the number that their folder has in the published layout.

    A prompt that comes twice is one; UnreadableQuestions where it asks for other things the second time.
    """
    items: dict[str, GenEvalPrompt] = {}
    first: dict[str, str] = {}
    for i, prompt in enumerate(prompts):
        name = first.setdefault(single_spaced(prompt.prompt), f"{i:05}")
        before = items.setdefault(name, prompt)
        if (before.tag, before.include, before.exclude) != (prompt.tag, prompt.include, prompt.exclude):
            raise UnreadableQuestions(
                f"prompts {name} and {i:05} are both {prompt.prompt!r} and must ask for the same, got"
                f" {_requirements(before)} and {_requirements(prompt)}"
            )
    return items, {name: prompt.prompt for name, prompt in items.items()}


def _requirements(prompt: GenEvalPrompt) -> dict[str, Any]:
    return {name: x for name, x in asdict(prompt).items() if name != "prompt"}


def _by_id(detections: str | Path | Mapping[Any, Sequence[Detection]], names: Sequence[str] | None) -> Found:
    """Detections by sample id, from those by id or by name."""
    by_name = read_detections(detections) if isinstance(detections, str | Path) else detections
    if not isinstance(by_name, Mapping):
        raise TypeError(f"`detections` must be a file or a mapping of images, got {type(by_name).__name__}")
    for name, some in by_name.items():
        if not isinstance(some, Sequence) or not all(isinstance(one, Detection) for one in some):
            raise TypeError(f"`detections` must hold a list of Detection for each image, got {some!r:.80} for {name!r}")
    if names is not None:
        entries = {i: by_name[name] for i, name in enumerate(names) if name in by_name}
        if not entries:
            raise ValueError(
                f"`names` must be those in `detections`, such as {next(iter(by_name), None)!r}, got none of them:"
                f" {list(names[:3])}"
            )
        return entries
    ids = {name: int(name) for name in by_name if str(name).isdecimal()}
    if len(set(ids.values())) < len(by_name):
        odd = next((name for name in by_name if name not in ids), None)
        raise ValueError(
            f"`names` is needed: `detections` must be by sample id, got {'two of one id' if odd is None else repr(odd)}"
        )
    return {ids[name]: some for name, some in by_name.items()}


def _detector(detector: DetectorExtractor | str, rules: Rules) -> DetectorExtractor:
    """One that returns all that can count by `rules`."""
    lowest = min(rules.threshold, rules.counting_threshold)
    if isinstance(detector, str):
        return DetectorExtractor(detector, min_score=lowest)
    if detector.min_score > lowest:
        raise ValueRangeError(
            f"`detector` must return all that counts: its min_score {detector.min_score:g} is above the threshold"
            f" {lowest:g}"
        )
    return detector


def _mean_error(errors: Sequence[float | None]) -> float | None:
    """The standard error of the unweighted mean of independent values; None where one of theirs is not known."""
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(known) if len(known) == len(errors) else None


def _mean_interval(parts: Sequence[Category]) -> tuple[float, float] | None:
    """The interval of the unweighted mean of independent values, from theirs (Zou & Donner 2008)."""
    if any(part.interval is None for part in parts):
        return None
    k, value = len(parts), math.fsum(part.value for part in parts) / len(parts)
    low, high = (math.hypot(*(x.value - x.interval[i] for x in parts if x.interval)) / k for i in (0, 1))
    return value - low, value + high
