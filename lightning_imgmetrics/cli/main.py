"""`imgmetrics`: the commands. Nothing here imports torch before a command runs, so that help is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from lightning_imgmetrics.cli import judging, options as o
from lightning_imgmetrics.cli.request import MetricSpec, Request, UsageError, parse_list, parse_shard

app = typer.Typer(name="imgmetrics", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
models = typer.Typer(no_args_is_help=True, help="Networks: which there are, where their weights are, fetching them.")
app.add_typer(models, name="models")
app.command()(judging.judge)
app.command()(judging.bench)


@app.callback()
def root() -> None:
    """Image metrics that can be cited: FID, KID, precision and recall, CLIPScore, LPIPS and more.

    Also under torchrun, where the ranks share the images: `torchrun --nproc-per-node 8 -m lightning_imgmetrics ...`.
    """


@app.command()
@o.command
def evaluate(
    generated: Annotated[str, typer.Argument(help=o.IMAGES)],
    *,
    metrics: o.Metrics,
    reference: o.Reference = None,
    networks: o.Networks,
    settings: o.Settings = None,
    prompts: o.Prompts = None,
    target: o.Target = None,
    per_prompt: o.PerPrompt = False,
    labels: o.Labels = None,
    reference_labels: o.ReferenceLabels = None,
    limit: o.Limit = None,
    intervals: o.Intervals = False,
    seed: o.Seed = None,
    reading: o.Reading,
    saving: o.Saving,
    shard: o.Shard = None,
    save_state: o.SaveState = None,
    tables: o.Tables,
    scores: o.Scores = None,
    neighbors: o.Neighbors = None,
    quiet: o.Quiet = False,
) -> None:
    """Measure generated images, against a reference where the metric needs one."""
    part = parse_shard(shard)
    if part[1] > 1 and any((*vars(tables).values(), scores, neighbors)):
        raise UsageError("a shard has no results: `imgmetrics merge` writes them when all are there")
    from lightning_imgmetrics.cli.commands import run_evaluate

    spec = _spec(metrics, settings, networks, intervals=intervals, seed=seed, per_prompt=per_prompt)
    request = Request(
        command="evaluate",
        spec=spec,
        generated=generated,
        reference=reference,
        prompts=prompts,
        target=target,
        labels=labels,
        reference_labels=reference_labels,
        limit=limit,
        shard=part,
        save_state=save_state,
        neighbors=neighbors is not None,
        **reading.arguments(),
        **vars(saving),
    )
    run_evaluate(request, scores=scores, neighbors=neighbors, quiet=quiet, **vars(tables))


@app.command()
@o.command
def pairs(
    images: Annotated[str, typer.Argument(help=o.IMAGES)],
    target: Annotated[str, typer.Argument(help="What each of IMAGES should equal, paired by name")],
    *,
    metrics: o.Metrics = "psnr,ssim,lpips",
    networks: o.Networks,
    settings: o.Settings = None,
    prompts: o.Prompts = None,
    limit: o.Limit = None,
    reading: o.Reading,
    tables: o.Tables,
    scores: o.Scores = None,
    quiet: o.Quiet = False,
) -> None:
    """Measure images against their targets, one to one: reconstruction, super-resolution, editing."""
    from lightning_imgmetrics.cli.commands import run_evaluate

    spec, options = _spec(metrics, settings, networks), reading.arguments()
    request = Request(
        command="pairs", spec=spec, generated=images, target=target, prompts=prompts, limit=limit, **options
    )
    run_evaluate(request, scores=scores, quiet=quiet, **vars(tables))


@app.command()
@o.command
def stats(
    reference: Annotated[str, typer.Argument(help=f"{o.IMAGES}, or a statistics file to convert")],
    *,
    output: Annotated[str, typer.Option("--output", "-o", help="File to write, .safetensors.")],
    metrics: o.Metrics,
    networks: o.Networks,
    settings: o.Settings = None,
    reading: o.Reading,
    saving: o.Saving,
    quiet: o.Quiet = False,
) -> None:
    """Measure a reference once and keep what the metrics need of it."""
    from lightning_imgmetrics.cli.commands import run_stats

    options = reading.arguments() | vars(saving)
    request = Request(
        command="stats", spec=_spec(metrics, settings, networks), reference=reference, hashed=True, **options
    )
    run_stats(request, output=output, quiet=quiet)


@app.command()
@o.command
def merge(
    shards: Annotated[list[str], typer.Argument(help="What `evaluate --shard I/K --save-state FILE` wrote, all K.")],
    *,
    device: o.Device = "auto",
    tables: o.Tables,
    quiet: o.Quiet = False,
) -> None:
    """Join shards that were evaluated apart: the results of all images together."""
    from lightning_imgmetrics.cli.commands import run_merge

    run_merge(shards, device=device, quiet=quiet, **vars(tables))


@app.command()
@o.command
def compare(
    a: Annotated[str, typer.Argument(help="JSON report A")],
    b: Annotated[str, typer.Argument(help="JSON report B")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Compare even what was measured differently.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    tables: o.Tables,
    quiet: o.Quiet = False,
) -> None:
    """Is the difference of two evaluations more than chance? Samples are paired by id where scores were kept."""
    from lightning_imgmetrics.cli.commands import run_compare

    run_compare(a, b, force=force, seed=seed, quiet=quiet, **vars(tables))


@app.command(name="metrics")
@o.command
def list_metrics(markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False) -> None:
    """All metrics: key, what it measures, which direction is better, its network; with --markdown the class, too."""
    from lightning_imgmetrics.cli.commands import show_metrics

    show_metrics(markdown=markdown)


@models.command(name="list")
@o.command
def list_models() -> None:
    """All networks of the table, and whether their weights are on this machine."""
    from lightning_imgmetrics.cli.commands import show_models

    show_models()


@models.command()
@o.command
def prefetch(names: Annotated[list[str], typer.Argument(help="Networks or hub ids")]) -> None:
    """Download and verify weights, for machines that will have no network."""
    from lightning_imgmetrics.cli.listing import fetched

    for name in names:
        typer.echo(f"{name}: {fetched(name)}")


@models.command()
@o.command
def where(
    name: Annotated[str | None, typer.Argument(help="Network or hub id; default all of the table")] = None,
) -> None:
    """Where the weights of a network are; exit code 1 if they are not on this machine."""
    from lightning_imgmetrics.cli.listing import located, locations

    if name is None:
        for network, path in locations().items():
            typer.echo(f"{network}: {path or 'not on this machine'}")
        return
    path = located(name)
    if path is None:
        typer.echo(f"{name} is not on this machine: imgmetrics models prefetch {name}", err=True)
        raise typer.Exit(1)
    typer.echo(path)


def _spec(metrics: str, settings: list[str] | None, networks: o.Networks, **others: object) -> MetricSpec:
    options = {**vars(networks), **others}
    return MetricSpec(metrics=tuple(parse_list(metrics)), settings=tuple(settings or ()), **options)
