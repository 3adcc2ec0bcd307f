"""Qwen-Image-Bench: scores of three levels, what the judge is shown, dimensions that fail or do not apply."""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_images
from helpers.judges import ScriptedJudge, chance, texts_of
from helpers.qwen_judges import qwen_vl
from PIL import Image
from torch import Tensor

from lightning_imgmetrics.errors import JudgeFailed, NotEnoughSamples, UnknownName
from lightning_imgmetrics.judges.backends.local import LocalJudge
from lightning_imgmetrics.judges.backends.question import IMAGE, Decoding, Question
from lightning_imgmetrics.judges.metrics.qwen_image_bench import QwenImageBench
from lightning_imgmetrics.judges.metrics.qwen_scores import dimensions_of
from lightning_imgmetrics.judges.prompts.qwen_image_bench import (
    QWEN_BODY,
    QWEN_CHECKLISTS,
    QWEN_FACETS,
    QWEN_HEADER,
    QWEN_SYSTEM,
)

pytestmark = pytest.mark.filterwarnings("ignore:the prompt qwen-image-bench-:UserWarning")
SHELF = os.environ.get("IMGMETRICS_WEIGHTS", "")  # each test has none
DIMENSIONS = {
    "Quality": "quality",
    "Aesthetics": "aesthetics",
    "Alignment": "alignment",
    "Real-world Fidelity": "real_world_fidelity",
    "Creative Generation": "creative_generation",
}
N = 5
Mark = Callable[[str, str, str], Any]  # of a facet: dimension, heading, facet


def dimension_of(question: Question) -> str:
    """The dimension that the body of a question names on a line of its own."""
    (found,) = set(texts_of(question).splitlines()) & set(DIMENSIONS)
    return found


def marked(dimension: str, mark: Mark) -> str:
    facets = QWEN_FACETS[dimension].items()
    return json.dumps({h: {f: {"score": mark(dimension, h, f)} for f in some} for h, some in facets})


def marking(mark: Mark) -> ScriptedJudge:
    return ScriptedJudge(lambda q: marked(dimension_of(q), mark))


def updated(metric: QwenImageBench, n: int = 1) -> QwenImageBench:
    metric.update(images=random_images(n, 24), prompts=[f"prompt {i}" for i in range(n)], ids=range(n))
    return metric


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


VECTOR = {
    "Physical Logic": 1,
    "Material Texture": "N/A",
    "Noise": 2,
    "Edge Clarity": 0,
    "Naturalness": 1,
    "Resolution": 2,
}


def test_one_dimension_by_hand() -> None:
    metric = QwenImageBench(marking(lambda d, h, f: VECTOR[f]), dimensions=["Quality"])
    result = updated(metric).result()
    assert result.value == pytest.approx(71.1111111, abs=1e-6)
    expected = {"quality": 71.1111111, "quality_realism": 60, "quality_detail": 160 / 3, "quality_resolution": 100}
    assert {name: result.details[name] for name in expected} == pytest.approx(expected)
    assert not [name for name in result.details if name.startswith("aesthetics")]
    (record,) = metric.records()
    scores = {(row["category"], row["question"]): row["score"] for row in record["rows"] if "category" in row}
    assert len(scores) == 6
    assert scores["Quality / Realism", "Material Texture"] is None
    assert scores["Quality / Detail", "Noise"] == 100
    assert metric.rationales() == {0: "fails: Edge Clarity; excels: Noise, Resolution"}


