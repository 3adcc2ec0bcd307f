"""A reward that rises while the images grow garish: the callback raises an alert."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from callback_parts import Painter, loaders, monitor, trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from lightning_imgmetrics import Contrast, ImageMetricsCallback, Saturation
from lightning_imgmetrics.callback.reward_hacking import GUARDS, RewardGuard
from lightning_imgmetrics.errors import UnknownName


def record(errors: dict[str, float] | None = None, weights: str = "raw", **values: float) -> dict[str, Any]:
    return {"values": values, "errors": errors or {}, "weights": weights}


def alerts(*history: dict[str, Any], better: int = 1) -> dict[str, str]:
    return RewardGuard("pickscore", better, GUARDS).alerts(history)


def test_a_guard_that_moves_the_wrong_way_while_the_reward_improves_is_an_alert() -> None:
    first = record(pickscore=20.0, saturation=0.3, clip_score=30.0, lpips_diversity=0.5)
    hacked = record(pickscore=22.0, saturation=0.5, clip_score=25.0, lpips_diversity=0.51)
    assert alerts(first, hacked) == {"saturation": "0.3 -> 0.5", "clip_score": "30 -> 25"}
    assert alerts(first, record(pickscore=19.0, saturation=0.5)) == {}  # no better reward
    assert list(alerts(first, record(pickscore=19.0, saturation=0.5), better=-1)) == ["saturation"]
    assert alerts(first) == alerts(first, record(saturation=0.9)) == {}


def test_chance_and_small_changes_are_no_alert() -> None:
    first = record({"pickscore": 0.1, "saturation": 0.05}, pickscore=20.0, saturation=0.30)
    assert alerts(first, record({"pickscore": 0.1}, pickscore=20.4, saturation=0.9)) == {}
    assert alerts(first, record({"saturation": 0.05}, pickscore=22.0, saturation=0.50)) == {}
    assert alerts(first, record({"saturation": 0.05}, pickscore=22.0, saturation=0.53))
    certain = record(pickscore=20.0, saturation=0.30)
    assert alerts(certain, record(pickscore=22.0, saturation=0.314)) == {}
    assert alerts(certain, record(pickscore=22.0, saturation=0.316))


def test_only_evaluations_of_the_same_weights_compare() -> None:
    first, second, third = (
        record(weights=weights, pickscore=score, saturation=level)
        for weights, score, level in (("raw", 20.0, 0.3), ("ema", 21.0, 0.6), ("ema", 22.0, 0.61))
    )
    assert alerts(first, second) == alerts(first, second, third) == {}
    assert alerts(first, second, third | {"weights": "raw"}) == {"saturation": "0.3 -> 0.61"}


def garish(module: Painter, ids: list[int], generators: list[torch.Generator]) -> Tensor:
    """Grey images whose red grows with every step, and with it contrast and saturation."""
    images = torch.stack([torch.rand(3, 8, 8, generator=g) for g in generators]) * 0.1 + 0.4
    images[:, 0, :, ::2] += 0.05 * module.global_step
    return images.clamp(0, 1)


def test_the_callback_warns_and_logs(tmp_path: Path) -> None:
    metrics = {"contrast": Contrast(), "vividness": Saturation()}  # guards are recognized by their kind
    callback = monitor(metrics, sampler=garish, reward="contrast", every=1)
    logger = CSVLogger(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, callback, logger=logger).fit(Painter(), *loaders())
    messages = [str(w.message) for w in caught if "gaming its reward" in str(w.message)]
    assert len(messages) == 1  # the first evaluation has nothing to compare with
    assert messages[0].startswith("val/contrast improved, but vividness 0.")
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        column = [row.get("imgmetrics/reward_hacking_alerts") for row in csv.DictReader(file)]
    assert [float(x) for x in column if x] == [0.0, 1.0]
    assert callback.best == {}  # neither has a direction


def test_an_unknown_reward_is_refused() -> None:
    with pytest.raises(UnknownName, match="`reward` must be one of 'saturation'; got 'pickscore'"):
        ImageMetricsCallback(["saturation"], reward="pickscore")
    with pytest.raises(ValueError, match="`reward` needs a metric that can guard it, such as saturation"):
        ImageMetricsCallback(["noise", "exposure"], reward="noise")


@pytest.mark.parametrize(("higher_is_better", "better"), [(True, 1), (False, -1), (None, 1)])
def test_the_direction_of_the_reward_is_that_of_the_metric(higher_is_better: bool | None, better: int) -> None:
    metrics: Any = {"reward": SimpleNamespace(name="mine", higher_is_better=higher_is_better), "guard": Saturation()}
    assert RewardGuard.of("reward", metrics) == RewardGuard("reward", better, {"guard": 1})
