"""GenEval during training: its prompts are sampled in order, and every rank's share of them is judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from callback_parts import Painter, loaders, monitor, rank_trainer, values
from helpers.detectors import save_detector

from lightning_imgmetrics.models.detection.detections import CLASSES
from lightning_imgmetrics.models.detection.mask2former import DetectorExtractor
from lightning_imgmetrics.prompt_benchmarks.geneval.metric import GenEval
from lightning_imgmetrics.prompt_benchmarks.geneval.prompts import Clause, GenEvalPrompt
from lightning_imgmetrics.prompt_benchmarks.geneval.rules import Rules

PROMPTS = [
    GenEvalPrompt(f"a photo of {name}", tag, (Clause(name, 1),))
    for i, name in enumerate(CLASSES[:12])
    for tag in (("single_object", "counting")[i % 2],)
]


def trained(rank: int, size: int, folder: str, checkpoint: str) -> tuple[list[float], dict[str, float], list[str], Any]:
    detector = DetectorExtractor(checkpoint, resize="processor", min_score=0.01)
    metric = GenEval(PROMPTS, detector=detector, rules=Rules(threshold=0.01, counting_threshold=0.02))
    callback = monitor({"geneval": metric}, prompts=metric.prompts, num_samples=16)
    rank_trainer(rank, size, folder, callback, max_epochs=1).fit(Painter(lr=0.0), *loaders())
    result = callback.results["geneval"]
    return values(callback, "geneval"), dict(result.details), metric.missing(), result.interval


def test_ranks_share_the_prompts(worlds: Any, tmp_path: Path) -> None:
    checkpoint = save_detector(tmp_path / "detector")
    alone = trained(0, 1, str(tmp_path), checkpoint)
    assert 0 < alone[0][0] < 1
    assert (alone[1]["n_items"], alone[1]["n_failed"], alone[2]) == (12, 0, [])
    for answer in worlds(2, trained, str(tmp_path), checkpoint):
        assert answer[0] == alone[0]
        assert answer[1] == pytest.approx(alone[1])
        assert answer[2:] == alone[2:]
