"""How far a judge can be trusted: its agreement with people, as a record that can be cited."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

from lightning_imgmetrics.errors import IncompatibleStates
from lightning_imgmetrics.result import Signature

_COLUMNS = ("criterion", "statistic", "value", "interval", "n", "remark")


@dataclass(frozen=True)
class Estimate:
    """A statistic and its interval; None where there is none, for the stated `reason`.

    `n_undefined` of the resamples left the statistic undefined and are not part of the interval.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    n_undefined: int = 0
    reason: str = ""

    def __str__(self) -> str:
        value = "undefined" if self.value is None else f"{self.value:.2f}"
        return value if self.interval is None else "{}[{:.2f},{:.2f}]".format(value, *self.interval)


@dataclass(frozen=True)
class CriterionCalibration:
    """Agreement of a judge's scores with the mean ratings of n samples, by one criterion.

    Left out: `n_failed` rated samples that the judge could not score, `n_unscored` rated ones that it never saw,
    `n_unrated` scored ones that nobody rated. `kappa` (Cohen's, quadratic) and `alpha` (Krippendorff's, ordinal)
    compare the judge, rounded to the scale, with each of `n_ratings` single ratings; `alpha_people` compares people
    with each other: the ceiling, as no judge can be expected to agree with people more than they do.
    """

    n: int
    n_ratings: int
    n_failed: int
    n_unscored: int
    n_unrated: int
    spearman: Estimate
    kendall: Estimate
    pearson: Estimate
    pairwise_accuracy: Estimate
    kappa: Estimate
    alpha: Estimate
    alpha_people: Estimate

    def estimates(self) -> dict[str, Estimate]:
        """The statistics by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Estimate)}


@dataclass(frozen=True)
class Calibration:
    """The agreement of a judge with people by criterion; `str()` is a table of it.

    `unmatched` are the criteria that only one side has. `ratings_sha256` names what people rated, all of it.
    """

    criteria: Mapping[str, CriterionCalibration]
    ratings_sha256: str
    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0
    scale: tuple[float, float] | None = None
    unmatched: tuple[str, ...] = ()

    def __getitem__(self, criterion: str) -> CriterionCalibration:
        return self.criteria[criterion]

    def citation(self) -> str:
        """A field of a signature: "calibrated:spearman=0.62[0.55,0.68],n=400,ratings=0a1b2c3d".

        Several criteria are listed by name, as in "calibrated:style.spearman=...,n=400;content.spearman=...".
        """
        several = len(self.criteria) > 1
        parts = [f"{name + '.' if several else ''}spearman={c.spearman},n={c.n}" for name, c in self.criteria.items()]
        return str(Signature.of(calibrated=f"{';'.join(parts)},ratings={self.ratings_sha256[:8]}"))

    def __str__(self) -> str:
        head = [column.replace("interval", f"{100 * self.confidence:g} % interval") for column in _COLUMNS]
        lines = [head, *(line for name, c in self.criteria.items() for line in _lines(name, c))]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        notes = [f"{name}: {text}" for name, c in self.criteria.items() if (text := _left_out(c))]
        notes += [f"not compared: {', '.join(self.unmatched)}"] if self.unmatched else []
        return "\n".join(table + notes)

    def to_json(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """What `to_json` wrote; IncompatibleStates for anything else."""
        try:
            content = json.loads(text)
            criteria = {name: _criterion(values) for name, values in content.pop("criteria").items()}
            scale, unmatched = _pair(content.pop("scale")), tuple(content.pop("unmatched"))
            return cls(criteria, scale=scale, unmatched=unmatched, **content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IncompatibleStates(f"`text` is no calibration written by `to_json`: {error!r}") from error


def _lines(name: str, criterion: CriterionCalibration) -> list[list[str]]:
    lines = []
    for statistic, x in criterion.estimates().items():
        value = "-" if x.value is None else f"{x.value:.3f}"
        interval = "-" if x.interval is None else "[{:.3f}, {:.3f}]".format(*x.interval)
        left_out = f"{x.n_undefined} resamples left out" if x.n_undefined and not x.reason else ""
        lines.append([name, statistic.replace("_", " "), value, interval, str(criterion.n), x.reason or left_out])
    return lines


def _left_out(criterion: CriterionCalibration) -> str:
    counts = {
        "the judge failed": criterion.n_failed,
        "it has no score": criterion.n_unscored,
        "nobody rated it": criterion.n_unrated,
    }
    return ", ".join(f"{count} left out as {why}" for why, count in counts.items() if count)


def _criterion(values: dict[str, Any]) -> CriterionCalibration:
    statistics = {name: _estimate(x) if isinstance(x, dict) else int(x) for name, x in values.items()}
    return CriterionCalibration(**cast(dict[str, Any], statistics))


def _estimate(values: dict[str, Any]) -> Estimate:
    return Estimate(**{**values, "interval": _pair(values["interval"])})


def _pair(values: list[float] | None) -> tuple[float, float] | None:
    if values is None:
        return None
    low, high = values
    return float(low), float(high)
