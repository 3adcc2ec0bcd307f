"""A judge against people: how well its scores agree with what they rated, and how well they agree with each other."""

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
from lightning_imgmetrics.judges.calibration.matched_ratings import Rated
from lightning_imgmetrics.judges.calibration.record import Calibration
from lightning_imgmetrics.metrics.base.score_metric import ScoreMetric

Scores: TypeAlias = Mapping[int, Any] | Mapping[str, Mapping[int, Any]]
Ratings: TypeAlias = Mapping[int, float | Sequence[float]] | Mapping[str, Mapping[int, float | Sequence[float]]]

Scale: TypeAlias = tuple[float, float]

UNNAMED = "overall"  # the criterion of scores and ratings that name none


class JudgeCalibration:
    """Agreement of the scores that a judge gave with what people rated.

    `judge`: a score metric that has seen the rated samples by id; several criteria are its `columns`, where the ratings
    name them, else its score stands for all. `ratings`: {id: rating or ratings of several people}, or that by
    criterion, or a file (see `read_ratings`), whose prompts are the `groups` unless these are given. Higher ratings
    must mean what higher scores mean. The scale of its scores is what the metric says (`range_of`). Other arguments:
    see `measure`. UnknownName where the ratings name criteria and the judge has none of them.
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
        """Agreement of scores {id: score} with ratings {id: rating or ratings of several people}, or both by criterion.

        A score that is NaN or None is a failed answer, left out and counted. `groups` {id: prompt}: pairs are compared
        within a prompt, and intervals are of a bootstrap over prompts, else over samples. `scale`: lowest and highest
        rating; it is needed for kappa and alpha, which compare whole steps of one scale. `judge_scale`: that of the
        scores, or by criterion; without it only whole scores are compared so. UnknownName where no criterion is shared,
        ValueRangeError for ratings beyond the scale and numbers that are none, NotEnoughSamples below 3.
        """
        by_name = judge_scale if isinstance(judge_scale, Mapping) else {}
        same = None if isinstance(judge_scale, Mapping) else judge_scale
        for argument, given in (("scale", scale), *(("judge_scale", one) for one in (same, *by_name.values()))):
            if given is not None and not -math.inf < given[0] < given[1] < math.inf:
                raise ValueRangeError(f"`{argument}` must be (lowest, highest), got {given}")
        all_ratings = {name: _ratings(of, name, scale) for name, of in _by_criterion(ratings, "ratings").items()}
        matched, unmatched = _matched(_by_criterion(scores, "scores"), all_ratings)
        found = {}
        for name, (ours, theirs) in matched.items():
            own = by_name.get(name, same)
            pairs = Rated.of(_scores(ours, name), theirs, groups=groups, scale=scale, judge_scale=own, criterion=name)
            found[name] = pairs.calibrate(confidence=confidence, resamples=resamples, seed=seed)
        return Calibration(found, _digest(all_ratings), confidence, resamples, seed, scale, unmatched)


def _scores_of(judge: ScoreMetric, ratings: Ratings) -> Scores:
    """The scores of the judge by id: of the criteria among its columns that the ratings name, else its own."""
    ids, scores = judge.scores()
    if ids.isnan().any():
        raise ValueRangeError(
            f"`judge` has {int(ids.isnan().sum())} samples that came without ids: pass `ids` to `update`"
        )
    keys = ids.long().tolist()
    values = {UNNAMED: scores, judge.name: scores, **judge.further_scores()}
    named = {name: dict(zip(keys, x.tolist(), strict=True)) for name, x in values.items() if name in ratings}
    if not named and any(isinstance(of, Mapping) for of in ratings.values()):
        criteria = getattr(judge, "figures", judge.further_scores())
        raise UnknownName("ratings", ", ".join(map(str, ratings)), dict.fromkeys((*criteria, judge.name, UNNAMED)))
    return named or dict(zip(keys, scores.tolist(), strict=True))


def _scales_of(judge: ScoreMetric, scores: Scores) -> dict[str, Scale | None]:
    """The scale of the scores of the judge by criterion; UNNAMED is its own, unless it has a criterion of that name."""
    named = [name for name in scores if isinstance(name, str)]
    if not named:
        return {UNNAMED: judge.range_of(judge.name)}
    return {x: judge.range_of(judge.name if x == UNNAMED and x not in judge.further_scores() else x) for x in named}


def _of_file(path: str | Path) -> tuple[Ratings, dict[int, str]]:
    """Ratings by id, and by criterion where the file has criteria; the prompt of each id where it has prompts."""
    ratings: dict[str | None, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    records = read_ratings(path)
    for record in records:
        ratings[record.criterion][record.id].append(record.rating)
    prompts = {record.id: record.prompt for record in records if record.prompt is not None}
    named = {name: of for name, of in ratings.items() if name is not None}
    return named or ratings[None], prompts


def _by_criterion(values: Any, argument: str) -> dict[str, Mapping[int, Any]]:
    if not isinstance(values, Mapping):
        raise TypeError(f"`{argument}` must be a mapping of ids, got {type(values).__name__}")
    nested = [isinstance(x, Mapping) for x in values.values()]
    if not nested:
        raise NotEnoughSamples(f"`{argument}`", 0, 3, "agreement on no sample is undefined")
    if any(nested) != all(nested):
        raise ValueRangeError(f"`{argument}` must be a mapping of ids, or one by criterion, got both in one")
    return {str(name): of for name, of in values.items()} if all(nested) else {UNNAMED: values}


def _matched(
    scores: Mapping[str, Any], ratings: Mapping[str, Any]
) -> tuple[dict[str, tuple[Any, Any]], tuple[str, ...]]:
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
        ratings[_id(i, "ratings")] = given = tuple(_number(y, what) for y in ([x] if np.ndim(x) == 0 else x))
        if not given:
            raise ValueRangeError(f"`ratings` must hold at least one rating of each id, got none of id {i}")
        if not all(low <= y <= high for y in given):
            raise ValueRangeError(f"{what} lies outside of `scale` [{low:g}, {high:g}], got {given}")
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
