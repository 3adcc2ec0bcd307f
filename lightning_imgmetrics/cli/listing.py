"""What there is: metrics and networks."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning_imgmetrics.cli.build import default_network
from lightning_imgmetrics.models.base.network import Network
from lightning_imgmetrics.models.registry import MODELS, as_extractor
from lightning_imgmetrics.registry import METRICS

METRIC_COLUMNS = ("key", "class", "measures", "better", "network")
MODEL_COLUMNS = ("network", "license", "here", "source")
_BETTER = {True: "higher", False: "lower", None: ""}


def metric_rows() -> list[list[str]]:
    """A row of `METRIC_COLUMNS` for each key."""
    out = []
    for key, maker in METRICS.items():
        kind: Any = maker.func if isinstance(maker, partial) else maker
        measures = " ".join((kind.__doc__ or "").strip().split("\n\n")[0].split())
        out.append([key, kind.__name__, measures, _BETTER[kind.higher_is_better], default_network(key)])
    return out


def model_rows() -> list[list[str]]:
    """A row of `MODEL_COLUMNS` for each network of the table; nothing is fetched."""
    out = []
    for name in MODELS:
        card, where = (network := _network(name)).card, network.local_path()
        out.append([name, card.license, "yes" if where else "no", card.source])
    return out


def fetched(name: str) -> str:
    """Where the weights of a network lie now, after they were fetched where necessary and verified."""
    return str(_network(name).prefetch())


def located(name: str) -> str | None:
    """Where the weights of a network lie, None if they do not."""
    path = _network(name).local_path()
    return None if path is None else str(path)


def locations() -> dict[str, str | None]:
    """`located` of each network of the table."""
    return {name: located(name) for name in MODELS}


def _network(name: str) -> Network:
    return MODELS[name]() if name in MODELS else as_extractor(name)
