"""Every metric that asks a judge, over real checkpoints: template, processor, generate, parse, score."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import random_images
from helpers.judges import instructblip, qwen2_vl
from helpers.qwen_judges import qwen_vl

from lightning_imgmetrics import (
    TIFA,
    DPGBench,
    GEditBench,
    PairwiseJudge,
    QwenImageBench,
    RankingJudge,
    RubricJudge,
    TextRendering,
    UnifiedReward,
    UnifiedRewardEdit,
    VIEScore,
)
from lightning_imgmetrics.errors import JudgeFailed
from lightning_imgmetrics.judges.backends.local import LocalJudge
from lightning_imgmetrics.judges.backends.question import Decoding
from lightning_imgmetrics.prompt_benchmarks.base.prompt_files import GEditItem
from lightning_imgmetrics.prompt_benchmarks.base.question_files import DpgQuestion, TifaQuestion

pytestmark = pytest.mark.filterwarnings("ignore:the prompt .* is not on this machine")  # our own wording stands in

FAMILIES: dict[str, Callable[[Path, str], str]] = {
    "qwen2_vl": lambda folder, answer: qwen2_vl(folder, answer),
    "qwen2_5_vl": partial(qwen_vl, "qwen2_5_vl"),
    "qwen3_vl": partial(qwen_vl, "qwen3_vl"),
    "t5": lambda folder, answer: instructblip(folder, answer),
}
PROMPT = 'a sign that says "open {late}"'
AXES = "Alignment Score (1-5): 4\nCoherence Score (1-5): 3\nStyle Score (1-5): 2"
FACETS = {"Realism": {"Physical Logic": {"score": 1}}, "Detail": {"Noise": {"score": 2}}}
RUBRIC = {"criteria": [{"name": "fit", "question": "Is it as asked?", "needs": "prompt"}]}


def said(**fields: Any) -> str:
    return json.dumps({"reasoning": "it is so", **fields})


def tifa(judge: LocalJudge, **kwargs: Any) -> TIFA:
    asked = [("is it open?", ("yes", "no"), "yes"), ("is it shut?", ("yes", "no"), "no")]
    return TIFA([TifaQuestion("a", PROMPT, q, c, a, "object", "sign") for q, c, a in asked], judge, **kwargs)


def dpg(judge: LocalJudge, **kwargs: Any) -> DPGBench:
    common = dict(item_id="a", text=PROMPT, category_broad="entity", category_detailed="whole")
    asked = [
        DpgQuestion(proposition=i, parents=(0,), tuple="entity - whole (sign)", question=f"is {i} there?", **common)
        for i in (1, 2)
    ]
    return DPGBench(asked, judge, **kwargs)


def gedit(judge: LocalJudge, folder: Path, **kwargs: Any) -> GEditBench:
    item = GEditItem("k", "color_alter", PROMPT, "en", folder / "source.png", True)
    return GEditBench([item], judge, **kwargs)


# The metric, how many rivals or sources it is shown, what the network has learned to say, and what that comes to.
CASES: dict[str, tuple[Callable[..., Any], str, str, float]] = {
    "vie_score": (partial(VIEScore, task="tie"), "source", said(score=[4, 9]), 4.0),
    "unified_reward": (UnifiedReward, "", AXES, 3.0),
    "unified_reward_edit": (UnifiedRewardEdit, "source", said(score=[20, 10]), 15.0),
    "qwen_image_bench": (partial(QwenImageBench, dimensions=["Quality"]), "", json.dumps(FACETS), 80.0),
    "rubric": (partial(RubricJudge, rubric=RUBRIC), "", said(score=4), 0.75),
    "pairwise_judge": (PairwiseJudge, "rivals", said(winner=1), 0.5),
    "ranking_judge": (RankingJudge, "rivals", said(ranking=[2, 1]), 0.5),
    "tifa": (tifa, "", "yes", 0.5),
    "dpg_bench": (dpg, "", "Yes, there is.", 100.0),
    "gedit_bench": (gedit, "source", said(score=[9, 4]), 4.0),
    "text_rendering": (partial(TextRendering, [PROMPT]), "", json.dumps({"text": "open now"}), 0.5),
}


# Families differ in how they are shown a prompt alone, a source, and rivals; the metrics in what they ask.
ALL_FAMILIES = ("rubric", "vie_score", "pairwise_judge")
FIRST = dict(zip(CASES, [*FAMILIES, *FAMILIES, *FAMILIES], strict=False))
PAIRS = [
    pytest.param(key, family, marks=() if key in ALL_FAMILIES or family == FIRST[key] else pytest.mark.slow)
    for key, (_, others, _, _) in CASES.items()
    for family in FAMILIES
    if not (family == "t5" and others)  # InstructBLIP takes one image
]


def measured(make: Callable[..., Any], others: str, judge: LocalJudge, folder: Path, **kwargs: Any) -> Any:
    from PIL import Image

    images, source = random_images(3, 32, 1), random_images(3, 32, 2)
    Image.fromarray(source[0].permute(1, 2, 0).numpy()).save(folder / "source.png")
    m = make(judge, folder, **kwargs) if make is gedit else make(judge=judge, **kwargs)
    n = 1 if make is gedit else 3
    m.update(images=images[:n], prompts=PROMPT, ids=range(n), **({others: source[:n]} if others else {}))
    return m


@pytest.mark.parametrize(("key", "family"), PAIRS)
def test_what_a_network_writes_becomes_the_score(key: str, family: str, tmp_path: Path) -> None:
    make, others, answer, value = CASES[key]
    folder = FAMILIES[family](tmp_path / "judge", answer)
    results = []
    for batch_size in (1, 4):
        judge = LocalJudge(folder, dtype="float32", batch_size=batch_size, cache=False)
        m = measured(make, others, judge, tmp_path, max_failed=0.5)
        results.append(m.result())
    assert results[0] == results[1]
    assert results[0].value == pytest.approx(value, abs=1e-9)
    assert results[0].details["n_failed"] == 0


def test_a_judge_of_single_images_says_so(tmp_path: Path) -> None:
    make, others, answer, _ = CASES["pairwise_judge"]
    judge = LocalJudge(instructblip(tmp_path / "judge", answer), dtype="float32", cache=False)
    with pytest.raises(JudgeFailed, match="a judge of type 'instructblip' takes one image, the question has 2"):
        measured(make, others, judge, tmp_path).compute()


@pytest.mark.parametrize("key", CASES)
def test_what_an_untaught_network_writes_is_no_score(key: str, tmp_path: Path) -> None:
    make, others, _, _ = CASES[key]
    judge = LocalJudge(qwen2_vl(tmp_path / "noise"), dtype="float32", batch_size=4, cache=False)
    m = measured(make, others, judge, tmp_path, decoding=Decoding(max_tokens=5), retries=0)
    with pytest.raises(JudgeFailed, match=r"have no answer that can be used|no usable answer for"):
        m.compute()
    assert all(record["score"] is None and record["rationale"] for record in m.records())
