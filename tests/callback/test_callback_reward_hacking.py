"""A reward that rises while the images grow garish: the callback says so."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from callback_parts import Painter, loaders, monitor, trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from lightning_imgmetrics import Contrast, ImageMetricsCallback, Saturation
from lightning_imgmetrics.callback import guards
from lightning_imgmetrics.errors import UnknownName


def record(errors: dict[str, float] | None = None, weights: str = "raw", **values: float) -> dict[str, Any]:
    return {"values": values, "errors": errors or {}, "weights": weights}


def parted(history: list[dict[str, Any]], reward: str, higher_is_better: bool | None) -> dict[str, str]:
    return guards.parted(history, reward, higher_is_better, guards.GUARDS)


def test_a_guard_parts_where_the_reward_improves_and_it_moves_the_wrong_way() -> None:
    first = record(pickscore=20.0, saturation=0.3, clip_score=30.0, lpips_diversity=0.5)
    hacked = record(pickscore=22.0, saturation=0.5, clip_score=25.0, lpips_diversity=0.51)
    assert parted([first, hacked], "pickscore", True) == {"saturation": "0.3 -> 0.5", "clip_score": "30 -> 25"}
    assert parted([first, record(pickscore=19.0, saturation=0.5)], "pickscore", True) == {}  # no better reward
    assert list(parted([first, record(pickscore=19.0, saturation=0.5)], "pickscore", False)) == ["saturation"]
    assert parted([first], "pickscore", True) == parted([first, record(saturation=0.9)], "pickscore", True) == {}


def test_chance_and_trifles_part_from_nothing() -> None:
    first = record({"pickscore": 0.1, "saturation": 0.05}, pickscore=20.0, saturation=0.30)
    assert parted([first, record({"pickscore": 0.1}, pickscore=20.4, saturation=0.9)], "pickscore", True) == {}
    assert parted([first, record({"saturation": 0.05}, pickscore=22.0, saturation=0.50)], "pickscore", True) == {}
    assert parted([first, record({"saturation": 0.05}, pickscore=22.0, saturation=0.53)], "pickscore", True)
    certain = record(pickscore=20.0, saturation=0.30)
    assert parted([certain, record(pickscore=22.0, saturation=0.314)], "pickscore", True) == {}
    assert parted([certain, record(pickscore=22.0, saturation=0.316)], "pickscore", True)


def garish(module: Painter, ids: list[int], generators: list[torch.Generator]) -> Tensor:
    """Grey images whose red grows with every step, and with it contrast and saturation."""
    images = torch.stack([torch.rand(3, 8, 8, generator=g) for g in generators]) * 0.1 + 0.4
    images[:, 0, :, ::2] += 0.05 * module.global_step
    return images.clamp(0, 1)


def test_the_callback_warns_and_logs(tmp_path: Path) -> None:
    metrics = {"contrast": Contrast(), "vividness": Saturation()}  # guards are known by what they are
    callback = monitor(metrics, sampler=garish, reward="contrast", every=1)
    logger = CSVLogger(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, callback, logger=logger).fit(Painter(), *loaders())
    told = [str(w.message) for w in caught if "gaming its reward" in str(w.message)]
    assert len(told) == 1  # the first evaluation has nothing to part from
    assert told[0].startswith("val/contrast improved, but vividness 0.")
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        logged = [row["val/guards_parted"] for row in csv.DictReader(file) if row.get("val/guards_parted")]
    assert [float(x) for x in logged] == [0.0, 1.0]
    assert callback.best == {}  # neither has a direction


def test_only_evaluations_of_like_weights_compare() -> None:
    first, second, third = (
        record(weights=weights, pickscore=score, saturation=level)
        for weights, score, level in (("raw", 20.0, 0.3), ("ema", 21.0, 0.6), ("ema", 22.0, 0.61))
    )
    assert parted([first, second], "pickscore", True) == parted([first, second, third], "pickscore", True) == {}
    assert parted([first, second, third | {"weights": "raw"}], "pickscore", True) == {"saturation": "0.3 -> 0.61"}


def test_an_unknown_reward_is_refused() -> None:
    with pytest.raises(UnknownName, match="`reward` must be one of 'saturation'; got 'pickscore'"):
        ImageMetricsCallback(["saturation"], reward="pickscore")
    with pytest.raises(ValueError, match="`reward` needs a metric that can guard it, such as saturation"):
        ImageMetricsCallback(["noise", "exposure"], reward="noise")