def test_all_five() -> None:
    draw = random.Random(0)
    marks = {
        (d, h, f): draw.choice([0, 1, 2, "N/A"]) for d, hs in QWEN_FACETS.items() for h, fs in hs.items() for f in fs
    }
    judge = marking(lambda *facet: marks[facet])
    metric = updated(QwenImageBench(judge))
    result = metric.result()
    worth = {0: 0.0, 1: 60.0, 2: 100.0}
    dimensions = []
    for dimension, key in DIMENSIONS.items():
        headings = []
        for heading, facets in QWEN_FACETS[dimension].items():
            name = f"{key}_{heading.lower().replace(' & ', '_').replace(' ', '_')}"
            known = [worth[m] for f in facets if (m := marks[dimension, heading, f]) != "N/A"]
            assert (name in result.details) == bool(known)
            if known:
                headings.append(mean(known))
                assert result.details[name] == pytest.approx(headings[-1])
        dimensions.append(mean(headings))
        assert result.details[key] == pytest.approx(dimensions[-1])
    assert result.value == pytest.approx(mean(dimensions))
    assert len(metric.table.of_kind("mean")) == 5 + 23 + 1
    assert len(judge.asked) == 5
    rows = metric.records()[0]["rows"]
    assert [row["question"] for row in rows if "answer" in row] == list(DIMENSIONS)
    assert len(rows) == 5 + 56


def test_what_the_judge_is_shown() -> None:
    judge = marking(lambda *facet: 1)
    image, prompt = random_images(1, 24), 'a {prompt} "cat"'
    metric = QwenImageBench(judge)
    metric.update(images=image, prompts=prompt)
    assert metric.compute().item() == 60
    assert [dimension_of(q) for q in judge.asked] == list(DIMENSIONS)
    for question, dimension in zip(judge.asked, DIMENSIONS, strict=True):
        system, user = question.messages
        assert (system["role"], user["role"]) == ("system", "user")
        assert system["content"] == [{"type": "text", "text": QWEN_SYSTEM.generic}]
        header, place, body = user["content"]
        assert place == IMAGE
        assert header["text"] == QWEN_HEADER.generic.replace("{prompt}", prompt)
        checklist = QWEN_CHECKLISTS[dimension].generic
        expected = QWEN_BODY.generic.replace("{level1_dim}", dimension).replace("{format_checklist}", checklist)
        assert body["text"] == expected
        assert torch.equal(question.images[0], image[0])


@pytest.mark.parametrize("shape", [(40, 1025), (1030, 60), (1026, 1026)])
def test_a_large_image_becomes_a_square(shape: tuple[int, int]) -> None:
    judge = marking(lambda *facet: 1)
    (image,) = random_images(1, shape)
    QwenImageBench(judge, dimensions=["Quality"]).update(images=[image], prompts="a")
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((1024, 1024), Image.Resampling.LANCZOS)
    assert torch.equal(judge.asked[0].images[0], torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1))


def test_an_image_of_1024_is_left_alone() -> None:
    judge = marking(lambda *facet: 1)
    (image,) = random_images(1, (30, 1024))
    QwenImageBench(judge, dimensions=["Quality"]).update(images=[image], prompts="a")
    assert torch.equal(judge.asked[0].images[0], image)


def failing(dimensions: Mapping[int, set[str]]) -> ScriptedJudge:
    """Marks 1 for the quality and 2 for the rest, and answers nothing of the dimensions of prompt i."""

    def script(question: Question) -> str:
        dimension = dimension_of(question)
        number = next(i for i in range(N) if f"prompt {i}" in texts_of(question))
        is_unclear = dimension in dimensions.get(number, ())
        return "It is lovely." if is_unclear else marked(dimension, lambda d, h, f: 1 if d == "Quality" else 2)

    return ScriptedJudge(script)


def test_dimensions_that_cannot_be_read_are_counted() -> None:
    every = set(DIMENSIONS)
    judge = failing({0: {"Quality"}, 1: every, 2: every - {"Alignment", "Quality"}})
    metric = updated(QwenImageBench(judge, max_failed=0.4), 4)
    result = metric.result()
    assert metric.scores()[1].nan_to_num(-1).tolist() == [100, -1, 80, 92]
    assert (result.n, result.details["n_failed"], result.details["n_failed_dimensions"]) == (3, 1, 1 + 3)
    assert result.value == pytest.approx((100 + 80 + 92) / 3)
    assert (result.details["quality"], result.details["aesthetics"]) == (60, 100)
    answers, unparsed = 20 + 9, 2 * 9
    assert result.details["parse_failure_rate"] == pytest.approx(unparsed / answers)
    assert "unparsed: Quality" in metric.rationales()[0]
    assert "unreadable answer: 'It is lovely.'" in metric.rationales()[1]
    assert "n_not_applicable" not in result.details
    with pytest.raises(JudgeFailed, match="no usable answer for 1 of 4 samples"):
        updated(QwenImageBench(judge, max_failed=0.2), 4).compute()


