"""What people preferred."""

from __future__ import annotations

from typing import Any, ClassVar

from lightning_imgmetrics.errors import NotEnoughSamples
from lightning_imgmetrics.functional.intervals import win_interval
from lightning_imgmetrics.metrics.base.metric import Summary
from lightning_imgmetrics.metrics.base.score_metric import PairwiseMetric


class WinRate(PairwiseMetric):
    """Share of its comparisons that `contestant` won, a tie counting half; in [0, 1], higher is better.

    The interval is that of `win_interval`.
    """

    name: ClassVar[str] = "win_rate"
    higher_is_better = True
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def __init__(self, contestant: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.contestant = contestant

    def summarize(self) -> Summary:
        _, a, b, outcome = self.read("pairs").unbind(1)
        outcome = outcome.where(a == self.contestant, 1 - outcome)[(a == self.contestant) ^ (b == self.contestant)]
        n = len(outcome)
        if n == 0:
            raise NotEnoughSamples(self.name, 0, 1, f"comparisons of contestant {self.contestant}")
        error = float(outcome.std() / n**0.5) if n > 1 else None
        return Summary(outcome.mean(), n, error, interval=win_interval(outcome))

    def parameters_of_value(self) -> dict[str, object]:
        return {"contestant": self.contestant, "ties": "half"}
