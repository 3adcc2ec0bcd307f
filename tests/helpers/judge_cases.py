"""Every metric that asks a judge, on judges whose answers hang on what they are shown and asked, and nothing else."""

from __future__ import annotations

import functools
import json
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from conftest import random_images
from helpers.detectors import save_detector
from helpers.judges import ScriptedJudge, chance, texts_of
from torch import Tensor

from lightning_imgmetrics import METRICS
from lightning_imgmetrics.judges.backends.question import Question
from lightning_imgmetrics.judges.prompts.qwen_image_bench import QWEN_FACETS
from lightning_imgmetrics.models.detection.detections import Detection
from lightning_imgmetrics.models.detection.mask2former import DetectorExtractor
from lightning_imgmetrics.prompt_benchmarks.base.prompt_files import GEditItem, GenAiPrompts
from lightning_imgmetrics.prompt_benchmarks.base.question_files import DpgQuestion, TifaQuestion
from lightning_imgmetrics.prompt_benchmarks.geneval.prompts import Clause, GenEvalPrompt
from lightning_imgmetrics.prompt_benchmarks.geneval.rules import Rules
from lightning_imgmetrics.prompt_benchmarks.text_rendering.targets import TextTarget

WORDS = ("zero", "one", "two")
MOST = 64  # rows there are

# Answers, in the form that each metric asks for


def draws(question: Question, k: int) -> list[float]:
    """k numbers in [0, 1) that depend on the images and texts of a question alone."""
    x = chance(question)
    return [x * 97**i % 1 for i in range(k)]


def scored(question: Question) -> str:
    """VIEScore's list, of as many scores as its question asks for."""
    k = 1 if len(question.images) == 1 and "naturalness" not in texts_of(question) else 2
    return json.dumps({"score": [round(10 * x, 1) for x in draws(question, k)], "reasoning": "as it looks"})


def scored_or_silent(question: Question) -> str | None:
    return None if chance(question) < 0.3 else scored(question)


def rated(question: Question) -> str:
    axes = ("Alignment", "Coherence", "Style")
    return "\n".join(f"{axis} Score (1-5): {1 + 4 * x:.2f}" for axis, x in zip(axes, draws(question, 3), strict=True))


def shared(question: Question) -> str:
    axes = ("Alignment", "Coherence", "Style")
    shares = zip(axes, draws(question, 3), strict=True)
    return "\n\n".join(f"{axis} Score:\n Image 1: {x:.4f}\n Image 2: {1 - x:.4f}" for axis, x in shares)


def edit_scored(question: Question) -> str:
    return json.dumps({"reasoning": "as it looks", "score": [round(25 * x, 1) for x in draws(question, 2)]})


def edit_weighed(question: Question) -> str:
    first, second = (round(10 * x) for x in draws(question, 2))
    return f"Image 1: {first}\nImage 2: {second}"


def marked(question: Question) -> str:
    (dimension,) = set(texts_of(question).splitlines()) & set(QWEN_FACETS)
    marks = iter(draws(question, 40))
    facets = QWEN_FACETS[dimension].items()
    return json.dumps({h: {f: {"score": [0, 1, 2, "N/A"][int(4 * next(marks))]} for f in some} for h, some in facets})


def graded(question: Question) -> str:
    return json.dumps({"reasoning": "as it looks", "score": 1 + int(5 * chance(question))})


def chosen(question: Question) -> str:
    """Of two, the one with the darker corner; now and then neither, or the first whatever it is."""
    winner = [0, 1, 1 + (corner(question.images[0]) > corner(question.images[1]))][min(2, int(6 * chance(question)))]
    return json.dumps({"reasoning": "as it looks", "winner": winner})


def ranked(question: Question) -> str:
    """From the darkest corner to the brightest, whatever the order."""
    corners = [corner(image) for image in question.images]
    order = sorted(range(1, 1 + len(corners)), key=lambda number: corners[number - 1])
    return json.dumps({"reasoning": "as it looks", "ranking": order})


def corner(image: Tensor) -> float:
    return float(image[:, :8, :8].double().mean())


def picked(question: Question) -> str:
    """One of the choices."""
    (told,) = re.findall("^Choices: (.*)$", texts_of(question), re.MULTILINE)
    choices = told.split(", ")
    return choices[int(len(choices) * chance(question))]


def yes_or_no(question: Question) -> str | None:
    """Mostly yes; now and then no answer."""
    x = chance(question)
    return "no" if x < 0.3 else None if x < 0.35 else "yes"


def read(question: Question) -> str:
    """Some of the words."""
    return json.dumps({"text": " ".join(w for w, x in zip(WORDS, draws(question, 3), strict=True) if x < 0.6)})


# What benchmarks ask


def tifa_questions() -> list[TifaQuestion]:
    kinds = (("red", "blue", "green"), ("yes", "no"))
    return [
        TifaQuestion(f"c_{i}", word, f"{word}? {j}", kinds[j % 2], kinds[j % 2][0], ("color", "object")[j % 2], "it")
        for i, word in enumerate(WORDS)
        for j in range(2 + i)
    ]


def dpg_questions() -> list[DpgQuestion]:
    about = "entity", "whole", "entity - whole (it)"
    return [
        DpgQuestion(f"d_{i}", word, j, (max(0, j - 2),), *about, f"is it {word}? {j}")
        for i, word in enumerate(WORDS)
        for j in range(1, 5 + i)
    ]


def gedit_items() -> list[GEditItem]:
    groups = ("background_change", "style_change", "background_change")
    return [
        GEditItem(f"k_{i}", group, word, "en", Path("nowhere.png"), True)
        for i, (group, word) in enumerate(zip(groups, WORDS, strict=True))
    ]


