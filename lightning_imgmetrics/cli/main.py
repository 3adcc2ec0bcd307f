"""`imgmetrics`: the commands. Nothing here imports torch before a command runs, so that help is quick."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lightning_imgmetrics.cli import judging, options as o
from lightning_imgmetrics.cli.request import Measures, Request, UsageError, parse_batch_size, parse_list, parse_shard

app = typer.Typer(name="imgmetrics", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
models = typer.Typer(no_args_is_help=True, help="Networks: what there is, where the weights lie, fetching them.")
app.add_typer(models, name="models")
app.command()(judging.judge)
app.command()(judging.bench)
_REFERENCE = "A folder, .zip, .tar, .npz or .npy of images, hf:NAME:SPLIT:COLUMN, torchvision:CLASS:SPLIT:ROOT"


@app.callback()
def root() -> None:
    """Image metrics that can be cited: FID, KID, precision and recall, CLIPScore, LPIPS and more.

    Also under torchrun, where the ranks share the images: `torchrun --nproc-per-node 8 -m lightning_imgmetrics ...`.
    """


@app.command()
@o.reporting_errors
def evaluate(
    generated: Annotated[str, typer.Argument(help=_REFERENCE)],
    metrics: o.Metrics,
    reference: Annotated[str | None, typer.Option(help="As GENERATED, or a file of statistics")] = None,
    network: o.Network = None,
    protocol: o.Protocol = None,
    weights: o.Weights = None,
    settings: o.Settings = None,
    prompts: o.Prompts = None,
    target: o.Target = None,
    per_prompt: o.PerPrompt = False,
    labels: o.Labels = None,
    reference_labels: o.ReferenceLabels = None,
    limit: o.Limit = None,
    alpha: o.Alpha = "drop",
    intervals: o.Intervals = False,
    seed: o.Seed = None,
    batch_size: o.BatchSize = "auto",
    workers: o.Workers = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    compile: o.Compile = False,
    max_failed: o.MaxFailed = 0,
    run: o.Run = None,
    resume: o.Resume = False,
    save_every: o.SaveEvery = 30.0,
    shard: o.Shard = None,
    save_state: o.SaveState = None,
    json: o.Json = None,
    csv: o.Csv = None,
    markdown: o.Markdown = None,
    scores: o.Scores = None,
    neighbors: o.Neighbors = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Measure generated images, against a reference where the metric needs one."""
    part = parse_shard(shard)
    if part[1] > 1 and any((json, csv, markdown, scores, neighbors)):
        raise UsageError("a shard has no results: `imgmetrics merge` writes them when all are there")
    from lightning_imgmetrics.cli.commands import run_evaluate

    request = Request(
        measures=_measures(
            metrics,
            network,
            protocol,
            weights,
            settings,
            dtype=dtype,
            compile=compile,
            intervals=intervals,
            seed=seed,
            per_prompt=per_prompt,
        ),
        generated=generated,
        reference=reference,
        prompts=prompts,
        target=target,
        labels=labels,
        reference_labels=reference_labels,
        limit=limit,
        alpha=alpha,
        max_failed=max_failed,
        batch_size=parse_batch_size(batch_size),
        workers=workers,
        device=device,
        shard=part,
        run=run,
        resume=resume,
        save_every=save_every,
        save_state=save_state,
        neighbors=neighbors is not None,
    )
    run_evaluate(request, json=json, csv=csv, markdown=markdown, scores=scores, neighbors=neighbors, quiet=quiet)


