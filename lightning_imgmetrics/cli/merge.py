"""One report from the states of all shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_imgmetrics.cli.build import build
from lightning_imgmetrics.cli.evaluate import report_of, sorted_failures
from lightning_imgmetrics.cli.loop import refuse_failed
from lightning_imgmetrics.cli.prepare import KIND
from lightning_imgmetrics.cli.ranks import chosen_device
from lightning_imgmetrics.cli.request import MetricSpec, UsageError
from lightning_imgmetrics.errors import IncompatibleStates
from lightning_imgmetrics.metrics.base.state_file import read_about
from lightning_imgmetrics.report.tables import Report
from lightning_imgmetrics.suite import MetricSuite

_OWN = ("shard", "failed", "totals", "max_failed", "generated", "reference")  # paths may be spelled otherwise


def merge(paths: Sequence[str], *, device: str = "auto") -> tuple[Report, dict[str, str]]:
    """`report_of` all shards 1/K..K/K together; IncompatibleStates where they are not shards of one evaluation.

    Each shard holds its share of the reference too, so that it counts once.
    """
    abouts = {path: _about(path) for path in paths}
    first = abouts[paths[0]]
    for path, about in abouts.items():
        pair = [{**x, "number of shards": x["shard"][1]} for x in (first, about)]
        changed = [key for key in {**pair[0], **pair[1]} if key not in _OWN and pair[0].get(key) != pair[1].get(key)]
        if changed:
            listed = "; ".join(f"{key}: {pair[0].get(key)} against {pair[1].get(key)}" for key in changed)
            raise IncompatibleStates(f"{paths[0]} and {path} are not shards of one evaluation ({listed})")
    _refuse_gaps({path: about["shard"][0] for path, about in abouts.items()}, first["shard"][1], list(paths))
    try:
        spec = MetricSpec.from_json(first["measures"])
    except IncompatibleStates as error:
        raise IncompatibleStates(f"{paths[0]} cannot be merged: {error}. Evaluate its share again") from error
    suite = MetricSuite(build(spec, command="merge", protocol_is_used=True)).to(chosen_device(device))
    suite.load(paths[0])
    for path in paths[1:]:
        suite.merge(path)
    failed = sorted_failures(f for about in abouts.values() for f in about["failed"])
    refuse_failed(failed, first["totals"], max(about["max_failed"] for about in abouts.values()))
    return report_of(suite, failed, first["generated"], first["reference"])


def _about(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise UsageError(f"there is no file {path}")
    about = read_about(Path(path))
    if about.get("kind") != KIND:
        raise IncompatibleStates(f"{path} was not written by `imgmetrics evaluate --save-state`")
    return about


def _refuse_gaps(shards: dict[str, int], k: int, paths: list[str]) -> None:
    have = sorted(shards.values())
    if len(set(have)) < len(have) or len(shards) < len(paths):
        raise IncompatibleStates(f"each shard must come once, got {', '.join(f'{i}/{k}' for i in have)}")
    missing = [f"{i}/{k}" for i in range(1, k + 1) if i not in have]
    if missing:
        raise IncompatibleStates(f"the shards {', '.join(missing)} are missing: {len(have)} of {k} were given")
