"""Scores and ratings of the same samples: statistics of their agreement, with intervals or the reason for none."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from lightning_imgmetrics.errors import NotEnoughSamples, ValueRangeError
from lightning_imgmetrics.functional.agreement import (
    cohen_kappa,
    kendall,
    krippendorff_alpha,
    pairwise_accuracy,
    pearson,
    spearman,
)
from lightning_imgmetrics.functional.resampling import BootstrapInterval, cluster_bootstrap
from lightning_imgmetrics.judges.calibration.record import CriterionCalibration, Estimate

_STATISTICS = ("spearman", "kendall", "pearson", "pairwise_accuracy", "kappa", "alpha", "alpha_people")
_MOST_STEPS = 101  # of a scale whose steps are categories: a slider from 0 to 100
_LISTED = 5  # ids in an error
_WHOLE = 1e-6  # how far from a whole number rounding may bring a score


@dataclass(frozen=True)
class MatchedRatings:
    """n rated samples with a score: scores (n,), ratings (raters, n) NaN-padded, prompts (n,), counts left out."""

    scores: np.ndarray
    ratings: np.ndarray
    prompts: np.ndarray | None
    scale: tuple[float, float] | None
    judge_scale: tuple[float, float] | None
    left_out: Mapping[str, int]

    @classmethod
    def of(
        cls,
        scores: Mapping[int, float],
        ratings: Mapping[int, tuple[float, ...]],
        *,
        groups: Mapping[int, Hashable] | None,
        scale: tuple[float, float] | None,
        judge_scale: tuple[float, float] | None,
        criterion: str,
    ) -> MatchedRatings:
        both = scores.keys() & ratings.keys()
        ids = sorted(i for i in both if not math.isnan(scores[i]))
        left_out = {
            "n_failed": len(both) - len(ids),
            "n_unscored": len(ratings) - len(both),
            "n_unrated": len(scores) - len(both),
        }
        if len(ids) < 3:
            why = f"with a score and a rating; {len(scores)} were scored ({_some(scores)}), {len(ratings)} rated"
            why += f" ({_some(ratings)}), and of {len(both)} with both the judge failed on {left_out['n_failed']}"
            raise NotEnoughSamples(f"the calibration by {criterion!r}", len(ids), 3, why)
        table = np.full((max(len(ratings[i]) for i in ids), len(ids)), np.nan)
        for column, i in enumerate(ids):
            table[: len(ratings[i]), column] = ratings[i]
        return cls(np.array([scores[i] for i in ids]), table, _numbered(ids, groups), scale, judge_scale, left_out)

    def calibrate(self, *, confidence: float, resamples: int, seed: int) -> CriterionCalibration:
        rows = np.arange(len(self.scores))
        clusters = rows if self.prompts is None else self.prompts
        statistics, reasons = self._statistics(), self._reasons()
        values = statistics(rows, clusters)
        intervals: Sequence[BootstrapInterval | None] = [None] * len(values)
        if len(np.unique(clusters)) > 1:
            intervals = cluster_bootstrap(statistics, clusters, seed=seed, resamples=resamples, confidence=confidence)
        fields: dict[str, Any] = {"n": len(rows), "n_ratings": int(np.isfinite(self.ratings).sum()), **self.left_out}
        for name, value, interval in zip(_STATISTICS, values, intervals, strict=True):
            fields[name] = _estimate(value, interval, reasons[name], resamples)
        return CriterionCalibration(**fields)

    def _statistics(self) -> Callable[[np.ndarray, np.ndarray], list[float]]:
        """The `_STATISTICS` of some samples and the number of each one's prompt."""
        scores, ratings, mismatch = self.scores, self.ratings, self._scale_mismatch()
        means = np.array([math.fsum(x[~np.isnan(x)]) / (~np.isnan(x)).sum() for x in ratings.T])
        categories = np.arange(math.ceil(self.scale[0]), math.floor(self.scale[1]) + 1) if self.scale else None

        def statistics(rows: np.ndarray, prompts: np.ndarray) -> list[float]:
            x, y, table = scores[rows], means[rows], ratings[:, rows]
            groups = None if self.prompts is None else prompts
            out = [spearman(x, y), kendall(x, y), pearson(x, y), pairwise_accuracy(x, y, groups), math.nan, math.nan]
            if not mismatch:
                present = ~np.isnan(table)
                a, b = np.broadcast_to(np.rint(x), table.shape)[present], table[present]
                out[4:] = cohen_kappa(a, b, weights="quadratic", categories=categories), _alpha(np.stack([a, b]))
            return [*out, _alpha(table) if len(table) > 1 else math.nan]

        return statistics

    def _scale_mismatch(self) -> str:
        """Why scores and ratings are no steps of one scale; "" if they are."""
        ratings = self.ratings[~np.isnan(self.ratings)]
        if self.scale is None:
            return "no scale was declared"
        if self.judge_scale is not None and tuple(self.judge_scale) != tuple(self.scale):
            (low, high), (least, most) = self.judge_scale, self.scale
            return f"the judge scores {low:g} to {high:g}, people {least:g} to {most:g}"
        if self.scale[1] - self.scale[0] >= _MOST_STEPS:
            return f"the scale {self.scale} has more than {_MOST_STEPS} steps"
        if (ratings != np.rint(ratings)).any():
            return "the ratings are no whole numbers"
        if (np.rint(self.scores) < self.scale[0]).any() or (np.rint(self.scores) > self.scale[1]).any():
            return f"the judge's scores leave the scale {self.scale}"
        if self.judge_scale is None and (np.abs(self.scores - np.rint(self.scores)) > _WHOLE).any():
            return "the judge's scores are no whole numbers, and their scale is not known"
        return ""

    def _reasons(self) -> dict[str, str]:
        """Why each statistic would be undefined."""
        equal = "all mean ratings are equal"
        reasons = dict.fromkeys(_STATISTICS, "all scores are equal" if np.ptp(self.scores) == 0 else equal)
        equal_within = "no two samples of a prompt differ in their mean rating"
        reasons["pairwise_accuracy"] = equal if self.prompts is None else equal_within
        reasons |= dict.fromkeys(("kappa", "alpha"), self._scale_mismatch() or "judge and people gave one label to all")
        several = (~np.isnan(self.ratings)).sum(0).max() > 1
        reasons["alpha_people"] = "all ratings are equal" if several else "no sample has two ratings"
        return reasons


def _alpha(table: np.ndarray) -> float:
    return krippendorff_alpha(table, "ordinal")


def _estimate(value: float, interval: BootstrapInterval | None, reason: str, resamples: int) -> Estimate:
    if math.isnan(value):
        return Estimate(None, None, 0, reason)
    if interval is None:
        return Estimate(value, None, 0, "no interval: one prompt shows no spread")
    low, high, n_undefined = interval
    if math.isnan(low):
        why = f"no interval: {n_undefined} of {resamples} resamples leave it undefined"
        return Estimate(value, None, n_undefined, why)
    return Estimate(value, (low, high), n_undefined)


def _numbered(ids: Sequence[int], groups: Mapping[int, Hashable] | None) -> np.ndarray | None:
    """The number of the prompt of each id, in the order of their first ids."""
    if groups is None:
        return None
    without = [i for i in ids if i not in groups]
    if without:
        raise ValueRangeError(f"`groups` must hold every rated id, {len(without)} are missing: {_some(without)}")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(groups[i], len(numbers)) for i in ids])


def _some(ids: Iterable[int]) -> str:
    return f"{', '.join(map(str, islice(ids, _LISTED)))}, ..."
