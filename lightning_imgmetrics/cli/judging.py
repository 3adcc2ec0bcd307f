"""`imgmetrics judge` and `imgmetrics bench`: metrics that ask a judge. Importing this loads no framework."""

from __future__ import annotations

from typing import Annotated

import typer

from lightning_imgmetrics.cli import options as o
from lightning_imgmetrics.cli.request import MetricSpec, Request, parse_list
from lightning_imgmetrics.errors import UnknownName

BENCHMARKS = {
    "geneval": "geneval",
    "dpg": "dpg_bench",
    "tifa": "tifa",
    "gedit": "gedit_bench",
    "text": "text_rendering",
}


@o.command
def judge(
    images: Annotated[str, typer.Argument(help=o.IMAGES)],
    *,
    judging: o.Judging,
    metrics: o.Metrics = "rubric",
    settings: o.Settings = None,
    prompts: o.Prompts = None,
    source: o.Source = None,
    rivals: o.Rivals = None,
    limit: o.Limit = None,
    reading: o.Reading,
    tables: o.Tables,
    scores: o.Scores = None,
    records: o.Records = None,
    quiet: o.Quiet = False,
) -> None:
    """Ask a multimodal model about images. Answers are kept on disk: a run that was stopped continues where it was."""
    from lightning_imgmetrics.cli.commands import run_evaluate

    keys = tuple(parse_list(metrics))
    request = Request(
        command="judge",
        spec=MetricSpec(metrics=keys, settings=tuple(settings or ()), **judging.arguments()),
        generated=images,
        prompts=prompts,
        source=tuple(source or ()),
        rivals=tuple(rivals or ()),
        limit=limit,
        **reading.arguments(),
    )
    run_evaluate(request, scores=scores, records=records, quiet=quiet, **vars(tables))


@o.command
def bench(
    benchmark: Annotated[str, typer.Argument(help=", ".join(BENCHMARKS))],
    images: Annotated[str, typer.Argument(help="Folder with the images as the benchmark lays them out")],
    *,
    questions: o.Questions,
    judging: o.Judging,
    settings: o.Settings = None,
    reading: o.Reading,
    tables: o.Tables,
    scores: o.Scores = None,
    records: o.Records = None,
    quiet: o.Quiet = False,
) -> None:
    """A benchmark with its published aggregation: overall, by category, and what is missing."""
    if benchmark not in BENCHMARKS:
        raise UnknownName("benchmark", benchmark, BENCHMARKS)
    from lightning_imgmetrics.cli.commands import run_evaluate

    keys = (BENCHMARKS[benchmark],)
    spec = MetricSpec(metrics=keys, settings=tuple(settings or ()), questions=questions, **judging.arguments())
    request = Request(command="bench", spec=spec, generated=images, benchmark=benchmark, **reading.arguments())
    run_evaluate(request, scores=scores, records=records, quiet=quiet, **vars(tables))
