"""The short names of all metrics, for the callback, the command line and the tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.metrics.alignment import CLIPScore
from lightning_imgmetrics.metrics.distribution import FrechetDistance, FrechetInceptionDistance
from lightning_imgmetrics.metrics.human import WinRate
from lightning_imgmetrics.metrics.reference import LearnedPerceptualImagePatchSimilarity, LPIPSDiversity
from lightning_imgmetrics.metrics.stateful import ImageMetric

METRICS: dict[str, Callable[..., ImageMetric]] = {
    "fid": FrechetInceptionDistance,
    "fd_digits_clip": partial(FrechetDistance, "digits-clip"),
    "fd_clip": partial(FrechetDistance, "openai/clip-vit-large-patch14"),
    "clip_score": CLIPScore,
    "lpips": LearnedPerceptualImagePatchSimilarity,
    "lpips_diversity": LPIPSDiversity,
    "win_rate": WinRate,
}


def metric(key: str, **kwargs: object) -> ImageMetric:
    """The metric of a key; UnknownName lists the known ones."""
    if key not in METRICS:
        raise UnknownName("metric", key, METRICS)
    return METRICS[key](**kwargs)
