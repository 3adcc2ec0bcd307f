"""The engine of the command line: a request in, a report out; no printing, no parsing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lightning_imgmetrics._distributed import world
from lightning_imgmetrics._version import __version__
from lightning_imgmetrics.cli.build import build, needs
from lightning_imgmetrics.cli.inputs import Side, is_statistics, open_sides
from lightning_imgmetrics.cli.loop import Front, Loop, refuse_failed
from lightning_imgmetrics.cli.ranks import chosen_device, gathered, together
from lightning_imgmetrics.cli.request import Request, UsageError
from lightning_imgmetrics.cli.resume import Position, RunFolder
from lightning_imgmetrics.errors import ImgMetricsError
from lightning_imgmetrics.judges.metrics.verdict_metric import VerdictMetric
from lightning_imgmetrics.metrics.distribution.feature_bank import BankMetric
from lightning_imgmetrics.metrics.distribution.reference_statistics import ReferenceStatistics
from lightning_imgmetrics.models.base.weights import sha256
from lightning_imgmetrics.prompt_benchmarks.base.item_metric import ItemMetric
from lightning_imgmetrics.report.tables import Report
from lightning_imgmetrics.suite import MetricSuite

KIND = "evaluation"


@dataclass(frozen=True)
class Neighbor:
    """A generated image, the reference image whose features are nearest, and their distance."""

    id: int
    nearest: int
    distance: float


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found; `report` is None for a shard. The sides know the names of the images.

    `errors`: metric -> why it has no result; it takes nothing from the others.
    """

    report: Report | None
    errors: dict[str, str]
    sides: dict[str, Side]
    counts: dict[str, int]
    neighbors: list[Neighbor]


@dataclass(frozen=True)
class Plan:
    """A request made ready: images opened, networks named, states where the run stopped."""

    request: Request
    suite: MetricSuite
    sides: dict[str, Side]
    about: dict[str, Any]
    device: torch.device
    position: Position
    folder: RunFolder | None
    share: tuple[int, int]

    @property
    def totals(self) -> dict[str, int]:
        return {name: len(side.source) for name, side in self.sides.items()}


def evaluate(request: Request, front: Front) -> Outcome:
    """Measure the reference, then the generated images. Collective over ranks; all of them get the outcome."""
    with together("preparing the evaluation"):
        plan = prepare(request, front)
    failed = measure(plan, front)
    suite, neighbors, report = plan.suite, [], None
    errors: dict[str, str] = {}
    if request.shard[1] == 1:
        if request.neighbors:
            neighbors = _neighbors(suite)
        report, errors = report_of(suite, failed, request.generated, request.reference)
        beside = {"source": list(request.source), "rivals": list(request.rivals)}
        report = replace(report, beside={kind: paths for kind, paths in beside.items() if paths})
    if request.save_state is not None:
        suite.pool()
        with together("saving the states"):
            if world()[0] == 0:
                suite.save(request.save_state, about={**plan.about, "failed": failed, "totals": plan.totals})
    return Outcome(report, errors, plan.sides, _counts(plan, failed), neighbors)


def prepare(request: Request, front: Front) -> Plan:
    """Open and check everything before the first image is read."""
    wanted = needs(request.measures.metrics)
    if request.measures.per_prompt:
        wanted.setdefault("prompts", []).append("--per-prompt")
    statistics = request.reference is not None and is_statistics(request.reference, request)
    _refuse_incomplete(request, wanted, statistics=statistics)
    if request.reference is not None and "real" not in wanted:
        front.note("no metric here compares with a reference: --reference is not read")
    sides, class_names = open_sides(request, needs=set(wanted))
    for side in sides.values():
        if side.missing:
            some = ", ".join(side.missing[:5]) + (", ..." if len(side.missing) > 5 else "")
            front.note(f"missing images: {len(side.missing)} ({some})")
    generated = sides.get("generated")
    names = None if request.benchmark is None or generated is None else generated.names(range(len(generated.source)))
    measures = replace(request.measures, class_names=class_names, image_names=None if names is None else tuple(names))
    device = chosen_device(request.device)
    suite = MetricSuite(build(measures, protocol_is_used=statistics)).to(device)
    _refuse_unfed(suite, generated)
    if request.neighbors and _bank(suite) is None:
        raise UsageError("--neighbors needs a metric that keeps features: kid, cmmd, mifid, prdc, authenticity or fld")
    rank, size = world()
    i, k = request.shard
    share = (i - 1) * size + rank, k * size
    for m in suite.named().values():  # weights that are fetched now are in the signatures below, as when it is resumed
        for network in m.networks:
            network.network(device)
    about = _about(replace(request, measures=measures), sides, suite, statistics=statistics)
    folder, position = None, None
    if request.run is not None:
        configuration = {
            key: value for key, value in about.items() if key not in ("max_failed", "generated", "reference")
        }
        configuration |= {"device": device.type, "batch_size": request.batch_size, "hashed": request.hashed}
        folder = RunFolder(
            Path(request.run).expanduser(),
            rank=rank,
            size=size,
            every=request.save_every,
            configuration=configuration,
            note=front.note,
        )
        position = folder.open(suite, resume=request.resume)
    if position is None and statistics and "real" in wanted and share[0] == 0:  # counted once, not once per rank
        suite.update_reference(_load_statistics(request))
    return Plan(request, suite, sides, about, device, position or Position(), folder, share)


