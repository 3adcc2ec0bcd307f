"""The text in images: what was read against what was asked for, judges and reading engines, targets of all kinds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_images
from helpers.judges import ScriptedJudge, qwen2_vl, texts_of
from torch import Tensor

from lightning_imgmetrics.errors import JudgeFailed, ShapeError, UnreadableQuestions
from lightning_imgmetrics.judges.backends.local import LocalJudge
from lightning_imgmetrics.judges.backends.ocr import TextReader
from lightning_imgmetrics.judges.backends.question import Question
from lightning_imgmetrics.prompt_benchmarks.base.group_scores import group_means
from lightning_imgmetrics.prompt_benchmarks.text_rendering.metric import TextRendering, text_in
from lightning_imgmetrics.prompt_benchmarks.text_rendering.targets import TextTarget
from lightning_imgmetrics.prompt_benchmarks.text_rendering.text_distance import (
    exact_match,
    normalized_edit_distance,
    word_accuracy,
)

ODD = 'größer {you}\n%s \\n "木" \U0001f600 <|im_end|>'


def flat(*numbers: int) -> Tensor:
    return torch.stack([torch.full((3, 8, 8), 10 + number, dtype=torch.uint8) for number in numbers])


def number(image: Tensor) -> int:
    return int(image[0, 0, 0]) - 10


def reading(texts: dict[int, str | None], name: str = "") -> ScriptedJudge:
    """Reads what `texts` has for the number of the image; None: no answer."""

    def script(q: Question) -> str | None:
        text = texts[number(q.images[0])]
        return None if text is None else json.dumps({"text": text})

    return ScriptedJudge(script, name=name)


def world_of(seed: int, n: int = 9) -> tuple[list[TextTarget], dict[int, str | None]]:
    """Targets of two languages, and what is read: some of the words, others, none, or no answer."""
    draw = random.Random(seed)
    words = {"en": ["open", "SALE", "50%", "ice-cream"], "zh": ["木", "火", "水"]}
    targets, texts = [], {}
    for i in range(n):
        language = draw.choice(["en", "zh"])
        wanted = draw.choices(words[language], k=draw.randint(1, 4))
        targets.append(TextTarget(f"t{i}", f"prompt {i}", tuple(wanted), language))
        texts[i] = draw.choice([" ".join(wanted), " ".join(draw.sample(wanted, 1)), "SALE 木", "", None])
    return targets, texts


# Scores


@pytest.mark.parametrize("seed", range(12))
def test_the_means_of_what_was_read(seed: int) -> None:
    targets, texts = world_of(seed)
    metric = TextRendering(targets, reading(texts), max_failed=1.0)
    metric.update(images=flat(*range(9)), prompts=metric.prompts, ids=range(9))
    known = [(target, texts[i]) for i, target in enumerate(targets) if texts[i] is not None]
    pairs = [(" ".join(target.texts), text, target.language) for target, text in known]
    scores = [word_accuracy(*pair) for pair in pairs]
    result = metric.result()
    assert result.value == pytest.approx(sum(scores) / len(scores), rel=1e-14)
    distances = [normalized_edit_distance(*pair) for pair in pairs]
    assert result.details["edit_distance"] == pytest.approx(sum(distances) / len(distances), rel=1e-14)
    assert result.details["exact_match"] == pytest.approx(sum(exact_match(*pair) for pair in pairs) / len(pairs))
    assert result.details["n_failed"] == result.details["n_failed_questions"] == 9 - len(known)
    expected = group_means([target.language for target, _ in known], scores).mean
    assert {name: category.value for name, category in metric.categories().items()} == expected
    assert metric.missing() == [target.id for i, target in enumerate(targets) if texts[i] is None]


def test_an_image_without_text_scores_nothing_and_is_no_failure() -> None:
    metric = TextRendering(['a sign "open"'], reading({0: ""}))
    metric.update(images=flat(0), prompts=metric.prompts, ids=[4])
    result = metric.result()
    assert (result.value, result.details["n_failed"], result.details["edit_distance"]) == (0, 0, 1)
    (row,) = metric.records()[0]["rows"]
    assert (row["expected"], row["read"], row["score"], row["category"]) == ("open", "", 0, "en")
    assert metric.rationales() == {4: "read '' for 'open'"}


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ('{"text": "open"}', "open"),
        ('It says:\n```json\n{"text": "open\\nnow"}\n```', "open\nnow"),
        ('{"text": ["open", "now"]}', "open\nnow"),
        ('{"text": ""}', ""),
        ('{"text": []}', ""),
        ("<think>{\"text\": \"no\"}</think>{'text': 'it is {open}'}", "it is {open}"),
        ('{"text": 5}', None),
        ('{"words": "open"}', None),
        ('["open"]', None),
        ("open", None),
        ("I cannot read it", None),
        ('{"text": "open', None),
    ],
)
def test_what_an_answer_says_was_read(said: str, text: str | None) -> None:
    assert text_in(said) == text


def test_a_refusal_in_the_form_is_a_failure_unless_it_is_what_was_asked_for() -> None:
    sorry = "I'm sorry, I cannot assist with that"
    metric = TextRendering(
        ['a "door"', f'a note "{sorry}"'.replace("I'm", "I am")], reading({0: sorry, 1: sorry}), max_failed=0.5
    )
    metric.update(images=flat(0, 1), prompts=metric.prompts)
    assert [record["score"] is None for record in metric.records()] == [True, False]
    assert float(metric.compute()) > 0.5


def test_a_second_try_and_what_the_judge_is_shown() -> None:
    judge = ScriptedJudge(lambda q: '{"text": "secret"}' if len(q.messages) == 3 else "secret")
    metric = TextRendering(['a wall with "secret" on it'], judge)
    metric.update(images=flat(0), prompts=metric.prompts)
    assert float(metric.compute()) == 1
    assert "secret" not in texts_of(judge.asked[0])  # who knows what to find, finds it
    assert '{"text": ""}' in texts_of(judge.asked[0])


# Targets


def test_targets_of_all_kinds(tmp_path: Path) -> None:
    lines = [
        {"prompt": 'a sign "open now"'},
        {"prompt": "a shop", "text": ["木", "火"], "id": "shop"},
        {"prompt": f'"{ODD}"', "text": ODD},
    ]
    path = tmp_path / "targets.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    metric = TextRendering(path, reading({0: "Now, OPEN!", 1: "火", 2: ODD}))
    metric.update(images=flat(0, 1, 2), prompts=metric.prompts)
    assert [record["score"] for record in metric.records()] == [1, 0.5, 1]
    assert [record["item"] for record in metric.records()] == ["0", "shop", "2"]
    assert set(metric.items) == {"0", "shop", "2"}


def test_the_language_can_be_given() -> None:
    prompts = ["「猫と犬」と書かれた看板"]
    scores = {}
    for language in (None, "zh", "en"):
        metric = TextRendering(prompts, reading({0: "猫と鳥"}), language=language)
        metric.update(images=flat(0), prompts=prompts)
        scores[language] = float(metric.compute())
        assert list(metric.categories()) == [language or "zh"]
        assert ("|language:" in metric.result().signature) == (language is not None)
    assert scores == {None: pytest.approx(2 / 3), "zh": pytest.approx(2 / 3), "en": 0}


@pytest.mark.parametrize(
    ("targets", "error", "match"),
    [
        ([], UnreadableQuestions, "at least one TextTarget"),
        (["a sign"], UnreadableQuestions, "prompt 0, column 'prompt': must have a text in quotes"),
        (['a "b"', 7], TypeError, r"`questions\[1\]` must be a TextTarget, got int"),
        ([TextTarget("a", "p", ("x",), "en")] * 2, UnreadableQuestions, "an id each"),
        (7, TypeError, "a file or a list of TextTarget"),
        ("nowhere.jsonl", FileNotFoundError, "nowhere"),
    ],
)
def test_what_is_no_benchmark(targets: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        TextRendering(targets, reading({}))


# Readers, checkpoints, ranks


def test_a_reading_engine_as_the_judge() -> None:
    calls = []

    def engine(images: list[Tensor]) -> list[str | None]:
        calls.append([tuple(image.shape) for image in images])
        return [["Open {now}", "", None][number(image)] for image in images]

    prompts = ['an "open now" sign', 'a "red" sign', 'a "blue" sign']
    metric = TextRendering(prompts, TextReader(engine, batch_size=2), max_failed=0.5)
    metric.update(images=flat(0, 1, 2), prompts=prompts)
    assert float(metric.compute()) == 0.5
    assert metric.missing() == ["2"]
    assert calls == [[(3, 8, 8)] * 2, [(3, 8, 8)]]
    plain = TextRendering(prompts, engine, max_failed=0.5)
    plain.update(images=flat(0, 1, 2), prompts=prompts)
    assert plain.compute() == metric.compute()
    assert "network:engine" in plain.result().signature


def test_a_named_engine_is_asked_once() -> None:
    calls = []

    def engine(images: list[Tensor]) -> list[str]:
        calls.append(len(images))
        return ["red"] * len(images)

    for _ in range(2):
        metric = TextRendering(['a "red" sign'], TextReader(engine, name="engine 1.2"))
        metric.update(images=flat(0), prompts=metric.prompts)
        assert float(metric.compute()) == 1
    assert calls == [1]
    assert "network:engine 1.2" in metric.result().signature


@pytest.mark.parametrize("returned", [[], "red", ["a", "b"]])
def test_an_engine_that_returns_something_else(returned: Any) -> None:
    metric = TextRendering(['a "red" sign'], lambda images: returned)
    with pytest.raises(ShapeError, match="`read` must return 1 texts, one per image"):
        metric.update(images=flat(0), prompts=metric.prompts)


def test_what_is_no_judge() -> None:
    with pytest.raises(TypeError, match="`judge` must be a Judge"):
        TextRendering(['a "red" sign'], 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("said", "value"), [('{"text": "Open, now!"}', 1.0), ("open now", None)])
def test_a_checkpoint_as_the_judge(said: str, value: float | None, tmp_path: Path) -> None:
    metric = TextRendering(['a sign "open now"'], LocalJudge(qwen2_vl(tmp_path, said), dtype="float32"))
    metric.update(images=random_images(1, (28, 56)), prompts=metric.prompts)
    if value is None:
        with pytest.raises(JudgeFailed, match="unreadable answer: 'open now'"):
            metric.compute()
    else:
        assert float(metric.compute()) == value


def test_a_run_that_goes_on_asks_nothing_twice() -> None:
    targets, texts = world_of(4)
    texts = {i: text or "" for i, text in texts.items()}
    values = []
    for judge in (first := reading(texts, "kept"), second := reading({}, "kept")):
        metric = TextRendering(targets, judge)
        metric.update(images=flat(*range(9)), prompts=metric.prompts)
        values.append(float(metric.compute()))
    assert values[0] == values[1]
    assert (len(first.asked), len(second.asked)) == (9, 0)
