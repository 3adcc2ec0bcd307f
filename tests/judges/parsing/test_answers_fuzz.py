"""Whatever a judge writes: no reader fails, hangs or makes up a number."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pydantic
import pytest
from hypothesis import example, given, settings, strategies as st

from lightning_imgmetrics.judges.parsing.answers import (
    json_in,
    labeled_numbers,
    labeled_pairs,
    numbers_at,
    pair_scores,
    read_json,
)
from lightning_imgmetrics.judges.parsing.decisions import choice_of, preferred_image, yes_no
from lightning_imgmetrics.judges.parsing.json_text import LONGEST

LABELS = ("Alignment Score", "Style Score")


class Rating(pydantic.BaseModel):
    score: float = pydantic.Field(ge=0, le=10, allow_inf_nan=False)


READERS: dict[str, Callable[[str], Any]] = {
    "json": json_in,
    "schema": lambda text: read_json(text, Rating),
    "numbers": lambda text: numbers_at(text, scale=(0, 10)),
    "labeled": lambda text: labeled_numbers(text, LABELS),
    "labeled_pairs": lambda text: labeled_pairs(text, LABELS),
    "pair": pair_scores,
    "preferred": preferred_image,
    "yes_no": yes_no,
    "choice": lambda text: choice_of(text, ["a cat", "a dog", "no"]),
}

MARKS = [
    *"{}[]():,;.?\"'\\/*`<-+%#",
    "//",
    "/*",
    "*/",
    "```json",
    "<think>",
    "</think>",
    "||V^=^V||",
    "\u2212",
    "\uff1a",
]
NUMBERS = [
    "0",
    "1",
    "2",
    "7",
    "10",
    "11",
    "1.5",
    "-3",
    "1e9",
    "1e999",
    "07",
    "0x1",
    "\u0663",
    "\u00b2",
    "NaN",
    "Infinity",
]
WHOLE = [
    "score",
    '"score": ',
    "[7]",
    "[1, 2]",
    '{"score": 6}',
    "score: [1,2]",
    "Alignment Score (1-5):",
    "Style Score:",
    "/5",
]
SAID = [
    "Image 1",
    "Edited image 2",
    "is",
    "better",
    "worse",
    "not",
    "tie",
    "both images are",
    "equally good",
    "and",
    "out of",
]
MORE = [
    "yes",
    "no",
    "Yes, ",
    "A",
    "(B)",
    "answer",
    "a cat",
    "dog",
    "true",
    "null",
    "\ud800",
    "\u2028",
    "\x00",
    " ",
    "\n",
]
SOUP = st.lists(st.sampled_from([*MARKS, *NUMBERS, *WHOLE, *SAID, *MORE, " ", " "]), max_size=40).map("".join)
TEXT = st.one_of(SOUP, st.text(max_size=60))
LOOSE = settings(max_examples=120, deadline=None)


def numbers_in(value: Any) -> list[float]:
    """Every number that a reader returned."""
    if isinstance(value, dict):
        return [x for item in value.values() for x in numbers_in(item)]
    if isinstance(value, list | tuple):
        return [x for item in value for x in numbers_in(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def literals(text: str) -> set[float]:
    """Every number in the text, however it is cut from its surroundings."""
    runs = re.findall(r"[0-9.eE+-]+", text.replace("\u2212", "-"))
    cuts = (run[i:j] for run in runs for i in range(len(run)) for j in range(i + 1, len(run) + 1))
    numbers = set()
    for cut in cuts:
        try:
            numbers.add(float(cut))
        except ValueError:
            continue
    return numbers


@LOOSE
@given(TEXT)
@example('{"a": "\\ud800"}')
@example('{"score": "\\ud800", score: 7}')
def test_scores_are_numbers_of_the_text_on_their_scale(text: str) -> None:
    reading = numbers_at(text, scale=(0, 10))
    rated = read_json(text, Rating)
    scored = numbers_in(reading.scores if reading else ()) + ([rated.score] if rated else [])
    axes = numbers_in(labeled_numbers(text, LABELS))
    shares = numbers_in(labeled_pairs(text, LABELS))
    assert all(0 <= x <= 10 for x in scored)
    assert all(0.92 <= x <= 5.08 for x in axes)  # 2 % beyond its ends
    assert all(0 <= x <= 1 for x in shares)
    assert {*scored, *axes, *shares, *numbers_in(pair_scores(text)), *numbers_in(json_in(text))} <= literals(text)


@LOOSE
@given(TEXT)
def test_decisions_are_among_the_choices(text: str) -> None:
    assert preferred_image(text) in (None, 0, 1, 2)
    assert yes_no(text) in (None, True, False)
    assert choice_of(text, ["a cat", "a dog", "no"]) in (None, "a cat", "a dog", "no")


@LOOSE
@given(TEXT)
def test_unfinished_reasoning_is_no_answer(text: str) -> None:
    text = re.sub("</think", "", text)
    assert {name: read(f"7 <think>{text}") for name, read in READERS.items()} == {
        **dict.fromkeys(READERS),
        "labeled": dict.fromkeys(LABELS),
        "labeled_pairs": dict.fromkeys(LABELS),
    }


WORDS = st.text(st.sampled_from("ab }{][:,'\"\\/\n*`79."), max_size=12)
SCORES = st.lists(st.integers(0, 10) | st.floats(0, 10).map(lambda x: round(x, 3)), min_size=1, max_size=3)
ANSWERS = st.fixed_dictionaries(
    {"score": SCORES, "reasoning": WORDS},
    optional={"more": st.dictionaries(WORDS, st.fixed_dictionaries({"score": SCORES}), max_size=2)},
)
WRITTEN = st.tuples(ANSWERS, st.sampled_from([None, 1]), st.booleans(), st.permutations(["score", "reasoning", "more"]))


def written(parts: tuple[dict[str, Any], int | None, bool, list[str]]) -> tuple[dict[str, Any], str]:
    answer, indent, ascii_only, order = parts
    answer = {key: answer[key] for key in order if key in answer}
    return answer, json.dumps(answer, indent=indent, ensure_ascii=ascii_only)


@LOOSE
@given(WRITTEN, st.data())
def test_an_answer_cut_off_inside_its_json_has_no_value(parts: Any, data: st.DataObject) -> None:
    answer, text = written(parts)
    assert json_in(text) == answer
    cut = text[: data.draw(st.integers(1, len(text) - 1))]
    for start in (
        "",
        "Here it is:\n```json\n",
        "<think>{score: 1}</think>",
        '{"score": [3], "reasoning": "..."} is asked. ',
    ):
        assert json_in(start + cut) is None
        assert numbers_at(start + cut, scale=(0, 10)) is None
        assert pair_scores(start + cut) is None


@LOOSE
@given(
    WRITTEN,
    st.sampled_from(
        ["", "Sure! It's a 9/10:\n", "```json\n", "<think>{score: 1} or [2]</think>\n", "a {x} [...] [1\n", "**"]
    ),
    st.sampled_from(["", "\n```", "\nHope {this} helps, it's 3:4.", " [0]", "**"]),
)
def test_text_around_an_answer_does_not_change_it(parts: Any, before: str, after: str) -> None:
    answer, text = written(parts)
    assert json_in(before + text + after) == answer
    reading = numbers_at(before + text + after, scale=(0, 10))
    assert reading is not None
    assert list(reading.scores) == answer["score"]
    assert reading.reasoning == answer["reasoning"]


def loosened(answer: dict[str, Any]) -> str:
    """The errors of syntax that models make, all at once."""
    quoted = answer["reasoning"].replace("\\", "\\\\").replace("'", "\\'")
    scores = "".join(f"+{score}, " for score in answer["score"])
    return f"{{reasoning: '{quoted}', // so it is\n 'score': [{scores}], /* {{ */ other-key: it's fine\n,}}"


@LOOSE
@given(ANSWERS, st.data())
def test_common_errors_of_syntax_do_not_change_an_answer(answer: dict[str, Any], data: st.DataObject) -> None:
    text = loosened(answer)
    reading = numbers_at(text, scale=(0, 10))
    assert reading is not None
    assert (list(reading.scores), reading.reasoning) == (answer["score"], answer["reasoning"])
    cut = text[: data.draw(st.integers(1, len(text) - 1))]
    assert numbers_at(cut, scale=(0, 10)) is None


def hard(n: int) -> dict[str, str]:
    """Answers of about n characters, within the limit or many times beyond it, on which a careless parser is slow."""
    return {
        "braces": "{" * 6 * n,
        "braces_in_bounds": "{" * n,
        "brackets": "[" * n,
        "deep": "[1," * (n // 3),
        "siblings": "[1,[1]," * (n // 7),
        "closed": "{" * (n // 3) + "}" * (n // 3),
        "strict_numbers": '{"score":[1' + ",1" * (n // 2 - 20) + "]}",
        "numbers": "{score:[1," + "1," * (n // 2 - 20) + "]}",
        "fewer_numbers": "{score:[" + "1," * (n // 16) + "]}",
        "objects": "{a:{score:1}}" * (n // 13),
        "comments": "{/*}" * (n // 4 - 1) + "*/]",
        "lines": "{//}" * (n // 4 - 1) + "\n]",
        "quotes": "{'" * (n // 2),
        "mixed_quotes": "{\"}{'}" * (n // 6),
        "backslashes": '{"a": "' + "\\" * (n - 10),
        "spaces": "Style Score: 4" + " " * (n - 20) + "x",
        "blank_lines": "x" + "\n" * (n - 2) + "x",
        "digits": "Style Score: " + "1" * (n - 20) + "x",
        "labels": "Style Score (" * (n // 13),
        "images": "image 1 " * (n // 8),
        "better": "image 1 better" + " image" * (n // 6 - 4) + "x",
        "links": "image 1 is a score of " * (n // 22),
        "apostrophes": "'" * n,
        "parentheses": "yes " + "(" * (n - 5) + "x",
        "sentences": ".\n " * (n // 3),
        "letters": "(a) " * (n // 4),
        "thoughts": "<think>" * 6 * n,
        "long_thought": "<think>" + "{[x" * 18 * n + "</think>7",
        "loop": "the cat " * 6 * n,
    }


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """TimeoutError after so many seconds of CPU time: a test that hangs fails."""

    def stop(signum: int, frame: Any) -> None:
        raise TimeoutError(f"more than {seconds:g} s of CPU time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize("name", hard(LONGEST))
@pytest.mark.parametrize("n", [1_000, pytest.param(LONGEST, marks=pytest.mark.slow)])
def test_no_answer_takes_long(name: str, n: int) -> None:
    for read in READERS.values():
        with cpu_limit(5):
            read(hard(n)[name])
