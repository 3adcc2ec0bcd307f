"""Judges during training: a subset, a cadence of their own, rationales beside images, and no end of training."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from callback_parts import PROMPTS, Painter, events, loaders, monitor, rank_trainer, trainer, values
from helpers.judges import Grade, ScriptedJudge, chance, texts_of
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lightning_imgmetrics import FrechetDistance, ImageMetricsCallback
from lightning_imgmetrics.callback.sampler import EditedImages
from lightning_imgmetrics.errors import JudgeUnavailable, SamplerError, UnknownName
from lightning_imgmetrics.judges.backends.question import IMAGE, Question, turn
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.verdicts import Verdict

EPOCHS = 4


def grading(**kwargs: Any) -> Grade:
    return Grade(ScriptedJudge(script=lambda q: f"{chance(q):.6f}"), **kwargs)


def grades(callback: ImageMetricsCallback) -> list[float]:
    return [record["values"]["grade"] for record in callback.history if "grade" in record["values"]]


def fit(root: Path, metrics: dict[str, Any], module: Any = None, **kwargs: Any) -> ImageMetricsCallback:
    logger = kwargs.pop("logger", False)
    callback = monitor(metrics, **{"prompts": PROMPTS, **kwargs})
    trainer(root, callback, max_epochs=EPOCHS, logger=logger).fit(module or Painter(), *loaders())
    return callback


def test_a_subset_at_a_cadence_of_its_own(tmp_path: Path) -> None:
    grade = grading(limit=5)
    metrics = {"fd": FrechetDistance("digits-clip"), "grade": grade}
    callback = fit(tmp_path, metrics, cadence={"grade": "3 epochs"})
    assert ["grade" in record["values"] for record in callback.history] == [True, False, False, True]
    assert len(values(callback, "fd")) == EPOCHS
    judge: Any = grade.judge
    assert len(judge.asked) == 10
    assert [texts_of(q) for q in judge.asked[:5]] == [f"grade: {PROMPTS[i % 3]}" for i in range(5)]
    assert callback.results["grade"].n == 5


def test_a_monitored_judge_is_there_at_every_validation(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watching(Painter):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch:
                seen.append(float(self.trainer.callback_metrics["val/grade"]))

    callback = fit(
        tmp_path, {"grade": grading(), "fd": FrechetDistance("digits-clip")}, Watching(), cadence={"grade": 2}
    )
    first, second = grades(callback)
    assert seen == pytest.approx([first, first, second])


def test_a_judge_that_is_down_ends_no_training(tmp_path: Path) -> None:
    def script(q: Question) -> str:
        raise JudgeUnavailable("nobody listens at http://127.0.0.1:9")

    metrics = {"fd": FrechetDistance("digits-clip"), "grade": Grade(ScriptedJudge(script=script))}
    with pytest.warns(UserWarning, match=r"val/grade has no value at step \d+: .*nobody listens at http://127.0.0.1:9"):
        callback = fit(tmp_path, metrics)
    assert len(values(callback)) == EPOCHS
    assert all("grade" not in record["values"] for record in callback.history)


def down(q: Question) -> str:
    raise JudgeUnavailable("nobody listens")


@pytest.mark.filterwarnings("ignore:val/grade has no value", "ignore:Checkpoint directory")
def test_a_judge_that_is_down_from_the_start_leaves_its_key_to_monitors(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="val/grade", mode="max")
    metrics = {"fd": FrechetDistance("digits-clip"), "grade": Grade(ScriptedJudge(script=down))}
    callback = monitor(metrics, prompts=PROMPTS)
    run = trainer(tmp_path, callback, best, enable_checkpointing=True)
    run.fit(Painter(), *loaders())
    assert math.isnan(float(run.callback_metrics["val/grade"]))
    assert len(values(callback)) == 2


def test_an_evaluation_in_which_nothing_applies_ends_no_training(tmp_path: Path) -> None:
    class Moot(Grade):
        def conclude(self, sample: Sample, answers: Sequence[Any]) -> Verdict:
            return Verdict(None, {}, "not applicable", not_applicable=True)

    metrics = {"fd": FrechetDistance("digits-clip"), "moot": Moot(ScriptedJudge(script=lambda q: "1"))}
    with pytest.warns(UserWarning, match=r"val/moot has no value .* nothing to judge"):
        callback = fit(tmp_path, metrics)
    assert len(values(callback)) == EPOCHS


def test_a_second_fit_has_a_cadence_of_its_own(tmp_path: Path) -> None:
    metrics = {"fd": FrechetDistance("digits-clip"), "grade": grading()}
    callback = monitor(metrics, prompts=PROMPTS, cadence={"grade": 2})
    for _ in range(2):
        trainer(tmp_path, callback, max_epochs=EPOCHS).fit(Painter(), *loaders())
    assert ["grade" in record["values"] for record in callback.history] == [True, False, True, False] * 2


def test_judges_leave_the_cached_reference_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGMETRICS_CACHE", str(tmp_path / "cache"))
    written = set()
    for metrics in ({"grade": grading(limit=3)}, {"grade": grading()}, {"another": grading()}):
        fit(tmp_path, {"fd": FrechetDistance("digits-clip"), **metrics})
        (file,) = (tmp_path / "cache" / "reference").glob("*.safetensors")
        written.add(file.stat().st_mtime_ns)
    assert len(written) == 1


def test_rationales_stand_beside_the_images(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path / "board", name="", version="")
    callback = fit(tmp_path, {"grade": grading()}, logger=board, folder=str(tmp_path / "folder"), media=3)
    (key,) = [tag for tag in events(tmp_path / "board").Tags()["tensors"] if "rationales" in tag]
    tables = events(tmp_path / "board").Tensors(key)
    assert len(tables) == EPOCHS
    text = tables[-1].tensor_proto.string_val[0].decode()
    lines = (tmp_path / "folder" / "results.jsonl").read_text().splitlines()
    record = json.loads(lines[-1])
    assert len(record["rationales"]) == 3
    for row in record["rationales"]:
        assert row["grade"].startswith("a 0.")
        assert f"| {row['caption']} | grade | {row['grade']} |" in text
    assert float(record["rationales"][0]["grade"][2:]) == pytest.approx(callback.suite.scores()["grade"][0])


def on_ranks(rank: int, size: int, folder: str) -> tuple[list[float], int, list[Any]]:
    metrics = {"grade": grading(limit=7), "fd": FrechetDistance("digits-clip")}
    callback = monitor(metrics, prompts=PROMPTS, folder=f"{folder}/folder{size}", cadence={"grade": 2}, media=4)
    rank_trainer(rank, size, folder, callback).fit(Painter(lr=0.0), *loaders())
    lines = Path(f"{folder}/folder{size}/results.jsonl").read_text().splitlines() if rank == 0 else []
    judge: Any = metrics["grade"].judge
    return grades(callback), len(judge.asked), [json.loads(line).get("rationales") for line in lines]


def test_ranks_share_the_questions(worlds: Any, tmp_path: Path) -> None:
    one = on_ranks(0, 1, str(tmp_path))
    answers = worlds(2, on_ranks, str(tmp_path))
    for rank_grades, _, _ in answers:
        assert rank_grades == pytest.approx(one[0], abs=1e-12)
    assert sum(questions for _, questions, _ in answers) == one[1] == 7
    assert answers[0][2] == one[2]
    assert one[2][0] is not None


class Edit(Grade):
    """Compares an edit with its source."""

    inputs = ("prompts", "source")

    def queries(self, sample: Sample) -> list[Query]:
        (query,) = super().queries(sample)
        return [Query(Question((*sample.source, sample.image), (turn(IMAGE, IMAGE, sample.prompt),)), query.parse)]


class Editor(Painter):
    """Brightens known images."""

    def sample(self, ids: list[int]) -> Any:
        images = torch.stack([torch.full((3, 8, 8), i / 20) for i in ids])
        return EditedImages((images + 0.3).clamp(max=1), images)


def test_edits_come_with_their_sources(tmp_path: Path) -> None:
    metric = Edit(ScriptedJudge(script=lambda q: "1"))
    fit(tmp_path, {"edit": metric}, Editor(), num_samples=4)
    judge: Any = metric.judge
    pairs: list[Sequence[Tensor]] = [q.images for q in judge.asked[:4]]
    for i, (source, image) in enumerate(pairs):
        assert source.float().mean() / 255 == pytest.approx(i / 20, abs=2e-3)
        assert image.float().mean() / 255 == pytest.approx(i / 20 + 0.3, abs=2e-3)


def test_a_source_per_edit() -> None:
    with pytest.raises(SamplerError, match="`source` must hold one entry per image, got 1 for 5"):
        fit(
            Path("."),
            {"edit": Edit(ScriptedJudge())},
            sampler=lambda ids: EditedImages(torch.rand(len(ids), 3, 8, 8), torch.rand(1, 3, 8, 8)),
        )


def test_bad_cadence() -> None:
    with pytest.raises(UnknownName, match="`cadence` must be one of 'grade'; got 'vie_score'"):
        monitor({"grade": grading()}, prompts=PROMPTS, cadence={"vie_score": 2})
    with pytest.raises(ValueError, match="`every` must be at least 1"):
        monitor({"grade": grading()}, prompts=PROMPTS, cadence={"grade": 0})


def test_what_a_callback_cannot_give() -> None:
    class Duel(Grade):
        inputs = ("prompts", "rivals")

    with pytest.raises(ValueError, match="needs the images of a rival"):
        monitor({"duel": Duel(ScriptedJudge())}, prompts=PROMPTS)
