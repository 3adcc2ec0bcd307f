"""Prompts from every kind of file, and their images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_imgmetrics.data.prompts import Prompt, align_prompts, match_names, read_prompt_table, read_prompts
from lightning_imgmetrics.errors import ShapeError

TEXTS = ["a cat, on a mat", 'a "red" cube', "größer als 木"]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def test_a_blank_line_does_not_move_the_prompts_below(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\n\nthree\n")
    with pytest.raises(ShapeError, match=r"a\.txt, line 2: holds no prompt"):
        read_prompt_table(path)


def test_lists_and_lines(tmp_path: Path) -> None:
    assert read_prompts(None) is None
    assert read_prompts(TEXTS) == TEXTS
    for mark in ("", "\ufeff"):
        path = write(tmp_path / "a.txt", mark + "\r\n".join(TEXTS) + "\n  \n\n")
        assert read_prompts(path) == read_prompts(str(path)) == TEXTS
    for nothing in ([], [1], write(tmp_path / "b.txt", "\n \n")):
        with pytest.raises(ShapeError, match="`prompts` must"):
            read_prompts(nothing)  # type: ignore[arg-type]


def test_json_lines(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": TEXTS[0], "text": "other", "file_name": "x/0.png", "category": "animals", "label": 7},
        {"text": TEXTS[1], "image": {"bytes": ""}, "label": 3},
        {"caption": TEXTS[2] + "\u2028", "file": "2.png", "category": None},
    ]
    path = write(tmp_path / "a.jsonl", "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    assert read_prompt_table(path) == [
        Prompt(TEXTS[0], "x/0.png", "animals"),
        Prompt(TEXTS[1], None, "3"),
        Prompt(TEXTS[2] + "\u2028", "2.png"),
    ]
    assert read_prompts(path) == [*TEXTS[:2], TEXTS[2] + "\u2028"]


def test_csv(tmp_path: Path) -> None:
    rows = [
        "\ufeffFile, Prompt ,label",
        '0.png,"a cat, on a mat",animals',
        '1.png,"a ""red"" cube",',
        ",größer als 木,x",
    ]
    text = "\r\n".join([*rows, ""])
    assert read_prompt_table(write(tmp_path / "a.csv", text)) == [
        Prompt(TEXTS[0], "0.png", "animals"),
        Prompt(TEXTS[1], "1.png"),
        Prompt(TEXTS[2], None, "x"),
    ]


BAD_TABLES = {
    "a.jsonl": [
        ('{"prompt": "a"}\n{"promt": "b"}\n', r"a\.jsonl, line 2: no text under 'prompt' or 'text'.*got \['promt'\]"),
        ('{"prompt": 3}', "line 1: no text"),
        ('{"prompt": "  "}', "line 1: no text"),
        ('\n{"prompt": "a"', "line 2: not JSON"),
        ('"a"', "line 1: must be an object"),
        ("", "at least one text, found none in .*a.jsonl"),
        ('{"prompt": "a", "prompt": "b"}', "line 1: the key 'prompt' must stand once"),
    ],
    "a.csv": [
        ("prompt\na cat, on a mat\n", r"a\.csv, line 2: more cells than the header"),
        ("a cat\na dog\n", r"line 2: no text under 'prompt'.*got \['a cat'\]"),
        ("file,prompt\na.png\n", "line 2: no text"),
        ("prompt,file\n", "at least one text"),
        ("prompt,Prompt\na,b\n", "line 1: several columns are called 'prompt'"),
        ("", "at least one text"),
    ],
    "a/b.txt": [(" \n", r"b\.txt holds no prompt")],
}


@pytest.mark.parametrize(("name", "text", "message"), [(k, *case) for k, cases in BAD_TABLES.items() for case in cases])
def test_tables_that_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(ShapeError, match=message):
        read_prompt_table(path.parent if name == "a/b.txt" else path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_tables_in_another_encoding(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes("größer".encode("latin-1"))
    with pytest.raises(ShapeError, match=rf"{name} must be UTF-8 text: .*0xf6"):
        read_prompt_table(tmp_path / name)


def test_texts_beside_images(tmp_path: Path) -> None:
    images = ["a/1.png", "a/1.5.png", "b/1.jpg"]
    for name, text in zip(images, TEXTS, strict=True):
        write(tmp_path / name, "pixels")
        write((tmp_path / name).with_suffix(".txt"), f" {text}\n")
    write(tmp_path / ".cache" / "1.txt", "hidden")
    records = read_prompt_table(tmp_path)
    assert [r.prompt for r in align_prompts(records, images)] == TEXTS
    assert [r.prompt for r in align_prompts(records, images[::-1])] == TEXTS[::-1]
    assert sorted(read_prompts(tmp_path) or []) == sorted(TEXTS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShapeError, match=r"found none in .*empty"):
        read_prompts(tmp_path / "empty")


@pytest.mark.parametrize(
    "files",
    [
        ["a/2.png", "a/10.png", "c.v2.png"],
        ["a/2", "a/10", "c.v2"],
        ["a/2.jpg", "a/10.webp", "c.v2.png"],
        ["/data/train/2.png", "/data/train/10.png", "/data/train/c.v2.png"],
        ["x\\2.jpg", "x\\10.jpg", "y\\c.v2.jpg"],
    ],
)
def test_files_find_their_images(files: list[str]) -> None:
    names = ["a/10.png", "a/2.png", "c.v2.png"]
    assert match_names(names, files) == [1, 0, 2]
    records = [Prompt(text, file) for text, file in zip(TEXTS, files, strict=True)]
    assert [r.prompt for r in align_prompts(records, names)] == [TEXTS[1], TEXTS[0], TEXTS[2]]


def test_positions_where_no_files_are_named() -> None:
    records = [Prompt(text) for text in TEXTS]
    assert align_prompts(records, ["c", "a", "b"]) == records
    with pytest.raises(ShapeError, match=r"5 images and 3 partners .* 2 and 0 do not: image 'd', image 'e'$"):
        align_prompts(records, ["a", "b", "c", "d", "e"])
    with pytest.raises(ShapeError, match=r"1 images and 3 partners .*: partner 'a .red. cube', "):
        align_prompts(records, ["a"])
    with pytest.raises(ShapeError, match="all prompts or none must name their image file, got 1 of 2"):
        align_prompts([Prompt("a", "a.png"), Prompt("b")], ["a.png", "b.png"])


def test_at_most_five_without_a_partner_are_listed() -> None:
    names = [f"{i}.png" for i in range(20)]
    with pytest.raises(ShapeError, match=r"20 images and 12 partners .* 8 and 0 do not") as caught:
        match_names(names, names[:12])
    assert str(caught.value).count("image '") == 5
    with pytest.raises(ShapeError, match=r"1 and 1 do not: image '3\.png', partner 'x\.png'$"):
        match_names(names, [name if name != "3.png" else "x.png" for name in names])
    with pytest.raises(ShapeError, match=r"1 and 2 do not: image '0\.png', partner '0\.png', "):
        match_names(names, [*names, "0.png"])
    with pytest.raises(ShapeError, match="2 and 1 do not"):  # two images of one stem
        match_names(["a/1.png", "b/1.png"], ["1.png"])


def test_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed", exc_type=ImportError)
    table = {"text": TEXTS, "prompt": ["x"] * 3, "file_name": ["a", "b", "c"], "label": [1, 0, -1]}
    data = datasets.Dataset.from_dict(table).cast_column("label", datasets.ClassLabel(names=["cat", "cube"]))
    data.save_to_disk(str(tmp_path / "saved"))
    assert read_prompt_table(f"hf:{tmp_path / 'saved'}:train:text") == [
        Prompt(TEXTS[0], "a", "cube"),
        Prompt(TEXTS[1], "b", "cat"),
        Prompt(TEXTS[2], "c"),
    ]
