"""What people preferred."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import NotEnoughSamples, ValueRangeError
from lightning_imgmetrics.functional.intervals import win_interval
from lightning_imgmetrics.metrics.base.inputs import Ids
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.base.summary import Summary
from lightning_imgmetrics.models.base.extractor import Features
from lightning_imgmetrics.states.tables import Reservoir


class PairwiseMetric(ImageMetric):
    """A table of comparisons: contestant `a` against `b`, outcome 1 (a wins), 0.5 (tie) or 0 (b wins)."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_stream("pairs", Stream(Reservoir(None, 3), 4))

    def update(self, a: Tensor, b: Tensor, outcome: Tensor, ids: Ids | None = None) -> None:
        """Add comparisons: contestants (n,) int and (n,) int, outcomes (n,) in {0, 0.5, 1}."""
        if any(torch.as_tensor(x).is_floating_point() for x in (a, b)):
            raise ValueRangeError("`a` and `b` must be integers that name contestants, got floats")
        a, b, outcome = (torch.as_tensor(x, device=self.home).double() for x in (a, b, outcome))
        bind_shapes(a=(a, "n"), b=(b, "n"), outcome=(outcome, "n"))
        if not torch.isin(outcome, outcome.new_tensor([0, 0.5, 1])).all():
            raise ValueRangeError(f"`outcome` must be 1, 0.5 or 0, got {outcome.unique().tolist()}")
        self.streams["pairs"].add(torch.stack([a, b, outcome], 1), ids)

    def stage(self, features: Features, *, ids: Ids | None = None, **inputs: Any) -> Callable[[], None]:
        raise TypeError(f"{self.name} compares ratings, not images: call `update`")


class WinRate(PairwiseMetric):
    """Share of its comparisons that `contestant` won, a tie counting half.

    Args:
        contestant: the number of the contestant.
        kwargs: those of `ImageMetric`.

    Returns:
        A scalar in [0, 1], with the interval of `win_interval`; higher is better.

    Raises:
        NotEnoughSamples: at `compute`, without a comparison of this contestant.
        ValueRangeError: at `update`, for outcomes other than 1, 0.5 and 0.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import WinRate
        >>> metric = WinRate(contestant=0)
        >>> metric.update(torch.tensor([0, 1, 0]), torch.tensor([1, 0, 1]), torch.tensor([1.0, 0.5, 0.0]))
        >>> float(metric.compute())
        0.5
    """

    name: ClassVar[str] = "win_rate"
    higher_is_better = True
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def __init__(self, contestant: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.contestant = contestant

    def summarize(self) -> Summary:
        _, a, b, outcome = self.streams["pairs"].read().unbind(1)
        outcome = outcome.where(a == self.contestant, 1 - outcome)[(a == self.contestant) ^ (b == self.contestant)]
        n = len(outcome)
        if n == 0:
            raise NotEnoughSamples(self.name, 0, 1, f"comparisons of contestant {self.contestant}")
        error = float(outcome.std() / n**0.5) if n > 1 else None
        return Summary(outcome.mean(), n, error, interval=win_interval(outcome))

    def signature_parameters(self) -> dict[str, object]:
        return {"contestant": self.contestant, "ties": "half"}
