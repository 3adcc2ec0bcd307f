"""The engine of the command line: a request in, a report out; no printing, no parsing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from lightning_imgmetrics._distributed import world
from lightning_imgmetrics.cli.inputs import Side
from lightning_imgmetrics.cli.loop import Loop, ProgressReporter, refuse_failed
from lightning_imgmetrics.cli.prepare import Plan, prepare
from lightning_imgmetrics.cli.ranks import gathered, together
from lightning_imgmetrics.cli.request import Request
from lightning_imgmetrics.metrics.distribution.reference_statistics import ReferenceStatistics
from lightning_imgmetrics.report.tables import Report
from lightning_imgmetrics.suite import MetricSuite


@dataclass(frozen=True)
class Neighbor:
    """A generated image, the reference image whose features are nearest, and their distance."""

    id: int
    nearest: int
    distance: float


@dataclass(frozen=True)
class Outcome:
    """What an evaluation gave; `report` is None for a shard. The sides know the names of the images.

    `errors`: metric -> why it has no result; it takes nothing from the others.
    """

    report: Report | None
    errors: dict[str, str]
    sides: dict[str, Side]
    counts: dict[str, int]
    neighbors: list[Neighbor]


def evaluate(request: Request, reporter: ProgressReporter) -> Outcome:
    """Measure the reference, then the generated images. Collective over ranks; all of them get the outcome."""
    with together("preparing the evaluation"):
        plan = prepare(request, reporter)
    failed = measure(plan, reporter)
    neighbors = _neighbors(plan.suite) if request.neighbors else []
    report, errors = None, dict[str, str]()
    if request.shard[1] == 1:
        report, errors = report_of(plan.suite, failed, request.generated, request.reference)
        beside = {"source": list(request.source), "rivals": list(request.rivals)}
        report = replace(report, beside={kind: paths for kind, paths in beside.items() if paths})
    if request.save_state is not None:
        plan.suite.pool()
        with together("saving the states"):
            if world()[0] == 0:
                plan.suite.save(request.save_state, about={**plan.about, "failed": failed, "totals": plan.totals})
    return Outcome(report, errors, plan.sides, _counts(plan, failed), neighbors)


def measure(plan: Plan, reporter: ProgressReporter) -> list[dict[str, Any]]:
    """Update the suite with this rank's share of all sides; the images that failed on any rank, by side and id."""
    loop = Loop(plan.suite, plan.request, plan.device, *plan.share, plan.position, plan.folder, reporter)
    with together("measuring the images"):
        for name, after in (("reference", "generated"), ("generated", "done")):
            if plan.position.side == name:
                if name in plan.sides:
                    loop.measure(plan.sides[name], after=after)
                plan.position.side = after
    failed = sorted_failures(f for share in gathered(plan.position.failed) for f in share)
    refuse_failed(failed, plan.totals, plan.request.max_failed)
    return failed


def sorted_failures(failed: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(failed, key=lambda f: (f["side"], f["id"]))


def report_of(
    suite: MetricSuite, failed: list[dict[str, Any]], generated: Any, reference: Any
) -> tuple[Report, dict[str, str]]:
    """The results over all ranks and the scores that any of them holds; and metric -> why it has no result."""
    results, errors = suite.outcomes()
    scores: dict[str, dict[int, float]] = {}
    for share in gathered(suite.scores()):
        for name, column in share.items():
            scores[name] = {**column, **scores.get(name, {})}
    ordered = {name: dict(sorted(column.items())) for name, column in scores.items()}
    why = {name: str(error) for name, error in errors.items()}
    categories, records = _categories(suite), _records(suite)
    return Report(results, ordered, failed, generated, reference, categories, records, why), why


def _categories(suite: MetricSuite) -> dict[str, dict[str, dict[str, Any]]]:
    tables = {name: m.categories() for name, m in suite.named().items()}
    return {name: {k: asdict(x) for k, x in table.items()} for name, table in tables.items() if table}


def _records(suite: MetricSuite) -> dict[str, list[dict[str, Any]]]:
    """What judges answered on all ranks, by id; of two records of one id the first, as of two scores."""
    by_id: dict[str, dict[int, dict[str, Any]]] = {}
    for share in gathered({name: m.records() for name, m in suite.named().items()}):
        for name, records in share.items():
            for record in records:
                by_id.setdefault(name, {}).setdefault(record["id"], record)
    return {name: [records[i] for i in sorted(records)] for name, records in by_id.items()}


def _neighbors(suite: MetricSuite) -> list[Neighbor]:
    m = next(m for m in suite.named().values() if m.keeps_neighbors)
    with suite.synced():
        ids, nearest, distance = m.neighbors(1)
    rows = zip(ids.tolist(), nearest[:, 0].tolist(), distance[:, 0].tolist(), strict=True)
    return [Neighbor(*row) for row in rows]


def _counts(plan: Plan, failed: list[dict[str, Any]]) -> dict[str, int]:
    """How many images of each side were measured by this command."""
    i, k = plan.request.shard
    size = world()[1]
    ranks = range((i - 1) * size, i * size)
    return {
        name: sum(len(range(r, total, k * size)) for r in ranks) - sum(f["side"] == name for f in failed)
        for name, total in plan.totals.items()
    }


def measure_statistics(request: Request, reporter: ProgressReporter) -> ReferenceStatistics | None:
    """The reference side of the metrics with a hash of its pixels; None on other ranks than the first."""
    with together("preparing the reference"):
        plan = prepare(request, reporter)
    measure(plan, reporter)
    content = [sum(column) for column in zip(*gathered(plan.position.content), strict=True)]
    plan.suite.pool()
    if world()[0] > 0:
        return None
    return plan.suite.reference(content=f"{content[0] % (1 << 64):016x}-{content[1]}" if content[1] else "")
