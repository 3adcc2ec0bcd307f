"""Questions that a language model wrote about a caption in TIFA's layout: how they are read, and which stay."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from lightning_imgmetrics.errors import ShapeError

ELEMENT_TYPES = (
    *("object", "human", "animal", "food", "activity", "attribute", "counting"),
    *("color", "material", "spatial", "location", "shape", "other"),
)
_MERGED = {"animal": "animal/human", "human": "animal/human"}
_LINE = re.compile(r"(About |Q:|Choices:|A:)(.*)")
_ABOUT = re.compile(r"(.+) \(([^()]+)\)\s*:?")
_OWN_LINES = ("About ", "Q:", "Choices:", "A:", "Questions and answers")
_SAME = 0.6
_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_LARGER = (
    *("thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"),
    *("hundred", "thousand", "million", "billion", "point"),
)


class GeneratedQuestion(NamedTuple):
    """A question about an element of a caption; the answer is one of the choices."""

    element: str
    element_type: str
    question: str
    choices: tuple[str, ...]
    answer: str


class GeneratedQuestions(NamedTuple):
    """Those that could be read, and how many were malformed or about a type of element that TIFA does not have."""

    questions: list[GeneratedQuestion]
    n_malformed: int
    n_other_type: int


def parse_generated(response: str) -> GeneratedQuestions:
    """The questions in blocks of lines "About X (type):", then "Q: ", "Choices: a, b" and "A: " for each question.

    What comes before them (entities, activities, ...) is passed over, and so is what follows a blank line unless it is
    more of the layout: another description, a farewell. "animal" and "human" become "animal/human". Malformed is a
    question without a head, a type, choices or an answer, or whose answer is no choice. Source: Hu et al. 2023.
    """
    parts: dict[str, str] = {}
    head: tuple[str, str] | None = None
    questions, malformed, other = [], 0, 0
    for key, text in [*_layout_lines(response), ("Q:", "")]:
        if key == "A:" or ("Q:" in parts and key in ("Q:", "About ")):  # a question is over
            question = _question(head, {**parts, key: text} if key == "A:" else parts)
            malformed += question is None
            if question is not None and question.element_type in ELEMENT_TYPES:
                merged = _MERGED.get(question.element_type, question.element_type)
                questions.append(question._replace(element_type=merged))
            elif question is not None:
                other += 1
            parts = {}
        if key == "About ":
            match = _ABOUT.fullmatch(text)
            head = (match[1].strip(), match[2].strip().lower()) if match else None
        elif key != "A:":
            parts[key] = text
    return GeneratedQuestions(questions, malformed, other)


def token_f1(gold: str, prediction: str) -> float:
    """F1 of the words, as they are, of a prediction against those of the gold answer, in [0, 1].

    Recall is the share of gold words that the prediction has; precision counts them against the predicted words that
    gold lacks. Two empty answers score 1, an empty gold answer else 0. Source: the filter of Hu et al. 2023.
    """
    expected, predicted = gold.split(), prediction.split()
    if not expected:
        return float(not predicted)
    hits = sum(word in predicted for word in expected)
    if hits == 0:
        return 0.0
    precision = hits / (hits + sum(word not in expected for word in predicted))
    recall = hits / len(expected)
    return 2 * precision * recall / (precision + recall)


def passes_filter(answer: str, chosen: str, free_form: str) -> bool:
    """Whether a reader of the caption alone confirms a question's answer, by its choice and in its own words.

    `chosen` must be the answer; unless that is "yes" or "no", `free_form` (in lower case, without punctuation) must
    have a `token_f1` above 0.6. Where the answer is in digits, the one word for a number from zero to twenty in
    `free_form` stands for it whole, as with word2number, which the published filter asks and which knows larger ones.
    """
    if chosen != answer:
        return False
    if answer in ("yes", "no"):
        return True
    words = "".join(c for c in free_form if c.isalnum() or c.isspace()).strip().lower()
    numbers = [word for word in words.split() if word in _NUMBERS or word in _LARGER]
    if answer.isnumeric() and len(numbers) == 1 and numbers[0] in _NUMBERS:
        words = str(_NUMBERS.index(numbers[0]))
    return token_f1(answer, words) > _SAME


def filtered_questions(
    questions: Sequence[GeneratedQuestion], chosen: Sequence[str], free_form: Sequence[str]
) -> list[GeneratedQuestion]:
    """The questions that pass `passes_filter`, each wording once: where it comes again, only the first is looked at."""
    if not len(questions) == len(chosen) == len(free_form):
        sizes = (len(questions), len(chosen), len(free_form))
        raise ShapeError(f"`questions`, `chosen` and `free_form` must be of one length, got {sizes}")
    first = {item.question: i for i, item in reversed(list(enumerate(questions)))}
    passing = (i for i in sorted(first.values()) if passes_filter(questions[i].answer, chosen[i], free_form[i]))
    return [questions[i] for i in passing]


def _layout_lines(response: str) -> list[tuple[str, str]]:
    """Key and text of the lines that belong to the layout, up to the first paragraph that is something else."""
    first, *others = re.split(r"\n\s*\n", response.replace("\r\n", "\n").strip())
    more = takewhile(lambda paragraph: paragraph.lstrip().startswith(_OWN_LINES), others)
    lines = (line.strip() for paragraph in (first, *more) for line in paragraph.split("\n"))
    return [(match[1], match[2].strip()) for line in lines if (match := _LINE.match(line))]


def _question(head: tuple[str, str] | None, parts: dict[str, str]) -> GeneratedQuestion | None:
    choices = tuple(choice for part in parts.get("Choices:", "").split(",") if (choice := part.strip()))
    question, answer = parts.get("Q:", ""), parts.get("A:", "")
    if head is None or not question or answer not in choices:
        return None
    return GeneratedQuestion(*head, question, choices, answer)