@app.command()
@o.reporting_errors
def pairs(
    images: Annotated[str, typer.Argument(help=_REFERENCE)],
    target: Annotated[str, typer.Argument(help="What each of IMAGES should equal, paired by name")],
    metrics: o.Metrics = "psnr,ssim,lpips",
    network: o.Network = None,
    protocol: o.Protocol = None,
    weights: o.Weights = None,
    settings: o.Settings = None,
    prompts: o.Prompts = None,
    limit: o.Limit = None,
    alpha: o.Alpha = "drop",
    batch_size: o.BatchSize = "auto",
    workers: o.Workers = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    compile: o.Compile = False,
    max_failed: o.MaxFailed = 0,
    json: o.Json = None,
    csv: o.Csv = None,
    markdown: o.Markdown = None,
    scores: o.Scores = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Measure images against their targets, one to one: reconstruction, super-resolution, editing."""
    from lightning_imgmetrics.cli.commands import run_evaluate

    request = Request(
        measures=_measures(metrics, network, protocol, weights, settings, dtype=dtype, compile=compile),
        generated=images,
        target=target,
        prompts=prompts,
        limit=limit,
        alpha=alpha,
        max_failed=max_failed,
        batch_size=parse_batch_size(batch_size),
        workers=workers,
        device=device,
    )
    run_evaluate(request, json=json, csv=csv, markdown=markdown, scores=scores, neighbors=None, quiet=quiet)


@app.command()
@o.reporting_errors
def stats(
    reference: Annotated[str, typer.Argument(help=f"{_REFERENCE}, or a statistics file to convert")],
    output: Annotated[str, typer.Option("--output", "-o", help="File to write, .safetensors.")],
    metrics: o.Metrics,
    network: o.Network = None,
    protocol: o.Protocol = None,
    weights: o.Weights = None,
    settings: o.Settings = None,
    alpha: o.Alpha = "drop",
    batch_size: o.BatchSize = "auto",
    workers: o.Workers = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    compile: o.Compile = False,
    max_failed: o.MaxFailed = 0,
    run: o.Run = None,
    resume: o.Resume = False,
    save_every: o.SaveEvery = 30.0,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Measure a reference once and keep what the metrics need of it."""
    from lightning_imgmetrics.cli.commands import run_stats

    request = Request(
        measures=_measures(metrics, network, protocol, weights, settings, dtype=dtype, compile=compile),
        reference=reference,
        alpha=alpha,
        max_failed=max_failed,
        batch_size=parse_batch_size(batch_size),
        workers=workers,
        device=device,
        run=run,
        resume=resume,
        save_every=save_every,
        hashed=True,
    )
    run_stats(request, output=output, quiet=quiet)


@app.command()
@o.reporting_errors
def merge(
    shards: Annotated[list[str], typer.Argument(help="What `evaluate --shard I/K --save-state FILE` wrote, all K.")],
    device: o.Device = "auto",
    json: o.Json = None,
    csv: o.Csv = None,
    markdown: o.Markdown = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Join shards that were evaluated apart: the results of all images together."""
    from lightning_imgmetrics.cli.commands import run_merge

    run_merge(shards, device=device, json=json, csv=csv, markdown=markdown, quiet=quiet)


@app.command()
@o.reporting_errors
def compare(
    a: Annotated[str, typer.Argument(help="JSON report A")],
    b: Annotated[str, typer.Argument(help="JSON report B")],
    force: Annotated[bool, typer.Option("--force", help="Compare even what was measured differently.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    json: o.Json = None,
    csv: o.Csv = None,
    markdown: o.Markdown = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Is the difference of two evaluations more than chance? Samples are paired by id where scores were kept."""
    from lightning_imgmetrics.cli.commands import run_compare

    run_compare(a, b, force=force, seed=seed, json=json, csv=csv, markdown=markdown, quiet=quiet)


@app.command(name="metrics")
@o.reporting_errors
def list_metrics(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False, debug: o.Debug = False
) -> None:
    """All metrics: key, what it measures, which direction is better, its network; with --markdown the class, too."""
    from lightning_imgmetrics.cli.commands import show_metrics

    show_metrics(markdown=markdown)


@models.command(name="list")
@o.reporting_errors
def list_models(debug: o.Debug = False) -> None:
    """All networks of the table, and whether their weights are on this machine."""
    from lightning_imgmetrics.cli.commands import show_models

    show_models()


@models.command()
@o.reporting_errors
def prefetch(names: Annotated[list[str], typer.Argument(help="Networks or hub ids")], debug: o.Debug = False) -> None:
    """Download and verify weights, for machines that will have no network."""
    from lightning_imgmetrics.cli.listing import fetched

    for name in names:
        typer.echo(f"{name}: {fetched(name)}")


@models.command()
@o.reporting_errors
def where(
    name: Annotated[str | None, typer.Argument(help="Network or hub id; default all of the table")] = None,
    debug: o.Debug = False,
) -> None:
    """Where the weights of a network lie; exit code 1 if they are not on this machine."""
    from lightning_imgmetrics.cli.listing import located, locations

    if name is None:
        for known, path in locations().items():
            typer.echo(f"{known}: {path or 'not on this machine'}")
        return
    path = located(name)
    if path is None:
        typer.echo(f"{name} is not on this machine: imgmetrics models prefetch {name}", err=True)
        raise typer.Exit(1)
    typer.echo(path)


def _measures(
    metrics: str,
    network: str | None,
    protocol: str | None,
    weights: str | None,
    settings: list[str] | None,
    *,
    compile: bool,
    **others: Any,
) -> Measures:
    return Measures(
        metrics=tuple(parse_list(metrics)),
        network=network,
        protocol=protocol,
        weights=weights,
        settings=tuple(settings or ()),
        compiled=compile,
        **others,
    )
