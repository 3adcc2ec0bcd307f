"""Files of benchmark questions: what is read, published quirks, and every kind of broken file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_images
from helpers.judges import ScriptedJudge
from PIL import Image

from lightning_imgmetrics.data.decode import decode
from lightning_imgmetrics.errors import UnknownName, UnreadableImage, UnreadableQuestions
from lightning_imgmetrics.prompt_benchmarks.base.prompt_files import (
    GEditItem,
    StoredImage,
    images_of,
    read_gedit,
    read_genai,
)
from lightning_imgmetrics.prompt_benchmarks.base.question_files import (
    DpgQuestion,
    TifaQuestion,
    read_dpg,
    read_image_map,
    read_tifa,
)
from lightning_imgmetrics.prompt_benchmarks.text_rendering.targets import TextTarget, read_text_targets
from lightning_imgmetrics.prompt_benchmarks.tifa.metric import TIFA

ODD = 'say "hi, {you}",\n%s \\n größer 木 \U0001f600 ' + "long " * 2000
COLUMNS = (
    *("item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed", "tuple"),
    "question_natural_language",
)
Change = Callable[[Any], object]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def dump(path: Path, value: object) -> Path:
    return write(path, json.dumps(value, ensure_ascii=False))


def tifa_row(**changes: Any) -> dict[str, Any]:
    row = {"id": "c_1", "caption": ODD, "question": "is it a dog?", "choices": ["yes", "no"], "answer": "yes"}
    return {**row, "element_type": "animal/human", "element": "dog", "coco_val_id": "7", **changes}


def dpg_csv(path: Path, rows: list[dict[str, str]], columns: tuple[str, ...] = COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def dpg_row(item: str = "p7", proposition: str = "1", dependency: str = "0", **changes: str) -> dict[str, str]:
    row = {"item_id": item, "text": ODD, "keywords": "", "proposition_id": proposition, "dependency": dependency}
    row |= {"category_broad": "entity", "category_detailed": "whole", "tuple": "entity - whole (dog)"}
    return {**row, "question_natural_language": "Is there a dog?", **changes}


def gedit_row(**changes: Any) -> dict[str, Any]:
    row = {"task_type": "ps_human", "key": "k1", "instruction": ODD, "instruction_language": "en"}
    return {**row, "input_image": "source/k1.png", "Intersection_exist": True, **changes}


def test_tifa_questions(tmp_path: Path) -> None:
    rows = [tifa_row(), tifa_row(), tifa_row(id=7, caption="7", choices=["a, b", "c"], answer="a, b")]
    for mark in ("", "\ufeff"):
        questions = read_tifa(write(tmp_path / "a.json", mark + json.dumps(rows)))
        first = TifaQuestion("c_1", ODD, "is it a dog?", ("yes", "no"), "yes", "animal/human", "dog")
        assert questions[:2] == [first, first]
        assert (questions[2].id, questions[2].choices) == ("7", ("a, b", "c"))


def test_tifa_of_a_file_of_the_published_shape(tmp_path: Path) -> None:
    rows = [tifa_row(question=f"{i}?") for i in range(11)]
    rows += [tifa_row(id="d_2", caption="d", question=f"{i}?") for i in range(8)]
    answers = iter(["yes"] * 11 + ["yes", "no", "yes", "yes", "yes", "yes", "no", "no"])
    metric = TIFA(dump(tmp_path / "a.json", rows), ScriptedJudge(lambda q: next(answers), cache=False))
    metric.update(images=random_images(2, 8), prompts=["c_1", "d_2"])
    result = metric.result()
    assert result.value == 0.8125
    assert result.details["stdev"] == pytest.approx(0.2651650429449553, rel=1e-15)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"a\.json: not JSON: an empty file"),
        (" \n", r"a\.json: not JSON: an empty file"),
        ("[]", r"a\.json: must be a list of at least one object, got \[\]"),
        ('{"a": 1}', r"must be a list of at least one object, got \{'a': 1\}"),
        ('[{"id": 1}]', r"a\.json, row 1, column 'choices': must be a list of texts, got the columns \['id'\]"),
        ('[{"id": 1}, 3]', r"a\.json, row 2: must be an object, got 3"),
        ("[3]", r"a\.json, row 1: must be an object, got 3"),
        ('[{"id": 1, "id": 2}]', r"a\.json: the key 'id' must stand once"),
        ("[{]", r"a\.json: not JSON: .*line 1 column 3"),
        (b"[\xff]", r"a\.json must be UTF-8 text: .*0xff"),
        ("[]".encode("utf-16"), r"a\.json must be UTF-8 text"),
    ],
)
def test_files_that_are_no_list_of_objects(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UnreadableQuestions, match=message):
        read_tifa(write(tmp_path / "a.json", content))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "maybe"}, r"row 2, column 'answer': must be one of the choices \['yes', 'no'\], got 'maybe'"),
        ({"answer": None}, r"row 2, column 'answer': must be a text, got None"),
        ({"answer": 2}, r"column 'answer': must be a text, got 2"),
        ({"choices": "yes", "answer": "no"}, r"column 'answer': must be one of the choices \['yes'\], got 'no'"),
        ({"choices": []}, r"column 'choices': must be a list of texts, got \[\]"),
        ({"choices": ["yes", 2]}, r"column 'choices': must be a list of texts, got \['yes', 2\]"),
        ({"choices": {"yes": 1}}, r"column 'choices': must be a list of texts"),
        ({"id": None}, r"column 'id': must be a text, got None"),
        ({"id": True}, r"column 'id': must be a text, got True"),
        ({"question": " "}, r"column 'question': must be a text, got ' '"),
        ({"element_type": []}, r"column 'element_type': must be a text"),
        ({"caption": "another"}, r"row 2, column 'caption': must be .* as in the first row of 'c_1', got 'another'"),
    ],
)
def test_broken_tifa_rows(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnreadableQuestions, match=message):
        read_tifa(dump(tmp_path / "a.json", [tifa_row(), tifa_row(**changes)]))


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    for read in (read_tifa, read_image_map, read_dpg, read_text_targets):
        with pytest.raises(FileNotFoundError, match=r"none\.json"):
            read(tmp_path / "none.json")


def test_image_maps_are_relative_to_their_folder(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.png"
    path = dump(tmp_path / "maps" / "a.json", {"c_1": "x/1.png", "c_2": str(elsewhere)})
    assert read_image_map(path) == {"c_1": tmp_path / "maps" / "x" / "1.png", "c_2": elsewhere}
    for content, message in (
        ('["a"]', r"must be an object with a path for each id, got \['a'\]"),
        ("{}", "must be an object with a path"),
        ('{"a": 1}', r"a\.json, column 'a': must be a text, got 1"),
        ('{"a": "1.png", "a": "2.png"}', "the key 'a' must stand once"),
    ):
        with pytest.raises(UnreadableQuestions, match=message):
            read_image_map(write(tmp_path / "a.json", content))


def test_dpg_questions(tmp_path: Path) -> None:
    rows = [dpg_row(), dpg_row(proposition="2", dependency=" 1, 1"), dpg_row("0", dependency="0", text="")]
    found = read_dpg(dpg_csv(tmp_path / "a.csv", rows))
    assert found.dropped == ()
    assert found.questions[1] == DpgQuestion(
        "p7", ODD, 2, (1, 1), "entity", "whole", "entity - whole (dog)", "Is there a dog?"
    )
    assert [(q.item_id, q.parents) for q in found.questions] == [("p7", ()), ("p7", (1, 1)), ("0", ())]
    swapped = tuple(reversed([name for name in COLUMNS if name != "keywords"]))
    assert read_dpg(dpg_csv(tmp_path / "b.csv", rows, swapped)) == found
    marked = write(tmp_path / "c.csv", b"\xef\xbb\xbf" + (tmp_path / "a.csv").read_bytes())
    assert read_dpg(marked) == found


def test_parents_may_stand_below_their_children(tmp_path: Path) -> None:
    rows = [dpg_row(proposition="2", dependency="1"), dpg_row("q"), dpg_row()]
    assert [q.parents for q in read_dpg(dpg_csv(tmp_path / "a.csv", rows)).questions] == [(1,), (), ()]


@pytest.mark.parametrize(
    ("first", "kept", "dropped"),
    [
        ([dpg_row(), dpg_row(proposition="2", dependency="1")], ["q"], ("p7",)),
        ([dpg_row(), dpg_row(proposition="2")], ["p7", "q"], ()),
        ([dpg_row()], ["q"], ("p7",)),
        ([dpg_row(), dpg_row(proposition="2", dependency="1"), dpg_row(proposition="3")], ["q"], ("p7",)),
    ],
)
def test_published_numbers_lack_the_first_row(
    tmp_path: Path, first: list[dict[str, str]], kept: list[str], dropped: tuple[str, ...]
) -> None:
    path = dpg_csv(tmp_path / "a.csv", [*first, dpg_row("q")])
    found = read_dpg(path, skip_first_row=True)
    assert ([q.item_id for q in found.questions], found.dropped) == (kept, dropped)
    assert len(read_dpg(path).questions) == len(first) + 1


def test_what_publishing_lost_is_named_with_all_that_fails(tmp_path: Path) -> None:
    rows = [dpg_row(), dpg_row("q"), dpg_row("q", "2", "9"), dpg_row("r")]
    found = read_dpg(dpg_csv(tmp_path / "a.csv", rows), skip_first_row=True)
    assert ([q.item_id for q in found.questions], found.dropped) == (["r"], ("p7", "q"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"a\.csv: must hold at least one question, got a header alone"),
        ([dpg_row(dependency="3")], r"a\.csv, line 3, column 'dependency': .* item 'p7', which has no 3, got '3'"),
        ([dpg_row(), dpg_row("q", dependency="2")], r"line 5, column 'dependency': .* 'q', which has no 2"),
        ([dpg_row(dependency="1")], r"'dependency': must lead to no cycle, 1 -> 1 of item 'p7' is one, got '1'"),
        ([dpg_row(dependency="2"), dpg_row(proposition="2", dependency="1")], r"no cycle, (1 -> 2 -> 1|2 -> 1 -> 2)"),
        ([dpg_row(), dpg_row()], r"line 5: 'item_id' and 'proposition_id' must be new, got \('p7', 1\) as in .*line 3"),
        ([dpg_row(), dpg_row(proposition="2", text="else")], r"column 'text': must be .* of 'p7', got 'else'"),
        ([dpg_row(proposition="one")], r"'proposition_id': must be integers .*, got 'one'"),
        ([dpg_row(proposition="0")], r"'proposition_id': must be an integer from 1, got '0'"),
        ([dpg_row(proposition="1,2")], r"'proposition_id': must be an integer from 1, got '1,2'"),
        ([dpg_row(dependency="")], r"'dependency': must be integers with commas between them, 0 for none, got ''"),
        ([dpg_row(dependency="1;2")], r"got '1;2'"),
        ([dpg_row(item=" ")], r"'item_id': must be a text, got ' '"),
        ([dpg_row(tuple="")], r"'tuple': must be a text, got ''"),
        ([dpg_row(question_natural_language="")], r"'question_natural_language': must be a text"),
    ],
)
def test_broken_dpg_rows(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    with pytest.raises(UnreadableQuestions, match=message):
        read_dpg(dpg_csv(tmp_path / "a.csv", rows))


def test_broken_csv_files(tmp_path: Path) -> None:
    header = ",".join(COLUMNS)
    for content, message in (
        ("", r"a\.csv: must have the columns \['item_id', .* got \[\]"),
        (header.replace("tuple,", ""), r"must have the columns \['tuple'\] once"),
        (header.replace("tuple", "text"), "line 1: several columns are called 'text'"),
        (f"{header}\n1,2\n", "line 2: fewer cells than the header, 2 of 9"),
        (f"{header}\n{',' * 9}\n", "line 2: more cells than the header; quote texts with commas"),
        (f'{header}\n"never closed', r"line 2: not CSV"),
        (header.encode("utf-16"), "must be UTF-8"),
    ):
        with pytest.raises(UnreadableQuestions, match=message):
            read_dpg(write(tmp_path / "a.csv", content))


def test_gedit_records(tmp_path: Path) -> None:
    rows = [gedit_row(), gedit_row(instruction_language="zh"), gedit_row(key=7, Intersection_exist=False)]
    expected = [
        GEditItem("k1", "ps_human", ODD, "en", tmp_path / "source" / "k1.png", True),
        GEditItem("k1", "ps_human", ODD, "cn", tmp_path / "source" / "k1.png", True),
        GEditItem("7", "ps_human", ODD, "en", tmp_path / "source" / "k1.png", False),
    ]
    assert read_gedit(dump(tmp_path / "a.json", rows)) == expected
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert read_gedit(write(tmp_path / "a.jsonl", f"\ufeff{lines}\r\n")) == expected
    assert expected[1].name == "fullset/ps_human/cn/k1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instruction_language": "fr"}, r'line 2, column .*: must be "en" or "cn", got \'fr\''),
        ({"instruction_language": ["en"]}, r"column 'instruction_language': must be a text, got \['en'\]"),
        ({"Intersection_exist": "yes"}, r"column 'Intersection_exist': must be true or false, got 'yes'"),
        ({"input_image": {"bytes": ""}}, r"column 'input_image': must be a text"),
        ({"task_type": ""}, r"column 'task_type': must be a text"),
        ({}, r"line 2: 'task_type' and 'instruction_language' and 'key' must be new, got .* as in .*line 1"),
    ],
)
def test_broken_gedit_records(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    lines = [json.dumps(gedit_row()), json.dumps(gedit_row(**changes))]
    with pytest.raises(UnreadableQuestions, match=message):
        read_gedit(write(tmp_path / "a.jsonl", "\n".join(lines)))


@pytest.fixture(scope="module")
def gedit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with the public columns, as one parquet file and as `save_to_disk` writes it."""
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("gedit")
    rows = [gedit_row(key=f"k{i}", instruction_language=language) for i, language in enumerate(("en", "cn"))]
    for i, image in enumerate(random_images(2, 8, 0)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
        rows[i] |= {"input_image": str(folder / f"{i}.png"), "input_image_raw": str(folder / f"{i}.png")}
    data = datasets.Dataset.from_list(rows)
    data = data.cast_column("input_image", datasets.Image()).cast_column("input_image_raw", datasets.Image())
    data.to_parquet(folder / "data" / "train.parquet")
    datasets.DatasetDict(train=data).save_to_disk(folder / "saved")
    return folder


@pytest.mark.parametrize("where", ["data/train.parquet", "data", "saved"])
def test_gedit_datasets(gedit_folder: Path, where: str) -> None:
    items = read_gedit(gedit_folder / where)
    assert [(item.key, item.language, item.instruction) for item in items] == [("k0", "en", ODD), ("k1", "cn", ODD)]
    for item, image in zip(items, random_images(2, 8, 0), strict=True):
        assert isinstance(item.source, StoredImage)
        assert torch.equal(decode(item.source.read()), image)


def test_a_dataset_without_the_columns(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed", exc_type=ImportError)
    datasets.Dataset.from_list([{"input_image": "x", "key": "k"}]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(
        UnreadableQuestions, match=r"must have the columns \['task_type', .* got \['input_image', 'key'"
    ):
        read_gedit(tmp_path / "a.parquet")
    datasets.DatasetDict(test=datasets.Dataset.from_list([gedit_row()])).save_to_disk(tmp_path / "saved")
    with pytest.raises(UnknownName, match=r"`split` must be one of 'test'; got 'train'"):
        read_gedit(tmp_path / "saved")


def test_genai_prompts_and_skills(tmp_path: Path) -> None:
    prompts = dump(
        tmp_path / "genai_image.json", {"00000": {"prompt": ODD, "models": {"A": [3]}}, "00012": {"prompt": "x"}}
    )
    skills = dump(tmp_path / "genai_skills.json", {"counting": [12, 0], "basic": []})
    found = read_genai(prompts, skills)
    assert found.prompts == {"00000": ODD, "00012": "x"}
    assert found.skills == {"counting": ("00012", "00000"), "basic": ()}


@pytest.mark.parametrize(
    ("prompts", "skills", "message"),
    [
        ([], {"a": []}, r"p\.json: must be an object with at least one entry, got \[\]"),
        ({"0": "text"}, {"a": []}, r"p\.json, entry '0': must be an object with a \"prompt\", got 'text'"),
        ({"0": {"text": "x"}}, {"a": []}, r"entry '0', column 'prompt': must be a text, got the columns \['text'\]"),
        ({"x": {"prompt": "x"}}, {"a": []}, r"entry 'x': the id must be a number"),
        ({"1": {"prompt": "x"}, "01": {"prompt": "y"}}, {"a": []}, r"entry '01': .* that no other entry has"),
        ({"0": {"prompt": "x"}}, {}, r"s\.json: must be an object"),
        ({"0": {"prompt": "x"}}, {"a": 0}, r"s\.json, entry 'a': must be a list of numbers of prompts, got 0"),
        ({"0": {"prompt": "x"}}, {"a": [0, 1]}, r"s\.json, entry 'a': must hold numbers of prompts, got 1"),
        ({"0": {"prompt": "x"}}, {"a": [False]}, r"got False"),
        ({"0": {"prompt": "x"}}, {"a": [[0]]}, r"got \[0\]"),
    ],
)
def test_broken_genai_files(tmp_path: Path, prompts: object, skills: object, message: str) -> None:
    with pytest.raises(UnreadableQuestions, match=message):
        read_genai(dump(tmp_path / "p.json", prompts), dump(tmp_path / "s.json", skills))


def test_text_targets(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": ODD, "text": "Grand {Opening}"},
        {"prompt": "two", "texts": ["A", "B"], "id": 7, "language": "de"},
        {"prompt": "招牌「开门」", "id": "c"},
        {"prompt": 'a sign "STOP" and "GO"', "text": None},
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert read_text_targets(path) == [
        TextTarget("0", ODD, ("Grand {Opening}",), "en"),
        TextTarget("7", "two", ("A", "B"), "de"),
        TextTarget("c", "招牌「开门」", ("开门",), "zh"),
        TextTarget("3", 'a sign "STOP" and "GO"', ("STOP", "GO"), "en"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"a\.jsonl: must hold at least one object, got an empty file"),
        ("\n \n", "got an empty file"),
        ('{"prompt": "x", "text": "a"}\n{"prompt"', r"a\.jsonl, line 2: not JSON"),
        ('\n["x"]', r"a\.jsonl, line 2: must be an object, got \['x'\]"),
        ('{"text": "x"}', r"line 1, column 'prompt': must be a text, got the columns \['text'\]"),
        ('{"prompt": "it\'s red"}', r"column 'prompt': must have a text in quotes where there is no \"text\", got"),
        ('{"prompt": "x", "text": []}', r"column 'text': must be a list of texts, got \[\]"),
        ('{"prompt": "x", "texts": ["a", ""]}', r"column 'texts': must be a list of texts"),
        ('{"prompt": "x", "text": "?!"}', r"a text must hold a letter, digit or symbol, got '\?!'"),
        ('{"prompt": "x", "text": "a", "id": []}', r"column 'id': must be a text, got \[\]"),
        ('{"prompt": "x", "text": "a", "language": 1}', r"column 'language': must be a text, got 1"),
        ('{"prompt": "x", "text": "a", "id": 1}\n{"prompt": "x", "text": "a"}', r"line 2: 'id' must be new, got"),
    ],
)
def test_broken_text_targets(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UnreadableQuestions, match=message):
        read_text_targets(write(tmp_path / "a.jsonl", content))


def test_images_by_name(tmp_path: Path) -> None:
    for name in (
        "a.png",
        "b.JPG",
        "c.d.webp",
        "e.txt",
        "fullset/ps_human/en/k1.jpeg",
        "fullset/ps_human/en/k1_SRCIMG.png",
    ):
        write(tmp_path / name, "")
    (tmp_path / "f.png").mkdir()
    found, missing = images_of(tmp_path, ["b", "a", "a", "c.d", "e", "f", "fullset/ps_human/en/k1", "no/folder"])
    assert {name: file.relative_to(tmp_path).as_posix() for name, file in found.items()} == {
        "b": "b.JPG",
        "a": "a.png",
        "c.d": "c.d.webp",
        "fullset/ps_human/en/k1": "fullset/ps_human/en/k1.jpeg",
    }
    assert missing == ["e", "f", "no/folder"]


def test_two_images_of_one_name_and_no_folder(tmp_path: Path) -> None:
    write(tmp_path / "x" / "a.png", "")
    write(tmp_path / "x" / "a.jpg", "")
    with pytest.raises(UnreadableImage, match=r"named 'x/a', got .*a\.jpg and .*a\.png"):
        images_of(tmp_path, ["x/a"])
    assert images_of(tmp_path / "x", ["b"]) == ({}, ["b"])  # only of names that are asked for
    for nowhere in (tmp_path / "none", tmp_path / "x" / "a.png"):
        with pytest.raises(UnreadableImage, match="`folder` must be a folder of images"):
            images_of(nowhere, [])
