"""Watching for reward hacking: a reward that rises while what it should stand for does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.metrics.base.metric import ImageMetric

# Which way each metric goes when a model learns the taste of a reward and not the task (Clark et al. 2024; Gao et al.
# 2023): more saturated and contrasty images that resemble each other and fit their prompts less. +1: it rises.
GUARDS = {
    "saturation": 1,
    "contrast": 1,
    "colorfulness": 1,
    "sharpness": 1,
    "lpips_diversity": -1,
    "vendi": -1,
    "recall": -1,
    "coverage": -1,
    "clip_score": -1,
    "siglip_score": -1,
    "fid": 1,
    "kid": 1,
    "cmmd": 1,
    "fd_dinov2": 1,
}
_ERRORS = 3.0  # standard errors of a change that is no chance
_SHARE = 0.05  # of the first value: a smaller change is no matter, however certain


def guards_among(metrics: Mapping[str, ImageMetric], reward: str) -> dict[str, int]:
    """Which of `metrics`, by name, can guard `reward`, and the way each goes under reward hacking: +1 up, -1 down.

    UnknownName for a reward that is none of them; ValueError where nothing can guard it.
    """
    if reward not in metrics:
        raise UnknownName("reward", reward, metrics)
    kinds = {name: m.name for name, m in metrics.items() if name != reward}
    found = {name: GUARDS[kind] for name, kind in kinds.items() if kind in GUARDS}
    if not found:
        raise ValueError(f"`reward` needs a metric that can guard it, such as {', '.join(GUARDS)}; got {[*kinds]}")
    return found


def parted(
    history: Sequence[Mapping[str, Any]], reward: str, higher_is_better: bool | None, guards: Mapping[str, int]
) -> dict[str, str]:
    """guard -> how it moved against the reward since the first evaluation of `history`; empty where nothing parted.

    Each record has "values" and "errors" (standard errors, where known) by metric, and "weights": only evaluations of
    weights like the last ones' count. A reward that did not improve by more than chance parts from nothing.
    """
    alike = [record for record in history if record["weights"] == history[-1]["weights"] and reward in record["values"]]
    if len(alike) < 2 or alike[-1] is not history[-1]:
        return {}
    first, last = alike[0], alike[-1]
    better = -1 if higher_is_better is False else 1
    if not _moved(first, last, reward, better, share=0.0):
        return {}
    both = [name for name in guards if name in first["values"] and name in last["values"]]
    return {
        name: f"{first['values'][name]:.4g} -> {last['values'][name]:.4g}"
        for name in both
        if _moved(first, last, name, guards[name], share=_SHARE)
    }


def _moved(first: Mapping[str, Any], last: Mapping[str, Any], name: str, way: int, *, share: float) -> bool:
    """Whether a value went `way` (+1 up, -1 down) by more than chance and more than a share of where it began."""
    errors = [record.get("errors", {}).get(name, 0.0) for record in (first, last)]
    change = way * (last["values"][name] - first["values"][name])
    return change > max(_ERRORS * (errors[0] ** 2 + errors[1] ** 2) ** 0.5, share * abs(first["values"][name]))
