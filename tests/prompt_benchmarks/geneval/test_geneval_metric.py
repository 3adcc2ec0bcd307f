"""GenEval: scripted and tiny detectors against the rules, the published sums, items and images, ranks, bad input."""

from __future__ import annotations

import copy
import json
import math
import pickle
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Worlds, random_images
from helpers.checkpoints import bpe_clip
from helpers.detectors import save_detector
from torch import Tensor

from lightning_imgmetrics import MetricSuite
from lightning_imgmetrics.errors import (
    JudgeFailed,
    NotEnoughSamples,
    SignatureMismatch,
    UnreadableQuestions,
    ValueRangeError,
)
from lightning_imgmetrics.models.detection.detections import CLASSES, COLORS, Detection
from lightning_imgmetrics.models.detection.mask2former import MASK2FORMER, DetectorExtractor
from lightning_imgmetrics.models.encoders.clip import ClipExtractor
from lightning_imgmetrics.prompt_benchmarks.geneval.colors import CLIP_L14, ColorClassifier
from lightning_imgmetrics.prompt_benchmarks.geneval.metric import GenEval
from lightning_imgmetrics.prompt_benchmarks.geneval.prompts import TASKS, Clause, GenEvalPrompt
from lightning_imgmetrics.prompt_benchmarks.geneval.rules import PUBLISHED, Rules, geneval_scores, judge

CPU = torch.device("cpu")
CAT, DOG = Clause("cat", 1), Clause("dog", 1)
PROMPTS = [
    GenEvalPrompt("a photo of a cat", "single_object", (CAT,)),
    GenEvalPrompt("a photo of a cat and a dog", "two_object", (CAT, DOG)),
    GenEvalPrompt("a photo of two cats", "counting", (Clause("cat", 2),), (Clause("cat", 3),)),
    GenEvalPrompt("a photo of a red cat", "colors", (Clause("cat", 1, "red"),)),
    GenEvalPrompt("a photo of a dog left of a cat", "position", (CAT, Clause("dog", 1, position=("left of", 0)))),
    GenEvalPrompt(
        "a photo of a red cat and a green dog",
        "color_attr",
        (Clause("cat", 1, "red"), Clause("dog", 1, "green")),
    ),
]
TEXTS = [prompt.prompt for prompt in PROMPTS]
LEFT, RIGHT = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)


def seen(label: str, box: tuple[float, ...] = RIGHT, color: str | None = "red", score: float = 0.95) -> Detection:
    return Detection(label, score, box, color=color)  # type: ignore[arg-type]


RIGHTS = [  # of each prompt, what makes an image correct
    [seen("cat")],
    [seen("cat"), seen("dog", LEFT)],
    [seen("cat"), seen("cat", LEFT)],
    [seen("cat", color="red")],
    [seen("cat"), seen("dog", LEFT)],
    [seen("cat", color="red"), seen("dog", LEFT, "green")],
]
WRONGS = [  # and what does not, with the reason
    ([], "cat: expected 1, found 0"),
    ([seen("dog")], "cat: expected 1, found 0"),
    ([seen("cat"), seen("cat", LEFT, score=0.8)], "cat: expected 2, found 1"),
    ([seen("cat", color="blue")], "cat: expected 1 red, found 1 blue"),
    ([seen("cat", LEFT), seen("dog")], "dog: expected left of the cat, found right of it"),
    ([seen("cat", color="red"), seen("dog", LEFT, "red")], "dog: expected 1 green, found 1 red"),
]


def blank(n: int) -> Tensor:
    return torch.full((n, 3, 8, 8), 100, dtype=torch.uint8)


def scripted(found: Any, prompts: Sequence[GenEvalPrompt] = PROMPTS, **kwargs: Any) -> GenEval:
    return GenEval(prompts, detections=found, **{"colors": None, **kwargs})


# Verdicts and the published sums


