"""Two reports against each other: is the difference more than chance?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from scipy.stats import norm, t

from lightning_imgmetrics.cli.request import UsageError
from lightning_imgmetrics.errors import SignatureMismatch
from lightning_imgmetrics.functional.intervals import mean_interval
from lightning_imgmetrics.functional.resampling import jackknife, paired_bootstrap
from lightning_imgmetrics.report.tables import Report
from lightning_imgmetrics.result import Result, Signature

COLUMNS = ("metric", "A", "B", "A - B", "95 % interval", "p", "better", "by")


@dataclass(frozen=True)
class Comparison:
    """A result of two runs: `difference` a - b with its 95 % interval and two-sided p-value where they are known.

    `better`: "A" or "B" where the interval excludes 0, "?" where it does not or there is none. `by`: the test.
    `mismatch`: in what the two were not measured alike, where that was overridden.
    """

    name: str
    a: float
    b: float
    difference: float
    interval: tuple[float, float] | None = None
    p: float | None = None
    better: str = "?"
    by: str = "no interval"
    mismatch: str = ""

    def cells(self) -> list[str]:
        interval = "" if self.interval is None else "[{:.4g}, {:.4g}]".format(*self.interval)
        p = "" if self.p is None else f"{self.p:.2g}"
        return [
            self.name,
            f"{self.a:.6g}",
            f"{self.b:.6g}",
            f"{self.difference:.4g}",
            interval,
            p,
            self.better,
            self.by,
        ]

    def values(self) -> dict[str, object]:
        return asdict(self)


def read_report(path: str) -> Report:
    try:
        text = Path(path).read_text("utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(f"there is no file {path}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no JSON report of `imgmetrics evaluate`: {error}") from error
    return Report.from_json(text, path)


def compare(a: Report, b: Report, *, force: bool = False, seed: int = 0) -> list[Comparison]:
    """The metrics that both reports have.

    Scores are paired by sample id, replicates by group; else the intervals of the two are combined as independent.
    SignatureMismatch names what was not measured alike, unless `force`d; UsageError where no metric is shared.
    """
    shared = [name for name in a.results if name in b.results]
    if not shared:
        raise UsageError(f"the two share no metric: {', '.join(a.results)} against {', '.join(b.results)}")
    beside = "" if a.beside == b.beside else f"beside the images: {dict(a.beside)} against {dict(b.beside)}"
    mismatch = {name: _mismatch(a.results[name], b.results[name]) or beside for name in shared}
    if any(mismatch.values()) and not force:
        listed = "; ".join(f"{name}: {text}" for name, text in mismatch.items() if text)
        raise SignatureMismatch(f"the two were not measured in the same way ({listed}); --force compares them anyway")
    out = []
    for name in shared:
        scores = a.scores.get(name, {}), b.scores.get(name, {})
        out.append(_compared(a.results[name], b.results[name], *scores, seed=seed, mismatch=mismatch[name]))
    return out


def _mismatch(a: Result, b: Result) -> str:
    """The fields in which two results differ, their counts of samples among them; "" for none."""
    # Images on which a judge failed were measured, too: the pairs of those that both scored are compared.
    counts = [r.n + round(r.details.get("n_failed", 0)) for r in (a, b)]
    both = [
        Signature({**Signature.parse(r.signature).fields, "n": str(n)}) for r, n in zip((a, b), counts, strict=True)
    ]
    try:
        both[0].require_like(both[1])
    except SignatureMismatch as error:
        return str(error).partition("(")[2].removesuffix(")")
    return ""


def _compared(
    a: Result, b: Result, scores_a: Mapping[int, float], scores_b: Mapping[int, float], *, seed: int, mismatch: str
) -> Comparison:
    difference, interval, p, by = a.value - b.value, None, None, "no interval"
    if not (math.isfinite(a.value) and math.isfinite(b.value)):
        by = "no interval: infinite values"
        return Comparison(a.name, a.value, b.value, difference, by=by, mismatch=mismatch)
    known_a, known_b = ({i: x for i, x in scores.items() if x == x} for scores in (scores_a, scores_b))
    left_out = len(scores_a.keys() & scores_b.keys()) - len(known_a.keys() & known_b.keys())
    scores_a, scores_b = known_a, known_b
    ids = sorted(scores_a.keys() & scores_b.keys())
    if len(ids) > 1 and _is_mean(a, scores_a) and _is_mean(b, scores_b):
        pair = (torch.tensor([scores[i] for i in ids], dtype=torch.float64) for scores in (scores_a, scores_b))
        difference, low, high, p = paired_bootstrap(*pair, seed=seed)
        interval, by = (low, high), f"bootstrap of {len(ids)} pairs"
        by += f", {left_out} without a score left out" if left_out else ""
    elif len(a.replicates) > 1 and len(a.replicates) == len(b.replicates) and a.n == b.n:
        interval, p = _paired_jackknife(a, b)
        by = f"paired jackknife, {len(a.replicates)} groups"
    elif a.interval is not None and b.interval is not None:
        interval, p = _independent(a.interval, b.interval)
        by = "independent intervals"
    better = _better(interval, a.higher_is_better)
    return Comparison(a.name, a.value, b.value, difference, interval, p, better, by, mismatch)


def _is_mean(r: Result, scores: Mapping[int, float]) -> bool:
    """Whether the value is the mean of the scores, and not their sum."""
    return math.isclose(r.value, math.fsum(scores.values()) / len(scores), rel_tol=1e-6, abs_tol=1e-9)


def _paired_jackknife(a: Result, b: Result) -> tuple[tuple[float, float], float]:
    """Leaving out one group of sample ids at a time, the same in both: what the two have in common cancels."""
    left = torch.tensor(a.replicates, dtype=torch.float64) - torch.tensor(b.replicates, dtype=torch.float64)
    estimate, error = jackknife(a.value - b.value, left)
    if error == 0:
        return (estimate, estimate), 1.0 if estimate == 0 else 0.0
    return mean_interval(estimate, error, len(left)), float(2 * t.sf(abs(estimate / error), len(left) - 1))


def _independent(a: tuple[float, float], b: tuple[float, float]) -> tuple[tuple[float, float], float]:
    """The squares of the half widths of two intervals add up."""
    centre = (a[0] + a[1] - b[0] - b[1]) / 2
    half = math.hypot(a[1] - a[0], b[1] - b[0]) / 2
    if half == 0:
        return (centre, centre), 1.0 if centre == 0 else 0.0
    return (centre - half, centre + half), float(2 * norm.sf(abs(centre) / half * norm.ppf(0.975)))


def _better(interval: tuple[float, float] | None, higher_is_better: bool | None) -> str:
    if interval is None or higher_is_better is None or not (interval[0] > 0 or interval[1] < 0):
        return "?"
    return "A" if (interval[0] > 0) == higher_is_better else "B"
