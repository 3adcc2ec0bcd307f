"""When to evaluate, and which metrics an evaluation measures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_imgmetrics.errors import UnknownName

Record = Mapping[str, Any]  # of an evaluation: "step", "epoch", "values" and "measured", the names of its metrics


@dataclass(frozen=True)
class Every:
    """A period of evaluations: every `epochs` epochs, every `steps` optimizer steps, or at the steps listed.

    The first validation always evaluates, so that a monitored key exists, and epochs count from it. An evaluation at
    step 0 (before training) is logged, but monitors see the next one.

    Args:
        epochs: evaluate at the first validation and every `epochs` epochs from there; at least 1.
        steps: evaluate at the multiples of this number of optimizer steps, or, for a list, at those steps.

    Raises:
        ValueError: both or neither are given, a period is below 1, or a list is empty or holds a negative step.

    Example:
        >>> from lightning_imgmetrics import Every
        >>> Every.parse("500 steps") == Every(steps=500)
        True
        >>> Every(epochs=2).due(step=300, epoch=3, last=(100, 1))  # last: (step, epoch) of the evaluation before
        True
        >>> [Every(steps=(0, 100)).due(step, epoch=0, last=(0, 0)) for step in (50, 99, 100)]
        [False, False, True]
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
        """`Every` as it is, a number of epochs, or text: "2 epochs", "500 steps"; ValueError for anything else."""
        if isinstance(value, Every):
            return value
        if isinstance(value, int):
            return cls(epochs=value)
        match = re.fullmatch(r"\s*(\d+)\s*(epoch|step)s?\s*", value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"`every` must be a number of epochs, 'n epochs', 'n steps' or Every(...), got {value!r}")
        return cls(**{f"{match[2]}s": int(match[1])})

    @property
    def by_step(self) -> bool:
        """Whether steps decide, and not epochs."""
        return self.steps is not None

    @property
    def lists_steps(self) -> bool:
        """Whether the steps are listed one by one, so that step 0 can be among them."""
        return isinstance(self.steps, Sequence)

    def due(self, step: int, epoch: int, last: tuple[int, int] | None) -> bool:
        """Whether to evaluate now, `last` being the (step, epoch) of the evaluation before."""
        if self.epochs is not None:
            return last is None or epoch - last[1] >= self.epochs
        if isinstance(self.steps, int):
            return step // self.steps > (last[0] if last else 0) // self.steps
        assert self.steps is not None
        return any((last[0] if last else -1) < s <= step for s in self.steps)


@dataclass(frozen=True)
class Schedule:
    """When a callback evaluates (`every`), and when `metrics` with a period of their own take part (`cadence`).

    `records` are those of the evaluations of this fit, the newest last.
    """

    every: Every
    metrics: Sequence[str]
    cadence: Mapping[str, Every]

    @classmethod
    def parse(
        cls, every: Every | int | str, cadence: Mapping[str, Every | int | str] | None, metrics: Iterable[str]
    ) -> Schedule:
        """From the arguments of a callback; UnknownName for a cadence of something that is not among `metrics`."""
        if cadence is not None and not isinstance(cadence, Mapping):
            raise TypeError(f"`cadence` must map names of metrics to when they are measured, got {cadence!r}")
        names, periods = list(metrics), {}
        for name, period in (cadence or {}).items():
            if name not in names:
                raise UnknownName("cadence", name, names)
            try:
                periods[name] = Every.parse(period)
            except ValueError as error:
                raise ValueError(f"`cadence[{name!r}]`: {error}") from error
        return cls(Every.parse(every), names, periods)

    def due(self, step: int, epoch: int, records: Sequence[Record]) -> bool:
        """Whether to evaluate now."""
        return self.every.due(step, epoch, _place(records[-1]) if records else None)

    def metrics_due(self, step: int, epoch: int, records: Sequence[Record]) -> list[str]:
        """The metrics that an evaluation now measures: those without a cadence, and those whose time it is."""
        due = []
        for name in self.metrics:
            places = [_place(record) for record in records if name in record.get("measured", record["values"])]
            if name not in self.cadence or self.cadence[name].due(step, epoch, places[-1] if places else None):
                due.append(name)
        return due


def _place(record: Record) -> tuple[int, int]:
    return record["step"], record["epoch"]
