"""The metrics that a command names, with the arguments that each of them takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

from lightning_imgmetrics.cli.request import Measures, UsageError, parse_list
from lightning_imgmetrics.errors import ImgMetricsError, UnknownName
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.resolve import as_judge
from lightning_imgmetrics.judges.metrics.verdict_metric import VerdictMetric
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.base.score_metric import ScoreMetric
from lightning_imgmetrics.metrics.distribution.inception_protocols import inception
from lightning_imgmetrics.metrics.human.win_rate import PairwiseMetric
from lightning_imgmetrics.models.registry import MODELS
from lightning_imgmetrics.per_prompt import PerPrompt
from lightning_imgmetrics.presets import PRESETS
from lightning_imgmetrics.registry import METRICS, arguments, metric

GROUPS = 20  # parts of the samples behind an interval
_WEIGHTS = ("feature_extractor_weights_path", "weights")
_ALIASES = {  # names among the annotations -> what can be typed of them
    "Any": {"int", "float", "str"},
    "Network": {"str"},
    "Model": {"str"},
    "Label": {"int", "str"},
    "Sequence[Label]": {"Sequence[int | str]"},
    "Target": {"Sequence[float]"},
    "Numbers": {"float", "Sequence[float]"},
    "Dimensions": {"Sequence[str]"},
}
_OPTION_OF = {"batch_size": "together", "cache": "ask-anew"}  # argument of a judge -> option, where they differ
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """Keys of `METRICS`, with the presets spelled out and each once; UnknownName lists both."""
    keys: list[str] = []
    for name in names:
        found = PRESETS.get(name, (name,))
        if found[0] not in METRICS:
            raise UnknownName("metric", name, [*METRICS, *PRESETS])
        keys += [key for key in found if key not in keys]
    if not keys:
        raise UsageError("--metrics must name at least one metric; `imgmetrics metrics` lists them")
    return tuple(keys)


def build(measures: Measures, *, protocol_is_used: bool = False) -> dict[str, ImageMetric]:
    """key -> metric. UsageError for an option that no metric takes, or one that a metric refuses.

    `protocol_is_used`: the protocol also says where a statistics file comes from.
    """
    given = _given(measures)
    made = {key: _one(key, measures, given[key]) for key in measures.metrics}
    wanted: dict[str, object] = {"--network": measures.network, "--weights": measures.weights, "--seed": measures.seed}
    wanted |= {"--judge": measures.judge, "--questions": measures.questions, "--temperature": measures.temperature}
    wanted |= {"--intervals": measures.intervals or None, "--protocol": None if protocol_is_used else measures.protocol}
    for option, value in wanted.items():
        if value is not None and not any(option in _options(key, measures) for key in made):
            raise UsageError(f"{option}: none of {', '.join(made)} takes it")
    served = {
        m.extractor.card.name for key, m in made.items() if "--weights" in _options(key, measures) and m.extractor
    }
    if len(served) > 1:
        raise UsageError(
            f"--weights is one file, and the metrics use {' and '.join(sorted(served))}: give each its own with"
            " --set KEY.weights=PATH or --set KEY.feature_extractor_weights_path=PATH"
        )
    return made | (_per_prompt(made) if measures.per_prompt else {})


def _per_prompt(made: dict[str, ImageMetric]) -> dict[str, ImageMetric]:
    """`PerPrompt` of those that score single samples."""
    scored = {key: m for key, m in made.items() if isinstance(m, ScoreMetric)}
    if not scored:
        raise UsageError(f"--per-prompt: none of {', '.join(made)} scores single images")
    try:
        return {f"{key}_per_prompt": PerPrompt(m) for key, m in scored.items()}
    except ValueError as error:
        raise UsageError(f"--per-prompt: {error}") from error


def needs(keys: Sequence[str]) -> dict[str, list[str]]:
    """What an update must bring, "real" (a reference), "prompts", "target" or "labels" -> the keys that need it.

    What metrics with a judge need hangs on their arguments: it shows when they are built.
    """
    found: dict[str, list[str]] = {}
    for key in keys:
        maker: Any = METRICS[key]
        kind: Any = maker.func if isinstance(maker, partial) else maker
        for name in () if issubclass(kind, VerdictMetric) else kind.inputs:
            found.setdefault(name, []).append(key)
    return found


def accepted(key: str) -> dict[str, inspect.Parameter]:
    """The arguments that may be set for a key: those of its class, and keyword-only ones of the bases."""
    maker: Any = METRICS[key]
    bound = len(maker.args) if isinstance(maker, partial) else 0
    own = list(inspect.signature(maker.func if isinstance(maker, partial) else maker).parameters)
    return {
        name: parameter
        for name, parameter in arguments(key).items()
        if name not in own[:bound] and (name in own or parameter.kind is parameter.KEYWORD_ONLY)
    }


def default_network(key: str) -> str:
    """The name of the network that a key uses where nothing else is asked for; "" for none."""
    maker: Any = METRICS[key]
    taken = arguments(key)
    if isinstance(maker, partial):
        bound = dict(zip(inspect.signature(maker.func).parameters, maker.args, strict=False))
        if "network" in bound:
            return str(bound["network"])
    if "feature" in accepted(key) or "protocol" in accepted(key):
        return "inception"
    if "net_type" in taken:
        return "lpips-alex"
    own = next((name for name in MODELS if name == key or name.startswith(f"{key}-")), None)
    if own is not None:
        return own
    named = [taken[name].default for name in ("network", "judge", "detector") if name in taken]
    named.append(getattr(getattr(maker, "func", maker), "default_network", ""))
    return next((name for name in named if isinstance(name, str)), "")


def _one(key: str, measures: Measures, given: dict[str, Any]) -> ImageMetric:
    taken = accepted(key)
    options = {name: value for part in _options(key, measures).values() for name, value in part.items()} | given
    if measures.image_names is not None and options.get("detections") is not None:  # which are told apart by name
        options.setdefault("names", list(measures.image_names))
    for name, option in (("judge", "--judge"), ("questions", f"--set {key}.questions")):
        if name not in options and name in taken and taken[name].default is inspect.Parameter.empty:
            raise UsageError(f"{option} is missing: {key} cannot do without")
    try:
        m = metric(key, **options)
    except ImgMetricsError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(f"metric {key!r}: {error}") from error
    if isinstance(m, PairwiseMetric) or m.extractor is None:
        raise UsageError(f"{key} compares ratings, not images")
    if (measures.dtype or "float32", measures.compiled) != ("float32", False):
        m.set_precision(dtype=measures.dtype, compiled=measures.compiled)
    return m


def _options(key: str, measures: Measures) -> dict[str, dict[str, Any]]:
    """option of the command -> constructor arguments that it means for `key`."""
    taken = accepted(key)
    found: dict[str, dict[str, Any]] = {}
    network = measures.network or getattr(taken.get("network"), "default", None)
    if "network" in taken and measures.network is not None:
        found["--network"] = {"network": measures.network}
    if measures.protocol is not None and "protocol" in taken:
        found["--protocol"] = {"protocol": measures.protocol}
    name = next((name for name in _WEIGHTS if name in taken), None)
    if measures.weights is not None and name is not None:
        found["--weights"] = {name: measures.weights}
    if "network" in taken and network == "inception":  # as the metrics whose argument is a protocol
        fed = {"network": inception(measures.protocol or "torchmetrics", measures.weights)}
        found |= {"--protocol": fed} if measures.protocol is not None else {}
        found |= {"--weights": fed} if measures.weights is not None else {}
    if measures.judge is not None and "judge" in taken:
        found["--judge"] = {"judge": _judge(measures)}
    if measures.temperature is not None and "decoding" in taken:
        kind: Any = getattr(METRICS[key], "func", METRICS[key])
        found["--temperature"] = {"decoding": replace(kind.default_decoding, temperature=measures.temperature)}
    if measures.questions is not None and "questions" in taken:
        found["--questions"] = {"questions": measures.questions}
    if measures.seed is not None and "seed" in taken:
        found["--seed"] = {"seed": measures.seed}
    if measures.intervals and getattr(taken.get("groups"), "default", None) == 0:
        found["--intervals"] = {"groups": GROUPS}
    if measures.class_names is not None and "class_names" in taken:
        found["class names"] = {"class_names": list(measures.class_names)}
    return found


def _judge(measures: Measures) -> Judge:
    given = measures.judge_options.items()
    options: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in given}
    options |= {} if measures.dtype is None else {"dtype": measures.dtype}
    try:
        judge = as_judge(str(measures.judge))
        taken = {field.name for field in fields(judge)}
        for name in options:
            if name not in taken:
                option = _OPTION_OF.get(name, name.replace("_", "-"))
                raise UsageError(f"--{option}: a {type(judge).__name__} does not take it")
        return replace(judge, **options)
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(f"--judge: {error}") from error


def _given(measures: Measures) -> dict[str, dict[str, Any]]:
    """key -> arguments of --set."""
    found: dict[str, dict[str, Any]] = {key: {} for key in measures.metrics}
    for setting in measures.settings:
        target, equals, text = setting.partition("=")
        name, _, argument = target.partition(".")
        if not (equals and argument):
            raise UsageError(f"--set must be KEY.ARGUMENT=VALUE, such as kid.subset_size=100, got {setting!r}")
        keys = [key for key in PRESETS.get(name, (name,)) if key in found]
        if not keys:
            raise UnknownName("--set", name, found)
        for key in keys:
            taken = accepted(key)
            if argument not in taken:
                raise UnknownName(f"--set {key}.", argument, taken)
            found[key][argument] = _typed(taken[argument], text, setting)
    return found


def _typed(parameter: inspect.Parameter, text: str, setting: str) -> Any:
    """`text` as the first of the parameter's types that it can be: values with commas, bool, None, int, float, str."""
    kinds = {kind.strip() for kind in str(parameter.annotation).split("|")}
    kinds = {real for kind in kinds for real in _ALIASES.get(kind, {kind})}
    listed = [kind.removeprefix("Sequence[").removesuffix("]") for kind in kinds if kind.startswith("Sequence[")]
    none = "None" in kinds and text.lower() == "none"
    if listed and not none and ("," in text or kinds.isdisjoint(("int", "float", "str"))):
        return [_typed(parameter.replace(annotation=listed[0]), part, setting) for part in parse_list(text)]
    readers: dict[str, Callable[[str], Any]] = {
        "bool": lambda text: _TRUTH[text.lower()],
        "None": lambda text: {"none": None}[text.lower()],
        "int": int,
        "float": float,
        "str": str,
    }
    for kind, read in readers.items():
        if kind in kinds:
            try:
                return read(text)
            except (ValueError, KeyError):
                continue
    known = [kind for kind in readers if kind in kinds]
    wanted = f"{' or '.join(known)}, got {text!r}" if known else "given in Python: it is no plain value"
    raise UsageError(f"--set {setting}: `{parameter.name}` must be {wanted}")
