"""What each command does once its options are read: run the engine, show and write what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_imgmetrics.cli import listing
from lightning_imgmetrics.cli.build import expand
from lightning_imgmetrics.cli.compare import COLUMNS, Comparison, compare, read_report
from lightning_imgmetrics.cli.console import Terminal
from lightning_imgmetrics.cli.evaluate import Outcome, evaluate, measure_statistics
from lightning_imgmetrics.cli.merge import merge
from lightning_imgmetrics.cli.output import (
    probe,
    show_report,
    write_neighbors,
    write_records,
    write_report,
    write_scores,
    write_text,
)
from lightning_imgmetrics.cli.ranks import process_group
from lightning_imgmetrics.cli.request import Request, UsageError
from lightning_imgmetrics.errors import ImgMetricsError
from lightning_imgmetrics.report.tables import Report, csv_text, json_text, markdown_table, rich_table


def run_evaluate(
    request: Request,
    *,
    quiet: bool,
    scores: str | None,
    neighbors: str | None = None,
    records: str | None = None,
    **files: str | None,
) -> None:
    request = _expanded(request)
    probe(scores, neighbors, records, request.save_state, *files.values())
    with process_group(request.device) as (rank, _):
        terminal = Terminal(rank=rank, quiet=quiet)
        outcome = evaluate(request, terminal)
        if rank == 0:
            _give(outcome, request, terminal, scores=scores, neighbors=neighbors, records=records, **files)


def _give(
    outcome: Outcome,
    request: Request,
    terminal: Terminal,
    *,
    scores: str | None,
    neighbors: str | None,
    records: str | None,
    **files: str | None,
) -> None:
    if outcome.report is None:
        i, k = request.shard
        counts = " and ".join(f"{n} {name}" for name, n in outcome.counts.items())
        terminal.show(f"shard {i}/{k}: {counts} images, states in {request.save_state}; next `imgmetrics merge`")
        return
    _report(outcome.report, terminal, **files)
    if scores is not None:
        write_scores(outcome, scores)
    if neighbors is not None:
        write_neighbors(outcome, neighbors)
    if records is not None:
        write_records(outcome, records)
    _refuse(outcome.errors)


def _report(report: Report, terminal: Terminal, **files: str | None) -> None:
    if report.results:
        show_report(report, terminal)
    write_report(report, **files)


def _refuse(errors: Mapping[str, str]) -> None:
    """The results of the other metrics are shown and written by now."""
    if errors:
        raise ImgMetricsError("; ".join(f"no {name}: {why}" for name, why in errors.items()))


def run_stats(request: Request, *, output: str, quiet: bool) -> None:
    if Path(output).suffix != ".safetensors":
        raise UsageError(f"--output must end in .safetensors, got {output!r}")
    request = _expanded(request)
    probe(output)
    with process_group(request.device) as (rank, _):
        terminal = Terminal(rank=rank, quiet=quiet)
        statistics = measure_statistics(request, terminal)
        if statistics is not None:
            path = Path(output).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True)
            statistics.save(path)
            n = "an unknown number of" if statistics.n is None else statistics.n
            signatures = ", ".join(sorted({str(entry.signature) for entry in statistics.entries}))
            terminal.show(f"{output}: {n} images, content {statistics.content or 'unknown'}, {signatures}")


def run_merge(shards: list[str], *, device: str, quiet: bool, **files: str | None) -> None:
    terminal = Terminal(quiet=quiet)
    report, errors = merge(shards, device=device)
    _report(report, terminal, **files)
    _refuse(errors)


def run_compare(
    a: str, b: str, *, force: bool, seed: int, quiet: bool, json: str | None, csv: str | None, markdown: str | None
) -> None:
    terminal = Terminal(quiet=quiet)
    pair = read_report(a), read_report(b)
    found = compare(*pair, force=force, seed=seed)
    alone = [name for one, other in (pair, pair[::-1]) for name in one.results if name not in other.results]
    cells = [comparison.cells() for comparison in found]
    terminal.show(f"A: {a}\nB: {b}", rich_table(COLUMNS, cells))
    for comparison in found:
        if comparison.mismatch:
            terminal.note(f"forced: {comparison.name} was not measured in the same way ({comparison.mismatch})")
    if pair[0].reference != pair[1].reference:
        terminal.note(
            f"the references are named {pair[0].reference} and {pair[1].reference}: are they the same images?"
        )
    if alone:
        terminal.note(f"in one of the two only: {', '.join(alone)}")
    if json is not None:
        write_text(json, json_text({"a": a, "b": b, "comparisons": [c.values() for c in found]}))
    if csv is not None:
        write_text(csv, _csv(found))
    if markdown is not None:
        write_text(markdown, markdown_table(COLUMNS, cells) + "\n")


def _csv(found: list[Comparison]) -> str:
    lines: list[list[Any]] = []
    for c in found:
        lines.append([c.name, c.a, c.b, c.difference, *(c.interval or (None, None)), c.p, c.better, c.by, c.mismatch])
    return csv_text(["metric", "a", "b", "difference", "low", "high", "p", "better", "by", "mismatch"], lines)


def show_metrics(*, markdown: bool) -> None:
    columns, rows = listing.METRIC_COLUMNS, listing.metric_rows()
    if markdown:
        Terminal().show(markdown_table(columns, rows))
        return
    i = columns.index("class")  # too wide for terminals
    Terminal().show(rich_table(columns[:i] + columns[i + 1 :], [row[:i] + row[i + 1 :] for row in rows]))


def show_models() -> None:
    Terminal().show(rich_table(listing.MODEL_COLUMNS, listing.model_rows()))


def _expanded(request: Request) -> Request:
    return replace(request, spec=replace(request.spec, metrics=expand(request.spec.metrics)))
