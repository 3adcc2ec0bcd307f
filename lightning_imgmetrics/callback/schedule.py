"""When to evaluate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Every:
    """Every `epochs` epochs, at the multiples of `steps` optimizer steps, or at the steps listed (0: before training).

    As text: "2 epochs", "500 steps". The first validation always evaluates, so that a monitored key exists, and epochs
    count from it; the evaluation at step 0 is logged, but monitors see the next.
    """

    epochs: int | None = None
    steps: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"`every` takes either epochs or steps, got epochs={self.epochs}, steps={self.steps}")
        period = self.epochs if self.steps is None else self.steps
        if isinstance(period, int) and period < 1:
            raise ValueError(f"`every` must be at least 1, got {period}")
        if isinstance(period, Sequence) and (not period or min(period) < 0):
            raise ValueError(f"`every` must list steps from 0 on, got {period}")

    @classmethod
    def parse(cls, value: Every | int | str) -> Every:
        if isinstance(value, Every):
            return value
        if isinstance(value, int):
            return cls(epochs=value)
        found = re.fullmatch(r"\s*(\d+)\s*(epoch|step)s?\s*", value) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f"`every` must be a number of epochs, 'n epochs', 'n steps' or Every(...), got {value!r}")
        return cls(**{f"{found[2]}s": int(found[1])})

    @property
    def by_step(self) -> bool:
        return self.steps is not None

    def due(self, step: int, epoch: int, last: tuple[int, int] | None) -> bool:
        """Whether to evaluate now, `last` being the (step, epoch) of the evaluation before."""
        if self.epochs is not None:
            return last is None or epoch - last[1] >= self.epochs
        if isinstance(self.steps, int):
            return step // self.steps > (last[0] if last else 0) // self.steps
        assert self.steps is not None
        return any((last[0] if last else -1) < s <= step for s in self.steps)
