"""What there is: metrics and networks."""

from __future__ import annotations

from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from lightning_imgmetrics.cli.settings import arguments
from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.models.base.network import Network
from lightning_imgmetrics.models.registry import MODELS, as_extractor
from lightning_imgmetrics.registry import METRICS, metric_class

METRIC_COLUMNS = ("key", "class", "measures", "better", "network")
MODEL_COLUMNS = ("network", "license", "here", "source")
_BETTER = {True: "higher", False: "lower", None: ""}


def metric_rows() -> list[list[str]]:
    """A row of `METRIC_COLUMNS` for each key."""
    rows = []
    for key in METRICS:
        kind: Any = metric_class(key)
        measures = " ".join((kind.__doc__ or "").strip().split("\n\n")[0].split())
        rows.append([key, kind.__name__, measures, _BETTER[kind.higher_is_better], default_network(key)])
    return rows


def default_network(key: str) -> str:
    """The name of the network, detector or judge that a key uses where no other is named; "" for none."""
    maker, kind = METRICS[key], metric_class(key)
    bound = dict(zip(signature(kind).parameters, maker.args, strict=False)) if isinstance(maker, partial) else {}
    defaults = {name: parameter.default for name, parameter in arguments(key).items()} | bound
    standard = "inception" if "protocol" in defaults else getattr(kind, "default_network", None)
    own = next((name for name in MODELS if name == key or name.startswith(f"{key}-")), None)
    names = (defaults.get("network") or standard, own, defaults.get("judge"), defaults.get("detector"))
    name = next((name for name in names if isinstance(name, str)), "")
    return f"lpips-{name}" if f"lpips-{name}" in MODELS else name


def model_rows() -> list[list[str]]:
    """A row of `MODEL_COLUMNS` for each network of the table; nothing is fetched."""
    networks = {name: _network(name) for name in MODELS}
    return [[k, n.card.license, "yes" if n.local_path() else "no", n.card.source] for k, n in networks.items()]


def fetched(name: str) -> str:
    """Where the weights of a network are, after they were fetched where necessary and verified."""
    return str(_network(name).prefetch())


def located(name: str) -> str | None:
    """Where the weights of a network are, None if they are not on this machine."""
    path = _network(name).local_path()
    return None if path is None else str(path)


def locations() -> dict[str, str | None]:
    """`located` of each network of the table."""
    return {name: located(name) for name in MODELS}


def _network(name: str) -> Network:
    if name in MODELS:
        return MODELS[name]()
    if "/" not in name and not Path(name).expanduser().exists():  # no hub id, and no folder
        raise UnknownName("network", name, [*MODELS, "a hub id", "a checkpoint folder"])
    return as_extractor(name)
