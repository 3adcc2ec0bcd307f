"""The questions of TIFA and DPG-Bench, from their public files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

from lightning_imgmetrics.data.records import Row, csv_rows, json_rows, json_value, refuse_duplicates, shown
from lightning_imgmetrics.errors import UnreadableQuestions

_DPG_COLUMNS = (
    *("item_id", "text", "proposition_id", "dependency", "category_broad", "category_detailed", "tuple"),
    "question_natural_language",
)


@dataclass(frozen=True)
class TifaQuestion:
    """A question about the image of a caption, for `TIFA`.

    Args:
        id: of the caption.
        caption: the text that the image was made from.
        question: what is asked.
        choices: the possible answers.
        answer: the right one among `choices`.
        element_type: the category of the question, such as "animal" or "counting".
        element: what in the caption it is about.

    Example:
        >>> from lightning_imgmetrics import TifaQuestion
        >>> TifaQuestion("0", "a cat", "is there a cat?", ("yes", "no"), "yes", "animal", "cat").answer
        'yes'
    """

    id: str
    caption: str
    question: str
    choices: tuple[str, ...]
    answer: str
    element_type: str
    element: str


@dataclass(frozen=True)
class DpgQuestion:
    """A yes/no question about the image of an item, for `DPGBench`.

    Args:
        item_id: of the item.
        text: the prompt of the item; one question of an item may have it for all.
        proposition: the number of the question within its item, from 1.
        parents: the propositions that the question depends on.
        category_broad: as published.
        category_detailed: as published.
        tuple: what the question checks, "category - kind (object)", whose category counts.
        question: what is asked.

    Example:
        >>> from lightning_imgmetrics import DpgQuestion
        >>> DpgQuestion("0", "a cat", 1, (), "entity", "whole", "entity - whole (cat)", "Is there a cat?").parents
        ()
    """

    item_id: str
    text: str
    proposition: int
    parents: tuple[int, ...]
    category_broad: str
    category_detailed: str
    tuple: str
    question: str


class DpgQuestions(NamedTuple):
    """The questions in the order of the file, and the items that were left out to reproduce published numbers."""

    questions: list[DpgQuestion]
    dropped: tuple[str, ...]


def read_tifa(path: str | Path) -> list[TifaQuestion]:
    """The questions in a JSON list of records as TIFA publishes them; a caption may ask the same twice.

    UnreadableQuestions, with file and row, for columns that are missing or no text, an answer that is no choice, an id
    with two captions.
    """
    rows = list(json_rows(Path(path).expanduser()))
    questions = [_tifa(row) for row in rows]
    _refuse_two_texts("caption", [(item.id, item.caption) for item in questions], rows)
    return questions


def read_image_map(path: str | Path) -> dict[str, Path]:
    """Image file by caption id, from a JSON object {id: path}; relative paths are those from its folder."""
    path = Path(path).expanduser()
    files = json_value(path)
    if not isinstance(files, dict) or not files:
        raise UnreadableQuestions(f"{path}: must be an object with a path for each id, got {shown(files)}")
    row = Row(files, str(path))
    return {name: path.parent / Path(row.text(name)).expanduser() for name in files}


def read_dpg(path: str | Path, *, skip_first_row: bool = False) -> DpgQuestions:
    """The questions in the CSV file that DPG-Bench publishes.

    UnreadableQuestions, with file and row, for missing columns, a proposition that comes twice or is no integer from 1,
    parents that are no proposition of the item or depend on each other, an item with two texts. `skip_first_row` is
    how published numbers were made: the loader lost the first row, and items that ask for a lost proposition failed
    silently. Here such items are in `dropped`: one of 1065, in the public file.
    """
    rows = list(csv_rows(path := Path(path).expanduser(), _DPG_COLUMNS, exact=True))
    if not rows:
        raise UnreadableQuestions(f"{path}: must hold at least one question, got a header alone")
    questions = [_dpg(row) for row in rows]
    refuse_duplicates([(q.item_id, q.proposition) for q in questions], rows, ("item_id", "proposition_id"))
    _refuse_two_texts("text", [(q.item_id, q.text) for q in questions], rows)
    lost = {questions[0].item_id} if skip_first_row else set()
    questions, rows = questions[skip_first_row:], rows[skip_first_row:]
    propositions = {(q.item_id, q.proposition) for q in questions}
    lacking = [[parent for parent in q.parents if (q.item_id, parent) not in propositions] for q in questions]
    for question, row, parents in zip(questions, rows, lacking, strict=True):
        if parents and not skip_first_row:
            row.refuse("dependency", f"name propositions of item {question.item_id!r}, which has no {parents[0]}")
    _refuse_cycles(questions, rows, propositions)
    failing = {question.item_id for question, parents in zip(questions, lacking, strict=True) if parents}
    dropped = failing | (lost - {question.item_id for question in questions})
    return DpgQuestions([q for q in questions if q.item_id not in dropped], tuple(sorted(dropped)))


def _tifa(row: Row) -> TifaQuestion:
    choices, answer = row.texts("choices"), row.text("answer")
    if answer not in choices:
        row.refuse("answer", f"be one of the choices {shown(list(choices))}")
    caption, question = row.text("caption"), row.text("question")
    return TifaQuestion(
        row.name("id"), caption, question, choices, answer, row.text("element_type"), row.text("element")
    )


def _dpg(row: Row) -> DpgQuestion:
    texts = [row.values[column] for column in ("text", "category_broad", "category_detailed")]
    proposition = _integers(row, "proposition_id")
    if len(proposition) != 1 or proposition[0] < 1:
        row.refuse("proposition_id", "be an integer from 1")
    parents = tuple(parent for parent in _integers(row, "dependency") if parent != 0)
    check = row.text("tuple"), row.text("question_natural_language")
    return DpgQuestion(row.name("item_id"), texts[0], proposition[0], parents, texts[1], texts[2], *check)


def _integers(row: Row, column: str) -> list[int]:
    try:
        return [int(part) for part in row.values[column].split(",")]
    except ValueError:
        row.refuse(column, "be integers with commas between them, 0 for none")


def _refuse_two_texts(column: str, pairs: Sequence[tuple[str, str]], rows: Sequence[Row]) -> None:
    """One image belongs to an id, so it has one text; where it is blank, another row of the id has it."""
    first: dict[str, str] = {}
    for (name, text), row in zip(pairs, rows, strict=True):
        if text.strip() and first.setdefault(name, text) != text:
            row.refuse(column, f"be {shown(first[name])} as in the first row of {name!r}")


def _refuse_cycles(questions: Sequence[DpgQuestion], rows: Sequence[Row], propositions: set[tuple[str, int]]) -> None:
    graphs: dict[str, dict[int, list[int]]] = {}
    where: dict[tuple[str, int], Row] = {}
    for q, row in zip(questions, rows, strict=True):
        here = [parent for parent in q.parents if (q.item_id, parent) in propositions]
        graphs.setdefault(q.item_id, {})[q.proposition] = here
        where[q.item_id, q.proposition] = row
    for item, graph in graphs.items():
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            path = " -> ".join(map(str, error.args[1]))
            where[item, error.args[1][0]].refuse("dependency", f"lead to no cycle, {path} of item {item!r} is one")
