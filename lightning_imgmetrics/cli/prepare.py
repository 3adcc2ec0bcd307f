"""A request made ready: everything is opened, built and checked before the first image is measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lightning_imgmetrics._distributed import world
from lightning_imgmetrics._version import __version__
from lightning_imgmetrics.cli.build import build
from lightning_imgmetrics.cli.inputs import Side, is_statistics, open_sides
from lightning_imgmetrics.cli.loop import ProgressReporter
from lightning_imgmetrics.cli.ranks import chosen_device
from lightning_imgmetrics.cli.request import MetricSpec, Request, UsageError, errors_of
from lightning_imgmetrics.cli.resume import Position, RunFolder
from lightning_imgmetrics.data.decode import check_alpha
from lightning_imgmetrics.data.images import check_max_failed
from lightning_imgmetrics.metrics.distribution.reference_statistics import ReferenceStatistics
from lightning_imgmetrics.models.base.weights import sha256
from lightning_imgmetrics.registry import metric_class
from lightning_imgmetrics.suite import MetricSuite

KIND = "evaluation"
# What a metric reads -> the option that gives it, and the commands that have the option.
_OPTIONS = {
    "real": ("--reference", ("evaluate",)),
    "prompts": ("--prompts", ("evaluate", "pairs", "judge")),
    "target": ("--target", ("evaluate", "pairs")),
    "labels": ("--labels", ("evaluate",)),
    "source": ("--source", ("judge",)),
    "rivals": ("--rivals", ("judge",)),
}


@dataclass(frozen=True)
class Plan:
    """Images opened, metrics built, networks loaded, states where the run stopped."""

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


def prepare(request: Request, reporter: ProgressReporter) -> Plan:
    """Open and check everything before the first image is read."""
    with errors_of("--max-failed"):
        check_max_failed(request.max_failed)
    with errors_of("--alpha"):
        check_alpha(request.alpha)
    statistics = request.reference is not None and is_statistics(request.reference, request.spec.protocol)
    inputs = {name for key in request.spec.metrics for name in metric_class(key).inputs}
    sides, class_names = _open(request, inputs, statistics, reporter)
    request = replace(request, spec=_completed(request, sides, class_names))
    device = chosen_device(request.device)
    suite = MetricSuite(build(request.spec, command=request.command, protocol_is_used=statistics)).to(device)
    _require_inputs(request, suite, sides.get("generated"))
    for m in suite.named().values():  # weights that are fetched now are in the signatures below, as when it is resumed
        for network in m.networks:
            network.network(device)
    rank, size = world()
    share = (request.shard[0] - 1) * size + rank, request.shard[1] * size
    about = _about(request, sides, suite, statistics)
    folder = None if request.run is None else _run_folder(request, about, device, reporter)
    position = None if folder is None else folder.open(suite, resume=request.resume)
    if position is None and statistics and "real" in inputs and share[0] == 0:  # counted once, not once per rank
        with errors_of("--reference"):
            path = Path(str(request.reference)).expanduser()
            suite.update_reference(ReferenceStatistics.load(path, protocol=request.spec.protocol))
    return Plan(request, suite, sides, about, device, position or Position(), folder, share)


def _open(
    request: Request, inputs: set[str], statistics: bool, reporter: ProgressReporter
) -> tuple[dict[str, Side], tuple[str, ...] | None]:
    """The sides that the metrics read, and the names of their classes."""
    keys = ", ".join(request.spec.metrics)
    if request.generated is None and "real" not in inputs:
        raise UsageError(f"{keys} keep nothing of a reference")
    if statistics and "labels" in inputs:
        raise UsageError(f"{keys} needs the reference images and their classes, not statistics")
    if request.reference is not None and "real" not in inputs:
        reporter.note("no metric here compares with a reference: --reference is not read")
    measured = request.reference is not None and "real" in inputs and not statistics
    sides, class_names = open_sides(request, real=measured, labels="labels" in inputs)
    for side in sides.values():
        if side.missing:
            some = ", ".join(side.missing[:5]) + (", ..." if len(side.missing) > 5 else "")
            reporter.note(f"missing images: {len(side.missing)} ({some})")
    return sides, class_names


def _completed(request: Request, sides: dict[str, Side], class_names: tuple[str, ...] | None) -> MetricSpec:
    """The metrics with what only the images tell: the names of classes, and of a benchmark's images."""
    names = None
    if request.benchmark is not None:
        side = sides["generated"]
        names = tuple(side.names(range(len(side.source))))
    return replace(request.spec, class_names=class_names, image_names=names)


def _require_inputs(request: Request, suite: MetricSuite, side: Side | None) -> None:
    """UsageError where a metric reads what the command does not give, or refuses the prompts."""
    if side is None:
        return
    columns = {"real": request.reference, "prompts": side.prompts, "labels": side.labels}
    given = {*side.extras, *(name for name, column in columns.items() if column is not None)}
    for name, m in suite.named().items():
        for field in m.inputs:
            if field not in given:
                option, commands = _OPTIONS[field]
                where = "" if request.command in commands else f", an option of `imgmetrics {commands[0]}`"
                raise UsageError(f"{name} requires `{option}`{where}")
        if "prompts" in m.inputs and side.prompts is not None and "labels" not in m.inputs:
            try:
                m.check_inputs(len(side.prompts), prompts=side.prompts)
            except (TypeError, ValueError) as error:
                raise UsageError(f"--prompts: {error}") from error
    if request.neighbors and not any(m.keeps_neighbors for m in suite.named().values()):
        raise UsageError("--neighbors needs a metric that keeps features: kid, cmmd, mifid, prdc, authenticity or fld")


def _about(request: Request, sides: dict[str, Side], suite: MetricSuite, statistics: bool) -> dict[str, Any]:
    """What decides the numbers: metrics, signatures, images."""
    images = {name: f"{len(side.source)} images, names and labels {side.digest()}" for name, side in sides.items()}
    if statistics:
        images["reference"] = f"statistics {sha256(Path(str(request.reference)).expanduser())[:16]}"
    return {
        "kind": KIND,
        "version": __version__,
        "measures": asdict(request.spec),
        "signatures": {name: str(m.signature()) for name, m in suite.named().items()},
        "generated": request.generated,
        "reference": request.reference,
        "images": images,
        "alpha": request.alpha,
        "max_failed": request.max_failed,
        "shard": request.shard,
    }


def _run_folder(request: Request, about: dict[str, Any], device: torch.device, reporter: ProgressReporter) -> RunFolder:
    configuration = {name: x for name, x in about.items() if name not in ("max_failed", "generated", "reference")}
    configuration |= {"device": device.type, "batch_size": request.batch_size, "hashed": request.hashed}
    rank, size = world()
    return RunFolder(
        Path(str(request.run)).expanduser(),
        rank=rank,
        size=size,
        every=request.save_every,
        configuration=configuration,
        note=reporter.note,
    )