def test_one_image_of_each_task() -> None:
    for turned in (False, True):
        found = {i: (WRONGS[i][0] if (i % 2 == 0) == turned else RIGHTS[i]) for i in range(6)}
        m = scripted(found)
        m.update(images=blank(6), prompts=TEXTS, ids=range(6))
        result = m.result()
        assert result.value == 0.5
        expected = {task: float((i % 2 == 0) != turned) for i, task in enumerate(TASKS)}
        assert {name: category.value for name, category in m.categories().items()} == expected
        assert {task: result.details[f"category:{task}"] for task in TASKS} == expected
        told = {i: WRONGS[i][1] for i in range(6) if not expected[TASKS[i]]}
        assert m.rationales() == told
        assert (result.interval, result.n, m.missing()) == (None, 6, [])  # one prompt a task shows no spread


def world_of(seed: int) -> tuple[list[GenEvalPrompt], dict[int, list[Detection]], list[bool | None], list[int]]:
    """Up to 40 images of up to 4 prompts a task, of which about one in eight has no detections."""
    draw = random.Random(seed)
    prompts = [
        replace(PROMPTS[t], prompt=f"{TEXTS[t]} {i}", exclude=(*PROMPTS[t].exclude, Clause("bear", i + 1)))
        for t in range(6)
        for i in range(draw.randint(0, 4))
    ] or PROMPTS
    made, found, verdicts = [], {}, []
    for i in range(draw.randint(1, 40)):
        made.append(draw.randrange(len(prompts)))
        task = TASKS.index(prompts[made[-1]].tag)
        verdicts.append(draw.choice([True, True, True, True, False, False, False, None]))
        if verdicts[-1] is not None:
            found[i] = RIGHTS[task] if verdicts[-1] else WRONGS[task][0]
    return prompts, found, verdicts, made


@pytest.mark.parametrize("seed", range(60))
def test_the_published_sums(seed: int) -> None:
    prompts, found, verdicts, made = world_of(seed)
    m = scripted(found, prompts, max_failed=1.0)
    m.update(images=blank(len(made)), prompts=[prompts[i].prompt for i in made], ids=range(len(made)))
    of = [prompts[i] for i in made]
    if all(verdict is None for verdict in verdicts):
        with pytest.raises(JudgeFailed):
            m.compute()
        return
    expected, result = geneval_scores(verdicts, of), m.result()
    assert result.value == expected.overall
    assert {name: (c.value, c.n) for name, c in m.categories().items()} == {
        task: (expected.tasks[task], expected.counts[task]) for task in expected.tasks
    }
    details = result.details
    assert (details["any_correct"], details["correct_images"]) == (expected.prompts, expected.images)
    assert (details["n_failed"], result.n) == (expected.n_failed, len(made) - expected.n_failed)
    judged = {i for i, verdict in zip(made, verdicts, strict=True) if verdict is not None}
    assert m.missing() == [f"{i:05}" for i in range(len(prompts)) if i not in judged]
    assert (details["n_items"], details["n_missing_items"]) == (len(judged), len(prompts) - len(judged))


