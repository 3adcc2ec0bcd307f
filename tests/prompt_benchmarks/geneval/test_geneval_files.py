"""Files of detections, of GenEval's prompts, images and verdicts: what is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lightning_imgmetrics.errors import UnreadableQuestions, ValueRangeError
from lightning_imgmetrics.models.detection.detections import Detection, RunLengths
from lightning_imgmetrics.prompt_benchmarks.geneval.detections_file import read_detections
from lightning_imgmetrics.prompt_benchmarks.geneval.files import GenEvalImage, geneval_images, read_geneval
from lightning_imgmetrics.prompt_benchmarks.geneval.prompts import Clause, GenEvalPrompt
from lightning_imgmetrics.prompt_benchmarks.geneval.rules import judge

CATS = {"tag": "counting", "include": [{"class": "cat", "count": 2}], "exclude": [{"class": "cat", "count": 3}]}
CATS |= {"prompt": "a photo of two cats"}
DOG = {"tag": "position", "prompt": "a photo of a dog left of a cat"}
DOG |= {"include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}]}
RED = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}], "prompt": "a photo of a red cat"}


def lines(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


# Masks


def runs_of(mask: np.ndarray) -> list[int]:
    flat = mask.flatten(order="F")
    changes = [i for i in range(1, flat.size) if flat[i] != flat[i - 1]]
    lengths = np.diff([0, *changes, flat.size]).tolist()
    return [0, *lengths] if flat[0] else lengths


def text_of(runs: list[int]) -> str:
    """The string as pycocotools writes it."""
    text = ""
    for i, value in enumerate(runs):
        rest = value - runs[i - 2] if i > 2 else value
        more = True
        while more:
            digit, rest = rest & 31, rest >> 5
            more = rest != (-1 if digit & 16 else 0)
            text += chr(48 + digit + 32 * more)
    return text


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70)))
def test_masks_come_back(mask: np.ndarray) -> None:
    size, runs = list(mask.shape), runs_of(mask)
    for counts in (runs, text_of(runs)):
        pixels = RunLengths.of({"size": size, "counts": counts}).pixels()
        assert pixels.dtype == torch.bool
        assert np.array_equal(pixels.numpy(), mask)


@given(st.lists(st.integers(1, 100000), min_size=1, max_size=9))
def test_long_runs_come_back(runs: list[int]) -> None:
    assert RunLengths.of({"size": [1, sum(runs)], "counts": text_of(runs)}).runs.tolist() == runs


def test_a_mask_of_pycocotools() -> None:
    """pycocotools 2.0.11: encode(asfortranarray((y - 9)^2 + (x - 11)^2 < 50)) of 20 x 30 pixels."""
    stored = {"size": [20, 30], "counts": "i21`06L2N2N2O000O20N10001N2N2N4Jf6"}
    y, x = np.mgrid[:20, :30]
    assert np.array_equal(RunLengths.of(stored).pixels().numpy(), (y - 9) ** 2 + (x - 11) ** 2 < 50)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (None, r'a mask must be \{"size": \[h, w\], "counts": ...\}, got None'),
        ({"size": [2], "counts": [4]}, "a mask must be"),
        ({"size": [2, -2], "counts": [4]}, "a mask must be"),
        ({"size": [2, 2]}, "must be lengths of runs, got None"),
        ({"size": [2, 2], "counts": [1, -1, 4]}, "must be lengths of runs"),
        ({"size": [2, 2], "counts": [1.0, 3]}, "must be lengths of runs"),
        ({"size": [2, 2], "counts": [1, 2]}, "a mask of 2 x 2 must have runs of as many pixels, got 3"),
        ({"size": [2, 2], "counts": "1 2"}, "is no string of COCO: it holds ' '"),
        ({"size": [2, 2], "counts": "4P"}, "ends within a number"),
        ({"size": [2, 2], "counts": "O5"}, "must be lengths of runs"),  # -1, 5
    ],
)
def test_masks_that_are_refused(stored: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueRangeError, match=message):
        RunLengths.of(stored)
    if stored is not None:  # no mask, in a file
        row = {"image": "a", "detections": [{"class": 0, "score": 1, "box": [0, 0, 1, 1], "mask": stored}]}
        with pytest.raises(UnreadableQuestions, match=f"line 1: .*{message}"):
            read_detections(lines(tmp_path / "found.jsonl", row))


# Detections


def test_detections_are_read(tmp_path: Path) -> None:
    mask = {"size": [2, 3], "counts": [1, 2, 3]}
    cat = {"class": "cat", "score": 0.9, "box": [0, 1, 2.5, 3], "mask": mask, "color": "red"}
    rows = [
        {"image": "a/1.png", "detections": [cat, {"class": 64, "score": 1, "box": [0, 0, 0, 0]}]},
        {"id": 7, "detections": []},
        {"file": "b.png", "detections": [{"class": n, "score": 0.5, "box": [0, 0, 1, 1]} for n in ("mouse", "remote")]},
    ]
    found = read_detections(lines(tmp_path / "found.jsonl", *rows[:2], "", rows[2]))
    assert list(found) == ["a/1.png", "7", "b.png"]
    first, second = found["a/1.png"]
    assert first == Detection("cat", 0.9, (0, 1, 2.5, 3), color="red")
    pixels = first.pixels()
    assert pixels is not None
    assert pixels.tolist() == [[False, True, False], [True, False, False]]
    assert second == Detection("computer mouse", 1.0, (0, 0, 0, 0))
    assert second.pixels() is None
    assert found["7"] == []
    assert [d.label for d in found["b.png"]] == ["computer mouse", "tv remote"]
    (tmp_path / "found.json").write_text(json.dumps(rows))
    assert read_detections(str(tmp_path / "found.json")) == found


def one(**change: Any) -> dict[str, Any]:
    return {"image": "a", "detections": [{"class": "cat", "score": 0.5, "box": [0, 0, 1, 1], **change}]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds the detections of no image"),
        ([one(), "{"], "line 2: not JSON"),
        ([one(), one()], "line 2: the image 'a' comes twice"),
        ([[1]], r'line 1: must be an object with "image" and a list "detections", got \[1\]'),
        ([{"detections": []}], "must be an object"),
        ([{"image": None, "detections": []}], "must be an object"),
        ([{"image": "a"}], "must be an object"),
        ([{"image": "a", "detections": [3]}], 'detection 0 must have "class", "score" and "box"'),
        ([one(box=[0, 0, 1])], "detection 0 must have"),
        ([one(score=None)], "detection 0 must have"),
        ([one(box=[0, 0, 1, "1"])], '"box" of detection 0 must be four numbers'),
        ([one(box=[2, 0, 1, 1])], "line 1: a detection must have a finite score and a box x0 <= x1"),
        (['{"image": "a", "detections": [{"class": 0, "score": NaN, "box": [0, 0, 1, 1]}]}'], "a finite score"),
        ([one(**{"class": "sofa"})], "\"class\" must be one of COCO's 80 names or 0..79, got 'sofa'"),
        ([one(**{"class": 80})], "got 80"),
        ([one(**{"class": True})], "got True"),
        ([one(color="grey")], "`color` must be one of 'red', .*; got 'grey'"),
    ],
)
def test_detections_that_are_refused(rows: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableQuestions, match=message):
        read_detections(lines(tmp_path / "found.jsonl", *rows))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        read_detections(tmp_path / "none.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UnreadableQuestions, match=r"bytes\.jsonl must be UTF-8 text: .*0xff"):
        read_geneval(tmp_path / "bytes.jsonl")
    (tmp_path / "object.json").write_text("{}")
    with pytest.raises(UnreadableQuestions, match=r"object\.json: must be a list of at least one object, got \{\}"):
        read_detections(tmp_path / "object.json")
    (tmp_path / "broken.json").write_text("[1,")
    with pytest.raises(UnreadableQuestions, match=r"broken\.json: not JSON"):
        read_detections(tmp_path / "broken.json")


# Prompts and images


def test_prompts_are_read_in_their_order(tmp_path: Path) -> None:
    read = read_geneval(lines(tmp_path / "evaluation_metadata.jsonl", CATS, "", DOG))
    dog = (Clause("cat", 1), Clause("dog", 1, position=("left of", 0)))
    assert read == [
        GenEvalPrompt("a photo of two cats", "counting", (Clause("cat", 2),), (Clause("cat", 3),)),
        GenEvalPrompt("a photo of a dog left of a cat", "position", dog),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([CATS, {**DOG, "tag": "size"}], 'line 2: "tag" must be one of single_object'),
        ([CATS, "", {**DOG, "include": [{"class": "mouse", "count": 1}]}], "line 3: \"class\" must be .* got 'mouse'"),
        (["nothing"], "line 1: not JSON"),
        ([], "holds no prompt"),
    ],
)
def test_prompts_that_are_refused(rows: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableQuestions, match=message):
        read_geneval(lines(tmp_path / "prompts.jsonl", *rows))


def made(root: Path, number: str, row: Any, *files: str) -> None:
    if row is not None:
        lines(root / number / "metadata.jsonl", row)
    for name in files:
        (root / number / "samples").mkdir(parents=True, exist_ok=True)
        (root / number / "samples" / name).write_bytes(b"")


def test_images_are_found_with_their_prompts(tmp_path: Path) -> None:
    made(tmp_path, "00000", CATS, "0000.png", "0001.png", "0010.png", "0002.png", "0003.png", "grid.png", "0004.jpg")
    made(tmp_path, "00002", DOG, "00001.png")
    made(tmp_path, "00003", None)
    (tmp_path / "00003").mkdir()
    made(tmp_path, "notes", CATS, "0000.png")
    made(tmp_path, "20240131", CATS, "0000.png")
    (tmp_path / "00000" / "grid.png").write_bytes(b"")
    (tmp_path / "00009").write_bytes(b"")
    cats, dog = (GenEvalPrompt.of(row) for row in (CATS, DOG))
    found = geneval_images(tmp_path)
    expected = [f"00000/samples/{k:04}.png" for k in (0, 1, 2, 3, 10)]
    assert found.items == (*(GenEvalImage(f, cats) for f in expected), GenEvalImage("00002/samples/00001.png", dog))
    assert found.missing == (
        *(f"00001/samples/{k:04}.png" for k in range(4)),
        *(f"00002/samples/{k:04}.png" for k in (0, 2, 3)),
        *(f"00003/samples/{k:04}.png" for k in range(4)),
    )
    assert geneval_images(str(tmp_path), samples=1).missing == tuple(f"0000{n}/samples/0000.png" for n in (1, 2, 3))


def test_images_of_given_prompts(tmp_path: Path) -> None:
    prompts = [GenEvalPrompt.of(row) for row in (CATS, RED, DOG)]
    made(tmp_path, "00000", CATS, "0000.png")
    made(tmp_path, "00001", None, "0000.png")
    found = geneval_images(tmp_path, prompts, samples=1)
    assert [item.prompt for item in found.items] == prompts[:2]
    assert found.missing == ("00002/samples/0000.png",)
    with pytest.raises(UnreadableQuestions, match="must hold that of its number, 'a photo of a red cat', got 'a photo"):
        geneval_images(tmp_path, [prompts[1], prompts[0]])
    with pytest.raises(UnreadableQuestions, match="one folder for each of 1 prompts, has 1"):
        geneval_images(tmp_path, prompts[:1])


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableQuestions, match=r"holds no image NNNNN/samples/KKKK\.png"):
        geneval_images(tmp_path)
    with pytest.raises(UnreadableQuestions, match="holds no image"):
        geneval_images(tmp_path / "none")
    made(tmp_path, "00000", None, "0000.png")
    with pytest.raises(UnreadableQuestions, match=r"00000.metadata\.jsonl cannot be read"):
        geneval_images(tmp_path)
    lines(tmp_path / "00000" / "metadata.jsonl", CATS, DOG)
    with pytest.raises(UnreadableQuestions, match="must hold one prompt, got 2 of them"):
        geneval_images(tmp_path)
    lines(tmp_path / "00000" / "metadata.jsonl", {**CATS, "tag": "cats"})
    with pytest.raises(UnreadableQuestions, match=r'metadata\.jsonl, line 1: "tag" must be one of'):
        geneval_images(tmp_path)


# Published verdicts


def result(row: Any, correct: bool, details: Any, **change: Any) -> str:
    """A line as pandas writes it: the slashes escaped, JSON within JSON."""
    whole = {"filename": "images/00000/samples/0000.png", "tag": row["tag"], "prompt": row["prompt"]}
    whole |= {"correct": correct, "reason": "" if correct else "expected cat>=2, found 1"}
    whole |= {"metadata": json.dumps(row), "details": json.dumps(details), **change}
    return json.dumps(whole, separators=(",", ":")).replace("/", "\\/")


CAT = [0.0, 0.0, 20.0, 20.0, 0.97]


def test_detections_of_published_verdicts(tmp_path: Path) -> None:
    """They hold what the verdicts were given on, which come out the same."""
    found = [{"cat": [CAT, CAT]}, {"cat": [CAT], "dog": [[1, 2, 3, 4, 0.95]]}, {}]
    found.append({"cat": [CAT], "dog": [[-90, 0, -70, 20, 0.5]]})
    prompts, correct = (CATS, CATS, DOG, DOG), (True, False, False, True)
    names = [f"{i:05}/samples/0000.png" for i in range(4)]
    rows = [
        result(prompt, right, some, filename=f"images/run 1/{name}")
        for prompt, right, some, name in zip(prompts, correct, found, names, strict=True)
    ]
    read = read_detections(lines(tmp_path / "results.jsonl", *rows))
    assert list(read) == names
    assert read[names[1]] == [Detection("cat", 0.97, (0, 0, 20, 20)), Detection("dog", 0.95, (1, 2, 3, 4))]
    asked = [GenEvalPrompt.of(prompt) for prompt in prompts]
    assert [judge(p, read[name]).correct for p, name in zip(asked, names, strict=True)] == [*correct]


def test_names_of_published_verdicts(tmp_path: Path) -> None:
    names = ("C:\\x\\00001/samples/0002.png", "00001/samples/0003.jpg", "0001/samples/1.png", "other.png")
    rows = [{"filename": name, "details": {"mouse": [CAT]}} for name in names]
    read = read_detections(lines(tmp_path / "results.jsonl", *rows))
    assert list(read) == ["00001/samples/0002.png", "00001/samples/0003.jpg", *names[2:]]
    assert {one.label for some in read.values() for one in some} == {"computer mouse"}


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ("{", "not JSON"),
        ([], r'"details" must be an object with boxes by class, got \[\]'),
        ({"cat": 3}, r"\"details\" must be an object with boxes by class, got {'cat': 3}"),
        ({"cat": [3]}, r"a box of 'cat' must be \[x0, y0, x1, y1, score\], got 3"),
        ({"cat": [[0, 0, 1, 1]]}, "a box of 'cat' must be"),
        ({"cow pie": [CAT]}, '"class" must be one of COCO\'s 80 names'),
    ],
)
def test_published_verdicts_that_are_refused(details: Any, message: str, tmp_path: Path) -> None:
    rows = [{"filename": name, "details": some} for name, some in (("a", {}), ("b", details))]
    with pytest.raises(UnreadableQuestions, match=f"line 2: .*{message}"):
        read_detections(lines(tmp_path / "results.jsonl", *rows))
