"""Images of benchmarks on disk: which item each belongs to, also where several items have one prompt."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.judges import ScriptedJudge, texts_of
from PIL import Image

from lightning_imgmetrics.errors import ShapeError, UnknownName
from lightning_imgmetrics.prompt_benchmarks.base.question_files import TifaQuestion
from lightning_imgmetrics.prompt_benchmarks.dpg_bench import DPGBench
from lightning_imgmetrics.prompt_benchmarks.layouts import layout_of
from lightning_imgmetrics.prompt_benchmarks.text_rendering.metric import TextRendering
from lightning_imgmetrics.prompt_benchmarks.tifa.metric import TIFA

CAPTIONS = {"a": "a cat", "b": "a dog", "c": "a cat"}


def images(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for i, name in enumerate(names):
        Image.new("RGB", (8, 8), (10 + i, 0, 0)).save(folder / f"{name}.png")
    return folder


def tifa(path: Path) -> TIFA:
    bare = {"choices": ["yes", "no"], "answer": "yes", "element_type": "object", "element": "x"}
    rows = [{"id": name, "caption": text, "question": f"{name}?", **bare} for name, text in CAPTIONS.items()]
    path.write_text(json.dumps(rows))
    return TIFA(path, ScriptedJudge(lambda q: "yes"))


def dpg(path: Path) -> DPGBench:
    columns = ["item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed"]
    columns += ["tuple", "question_natural_language"]
    with path.open("w", newline="") as file:
        rows = [
            [name, text, "", 1, 0, "entity", "whole", "entity - whole (x)", f"{name}?"]
            for name, text in CAPTIONS.items()
        ]
        csv.writer(file).writerows([columns, *rows])
    return DPGBench(path, ScriptedJudge(lambda q: "yes"))


def text(path: Path) -> TextRendering:
    rows = [{"id": name, "prompt": f'{caption} "word"', "texts": [name]} for name, caption in CAPTIONS.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TextRendering(path, ScriptedJudge(lambda q: '{"text": "c"}'))


@pytest.mark.parametrize(
    ("benchmark", "made", "file"), [("tifa", tifa, "q.json"), ("dpg", dpg, "q.csv"), ("text", text, "q.jsonl")]
)
def test_items_of_one_prompt_are_told_apart_by_their_files(
    benchmark: str, made: Any, file: str, tmp_path: Path
) -> None:
    metric = made(tmp_path / file)
    layout = layout_of(benchmark, images(tmp_path / "images", "c"), tmp_path / file)
    assert (layout.prompts, layout.missing, layout.source) == (["c"], ["a", "b"], None)
    assert [layout.images.image_name(i) for i in range(len(layout.images))] == ["c"]
    metric.update(images=layout.images[0][None], prompts=layout.prompts, ids=[0])
    assert float(metric.compute()) > 0
    (record,) = metric.records()
    assert (record["item"], metric.missing()) == ("c", layout.missing)
    assert record["prompt"].startswith("a cat")
    asked = texts_of(metric.judge.asked[0])
    assert benchmark == "text" or "Question: c?" in asked


def test_a_map_of_files_knows_the_items(tmp_path: Path) -> None:
    metric = tifa(tmp_path / "q.json")
    folder = images(tmp_path / "images", "one", "two")
    (tmp_path / "map.json").write_text(json.dumps({"c": str(folder / "one.png"), "a": str(folder / "two.png")}))
    layout = layout_of("tifa", tmp_path / "map.json", tmp_path / "q.json")
    assert (layout.prompts, layout.missing) == (["a", "c"], ["b"])
    metric.update(images=torch.stack([layout.images[0], layout.images[1]]), prompts=layout.prompts, ids=[0, 1])
    metric.compute()
    assert ([record["item"] for record in metric.records()], metric.missing()) == (["a", "c"], ["b"])


def test_a_name_is_one_where_it_is_the_prompt_of_another() -> None:
    rest: Any = (("yes", "no"), "yes", "object", "x")
    questions = [TifaQuestion("dog", "a cat", "cat?", *rest), TifaQuestion("1", "dog", "dog?", *rest)]
    judge = ScriptedJudge(lambda q: "yes")
    metric = TIFA(questions, judge)
    metric.update(images=torch.full((3, 3, 8, 8), 9, dtype=torch.uint8), prompts=["dog", "1", "a  cat"])
    assert [record["item"] for record in metric.records()] == ["dog", "1", "dog"]
    assert [record["prompt"] for record in metric.records()] == ["a cat", "dog", "a cat"]


def test_what_is_no_layout(tmp_path: Path) -> None:
    tifa(tmp_path / "q.json")
    with pytest.raises(UnknownName, match="`benchmark` must be one of 'geneval', 'dpg'"):
        layout_of("pope", tmp_path, tmp_path / "q.json")
    with pytest.raises(ShapeError, match=r"no image of tifa lies in .*: expected 'a', 'b', 'c' and 3 in all"):
        layout_of("tifa", images(tmp_path / "images", "z"), tmp_path / "q.json")
