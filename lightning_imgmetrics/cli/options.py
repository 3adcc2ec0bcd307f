"""The options of the commands, each with its help and its default once; importing this loads no framework.

Options that belong together are the fields of a dataclass; a command takes it as one parameter (see `command`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from lightning_imgmetrics.cli.request import UsageError, parse_batch_size, parse_list
from lightning_imgmetrics.errors import ImgMetricsError, IncompatibleStates, SignatureMismatch, UnknownName

IMAGES = "A folder, .zip, .tar, .npz or .npy of images, hf:NAME:SPLIT:COLUMN, torchvision:CLASS:SPLIT:ROOT"
_WHAT, _JUDGE, _HOW, _RUN, _OUT = "What is measured", "The judge", "How it runs", "Parts of a run", "What is written"
_BAD_INPUT = (UsageError, UnknownName, IncompatibleStates, SignatureMismatch)


def _option(panel: str, help: str, *names: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel)


Metrics = Annotated[
    str,
    _option(_WHAT, "Keys, comma-separated: see `imgmetrics metrics`. Presets: prdc, is, reconstruction, photometry."),
]
Settings = Annotated[
    list[str] | None,
    _option(_WHAT, "KEY.ARGUMENT=VALUE for one metric, such as kid.subset_size=100 or psnr.data_range=(0,1).", "--set"),
]
Reference = Annotated[str | None, _option(_WHAT, "Real images, as GENERATED, or a file of their statistics.")]
Prompts = Annotated[
    str | None, _option(_WHAT, "Prompts of the generated images: .txt, .jsonl, .csv, or a folder of .txt files.")
]
Target = Annotated[str | None, _option(_WHAT, "Images that the generated ones should equal, paired by name.")]
Source = Annotated[
    list[str] | None,
    _option(_WHAT, "What the images were made from (edits), paired by name; once per image that a judge sees."),
]
Rivals = Annotated[
    list[str] | None, _option(_WHAT, "What another model made of the same prompts, paired by name; once per rival.")
]
Questions = Annotated[str, _option(_WHAT, "The benchmark's file of prompts or questions.")]
PerPrompt = Annotated[
    bool, _option(_WHAT, "Also by prompt: mean, best and worst of n, spread over seeds.", "--per-prompt")
]
Labels = Annotated[str | None, _option(_WHAT, "Classes: `folder`, or a prompt table with categories.")]
ReferenceLabels = Annotated[str | None, _option(_WHAT, "Classes of the reference, as --labels.")]
Limit = Annotated[int | None, _option(_WHAT, "Only the first N generated images.")]
Intervals = Annotated[bool, _option(_WHAT, "Jackknife intervals of Fréchet distances, from 20 groups.", "--intervals")]
Seed = Annotated[int | None, _option(_WHAT, "Seed of the metrics that draw subsets.")]
Shard = Annotated[str | None, _option(_RUN, "I/K: measure only the I-th of K shares (from 1), of both sides.")]
SaveState = Annotated[str | None, _option(_RUN, "File for the states, for `imgmetrics merge`.")]
Scores = Annotated[str | None, _option(_OUT, "CSV file with the scores of each image.")]
Neighbors = Annotated[str | None, _option(_OUT, "CSV file with the nearest reference image of each generated one.")]
Records = Annotated[str | None, _option(_OUT, "JSONL file with each question about each image, its answer and why.")]
Device = Annotated[str, _option(_HOW, "auto, cpu, cuda, cuda:1, mps.")]
Quiet = Annotated[bool, _option(_OUT, "No table and no progress bar.", "--quiet", "-q")]
Debug = Annotated[bool, _option(_OUT, "Show where an error comes from.", "--debug")]


@dataclass
class Networks:
    """Which networks metrics use."""

    network: Annotated[
        str | None, _option(_WHAT, "Network of all metrics that have one; of one: --set KEY.network.")
    ] = None
    protocol: Annotated[
        str | None,
        _option(_WHAT, "How Inception is fed, or the tool that a statistics file is from: pytorch-fid, adm, ..."),
    ] = None
    weights: Annotated[str | None, _option(_WHAT, "File with the weights of the network.")] = None
    dtype: Annotated[
        str, _option(_HOW, "float32 or bfloat16; the deviation that it causes is measured and printed.")
    ] = "float32"
    compile: Annotated[bool, _option(_HOW, "torch.compile the networks.", "--compile")] = False


@dataclass
class Reading:
    """How images are read and passed through networks."""

    alpha: Annotated[str, _option(_WHAT, "Transparency: drop, or on white or black.")] = "drop"
    batch_size: Annotated[str, _option(_HOW, "Images per batch, or auto; halved when memory runs out.")] = "auto"
    workers: Annotated[int | None, _option(_HOW, "Processes that decode images.")] = None
    device: Device = "auto"
    max_failed: Annotated[float, _option(_HOW, "Unreadable images to leave out: a number, or below 1 a share.")] = 0

    def arguments(self) -> dict[str, Any]:
        """The fields of a `Request`."""
        return {**vars(self), "batch_size": parse_batch_size(self.batch_size)}


@dataclass
class Saving:
    """How a run is kept while it measures."""

    # Not `--run`: torchrun reads options before it passes them on, and takes that for its own `--run-path`.
    run: Annotated[str | None, _option(_RUN, "Folder to save the states in while measuring.", "--run-dir")] = None
    resume: Annotated[bool, _option(_RUN, "Continue the run in --run-dir.", "--resume")] = False
    save_every: Annotated[float, _option(_RUN, "Seconds between saves; 0: after each batch.")] = 30.0


@dataclass
class Tables:
    """Files for results."""

    json: Annotated[str | None, _option(_OUT, "File for results, scores and failures, for `imgmetrics compare`.")] = (
        None
    )
    csv: Annotated[str | None, _option(_OUT, "File for the table of results.")] = None
    markdown: Annotated[str | None, _option(_OUT, "File for the table of results with signatures.")] = None


@dataclass
class Judging:
    """Which judge is asked, and how."""

    judge: Annotated[
        str | None, _option(_JUDGE, "A checkpoint folder or hub id, or MODEL@URL of an OpenAI-compatible server.")
    ] = None
    revision: Annotated[str | None, _option(_JUDGE, "Revision of the checkpoint, or of what the server serves.")] = None
    concurrency: Annotated[int | None, _option(_JUDGE, "Questions to a server at a time.")] = None
    judge_batch_size: Annotated[int | None, _option(_JUDGE, "Questions to a local checkpoint in one pass.")] = None
    timeout: Annotated[float | None, _option(_JUDGE, "Seconds that a server has for one answer.")] = None
    max_tries: Annotated[int | None, _option(_JUDGE, "Times that a request to a server is tried.")] = None
    max_cost: Annotated[
        float | None, _option(_JUDGE, "Stop asking a server when this much is spent; needs --price.")
    ] = None
    price: Annotated[str | None, _option(_JUDGE, "IN,OUT: price of a million tokens, read and written.")] = None
    no_cache: Annotated[bool, _option(_JUDGE, "Neither read nor keep answers on disk.", "--no-cache")] = False
    dtype: Annotated[str | None, _option(_JUDGE, "float32 or bfloat16; default bfloat16.")] = None
    temperature: Annotated[
        float | None,
        _option(_JUDGE, "Draw answers at this temperature; with --set KEY.repeats=5, five for each image."),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """The fields of a `MetricSpec`; UsageError for options of a judge where there is none."""
        options = {
            "revision": self.revision,
            "concurrency": self.concurrency,
            "batch_size": self.judge_batch_size,
            "timeout": self.timeout,
            "max_tries": self.max_tries,
            "max_cost": self.max_cost,
            "price": None if self.price is None else _prices(self.price),
            "cache": False if self.no_cache else None,
        }
        options = {name: value for name, value in options.items() if value is not None}
        if options and self.judge is None:
            raise UsageError(f"{judge_option(next(iter(options)))} requires `--judge`")
        return {"judge": self.judge, "judge_options": options, "dtype": self.dtype, "temperature": self.temperature}


def judge_option(argument: str) -> str:
    """The option that gives a judge's argument."""
    name = {"batch_size": "judge_batch_size", "cache": "no_cache"}.get(argument, argument)
    return f"--{name.replace('_', '-')}"