def test_what_does_not_apply_is_no_failure() -> None:
    def script(question: Question) -> str:
        applies = "prompt 1" in texts_of(question)
        return marked("Creative Generation", lambda *facet: 2 if applies else "N/A")

    metric = updated(QwenImageBench(ScriptedJudge(script), dimensions=["Creative Generation"], max_failed=0), 3)
    result = metric.result()
    assert (result.value, result.n, result.details["n_failed"], result.details["n_not_applicable"]) == (100, 1, 0, 2)
    judge = marking(lambda *facet: "N/A")
    with pytest.raises(NotEnoughSamples, match="nothing to judge in all 2"):
        updated(QwenImageBench(judge), 2).compute()


def test_several_draws_are_averaged() -> None:
    answers = iter(["none", marked("Quality", lambda *facet: 1), marked("Quality", lambda d, h, f: VECTOR[f])])
    judge = ScriptedJudge(lambda q: next(answers))
    metric = QwenImageBench(judge, dimensions=["Quality"], repeats=3, retries=0, decoding=Decoding(temperature=0.5))
    result = updated(metric).result()
    assert result.value == pytest.approx((60 + 71.1111111) / 2, abs=1e-6)
    assert result.details["quality_resolution"] == 80
    scores = {row["question"]: row["score"] for row in metric.records()[0]["rows"] if "category" in row}
    assert scores == {**dict.fromkeys(VECTOR, 60), "Noise": 80, "Edge Clarity": 30, "Resolution": 80}


def test_a_second_try_is_told_the_form() -> None:
    judge = ScriptedJudge(lambda q: marked("Quality", lambda *facet: 2) if len(q.messages) == 4 else "Fine.")
    assert updated(QwenImageBench(judge, dimensions=["Quality"])).compute().item() == 100
    assert 'each {"score": 0, 1, 2 or "N/A"}' in judge.asked[1].messages[3]["content"][0]["text"]


def test_dimensions_by_prompt() -> None:
    listed = {"prompt 0": "Quality / Detail / Noise; Alignment / Scene", "prompt 1": "Aesthetics / Composition"}
    dimensions = {prompt: dimensions_of(text) for prompt, text in listed.items()}
    judge = failing({})
    metric = updated(QwenImageBench(judge, dimensions=dimensions), 2)
    result = metric.result()
    assert [dimension_of(q) for q in judge.asked] == ["Quality", "Alignment", "Aesthetics"]
    assert metric.scores()[1].tolist() == [80, 100]
    assert (result.details["quality"], result.details["aesthetics"], result.details["alignment"]) == (60, 100, 100)
    with pytest.raises(ValueError, match=r"`prompts\[1\]` is none of those in `dimensions`, got 'prompt 7'"):
        metric.update(images=random_images(2), prompts=["prompt 0", "prompt 7"])
    fields = metric.signature().fields
    other = QwenImageBench(judge, dimensions={**dimensions, "prompt 1": ["Quality"]}).signature().fields
    assert fields["dimensions"].startswith("by prompt@")
    assert fields["dimensions"] != other["dimensions"]


