"""UnifiedReward and UnifiedReward-Edit: ratings and comparisons, both orders, answers that are none."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_images
from helpers.judges import ScriptedJudge, chance, qwen2_vl, texts_of
from helpers.qwen_judges import qwen_vl
from hypothesis import given, settings, strategies as st
from torch import Tensor

from lightning_imgmetrics.errors import JudgeFailed, ShapeError, UnknownName
from lightning_imgmetrics.functional.intervals import win_interval
from lightning_imgmetrics.judges.backends.local import LocalJudge
from lightning_imgmetrics.judges.backends.question import IMAGE, Decoding, Question
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.unified_reward import UnifiedReward
from lightning_imgmetrics.judges.metrics.unified_reward_edit import UnifiedRewardEdit
from lightning_imgmetrics.judges.prompts.unified_reward import (
    UNIFIED_REWARD_EDIT,
    UNIFIED_REWARD_PAIR,
    UNIFIED_REWARD_POINT,
)

pytestmark = pytest.mark.filterwarnings("ignore:the prompt unified-reward-:UserWarning")
SHELF = os.environ.get("IMGMETRICS_WEIGHTS", "")  # each test has none
AXES = ("Alignment", "Coherence", "Style")
N = 6
PUBLISHED_PAIR = """Alignment Score:
 Image 1: 0.435699999332428
 Image 2: 0.564300000667572

Coherence Score:
 Image 1: 0.4180000126361847
 Image 2: 0.5820000171661377

Style Score:
 Image 1: 0.40790000557899475
 Image 2: 0.5921000242233276