def _prices(text: str) -> list[float]:
    try:
        prices = [float(part) for part in parse_list(text)]
    except ValueError:
        prices = []
    if len(prices) != 2 or not all(0 <= x < float("inf") for x in prices):
        raise UsageError(f"--price must be IN,OUT per million tokens, such as 2.5,10, got {text!r}")
    return prices


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A function as typer takes it: a parameter that is a dataclass becomes an option for each of its fields.

    An error of this package, or a file that cannot be read or written, becomes one line and an exit code: 2 for bad
    input, 1 for what failed. With `--debug`, which every command has, it comes through.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}

    @functools.wraps(function)
    def run(*, debug: bool, **values: Any) -> None:
        try:
            grouped = {
                name: kind(**{f.name: values.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()
            }
            function(**grouped, **values)
        except (ImgMetricsError, OSError) as error:
            if debug:
                raise
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2 if isinstance(error, _BAD_INPUT) else 1) from None

    parameters = [p for name, hint in hints.items() if name != "return" for p in _parameters(function, name, hint)]
    parameters.append(inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _parameters(function: Callable[..., None], name: str, hint: Any) -> list[inspect.Parameter]:
    """A parameter of a command, or those that its group stands for."""
    if not is_dataclass(hint):
        parameter = inspect.signature(function).parameters[name]
        return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint)]
    hints = get_type_hints(hint, include_extras=True)
    return [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(hint)
    ]
