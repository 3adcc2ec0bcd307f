"""The metrics that a command names, with what its options mean for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from inspect import Parameter
from typing import Any

from lightning_imgmetrics.cli.options import judge_option
from lightning_imgmetrics.cli.request import MetricSpec, UsageError
from lightning_imgmetrics.cli.settings import arguments, parse_settings
from lightning_imgmetrics.errors import UnknownName, WeightsMismatch
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.resolve import as_judge
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.distribution.inception_protocols import inception
from lightning_imgmetrics.per_prompt import PerPrompt
from lightning_imgmetrics.presets import PRESETS
from lightning_imgmetrics.registry import METRICS, metric

GROUPS = 20  # parts of the samples behind an interval
_WEIGHTS = ("feature_extractor_weights_path", "weights")
_ASKING = ("judge", "bench")  # the commands with the options of a judge


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """Keys of `METRICS`, with the presets spelled out and each once; UnknownName lists both."""
    keys: list[str] = []
    for name in names:
        members = PRESETS.get(name, (name,))
        if members[0] not in METRICS:
            raise UnknownName("metric", name, [*METRICS, *PRESETS])
        keys += [key for key in members if key not in keys]
    if not keys:
        raise UsageError("--metrics must name at least one metric; `imgmetrics metrics` lists them")
    return tuple(keys)


def build(spec: MetricSpec, *, command: str, protocol_is_used: bool = False) -> dict[str, ImageMetric]:
    """key -> metric. UsageError for an option that no metric takes, or a value that a metric refuses.

    `protocol_is_used`: the protocol also says where a statistics file comes from.
    """
    settings, options = parse_settings(spec.settings, spec.metrics), _options(spec)
    shared = {key: _shared(key, options) for key in spec.metrics}
    taken = {"class names", *(option for given in shared.values() for option in given)}
    taken |= {"--protocol"} if protocol_is_used else set()
    for option, value in options.items():
        if value is not None and option not in taken:
            raise UsageError(f"{option}: none of {', '.join(spec.metrics)} takes it")
    metrics = {key: _metric(key, spec, shared[key], settings[key], command) for key in spec.metrics}
    weighted = [m.extractor for key, m in metrics.items() if "--weights" in shared[key] and m.extractor is not None]
    networks = sorted({extractor.card.name for extractor in weighted})
    if len(networks) > 1:
        raise UsageError(
            f"--weights is one file, and the metrics use {' and '.join(networks)}: give each its own with"
            " --set KEY.weights=PATH or --set KEY.feature_extractor_weights_path=PATH"
        )
    return metrics | (_per_prompt(metrics) if spec.per_prompt else {})


def _per_prompt(metrics: dict[str, ImageMetric]) -> dict[str, ImageMetric]:
    """`PerPrompt` of those that score single samples."""
    scores: dict[str, Any] = {key: m for key, m in metrics.items() if m.scores_samples}
    if not scores:
        raise UsageError(f"--per-prompt: none of {', '.join(metrics)} scores single images")
    try:
        return {f"{key}_per_prompt": PerPrompt(m) for key, m in scores.items()}
    except ValueError as error:
        raise UsageError(f"--per-prompt: {error}") from error


def _options(spec: MetricSpec) -> dict[str, Any]:
    """option -> what it says to all metrics that take it, None for nothing."""
    return {
        "--network": spec.network,
        "--protocol": spec.protocol,
        "--weights": spec.weights,
        "--seed": spec.seed,
        "--intervals": GROUPS if spec.intervals else None,
        "--judge": None if spec.judge is None else _judge(spec),
        "--temperature": spec.temperature,
        "--questions": spec.questions,
        "class names": None if spec.class_names is None else list(spec.class_names),
    }


def _shared(key: str, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """option -> the constructor arguments that it means for `key`, without the options that it does not take."""
    parameters = arguments(key)
    names = {"--intervals": "groups", "--temperature": "decoding", "class names": "class_names"}
    names["--weights"] = next((name for name in _WEIGHTS if name in parameters), "weights")
    meant = {}
    for option, value in options.items():
        name = names.get(option, option.removeprefix("--"))
        if value is not None and name in parameters and (name != "groups" or parameters[name].default == 0):
            meant[option] = {name: _drawn(key, value) if name == "decoding" else value}
    network = options["--network"] or getattr(parameters.get("network"), "default", None)
    if network == "inception" and "protocol" not in parameters:  # as the metrics that take a protocol
        fed = {"network": inception(options["--protocol"] or "torchmetrics", options["--weights"])}
        meant |= {option: fed for option in ("--protocol", "--weights") if options[option] is not None}
    return meant


def _drawn(key: str, temperature: float) -> Any:
    kind: Any = getattr(METRICS[key], "func", METRICS[key])
    return replace(kind.default_decoding, temperature=temperature)


def _metric(
    key: str, spec: MetricSpec, shared: dict[str, dict[str, Any]], settings: dict[str, Any], command: str
) -> ImageMetric:
    given = {name: value for part in shared.values() for name, value in part.items()} | settings
    if spec.image_names is not None and given.get("detections") is not None:  # which are by name
        given.setdefault("names", list(spec.image_names))
    for name, parameter in arguments(key).items():
        if parameter.default is Parameter.empty and name not in given:
            raise UsageError(f"{key} requires {_how_to_give(key, name, command)}")
    try:
        m = metric(key, **given)
    except WeightsMismatch:
        raise
    except (TypeError, ValueError) as error:
        hint = f"; --set {key}.network=... is for {key} alone" if "--network" in shared else ""
        raise UsageError(f"metric {key!r}: {error}{hint if '`network`' in str(error) else ''}") from error
    if m.extractor is None:
        raise UsageError(f"{key} compares ratings, not images")
    if not spec.plain_precision:
        m.set_precision(dtype=spec.dtype, compiled=spec.compile)
    return m


def _how_to_give(key: str, name: str, command: str) -> str:
    """How a required argument is given on the command line."""
    if name == "judge":
        return "`--judge`" + ("" if command in _ASKING else ", an option of `imgmetrics judge` and `imgmetrics bench`")
    if name == "network":
        return f"`--network` or `--set {key}.network=...`"
    return f"`--set {key}.{name}=...`" + (", or `imgmetrics bench`" if name == "questions" else "")


def _judge(spec: MetricSpec) -> Judge:
    options: dict[str, Any] = {k: tuple(x) if isinstance(x, list) else x for k, x in spec.judge_options.items()}
    options |= {} if spec.dtype is None else {"dtype": spec.dtype}
    try:
        judge = as_judge(str(spec.judge))
        for name in options.keys() - {field.name for field in fields(judge)}:
            raise UsageError(f"{judge_option(name)}: a {type(judge).__name__} does not take it")
        return replace(judge, **options)
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(f"--judge: {error}") from error
