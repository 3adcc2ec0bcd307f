"""A judge against people: how well its scores agree with their ratings, and how well people agree with each other."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from lightning_imgmetrics.data.ratings import read_ratings
from lightning_imgmetrics.errors import NotEnoughSamples, UnknownName, ValueRangeError
from lightning_imgmetrics.judges.calibration.matched_ratings import MatchedRatings
from lightning_imgmetrics.judges.calibration.record import Calibration
from lightning_imgmetrics.metrics.base.score_metric import ScoreMetric

Scores: TypeAlias = Mapping[int, Any] | Mapping[str, Mapping[int, Any]]
Ratings: TypeAlias = Mapping[int, float | Sequence[float]] | Mapping[str, Mapping[int, float | Sequence[float]]]
Scale: TypeAlias = tuple[float, float]

UNNAMED = "overall"  # the criterion of scores and ratings that name none


class JudgeCalibration:
    """Agreement of a judge's scores with people's ratings of the same samples.

    Spearman's, Kendall's and Pearson's correlation with the mean ratings, the accuracy in pairs of samples, and Cohen's
    kappa and Krippendorff's alpha with single ratings, each with a bootstrap interval. Higher ratings must mean what
    higher scores mean.

    Args:
        judge: A score metric that was updated with the rated samples and their ids. Its criteria are those of its
            scores that the ratings name, else its main score. Their scale is what the metric says (`range_of`).
        ratings: {id: rating, or ratings of several people}, or that by criterion, or a file (see `read_ratings`), whose
            prompts are the `groups` by default.
        groups: {id: prompt}: pairs are compared within a prompt, and prompts are resampled instead of samples.
        scale: Lowest and highest rating; kappa and alpha, which compare steps of one scale, are undefined without it.
        confidence: Of the intervals.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        TypeError: `judge` is no score metric.
        UnknownName: In `compute`: the ratings name criteria, and the judge has none of them.
        ValueRangeError: In `compute`: a rating lies outside of the scale, a number is not finite, or an id is missing.
        NotEnoughSamples: In `compute`: fewer than 3 samples have a score and a rating.

    Example:
        >>> from lightning_imgmetrics import JudgeCalibration
        >>> scores, ratings = {0: 1, 1: 3, 2: 4, 3: 5}, {0: [1, 2], 1: [3, 3], 2: [3, 4], 3: [5, 5]}
        >>> calibration = JudgeCalibration.measure(scores, ratings, scale=(1, 5), resamples=100)
        >>> calibration["overall"].spearman.value
        1.0
    """

    def __init__(
        self,
        judge: ScoreMetric,
        ratings: Ratings | str | Path,
        *,
        groups: Mapping[int, Hashable] | None = None,
        scale: tuple[float, float] | None = None,
        confidence: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
    ):
        if not isinstance(judge, ScoreMetric):
            raise TypeError(f"`judge` must be a score of single samples, got {type(judge).__name__}")
        if isinstance(ratings, str | Path):
            ratings, prompts = _of_file(ratings)
            groups = (prompts or None) if groups is None else groups
        self.judge, self.ratings, self.groups, self.scale = judge, ratings, groups, scale
        self.confidence, self.resamples, self.seed = confidence, resamples, seed

    def compute(self) -> Calibration:
        """The agreement of the scores that the judge has on this rank; errors as of `measure`."""
        scores = _scores_of(self.judge, self.ratings)
        return self.measure(
            scores,
            self.ratings,
            groups=self.groups,
            scale=self.scale,
            judge_scale=_scales_of(self.judge, scores),
            confidence=self.confidence,
            resamples=self.resamples,
            seed=self.seed,
        )

    @staticmethod
    def measure(
        scores: Scores,
        ratings: Ratings,
        *,
        groups: Mapping[int, Hashable] | None = None,
        scale: tuple[float, float] | None = None,
        judge_scale: Scale | Mapping[str, Scale | None] | None = None,
        confidence: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
    ) -> Calibration:
        """Agreement of scores with ratings, without a metric; arguments and errors not listed are those of the class.

        Args:
            scores: {id: score}, or that by criterion; NaN or None is a failed answer, left out and counted.
            ratings: As of the class, but no file.
            judge_scale: Lowest and highest score, or that by criterion; without it, kappa and alpha need whole scores.

        Raises:
            UnknownName: Scores and ratings have no criterion in common.
        """
        by_name = judge_scale if isinstance(judge_scale, Mapping) else {}
        default = None if isinstance(judge_scale, Mapping) else judge_scale
        for argument, limits in (("scale", scale), *(("judge_scale", x) for x in (default, *by_name.values()))):
            if limits is not None and not -math.inf < limits[0] < limits[1] < math.inf:
                raise ValueRangeError(f"`{argument}` must be (lowest, highest), got {limits}")
        all_ratings = {name: _ratings(of, name, scale) for name, of in _by_criterion(ratings, "ratings").items()}
        pairs, unmatched = _pairs(_by_criterion(scores, "scores"), all_ratings)
        criteria = {}
        for name, (ours, theirs) in pairs.items():
            own = by_name.get(name, default)
            samples = MatchedRatings.of(
                _scores(ours, name), theirs, groups=groups, scale=scale, judge_scale=own, criterion=name
            )
            criteria[name] = samples.calibrate(confidence=confidence, resamples=resamples, seed=seed)
        return Calibration(criteria, _digest(all_ratings), confidence, resamples, seed, scale, unmatched)


def _scores_of(judge: ScoreMetric, ratings: Ratings) -> Scores:
    """The scores of the judge by id: of the criteria among its columns that the ratings name, else its own."""
    ids, scores = judge.scores()
    if ids.isnan().any():
        raise ValueRangeError(
            f"`judge` has {int(ids.isnan().sum())} samples that came without ids: pass `ids` to `update`"
        )
    keys = ids.long().tolist()
    values = {UNNAMED: scores, judge.name: scores, **judge.further_scores()}
    by_criterion = {name: dict(zip(keys, x.tolist(), strict=True)) for name, x in values.items() if name in ratings}
    if not by_criterion and any(isinstance(of, Mapping) for of in ratings.values()):
        criteria = [column.name for column in judge.columns() if column.kind == "mean"]
        raise UnknownName("ratings", ", ".join(map(str, ratings)), dict.fromkeys((*criteria, judge.name, UNNAMED)))
    return by_criterion or dict(zip(keys, scores.tolist(), strict=True))


def _scales_of(judge: ScoreMetric, scores: Scores) -> dict[str, Scale | None]:
    """The scale of the scores of the judge by criterion; UNNAMED is its own, unless it has a criterion of that name."""
    criteria = [name for name in scores if isinstance(name, str)]
    if not criteria:
        return {UNNAMED: judge.range_of(judge.name)}
    return {x: judge.range_of(judge.name if x == UNNAMED and x not in judge.further_scores() else x) for x in criteria}


def _of_file(path: str | Path) -> tuple[Ratings, dict[int, str]]:
    """Ratings by id, and by criterion where the file has criteria; the prompt of each id where it has prompts."""
    ratings: dict[str | None, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    records = read_ratings(path)
    for record in records:
        ratings[record.criterion][record.id].append(record.rating)
    prompts = {record.id: record.prompt for record in records if record.prompt is not None}
    by_criterion = {name: of for name, of in ratings.items() if name is not None}
    return by_criterion or ratings[None], prompts


def _by_criterion(values: Any, argument: str) -> dict[str, Mapping[int, Any]]:
    if not isinstance(values, Mapping):
        raise TypeError(f"`{argument}` must be a mapping of ids, got {type(values).__name__}")
    nested = [isinstance(x, Mapping) for x in values.values()]
    if not nested:
        raise NotEnoughSamples(f"`{argument}`", 0, 3, "agreement on no sample is undefined")
    if any(nested) != all(nested):
        raise ValueRangeError(f"`{argument}` must be a mapping of ids, or one by criterion, got both in one")
    return {str(name): of for name, of in values.items()} if all(nested) else {UNNAMED: values}


def _pairs(scores: Mapping[str, Any], ratings: Mapping[str, Any]) -> tuple[dict[str, tuple[Any, Any]], tuple[str, ...]]:
    """Scores and ratings of the criteria that both have, and the names of the others; one that names none fits any."""
    if len(scores) == len(ratings) == 1 and UNNAMED in {*scores, *ratings}:
        name = next((name for name in {**ratings, **scores} if name != UNNAMED), UNNAMED)
        return {name: (*scores.values(), *ratings.values())}, ()
    shared = [name for name in ratings if name in scores]
    if not shared:
        raise UnknownName("scores", ", ".join(scores), ratings)
    return {name: (scores[name], ratings[name]) for name in shared}, tuple(sorted(scores.keys() ^ ratings.keys()))


def _scores(of: Mapping[int, Any], criterion: str) -> dict[int, float]:
    """Scores by id; NaN for an answer that failed."""
    return {
        _id(i, "scores"): math.nan if x is None else _number(x, f"the score of id {i} by {criterion!r}", failed=True)
        for i, x in of.items()
    }


def _ratings(of: Mapping[int, Any], criterion: str, scale: tuple[float, float] | None) -> dict[int, tuple[float, ...]]:
    """The single ratings of each id, which lie within the scale."""
    low, high = (-math.inf, math.inf) if scale is None else scale
    ratings = {}
    for i, x in of.items():
        what = f"a rating of id {i} by {criterion!r}"
        ratings[_id(i, "ratings")] = numbers = tuple(_number(y, what) for y in ([x] if np.ndim(x) == 0 else x))
        if not numbers:
            raise ValueRangeError(f"`ratings` must hold at least one rating of each id, got none of id {i}")
        if not all(low <= y <= high for y in numbers):
            raise ValueRangeError(f"{what} lies outside of `scale` [{low:g}, {high:g}], got {numbers}")
    return ratings


def _id(i: Any, argument: str) -> int:
    try:
        return index(i)
    except TypeError as error:
        raise ValueRangeError(f"the ids in `{argument}` must be integers, got {i!r}") from error


def _number(x: Any, what: str, *, failed: bool = False) -> float:
    try:
        number = math.inf if isinstance(x, str) else float(x)
    except (TypeError, ValueError):
        number = math.inf
    if math.isinf(number) or (math.isnan(number) and not failed):
        raise ValueRangeError(f"{what} must be a finite number, got {x!r}")
    return number


def _digest(ratings: Mapping[str, Mapping[int, tuple[float, ...]]]) -> str:
    """SHA-256 of all ratings, whatever their order."""
    content = {name: {str(i): sorted(x) for i, x in of.items()} for name, of in ratings.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
