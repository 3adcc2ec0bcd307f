"""What benchmarks share beside their metric: records of questions, means of what was answered, categories."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from lightning_imgmetrics.errors import UnreadableQuestions
from lightning_imgmetrics.functional.intervals import bounded_interval, clustered_wilson_interval
from lightning_imgmetrics.metrics.base.summary import Category

R = TypeVar("R")


def records_of(
    questions: str | Path | Sequence[R], kind: type[R], read: Callable[[str | Path], Sequence[R]]
) -> list[R]:
    """The records of a file, by `read`, or those that are given; TypeError for others, UnreadableQuestions for none."""
    if isinstance(questions, str | Path):
        return list(read(questions))
    if not isinstance(questions, list | tuple):
        raise TypeError(f"`questions` must be a file or a list of {kind.__name__}, got {type(questions).__name__}")
    for i, record in enumerate(questions):
        if not isinstance(record, kind):
            raise TypeError(f"`questions[{i}]` must be a {kind.__name__}, got {type(record).__name__}")
    if not questions:
        raise UnreadableQuestions(f"`questions` must hold at least one {kind.__name__}, got none")
    return list(questions)


def mean_known(scores: Iterable[float | None], scale: float = 1.0) -> float | None:
    """The mean of the scores that did not fail, times `scale`; None where all did."""
    known = [score for score in scores if score is not None]
    return scale * math.fsum(known) / len(known) if known else None


def category_of(scores: Tensor, items: Tensor, scale: float = 1.0) -> Category:
    """The mean of scores (n,) times `scale`; the interval takes the items (n,) as clusters.

    Wilson's for zeros and ones, else `bounded_interval` with `ratio_error`; scores lie in [0, 1].
    """
    n, value = len(scores), scale * math.fsum(scores.tolist()) / len(scores)
    error = ratio_error(scores, items)
    if error is None:
        return Category(value, n)
    if bool(((scores == 0) | (scores == 1)).all()):
        low, high = clustered_wilson_interval(scores, items)
        return Category(value, n, (scale * low, scale * high))
    return Category(value, n, bounded_interval(value, scale * error, len(items.unique()), (0.0, scale)))


def ratio_error(scores: Tensor, items: Tensor) -> float | None:
    """The standard error of the mean of scores (n,), the items (n,) being clusters; None for one.

    Linearized, as the mean is a ratio where items have different numbers of scores (Cochran 1977).
    """
    owner = items.unique(return_inverse=True)[1]
    k = int(owner.max()) + 1
    off = scores.new_zeros(k).index_add_(0, owner, scores - scores.mean())
    return float((off.square().sum() * k / (k - 1)).sqrt()) / len(scores) if k > 1 else None


def sample_deviation(values: Sequence[float]) -> float | None:
    """The standard deviation over n - 1; None for one value."""
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else None