@pytest.mark.parametrize(
    ("dimensions", "error", "match"),
    [
        (["Quality", "Beauty"], UnknownName, "`dimensions` must be one of 'Quality', .*; got 'Beauty'"),
        ([], ValueError, "`dimensions` must be one or more of"),
        ("Quality", ValueError, "`dimensions` must be one or more of"),
        ({}, ValueError, "`dimensions` must be one or more of"),
        ({"a": []}, ValueError, "`dimensions` must be one or more of"),
        ({"a": ["quality"]}, UnknownName, "got 'quality'"),
    ],
)
def test_bad_dimensions(dimensions: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        QwenImageBench(ScriptedJudge(), dimensions=dimensions)


def test_signature_and_defaults() -> None:
    metric = QwenImageBench()
    assert metric.protocol.decoding == Decoding(max_tokens=4096, repetition_penalty=1.05, thinking=True)
    assert isinstance(metric.judge, LocalJudge)
    assert metric.judge.model == "Qwen/Qwen-Image-Bench"
    fields = metric.signature().fields
    assert fields["dimensions"] == "+".join(DIMENSIONS.values())
    assert (fields["template"], fields["thinking"], fields["repetition_penalty"]) == ("generic", "True", "1.05")
    assert QwenImageBench(dimensions=["Alignment", "Quality"]).signature().fields["dimensions"] == "quality+alignment"


@pytest.mark.skipif(
    not (Path(SHELF) / "qwen_image_bench.py").is_file(), reason="needs qwen_image_bench.py in IMGMETRICS_WEIGHTS"
)
def test_the_published_words() -> None:
    judge = marking(lambda *facet: 1)
    metric = updated(QwenImageBench(judge, dimensions=["Quality"], template=SHELF))
    assert metric.signature().fields["template"] == "654a1e24+23ed9ba4+fa8c90ad+8a6d823d"
    assert texts_of(judge.asked[0]).count("prompt 0") == 1
    assert "{level2_dim}" in texts_of(judge.asked[0])
    assert metric.compute().item() == 60


@pytest.mark.parametrize(
    "prompt",
    [
        'a "cat", it\'s \\"red\\"',
        "one\n\ntwo\r\n\ttabs",
        "{prompt} {level1_dim} {{x}} {0}",
        r"\1 %s",
        "w " * 5000,
        "一只猫 🐈\u200d⬛",
    ],
    ids=range(6),
)
def test_prompts_are_shown_as_they_are(prompt: str) -> None:
    judge = marking(lambda *facet: 1)
    QwenImageBench(judge, dimensions=["Alignment"]).update(images=random_images(1), prompts=prompt)
    header = judge.asked[0].messages[1]["content"][0]["text"]
    assert header == QWEN_HEADER.generic.replace("{prompt}", prompt)


def test_a_real_checkpoint(tmp_path: Path) -> None:
    """Of the newest Qwen; `test_real_judges` has the others."""
    answer = marked("Quality", lambda d, h, f: VECTOR[f])
    folder = qwen_vl("qwen3_5", tmp_path / "judge", answer)
    metrics = [QwenImageBench(LocalJudge(folder, batch_size=k, cache=False), dimensions=["Quality"]) for k in (1, 4)]
    results = [updated(metric, 3).result() for metric in metrics]
    assert results[0] == results[1]
    assert results[0].value == pytest.approx(71.1111111, abs=1e-6)
    both = updated(QwenImageBench(LocalJudge(folder, cache=False), dimensions=["Quality", "Alignment"])).result()
    assert both.value == pytest.approx(71.1111111, abs=1e-6)
    assert both.details["n_failed_dimensions"] == 1


def drawn(question: Question) -> str:
    """Marks that depend on the image and the texts alone; now and then none."""
    x = chance(question)
    draw = random.Random(x)
    return "none" if x < 0.6 else marked(dimension_of(question), lambda *facet: draw.choice([0, 1, 2, "N/A"]))


def judged(images: Tensor, numbers: range, batch_size: int) -> tuple[float, int, dict[str, float]]:
    metric = QwenImageBench(ScriptedJudge(drawn, batch_size=batch_size), max_failed=0.9)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the prompt qwen-image-bench-")
        for part in (numbers[:1], numbers[1:]):
            if len(part):
                metric.update(images=images[part.start : part.stop], prompts=[f"prompt {i}" for i in part], ids=part)
        result = metric.result()
    return result.value, result.n, dict(result.details)


def test_batches_do_not_matter() -> None:
    images = random_images(N, 20)
    value, n, details = judged(images, range(N), 4)
    assert details["n_failed_dimensions"] > 0
    expected = (pytest.approx(value, abs=1e-9), n, pytest.approx(details, abs=1e-9))
    assert judged(images, range(N), 1) == expected