"""


def rated(*scores: float) -> str:
    return "\n".join(f"{axis} Score (1-5): {score}" for axis, score in zip(AXES, scores, strict=True))


def shared(*firsts: float) -> str:
    pairs = zip(AXES, firsts, strict=True)
    return "\n\n".join(f"{axis} Score:\n Image 1: {x}\n Image 2: {1 - x}" for axis, x in pairs)


def level(image: Tensor) -> float:
    """A number in [0, 1] of an image alone."""
    return float(image.double().mean() / 255)


def images_of(metric: JudgeMetric, n: int, seed: int = 0) -> dict[str, Any]:
    sizes = {"source": 20, "rivals": 28}
    return {"images": random_images(n, 24, seed), "prompts": "a cat"} | {
        name: random_images(n, sizes[name], seed + k) for k, name in enumerate(metric.images_per_sample, 1)
    }


def updated(metric: JudgeMetric, n: int = 1, seed: int = 0) -> Any:
    metric.update(**images_of(metric, n, seed), ids=range(n))
    return metric


# Ratings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (rated(3.3, 2.6947, 1.9), (3.3, 2.6947, 1.9)),
        (rated(1, 5, 3), (1, 5, 3)),
        ("**Alignment Score (1-5):** 4\n**Coherence Score**：3.5\nstyle score: 2", (4, 3.5, 2)),
        ("Style Score (1-5): 1\nAlignment Score (1-5): 2\nCoherence Score (1-5): 3", (2, 3, 1)),
        ("<think>\n\n</think>\n\n" + rated(2, 3, 4), (2, 3, 4)),
        (rated(3, 3, 3).rpartition("\n")[0], None),
        (rated(3, 3, 6), None),
        (rated(0.5, 3, 3), None),
        (rated(-3, 3, 3), None),
        (rated(3, 3, 3) + "\nStyle Score (1-5): 4", None),
        ("Final Score: 3", None),
        ("I'm sorry, I can't help with that.", None),
    ],
)
def test_ratings(text: str, expected: tuple[float, ...] | None) -> None:
    metric = updated(UnifiedReward(ScriptedJudge(lambda q: text), max_failed=0), 2)
    if expected is None:
        with pytest.raises(JudgeFailed, match="no usable answer for 2 of 2 samples"):
            metric.compute()
        return
    result = metric.result()
    assert result.value == pytest.approx(sum(expected) / 3, abs=1e-12)
    found = [result.details[axis.lower()] for axis in AXES]
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_rating_without_an_axis_is_counted_and_not_averaged() -> None:
    def script(question: Question) -> str:
        dark = level(question.images[0]) < levels.median()
        return "Alignment Score (1-5): 5" if dark else rated(2, 3, 4)

    levels = torch.tensor([level(x) for x in random_images(3, 24)], dtype=torch.float64)
    result = updated(UnifiedReward(ScriptedJudge(script), max_failed=0.5), 3).result()
    assert (result.value, result.n, result.details["n_failed"], result.details["alignment"]) == (3, 2, 1, 2)
    assert result.details["parse_failure_rate"] == 2 / 4  # asked again, in vain


def test_a_second_try_is_told_the_form() -> None:
    judge = ScriptedJudge(lambda q: rated(2, 3, 4) if len(q.messages) == 3 else "A fine picture.")
    assert updated(UnifiedReward(judge)).compute().item() == 3
    assert "Coherence Score (1-5): X" in judge.asked[1].messages[2]["content"][0]["text"]


# Comparisons


def test_the_published_shares() -> None:
    once = updated(UnifiedReward(ScriptedJudge(lambda q: PUBLISHED_PAIR), mode="pairwise", orders=1)).result()
    assert once.details["alignment"] == pytest.approx(0.4357, abs=1e-8)
    assert once.value == pytest.approx((0.4357 + 0.418 + 0.4079) / 3, abs=1e-7)
    assert once.details["first_share"] == pytest.approx(once.value)
    assert "position_bias" not in once.details


def test_a_judge_that_looks_at_places_alone_decides_nothing() -> None:
    result = updated(UnifiedReward(ScriptedJudge(lambda q: shared(0.9, 0.7, 0.5)), mode="pairwise"), 4).result()
    assert result.value == pytest.approx(0.5, abs=1e-12)
    assert [result.details[axis.lower()] for axis in AXES] == pytest.approx([0.5] * 3)
    assert result.details["first_share"] == pytest.approx(0.7)
    assert result.details["position_bias"] == 1


def by_level(question: Question) -> str:
    first, second = (level(image) for image in question.images[-2:])
    share = 0.5 + (first - second) / 2
    return shared(share, share, 0.5)


def test_both_orders_are_shown_and_meant() -> None:
    judge = ScriptedJudge(by_level)
    metric = updated(UnifiedReward(judge, mode="pairwise"), 3)
    result = metric.result()
    inputs = images_of(metric, 3)
    pairs = list(zip(inputs["images"], inputs["rivals"], strict=True))
    for pair, ahead, behind in zip(pairs, judge.asked[::2], judge.asked[1::2], strict=True):
        assert all(map(torch.equal, ahead.images, pair))
        assert all(map(torch.equal, behind.images, pair[::-1]))
        assert ahead.messages == behind.messages
    expected = [0.5 + (level(a) - level(b)) / 2 for a, b in pairs]
    assert result.details["alignment"] == pytest.approx(sum(expected) / 3)
    assert result.value == pytest.approx((2 * sum(expected) / 3 + 0.5) / 3)
    assert result.details["position_bias"] == 0
    assert result.details["first_share"] == pytest.approx(0.5)


@settings(max_examples=25, deadline=None)
@given(shares=st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_exchanging_image_and_rival_gives_the_rest(shares: list[float]) -> None:
    pair = random_images(2, 16)

    def script(question: Question) -> str:
        return shared(*shares[:3] if torch.equal(question.images[0], pair[0]) else shares[3:])

    values = []
    for image, rival in (pair, pair.flip(0)):
        metric = UnifiedReward(ScriptedJudge(script), mode="pairwise")
        metric.update(images=image[None], rivals=rival[None], prompts="a")
        values.append(metric.compute().item())
    assert sum(values) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        shared(0.5, 0.5, 0.5).replace("Style", "Beauty"),
        shared(0.5, 0.5, 0.5).replace("Image 2: 0.5", "Image 2: 0.9"),
        shared(1.5, 0.5, 0.5),
        "Image 1 is better.",
    ],
)
def test_shares_that_are_none(text: str) -> None:
    with pytest.raises(JudgeFailed):
        updated(UnifiedReward(ScriptedJudge(lambda q: text), mode="pairwise")).compute()


# Edits


def listed(*scores: float) -> str:
    return json.dumps({"reasoning": "done", "score": scores})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (listed(20, 15.5), (20, 15.5)),
        ('{\n\n"reasoning" : "well done",\n"score" : [25, 0],\n}', (25, 0)),
        ("{'reasoning': 'it\\'s done', 'score': [\"7\", 8]}", (7, 8)),
        ("score: [3, 4]", (3, 4)),
        (listed(20), None),
        (listed(20, 15, 1), None),
        (listed(26, 15), None),
        (listed(-1, 15), None),
        ("It was done well: 20 and 15.", None),
    ],
)
@pytest.mark.parametrize(
    ("mode", "names"),
    [("pointwise_score", ("editing_success", "overediting")), ("pointwise_quality", ("naturalness", "artifacts"))],
)
def test_ratings_of_edits(mode: str, names: tuple[str, str], text: str, expected: tuple[float, float] | None) -> None:
    metric = updated(UnifiedRewardEdit(ScriptedJudge(lambda q: text), mode=mode, max_failed=0))
    if expected is None:
        with pytest.raises(JudgeFailed):
            metric.compute()
        return
    result = metric.result()
    assert result.value == pytest.approx(sum(expected) / 2)
    assert tuple(result.details[name] for name in names) == expected


def test_the_rationale_of_a_rating() -> None:
    assert updated(UnifiedRewardEdit(ScriptedJudge(lambda q: listed(1, 2)))).rationales() == {0: "done"}


def decided(first: str, second: str) -> ScriptedJudge:
    """Says one thing where the image, 24 pixels high, stands before its rival, another where it stands behind."""
    return ScriptedJudge(lambda q: first if q.images[1].shape[1] == 24 else second)


@pytest.mark.parametrize(
    ("first", "second", "score", "bias"),
    [
        ("Image 1 is better.", "Image 2 is better.", 1, 0),
        ("Image 2 is better.", "Image 1 is better.", 0, 0),
        ("Both images are equally good.", "Both images are equally good.", 0.5, 0),
        ("Image 1 is better.", "Image 1 is better.", 0.5, 1),
        ("Edited image 2 wins.", "The second image is better.", 0.5, 1),
        ("Image 1 is better.", "It is a tie.", 0.5, 0),
        ("Image 1 is not better; Image 2 wins", "Image 2 is not better; Image 1 wins", 0, 0),
    ],
)
def test_choices(first: str, second: str, score: float, bias: float) -> None:
    metric = updated(UnifiedRewardEdit(decided(first, second), mode="pairwise_rank"), 3)
    result = metric.result()
    assert result.value == score
    assert result.details["position_bias"] == bias
    assert result.details["tie_rate"] == float(score == 0.5)
    assert result.interval == win_interval(torch.full((3,), score, dtype=torch.float64))
    assert metric.rationales()[0] == f"shown first: {first}\nshown second: {second}"


@pytest.mark.parametrize("mode", ["pairwise_rank", "pairwise_score"])
@pytest.mark.parametrize("unclear", ["Image 1 is sharper.", "I'm sorry, I can't compare these images.", "", "0"])
def test_a_choice_that_cannot_be_parsed_is_no_tie(mode: str, unclear: str) -> None:
    for judge in (decided("Image 1: 2\nImage 2: 1", unclear), decided(unclear, unclear)):
        with pytest.raises(JudgeFailed):
            updated(UnifiedRewardEdit(judge, mode=mode)).compute()


@pytest.mark.parametrize(
    ("first", "second", "score", "margin"),
    [
        ("[2.5, -1]", "[0, 3]", 1, 3.25),
        ("Image 1: -2.5\nImage 2: -1", "Image 1: 4\nImage 2: 1", 0, -2.25),
        ("Score: 1.5 and 2.5", "Score: 2.5 and 1.5", 0, -1),
        ("Image 1: 2, Image 2: 2", '{"score": [1.0, 1.0]}', 0.5, 0),
        ("Image 1: 3\nImage 2: 1", "Image 1: 3\nImage 2: 2", 0.5, 0.5),
    ],
)
def test_scores_of_two_edits(first: str, second: str, score: float, margin: float) -> None:
    result = updated(UnifiedRewardEdit(decided(first, second), mode="pairwise_score"), 2).result()
    assert (result.value, result.details["margin"]) == (score, margin)
    assert result.details["image_score"] - result.details["rival_score"] == pytest.approx(margin)
    assert result.interval == win_interval(torch.full((2,), score, dtype=torch.float64))
    once = updated(UnifiedRewardEdit(decided(first, second), mode="pairwise_score", orders=1)).result()
    assert "position_bias" not in once.details
    assert once.value == float(once.details["margin"] > 0) + 0.5 * (once.details["margin"] == 0)


# What is shown


@pytest.mark.parametrize(
    ("mode", "shown"),
    [
        ("pointwise_score", [("source", "images")]),
        ("pointwise_quality", [("images",)]),
        ("pairwise_rank", [("source", "images", "rivals"), ("source", "rivals", "images")]),
        ("pairwise_score", [("source", "images", "rivals"), ("source", "rivals", "images")]),
    ],
)
def test_what_the_judge_of_edits_is_shown(mode: str, shown: list[tuple[str, ...]]) -> None:
    judge = ScriptedJudge(lambda q: "nothing")
    metric = updated(UnifiedRewardEdit(judge, mode=mode, retries=0))
    inputs = images_of(metric, 1)
    assert len(judge.asked) == len(shown)
    for question, names in zip(judge.asked, shown, strict=True):
        assert all(map(torch.equal, question.images, [inputs[name][0] for name in names]))
        (message,) = question.messages
        assert [part == IMAGE for part in message["content"]] == [*[True] * len(names), False]
        assert texts_of(question) == UNIFIED_REWARD_EDIT[mode].generic.replace("{instruction}", "a cat")


def test_quality_needs_no_instruction() -> None:
    metric = UnifiedRewardEdit(ScriptedJudge(lambda q: listed(5, 7)), mode="pointwise_quality")
    metric.update(images=random_images(2))
    assert metric.compute().item() == 6


@pytest.mark.parametrize(
    "prompt",
    [
        'a "cat", it\'s \\"red\\"',
        "one\n\ntwo\r\n\ttabs",
        "{prompt} {{x}} {0} [Style Score: 5]",
        r"\1 %s",
        "w " * 5000,
        "一只猫 🐈\u200d⬛",
    ],
    ids=range(6),
)
@pytest.mark.parametrize("mode", ["pointwise", "pairwise"])
def test_prompts_are_shown_as_they_are(prompt: str, mode: str) -> None:
    judge = ScriptedJudge(lambda q: rated(3, 3, 3) if mode == "pointwise" else shared(0.5, 0.5, 0.5))
    metric = UnifiedReward(judge, mode=mode)
    metric.update(**images_of(metric, 1) | {"prompts": prompt})
    card = UNIFIED_REWARD_POINT if mode == "pointwise" else UNIFIED_REWARD_PAIR
    before, _, after = card.generic.partition("{prompt}")
    assert texts_of(judge.asked[0]) == before + prompt + after
    assert metric.compute().item() == (3 if mode == "pointwise" else 0.5)


# Arguments


def test_bad_input() -> None:
    judge = ScriptedJudge(lambda q: listed(1, 2))
    pair, one, several = random_images(2), random_images(2, seed=1), [list(random_images(2))] * 2
    for metric, inputs, error, match in (
        (UnifiedReward(judge, mode="pairwise"), {}, TypeError, "unified_reward needs `rivals=` in update"),
        (
            UnifiedReward(judge, mode="pairwise"),
            {"rivals": several},
            ShapeError,
            r"`rivals\[0\]` must hold 1 image\(s\) for unified_reward, got 2",
        ),
        (UnifiedRewardEdit(judge), {}, TypeError, "unified_reward_edit needs `source=` in update"),
        (UnifiedRewardEdit(judge), {"source": several}, ShapeError, r"`source\[0\]` must hold 1 image"),
        (UnifiedRewardEdit(judge, mode="pairwise_rank"), {"source": one}, TypeError, "needs `rivals=` in update"),
    ):
        with pytest.raises(error, match=match):
            metric.update(images=pair, prompts="a", **inputs)
    assert not judge.asked


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "match"),
    [
        (UnifiedReward, {"mode": "rank"}, UnknownName, "`mode` must be one of 'pointwise', 'pairwise'"),
        (UnifiedReward, {"prompt_version": "mine"}, UnknownName, "must be one of 'official', 'diffsynth'"),
        (UnifiedReward, {"mode": "pairwise", "prompt_version": "diffsynth"}, ValueError, "must be 'official' with"),
        (UnifiedReward, {"mode": "pairwise", "orders": 3}, ValueError, "`orders` must be 1"),
        (UnifiedRewardEdit, {"mode": "pointwise"}, UnknownName, "`mode` must be one of 'pointwise_score'"),
        (UnifiedRewardEdit, {"mode": "pairwise_rank", "orders": 0}, ValueError, "`orders` must be 1"),
    ],
)
def test_bad_arguments(kind: Any, arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        kind(ScriptedJudge(), **arguments)


def test_signatures_and_defaults() -> None:
    point, pair = UnifiedReward(), UnifiedReward(mode="pairwise")
    assert point.protocol.decoding == pair.protocol.decoding == Decoding(max_tokens=4096, thinking=False)
    assert isinstance(point.judge, LocalJudge)
    assert point.judge.model == "CodeGoat24/UnifiedReward-2.0-qwen35-9b"
    fields = point.signature().fields
    assert (fields["mode"], fields["template"], fields["thinking"]) == ("pointwise", "generic", "False")
    assert "orders" not in fields
    assert pair.signature().fields["orders"] == "2"
    edit = UnifiedRewardEdit(mode="pairwise_score", orders=1)
    assert edit.judge.model == "CodeGoat24/UnifiedReward-Edit-qwen3vl-8b"
    assert [edit.signature().fields[name] for name in ("mode", "orders")] == ["pairwise_score", "1"]


@pytest.mark.skipif(
    not (Path(SHELF) / "edit_pairwise_rank.py").is_file(), reason="needs the published sources in IMGMETRICS_WEIGHTS"
)
@pytest.mark.parametrize(
    ("metric", "digest"),
    [
        (lambda: UnifiedReward(ScriptedJudge(), template=SHELF), "0f2e89e0"),
        (lambda: UnifiedReward(ScriptedJudge(), prompt_version="diffsynth", template=SHELF), "706a5b0e"),
        (lambda: UnifiedReward(ScriptedJudge(), mode="pairwise", template=SHELF), "cda153f0"),
        *[
            (lambda mode=mode: UnifiedRewardEdit(ScriptedJudge(), mode=mode, template=SHELF), card.sha256[:8])
            for mode, card in UNIFIED_REWARD_EDIT.items()
        ],
    ],
)
def test_the_published_words(metric: Any, digest: str) -> None:
    judged = updated(metric())
    assert judged.signature().fields["template"] == digest
    asked = texts_of(judged.judge.asked[0])
    assert ("a cat" in asked) == bool(judged.inputs)


# Real checkpoints, batches and ranks

REAL = {
    "pointwise": (lambda judge: UnifiedReward(judge), rated(2.6947, 3.5, 4), (2.6947 + 3.5 + 4) / 3),
    "pairwise": (lambda judge: UnifiedReward(judge, mode="pairwise"), PUBLISHED_PAIR, 0.5),
    "edit": (lambda judge: UnifiedRewardEdit(judge), listed(20, 10), 15),
    "rank": (lambda judge: UnifiedRewardEdit(judge, mode="pairwise_rank"), "Image 2 is better.", 0.5),
    "score": (lambda judge: UnifiedRewardEdit(judge, mode="pairwise_score"), "Image 1: 2\nImage 2: -1.5", 0.5),
}


@pytest.mark.parametrize("case", REAL)
def test_real_checkpoints(case: str, tmp_path: Path) -> None:
    make, answer, value = REAL[case]
    kind = {"pointwise": "qwen3_5", "pairwise": "qwen2_5_vl", "edit": "qwen3_vl"}.get(case)
    folder = qwen_vl(kind, tmp_path / "judge", answer) if kind else qwen2_vl(tmp_path / "judge", answer)
    results = [updated(make(LocalJudge(folder, batch_size=k, cache=False)), 3).result() for k in (1, 4)]
    assert results[0] == results[1]
    assert results[0].value == pytest.approx(value, abs=1e-7)
    assert results[0].details.get("position_bias", 1) == 1


def drawn(question: Question) -> str:
    """What a judge of any mode might say, by the images and texts alone; now and then nothing."""
    x = chance(question)
    if x < 0.1:
        return "none"
    if re.search("Image 1: X", texts_of(question)):
        return shared(x, x * 7 % 1, x * 31 % 1) if "Coherence" in texts_of(question) else f"Image 1: {x}\nImage 2: 0.5"
    return rated(1 + 4 * x, 1 + 4 * (x * 7 % 1), 3)


MODES = {
    "pointwise": lambda: UnifiedReward(ScriptedJudge(drawn, batch_size=4), max_failed=0.9),
    "pairwise": lambda: UnifiedReward(ScriptedJudge(drawn), mode="pairwise", max_failed=0.9),
    "pairwise_score": lambda: UnifiedRewardEdit(ScriptedJudge(drawn), mode="pairwise_score", max_failed=0.9),
}


@pytest.mark.parametrize("mode", MODES)
def test_batches_do_not_matter(mode: str) -> None:
    whole = MODES[mode]()
    whole.update(**images_of(whole, N), ids=range(N))
    result = whole.result()
    single = MODES[mode]()
    inputs = images_of(single, N)
    for i in range(N):
        single.update(**{k: x if k == "prompts" else x[i : i + 1] for k, x in inputs.items()}, ids=[i])
    other = single.result()
    assert other.n == result.n
    assert other.value == pytest.approx(result.value, abs=1e-12)
    assert other.interval == pytest.approx(result.interval, abs=1e-12)
    assert other.details == pytest.approx(dict(result.details), abs=1e-12)
