"""What a metric reads off its state, and the further numbers that it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lightning_imgmetrics.functional.intervals import mean_interval


@dataclass(frozen=True)
class Column:
    """A further number that a metric keeps beside its value.

    `kind`: "mean" (one per sample, whose mean is among the details), "sum" (one per sample, summed over all of them),
    "mark" (one per sample, for the metric itself), "counter" (one in all, summed over ranks), or "detail" (computed
    with the value). `logged`: the callback logs it beside the value.
    """

    name: str
    kind: str = "mean"
    logged: bool = False


@dataclass(frozen=True)
class Category:
    """The mean score of the samples, or questions, of one kind, with its interval where there is a spread to show.

    Questions about one item of a benchmark are not independent, so the interval takes its items as what is.
    """

    value: float
    n: int
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Summary:
    """What `compute` and `result` read off the state."""

    value: Tensor
    n: int
    standard_error: float | None = None
    units: int | None = None  # independent units behind the standard error, where they are not the n samples
    details: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, object] = field(default_factory=dict)  # sample sizes that bias the value, for the signature
    estimate: float | None = None  # what the interval is centred on, where it is not the value
    interval: tuple[float, float] | None = None  # the interval itself, where it is not Student's
    replicates: tuple[float, ...] = ()  # the value without each part of the samples, for paired comparisons
    categories: Mapping[str, Category] = field(default_factory=dict)
    missing: tuple[str, ...] = ()  # the items of a benchmark of which no sample has a score

    @property
    def mean(self) -> float:
        """The value as one number."""
        return float(self.value.double().mean())

    def confidence_interval(self) -> tuple[float, float] | None:
        """The interval, at 95 %: the one given, or Student's about the estimate."""
        if self.interval is not None or self.standard_error is None:
            return self.interval
        center = self.mean if self.estimate is None else self.estimate
        return mean_interval(center, self.standard_error, self.units or self.n)
