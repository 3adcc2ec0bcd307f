"""Reward hacking: a reward that rises while what it should measure does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
_ERRORS = 3.0  # standard errors beyond which a change is not chance
_SHARE = 0.05  # of the first value: a smaller change is unimportant, however certain


@dataclass(frozen=True)
class RewardGuard:
    """Compares the last evaluation with the first: did `reward` improve while a guard went its way in `directions`?

    `better` is the way in which the reward improves. +1: up, -1: down.
    """

    reward: str
    better: int
    directions: Mapping[str, int]

    @classmethod
    def of(cls, reward: str, metrics: Mapping[str, ImageMetric]) -> RewardGuard:
        """The metrics, by name, that can guard `reward`.

        Raises UnknownName for a reward that is not among them, and ValueError where none can guard it.
        """
        if reward not in metrics:
            raise UnknownName("reward", reward, metrics)
        kinds = {name: m.name for name, m in metrics.items() if name != reward}
        directions = {name: GUARDS[kind] for name, kind in kinds.items() if kind in GUARDS}
        if not directions:
            raise ValueError(f"`reward` needs a metric that can guard it, such as {', '.join(GUARDS)}; got {[*kinds]}")
        return cls(reward, -1 if metrics[reward].higher_is_better is False else 1, directions)

    def alerts(self, history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """guard -> its two values, of the guards that moved as under reward hacking since the first evaluation.

        Each record has "values" and "errors" (standard errors, where there are any) by metric, and "weights": only
        evaluations of the same weights as the last one's count. A reward that did not improve by more than chance
        raises no alert.
        """
        weights = history[-1]["weights"]
        records = [r for r in history if r["weights"] == weights and self.reward in r["values"]]
        if len(records) < 2 or records[-1] is not history[-1]:
            return {}
        first, last = records[0], records[-1]
        if not _moved(first, last, self.reward, self.better, share=0.0):
            return {}
        both = [name for name in self.directions if name in first["values"] and name in last["values"]]
        return {
            name: f"{first['values'][name]:.4g} -> {last['values'][name]:.4g}"
            for name in both
            if _moved(first, last, name, self.directions[name], share=_SHARE)
        }


def _moved(first: Mapping[str, Any], last: Mapping[str, Any], name: str, direction: int, *, share: float) -> bool:
    """Whether a value went in a direction (+1 up, -1 down) by more than chance and than a share of where it began."""
    errors = [record.get("errors", {}).get(name, 0.0) for record in (first, last)]
    change = direction * (last["values"][name] - first["values"][name])
    return change > max(_ERRORS * (errors[0] ** 2 + errors[1] ** 2) ** 0.5, share * abs(first["values"][name]))