def measure(plan: Plan, front: Front) -> list[dict[str, Any]]:
    """Update the suite with this rank's share of all sides; the images that failed on any rank, by side and id."""
    loop = Loop(plan.suite, plan.request, plan.device, *plan.share, plan.position, plan.folder, front)
    with together("measuring the images"):
        for name, after in (("reference", "generated"), ("generated", "done")):
            if plan.position.side == name:
                if name in plan.sides:
                    loop.measure(plan.sides[name], after=after)
                plan.position.side = after
    failed = sorted_failures(f for mine in gathered(plan.position.failed) for f in mine)
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
    for mine in gathered(suite.scores()):
        for name, column in mine.items():
            scores[name] = {**column, **scores.get(name, {})}
    ordered = {name: dict(sorted(column.items())) for name, column in scores.items()}
    why = {name: str(error) for name, error in errors.items()}
    categories, records = _categories(suite), _records(suite)
    return Report(results, ordered, failed, generated, reference, categories, records, why), why


def _categories(suite: MetricSuite) -> dict[str, dict[str, dict[str, Any]]]:
    found = {name: m.categories() for name, m in suite.named().items() if isinstance(m, ItemMetric)}
    return {name: {k: asdict(x) for k, x in table.items()} for name, table in found.items() if table}


def _records(suite: MetricSuite) -> dict[str, list[dict[str, Any]]]:
    """What judges said on all ranks, by id; of two records of one id the first, as of two scores."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for mine in gathered({name: m.records() for name, m in suite.named().items() if isinstance(m, VerdictMetric)}):
        for name, records in mine.items():
            for record in records:
                found.setdefault(name, {}).setdefault(record["id"], record)
    return {name: [records[i] for i in sorted(records)] for name, records in found.items()}


def _refuse_incomplete(request: Request, wanted: dict[str, list[str]], *, statistics: bool) -> None:
    if request.generated is None and "real" not in wanted:
        raise UsageError(f"{', '.join(request.measures.metrics)} keep nothing of a reference")
    options = {"real": ("--reference", request.reference)}
    if request.generated is not None:
        options |= {"prompts": ("--prompts", request.prompts), "target": ("--target", request.target)}
    for name, (option, value) in options.items():
        if name in wanted and value is None and request.benchmark is None:
            raise UsageError(f"{option} is missing: {', '.join(wanted[name])} cannot do without")
    if "labels" in wanted and (statistics or request.generated is None):
        raise UsageError(f"{', '.join(wanted['labels'])} needs the reference images and their classes, not statistics")


def _refuse_unfed(suite: MetricSuite, side: Side | None) -> None:
    """What a metric needs may hang on its arguments, as the images that a judge is shown do."""
    if side is None:
        return
    given = {"real", *side.extras, *(name for name in ("prompts", "labels") if getattr(side, name) is not None)}
    for name, m in suite.named().items():
        if lacking := [field for field in m.inputs if field not in given]:
            raise UsageError(f"--{lacking[0]} is missing: {name} cannot do without")
        if "prompts" in m.inputs and side.prompts is not None and "labels" not in m.inputs:
            try:
                m.check_inputs(len(side.prompts), prompts=side.prompts)
            except ImgMetricsError:
                raise
            except (TypeError, ValueError) as error:
                raise UsageError(f"--prompts: {error}") from error


def _about(request: Request, sides: dict[str, Side], suite: MetricSuite, *, statistics: bool) -> dict[str, Any]:
    """What decides the numbers: metrics, signatures, images."""
    images = {name: f"{len(side.source)} images, names and labels {side.digest()}" for name, side in sides.items()}
    if statistics:
        images["reference"] = f"statistics {sha256(Path(str(request.reference)).expanduser())[:16]}"
    return {
        "kind": KIND,
        "version": __version__,
        "measures": asdict(request.measures),
        "signatures": {name: str(m.signature()) for name, m in suite.named().items()},
        "generated": request.generated,
        "reference": request.reference,
        "images": images,
        "alpha": request.alpha,
        "max_failed": request.max_failed,
        "shard": request.shard,
    }


def _load_statistics(request: Request) -> ReferenceStatistics:
    path = Path(str(request.reference)).expanduser()
    return ReferenceStatistics.load(path, protocol=request.measures.protocol)


def _bank(suite: MetricSuite) -> BankMetric | None:
    """The first metric that keeps the features of both sides."""
    banked = (m for m in suite.named().values() if isinstance(m, BankMetric) and "fake_bank" in m.streams)
    return next(banked, None)


def _neighbors(suite: MetricSuite) -> list[Neighbor]:
    m = _bank(suite)
    if m is None:
        return []
    with suite._synced():
        ids, nearest, distance = m.neighbors(1)
    rows = zip(ids.tolist(), nearest[:, 0].tolist(), distance[:, 0].tolist(), strict=True)
    return [Neighbor(*row) for row in rows]


def _counts(plan: Plan, failed: list[dict[str, Any]]) -> dict[str, int]:
    """How many images of each side were measured by this command."""
    _, k = plan.request.shard
    size = world()[1]
    first = (plan.request.shard[0] - 1) * size
    ranks = range(first, first + size)
    return {
        name: sum(len(range(r, total, k * size)) for r in ranks) - sum(f["side"] == name for f in failed)
        for name, total in plan.totals.items()
    }


def measure_statistics(request: Request, front: Front) -> ReferenceStatistics | None:
    """The reference side of the metrics with a hash of its pixels; None on other ranks than the first."""
    with together("preparing the reference"):
        plan = prepare(request, front)
    measure(plan, front)
    content = [sum(column) for column in zip(*gathered(plan.position.content), strict=True)]
    plan.suite.pool()
    if world()[0] > 0:
        return None
    known = f"{content[0] % (1 << 64):016x}-{content[1]}" if content[1] else ""
    return plan.suite.reference(content=known)