def text_targets() -> list[TextTarget]:
    return [TextTarget(f"t_{i}", word, WORDS[: i + 1], "en") for i, word in enumerate(WORDS)]


def geneval_prompts() -> list[GenEvalPrompt]:
    cat, dog = Clause("cat", 1), Clause("dog", 1)
    return [
        GenEvalPrompt("zero", "single_object", (cat,)),
        GenEvalPrompt("one", "two_object", (cat, dog)),
        GenEvalPrompt("two", "colors", (Clause("cat", 1, "red"),)),
    ]


def detections() -> dict[int, list[Detection]]:
    box, colors = (0.0, 0.0, 8.0, 8.0), ("red", "green", "red")
    cats = {i: [Detection("cat", 0.5, box, color=colors[i // 3 % 3])] if i % 4 else [] for i in range(MOST)}
    return {i: [*some, Detection("dog", 0.4, box, color="red")] if i % 5 else some for i, some in cats.items()}


@functools.cache
def detector() -> DetectorExtractor:
    """Random weights, certain of nothing."""
    return DetectorExtractor(save_detector(Path(tempfile.mkdtemp()) / "detector"), resize="processor")


def found_at_all() -> list[GenEvalPrompt]:
    """Objects that the detector sees in some images."""
    seen = zip(WORDS, ("train", "elephant", "bed"), strict=True)
    return [GenEvalPrompt(word, "single_object", (Clause(label, 1),)) for word, label in seen]


# case -> (its key, what it is made with, what it takes beside images, in sizes of the sets)

Judged = tuple[str, Callable[[], dict[str, Any]], dict[str, int]]
EDIT, RIVAL = {"source": 1}, {"rivals": 1}
GENAI = GenAiPrompts(
    {str(i): word for i, word in enumerate(WORDS)}, {"counting": ("0", "2"), "scene": ("1",), "color": ("0", "1")}
)
JUDGED: dict[str, Judged] = {
    "vqa_score": ("vqa_score", lambda: {"judge": ScriptedJudge(chance)}, {}),
    "genai_bench": ("genai_bench", lambda: {"questions": GENAI, "judge": ScriptedJudge(chance)}, {}),
    "vie_score": ("vie_score", lambda: {"judge": ScriptedJudge(scored)}, {}),
    "vie_score (edits)": (
        "vie_score",
        lambda: {"judge": ScriptedJudge(scored_or_silent), "task": "tie", "max_failed": 0.9},
        EDIT,
    ),
    "unified_reward": ("unified_reward", lambda: {"judge": ScriptedJudge(rated)}, {}),
    "unified_reward (pairs)": ("unified_reward", lambda: {"judge": ScriptedJudge(shared), "mode": "pairwise"}, RIVAL),
    "unified_reward_edit": ("unified_reward_edit", lambda: {"judge": ScriptedJudge(edit_scored)}, EDIT),
    "unified_reward_edit (pairs)": (
        "unified_reward_edit",
        lambda: {"judge": ScriptedJudge(edit_weighed), "mode": "pairwise_score"},
        EDIT | RIVAL,
    ),
    "qwen_image_bench": ("qwen_image_bench", lambda: {"judge": ScriptedJudge(marked)}, {}),
    "rubric": ("rubric", lambda: {"judge": ScriptedJudge(graded)}, {}),
    "rubric (edits)": ("rubric", lambda: {"judge": ScriptedJudge(graded), "rubric": "image-edit"}, {"source": 2}),
    "pairwise_judge": ("pairwise_judge", lambda: {"judge": ScriptedJudge(chosen)}, RIVAL),
    "ranking_judge": ("ranking_judge", lambda: {"judge": ScriptedJudge(ranked)}, {"rivals": 2}),
    "tifa": ("tifa", lambda: {"questions": tifa_questions(), "judge": ScriptedJudge(picked)}, {}),
    "dpg_bench": ("dpg_bench", lambda: {"questions": dpg_questions(), "judge": ScriptedJudge(yes_or_no)}, {}),
    "dpg_bench (squares)": (
        "dpg_bench",
        lambda: {"questions": dpg_questions(), "judge": ScriptedJudge(yes_or_no), "grid": 2},
        {},
    ),
    "gedit_bench": (
        "gedit_bench",
        lambda: {"questions": gedit_items(), "judge": ScriptedJudge(scored)},
        EDIT,
    ),
    "geneval": (
        "geneval",
        lambda: {"questions": found_at_all(), "detector": detector(), "rules": Rules(threshold=0.001)},
        {},
    ),
    "geneval (detections)": ("geneval", lambda: {"questions": geneval_prompts(), "detections": detections()}, {}),
    "text_rendering": ("text_rendering", lambda: {"questions": text_targets(), "judge": ScriptedJudge(read)}, {}),
}
NUMBERED = ("geneval (detections)",)  # detections are found by the ids of samples


def make(case: str, **kwargs: Any) -> Any:
    key, arguments, _ = JUDGED[case]
    return METRICS[key](**arguments(), **kwargs)


@functools.cache
def pool(seed: int) -> Tensor:
    return random_images(MOST, 16, seed)


def given(case: str, rows: Iterable[int]) -> dict[str, Any]:
    """What `update` takes of some rows."""
    rows = [int(row) for row in rows]
    inputs: dict[str, Any] = {"images": pool(0)[rows], "prompts": [WORDS[row % 3] for row in rows]}
    for name, k in JUDGED[case][2].items():
        sets = [pool(1 + i + 2 * (name == "rivals"))[rows] for i in range(k)]
        inputs[name] = sets[0] if k == 1 else [list(some) for some in zip(*sets, strict=True)]
    return {**inputs, "ids": rows} if case in NUMBERED else inputs
