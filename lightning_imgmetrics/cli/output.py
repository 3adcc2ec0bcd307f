"""The files that a command writes, each whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from lightning_imgmetrics._files import write_atomically
from lightning_imgmetrics.cli.console import Terminal
from lightning_imgmetrics.cli.evaluate import Outcome
from lightning_imgmetrics.cli.request import UsageError
from lightning_imgmetrics.report.tables import (
    Report,
    category_tables,
    csv_text,
    json_text,
    n_failed,
    remarks,
    to_csv,
    to_markdown,
    to_table,
)


def probe(*paths: str | None) -> None:
    """Refuse what cannot be written before hours are spent on it."""
    for path in filter(None, paths):
        target = Path(path).expanduser()
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir() or not os.access(target.parent, os.W_OK):
            raise UsageError(f"{path} cannot be written: it must be a file in a folder that you may write to")


def write_text(path: str, text: str) -> None:
    """Atomically, folders made as needed."""
    target = Path(path).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)

    def write(part: Path) -> None:
        part.write_text(text, "utf-8", errors="surrogateescape")  # names of files need not be UTF-8

    write_atomically(target, write)


def show_report(report: Report, terminal: Terminal) -> None:
    """The table, and under it the signature of each number."""
    terminal.show(
        to_table(report), *category_tables(report), *(f"{r.name}: {r.signature}" for r in report.results.values())
    )
    for text in (text for result in report.results.values() for text in remarks(result)):
        terminal.note(text)
    if report.failed:
        terminal.note(n_failed(report))


def write_report(report: Report, *, json: str | None, csv: str | None, markdown: str | None) -> None:
    forms: list[tuple[str | None, Callable[[], str]]] = [
        (json, report.to_json),
        (csv, lambda: to_csv(report.results.values())),
        (markdown, lambda: to_markdown(report)),
    ]
    for path, text in forms:
        if path is not None:
            write_text(path, text())


def write_scores(outcome: Outcome, path: str) -> None:
    """One line per generated image: id, name, and its score under each metric that has one."""
    assert outcome.report is not None
    scores, side = outcome.report.scores, outcome.sides["generated"]
    ids = sorted({i for column in scores.values() for i in column})
    lines = [[i, side.source.image_name(i), *(column.get(i) for column in scores.values())] for i in ids]
    write_text(path, csv_text(["id", "name", *scores], lines))


def write_records(outcome: Outcome, path: str) -> None:
    """One JSON line per image and metric that asked a judge: its score, figures, rationale, and each question."""
    assert outcome.report is not None
    side = outcome.sides["generated"]
    lines = [
        json_text({"metric": name, "name": side.source.image_name(record["id"]), **record}, indent=None)
        for name, records in outcome.report.records.items()
        for record in records
    ]
    write_text(path, "".join(lines))


def write_neighbors(outcome: Outcome, path: str) -> None:
    """One line per generated image, nearest first: what may be copied comes first."""
    generated, reference = outcome.sides["generated"], outcome.sides.get("reference")
    lines = []
    for row in outcome.neighbors:
        known = reference is not None and row.nearest >= 0
        name = reference.source.image_name(row.nearest) if known and reference is not None else ""
        nearest = row.nearest if row.nearest >= 0 else None
        lines.append([row.id, generated.source.image_name(row.id), nearest, name, row.distance])
    write_text(path, csv_text(["id", "name", "nearest_id", "nearest_name", "distance"], lines))