def test_error_and_interval_are_those_of_the_tasks() -> None:
    """Two tasks of two prompts; by hand: the prompts' sums are off by +1, -1 of 4 images, and by +.8, -.8 of 5."""
    cats = [replace(PROMPTS[0], prompt=f"cat {i}") for i in range(2)]
    pairs = [replace(PROMPTS[1], prompt=f"pair {i}") for i in range(2)]
    made = [0, 0, 1, 1, 2, 2, 3, 3, 3]
    right = [True, True, True, False, True, True, True, False, False]
    prompts = [*cats, *pairs]
    found = {i: RIGHTS[made[i] // 2] if x else [] for i, x in enumerate(right)}
    m = scripted(found, prompts)
    m.update(images=blank(9), prompts=[prompts[i].prompt for i in made], ids=range(9))
    result = m.result()
    assert result.value == (3 / 4 + 3 / 5) / 2
    off = [[2 - 2 * 3 / 4, 1 - 2 * 3 / 4], [2 - 2 * 3 / 5, 1 - 3 * 3 / 5]]
    variances = [2 * (a**2 + b**2) / n**2 for (a, b), n in zip(off, (4, 5), strict=True)]
    assert result.details["standard_error"] == pytest.approx(math.sqrt(sum(variances)) / 2, rel=1e-12)
    tasks = list(m.categories().values())
    low, high = (math.sqrt(sum((c.value - c.interval[i]) ** 2 for c in tasks if c.interval)) / 2 for i in (0, 1))
    assert result.interval == pytest.approx((result.value - low, result.value + high), rel=1e-12)


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    """Prompts that differ in difficulty, 4 images of each; binomial error of 300 draws at 95 %: 1.3 points."""
    generator = torch.Generator().manual_seed(0)
    prompts = [replace(PROMPTS[t], prompt=f"{TEXTS[t]} {i}") for t in range(6) for i in range(12)]
    m = scripted({}, prompts)
    item = torch.arange(72).repeat_interleave(4)
    hardness = torch.tensor([0.9, 0.7, 0.5, 0.8, 0.1, 0.3]).repeat_interleave(12)
    covered = 0
    for _ in range(300):
        chance = (hardness + 0.3 * (torch.rand(72, generator=generator) - 0.5)).clamp(0, 1)
        right = (torch.rand(288, generator=generator) < chance[item]).double()
        interval = m.over_samples(torch.stack([right, item.double(), torch.zeros(288)], 1).double()).interval
        assert interval is not None
        assert 0 <= interval[0] <= interval[1] <= 1
        covered += interval[0] <= hardness.mean().item() <= interval[1]
    assert covered >= 0.92 * 300


def test_all_right_and_all_wrong_are_not_certain() -> None:
    prompts = [replace(PROMPTS[t], prompt=f"{TEXTS[t]} {i}") for t in range(6) for i in range(3)]
    for right in (True, False):
        m = scripted({i: RIGHTS[i // 3] if right else [] for i in range(18)}, prompts)
        m.update(images=blank(18), prompts=[p.prompt for p in prompts], ids=range(18))
        result = m.result()
        assert result.value == float(right)
        assert result.interval is not None
        assert result.interval[1] - result.interval[0] > 0.05
        assert -1e-12 < result.interval[0] <= result.interval[1] < 1 + 1e-12


def test_published_verdicts_and_their_detections(tmp_path: Path) -> None:
    """A results.jsonl holds what was found, so its images are judged again, and come out the same."""
    plain = [PROMPTS[i] for i in (0, 1, 2, 4)]
    stored = [
        {"tag": "single_object", "include": [{"class": "cat", "count": 1}]},
        {"tag": "two_object", "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1}]},
        {"tag": "counting", "include": [{"class": "cat", "count": 2}], "exclude": [{"class": "cat", "count": 3}]},
        {
            "tag": "position",
            "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
        },
    ]
    lines = []
    for i, (prompt, row) in enumerate(zip(plain, stored, strict=True)):
        for k, found in enumerate((RIGHTS[TASKS.index(prompt.tag)], WRONGS[TASKS.index(prompt.tag)][0])):
            boxes: dict[str, list[Any]] = {}
            for one in found:
                boxes.setdefault(one.label, []).append([*one.box, one.score])
            told = {"filename": f"images/{i:05}/samples/{k:04}.png", "correct": k == 0, "details": json.dumps(boxes)}
            lines.append(json.dumps({**told, "metadata": json.dumps({**row, "prompt": prompt.prompt})}))
    (tmp_path / "results.jsonl").write_text("\n".join(lines))
    names = [f"{i:05}/samples/{k:04}.png" for i in range(4) for k in range(2)]
    m = scripted(tmp_path / "results.jsonl", plain, names=names)
    m.update(images=blank(8), prompts=[prompt.prompt for prompt in plain for _ in range(2)], ids=range(8))
    assert [record["score"] for record in m.records()] == [1, 0] * 4
    assert m.result().value == 0.5
    assert m.result().details["any_correct"] == 1


def test_what_is_recorded() -> None:
    m = scripted({4: RIGHTS[1]}, max_failed=0.5)
    m.update(images=blank(2), prompts=[TEXTS[1], "00001"], ids=[4, 5])
    first, second = m.records()
    assert first == {
        "id": 4,
        "prompt": TEXTS[1],
        "item": "00001",
        "score": 1.0,
        "rationale": "",
        "rows": [
            {
                "question": TEXTS[1],
                "category": "two_object",
                "score": 1.0,
                "found": {"cat": [[*RIGHT, 0.95]], "dog": [[*LEFT, 0.95]]},
            }
        ],
    }
    assert json.loads(json.dumps(m.records())) == m.records()
    assert (second["score"], second["rationale"]) == (None, "`detections` has no entry of it")
    assert m.result().n == 1
    m.reset()
    assert (m.records(), m.missing(), m.categories()) == ([], [], {})


def test_a_prompt_that_comes_twice_is_one_item() -> None:
    m = scripted({}, [PROMPTS[0], PROMPTS[1], replace(PROMPTS[0], prompt="a photo  of a cat"), PROMPTS[2]])
    assert m.prompts == [TEXTS[0], TEXTS[1], TEXTS[2]]
    assert list(m.items) == ["00000", "00001", "00003"]
    other = replace(PROMPTS[0], include=(Clause("cat", 1, "red"),))
    with pytest.raises(UnreadableQuestions, match=r"prompts 00000 and 00002 are both 'a photo of a cat' .*None.*'red'"):
        scripted({}, [PROMPTS[0], PROMPTS[1], other])


def test_too_many_without_detections() -> None:
    m = scripted({0: RIGHTS[0]})
    m.update(images=blank(3), prompts=TEXTS[:3], ids=range(3))
    told = r"there are no detections for 2 of 3 samples, `max_failed` is 0\.2\. `detections` has no entry of it \(2x\)"
    with pytest.raises(JudgeFailed, match=told):
        m.compute()
    with pytest.raises(NotEnoughSamples, match="call `update` first"):
        scripted({}).compute()


# Files of detections and names


def test_detections_from_a_file(tmp_path: Path) -> None:
    rows = [
        {
            "image": f"x/{i}.png",
            "detections": [{"class": d.label, "score": d.score, "box": d.box, "color": d.color} for d in found],
        }
        for i, found in enumerate(RIGHTS)
    ]
    path = tmp_path / "found.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = tmp_path / "prompts.jsonl"
    questions.write_text(
        json.dumps({"tag": "single_object", "prompt": TEXTS[0], "include": [{"class": "cat", "count": 1}]})
    )
    m = GenEval(str(questions), detections=path, names=[f"x/{i}.png" for i in (1, 0, 9)], max_failed=0.5)
    m.update(images=blank(3), prompts=TEXTS[0], ids=range(3))
    assert (m.result().value, m.result().details["n_failed"]) == (1, 1)
    by_id = tmp_path / "ids.json"
    by_id.write_text(json.dumps([{"id": 7, "detections": []}, {"id": "12", "detections": rows[0]["detections"]}]))
    m = GenEval(questions, detections=str(by_id))
    m.update(images=blank(2), prompts=TEXTS[0], ids=[12, 7])
    assert dict(zip(*(x.tolist() for x in m.scores()), strict=True)) == {7: 0, 12: 1}


@pytest.mark.parametrize(
    ("kwargs", "error", "told"),
    [
        (
            dict(detections={"a.png": []}),
            ValueError,
            "`names` is needed: `detections` must be by sample id, got 'a.png'",
        ),
        (dict(detections={"1": [], 1: []}), ValueError, "must be by sample id, got two of one id"),
        (dict(detections={-1: []}), ValueError, "got -1"),
        (dict(detections={"a": []}, names=["b", "c"]), ValueError, r"such as 'a', got none of them: \['b', 'c'\]"),
        (dict(detections=[[]]), TypeError, "`detections` must be a file or a mapping of images, got list"),
        (dict(detections={0: [{"class": "cat"}]}), TypeError, "a list of Detection for each image, got .* for 0"),
        (dict(detections={0: None}), TypeError, "a list of Detection"),
        (dict(detections=None, names=["a"], colors="clip"), ValueError, "`names` are those of images in `detections`"),
        (dict(detections=None), ValueError, "`colors` is needed: prompts ask for colors"),
        (dict(detections={}, prompts=[]), UnreadableQuestions, "`questions` must hold at least one GenEvalPrompt"),
        (dict(detections={}, prompts=[TEXTS[0]]), TypeError, r"`questions\[0\]` must be a GenEvalPrompt, got str"),
        (dict(detections={}, max_failed=2), ValueError, "`max_failed` in"),
        (dict(detections={}, limit=0), ValueError, "`limit` at least 1"),
        (dict(detections={}, keep_scores=False), ValueError, "`keep_scores` must be True"),
        (
            dict(detections=None, colors=CLIP_L14, detector=DetectorExtractor("x", min_score=0.5)),
            ValueRangeError,
            "its min_score 0.5 is above the threshold 0.3",
        ),
        (
            dict(
                detections=None,
                colors=CLIP_L14,
                detector=DetectorExtractor("x", min_score=0.3),
                rules=Rules(counting_threshold=0.2),
            ),
            ValueRangeError,
            "above the threshold 0.2",
        ),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], error: type[Exception], told: str) -> None:
    given = dict(kwargs)
    with pytest.raises(error, match=told):
        scripted(given.pop("detections"), given.pop("prompts", PROMPTS), **given)


@pytest.mark.parametrize(
    ("inputs", "error", "told"),
    [
        (
            dict(prompts=["a photo of a hat", TEXTS[0]], ids=[0, 1]),
            ValueError,
            r"`prompts\[0\]` is no prompt, and no name, of an item",
        ),
        (dict(prompts=TEXTS[0]), TypeError, "geneval with `detections` needs `ids=` in update"),
        (dict(ids=[0, 1]), TypeError, "geneval needs `prompts=` in update"),
        (dict(prompts=[TEXTS[0], TEXTS[3]], ids=[0, 1]), ValueError, "`colors` is needed: a red cat is asked for"),
    ],
)
def test_bad_inputs(inputs: dict[str, Any], error: type[Exception], told: str) -> None:
    m = scripted({0: RIGHTS[0], 1: [seen("cat", color=None)]})
    with pytest.raises(error, match=told):
        m.update(images=blank(2), **inputs)
    assert m.records() == []
    with pytest.raises(NotEnoughSamples):
        m.compute()


# A detector and a CLIP


LOW = Rules(threshold=0.02, counting_threshold=0.04, max_overlap=0.9)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return bpe_clip(tmp_path_factory.mktemp("clip"), act="quick_gelu", length=77)


def pictures(n: int) -> list[Tensor]:
    return [random_images(1, [(64, 64), (40, 90)][i % 2], seed=i)[0] for i in range(n)]


def prompts_for(found: Sequence[Sequence[Detection]], seed: int = 0) -> list[GenEvalPrompt]:
    """A prompt of a random task for each image, about classes that are in it, mostly."""
    draw = random.Random(seed)
    prompts = []
    for i, objects in enumerate(found):
        a, b = (draw.choice([*(d.label for d in objects), *CLASSES[:2]]) for _ in range(2))
        color, other = draw.choice(COLORS), draw.choice(COLORS)
        include = {
            "single_object": (Clause(a, 1),),
            "two_object": (Clause(a, 1), Clause(b, 1)),
            "counting": (Clause(a, draw.randint(1, 2)),),
            "colors": (Clause(a, 1, color),),
            "position": (Clause(a, 1), Clause(b, 1, position=(draw.choice(["above", "left of"]), 0))),
            "color_attr": (Clause(a, 1, color), Clause(b, 1, other)),
        }
        tag = TASKS[i % 6]
        prompts.append(GenEvalPrompt(f"prompt {i}", tag, include[tag]))
    return prompts


def test_a_detector_and_a_clip_by_the_rules(checkpoint: str, clip: str) -> None:
    images = pictures(24)
    detector = DetectorExtractor(checkpoint, resize="processor", min_score=0.02)
    found = detector.detect(images, CPU)
    prompts = prompts_for(found)
    asked = prompts_for(found, seed=0)
    classifier = ColorClassifier(ClipExtractor(clip))
    # Colors that the CLIP does see, so that some are right.
    for i in range(0, 24, 12):
        objects = [d for d in found[i + 3] if d.label == prompts[i + 3].include[0].label][:1]
        if objects:
            (color,) = classifier(images[i + 3], objects, CPU)
            asked[i + 3] = replace(prompts[i + 3], include=(replace(prompts[i + 3].include[0], color=color),))
    expected = [
        judge(prompt, some, rules=LOW, colors=lambda ds, image=image: classifier(image, ds, CPU))  # type: ignore[misc]
        for prompt, some, image in zip(asked, found, images, strict=True)
    ]
    assert {x.correct for x in expected} == {True, False}
    assert {p.tag for p, x in zip(asked, expected, strict=True) if x.correct} >= {
        "single_object",
        "two_object",
        "colors",
    }
    m = GenEval(asked, detector=detector, colors=clip, rules=LOW)
    for part in (slice(0, 5), slice(5, 24)):
        m.update(images=images[part], prompts=[p.prompt for p in asked[part]], ids=range(24)[part])
    assert m.scores()[1].tolist() == [float(x.correct) for x in expected]
    assert m.rationales() == {i: x.reason for i, x in enumerate(expected) if x.reason}
    scores = geneval_scores([x.correct for x in expected], asked)
    assert m.result().value == scores.overall
    texts = [p.prompt for p in asked]
    assert m.scores_of({"pixels": images[:3]}, prompts=texts[:3])[:, 0].tolist() == m.scores()[1][:3].tolist()


def test_colors_of_objects_that_have_none(clip: str) -> None:
    """A color that is given is taken as it is; the CLIP is asked for the others."""
    image = random_images(1, 40, seed=1)[0]
    box = (3.0, 4.0, 30.0, 25.0)
    (color,) = ColorClassifier(ClipExtractor(clip))(image, [seen("cat", box, None)], CPU)
    other = next(c for c in COLORS if c != color)
    two = GenEvalPrompt("two", "colors", (Clause("cat", 1, color),))
    for given, right in ((None, 1), (color, 1), (other, 0)):
        m = GenEval([two], detections={0: [seen("cat", box, given)]}, colors=ClipExtractor(clip))
        m.update(images=image[None], prompts="two", ids=[0])
        assert m.compute() == right


def test_what_is_loaded_and_signed(checkpoint: str, clip: str) -> None:
    m = GenEval(PROMPTS)
    assert m.extractor == DetectorExtractor(MASK2FORMER, min_score=0.3)
    assert m.networks == (m.extractor, ClipExtractor(CLIP_L14))
    lower = GenEval(PROMPTS[:3], detector=checkpoint, rules=Rules(threshold=0.95))
    assert lower.extractor == DetectorExtractor(checkpoint, min_score=0.9)
    assert lower.networks == (lower.extractor,)  # none of them asks for a color
    fields = GenEval(PROMPTS, detector=checkpoint, colors=clip, limit=9).signature().fields
    told = {"metric": "geneval", "network": Path(checkpoint).name, "min_score": "0.3", "limit": "9"}
    assert {name: str(fields[name]) for name in told} == told
    assert fields["colors_network"] == Path(clip).name
    makes = [
        lambda: GenEval(PROMPTS, detector=checkpoint, colors=clip),
        lambda: GenEval(PROMPTS[:5], detector=checkpoint, colors=clip),
        lambda: GenEval(PROMPTS, detector=DetectorExtractor(checkpoint, min_score=0.1), colors=clip),
        lambda: GenEval(PROMPTS, detector=checkpoint, colors=ClipExtractor(clip, resize="crop-bicubic")),
        lambda: GenEval(PROMPTS, detector=checkpoint, colors=clip, rules=replace(PUBLISHED, margin=0.2)),
        lambda: GenEval(PROMPTS, detections={}, colors=clip),
        lambda: GenEval(PROMPTS, detections={}, colors=None),
    ]
    assert len({str(make().signature()) for make in makes}) == len(makes)
    assert all(str(make().signature()) == str(make().signature()) for make in makes)
    m = makes[0]()
    for copied in (copy.deepcopy(m), pickle.loads(pickle.dumps(m)), m.clone()):
        assert copied.signature() == m.signature()
    with pytest.raises(SignatureMismatch):
        makes[5]().merge_state(makes[6]())


def test_in_a_suite_and_on_disk(checkpoint: str, clip: str, tmp_path: Path) -> None:
    images, detector = pictures(12)[::2], DetectorExtractor(checkpoint, resize="processor", min_score=0.02)
    prompts = prompts_for(detector.detect(images, CPU))

    def suite() -> MetricSuite:
        given = scripted(dict.fromkeys(range(6), RIGHTS[0]), prompts)
        return MetricSuite({"geneval": GenEval(prompts, detector=detector, colors=clip, rules=LOW), "given": given})

    whole, first, rest = suite(), suite(), suite()
    texts = [p.prompt for p in prompts]
    whole.update(torch.stack(images), prompts=texts, ids=range(6))
    first.update(torch.stack(images[:4]), prompts=texts[:4], ids=range(4))
    rest.update(torch.stack(images[2:]), prompts=texts[2:], ids=range(2, 6))
    first.save(tmp_path / "first.safetensors")
    rest.merge(tmp_path / "first.safetensors")
    expected = whole.results()
    for name, result in rest.results().items():
        assert (result.value, dict(result.details)) == (expected[name].value, dict(expected[name].details))
    alone = GenEval(prompts, detector=detector, colors=clip, rules=LOW)
    alone.update(images=images, prompts=texts, ids=range(6))
    assert alone.compute() == expected["geneval"].value


# Ranks

SEED = 3


def judged_on(
    rank: int, size: int, shares: list[list[int]], seed: int
) -> tuple[float, Any, dict[str, float], list[str]]:
    prompts, found, _, made = world_of(seed)
    m = scripted(found, prompts, max_failed=1.0)
    for i in shares[rank]:
        m.update(images=blank(1), prompts=prompts[made[i]].prompt, ids=[i])
    result = m.result()
    return result.value, result.interval, dict(result.details), m.missing()


@pytest.mark.parametrize("size", [2, 3])
def test_ranks(worlds: Worlds, size: int) -> None:
    n = len(world_of(SEED)[3])
    assert n > 20
    alone = judged_on(0, 1, [list(range(n))], SEED)
    shared = [sorted({i % n for i in range(r, n + size, size)}) for r in range(size)]  # the first ones are padding, too
    for shares in (shared, [list(range(n)), *[[] for _ in range(size - 1)]]):
        for found in worlds(size, judged_on, shares, SEED):
            assert found == alone
