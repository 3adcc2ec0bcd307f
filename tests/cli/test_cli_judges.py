"""`imgmetrics judge` and `imgmetrics bench`, against a server on this machine."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_parts import done, folder, refused
from conftest import random_images
from helpers.openai_server import Body, OpenAIServer, Said, serving

N = 6
WORDED = pytest.mark.filterwarnings("ignore:the prompt .* is not on this machine")  # our own wording stands in
QUICK = ("--workers", "0", "--device", "cpu")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


def texts(body: Body) -> str:
    parts = [p for m in body["messages"] for p in (m["content"] if isinstance(m["content"], list) else [])]
    return "\n".join(p["text"] for p in parts if p["type"] == "text")


def shown(body: Body) -> int:
    return sum(p["type"] == "image_url" for m in body["messages"] for p in m["content"] if isinstance(p, dict))


def grader(body: Body) -> Said:
    """Marks of 4, with reasons."""
    return Said(json.dumps({"reasoning": f"{shown(body)} seen", "score": 4}))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return folder(tmp_path / "generated", random_images(N, 16, 3))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"picture {i} of 'a {{red}} cat'\n" for i in range(N)))
    return path


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with serving(grader) as running:
        yield running


def test_a_rubric_over_a_folder(images: Path, prompts: Path, server: OpenAIServer, tmp_path: Path) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "csv", "markdown", "scores", "records")}
    outputs = [part for name, path in files.items() for part in (f"--{name}", path)]
    answer = done("judge", images, "--judge", f"m@{server.url}", "--prompts", prompts, *QUICK, *outputs)
    assert "rubric" in answer.out
    report = json.loads(files["json"].read_text())
    assert report["results"]["rubric"]["value"] == 0.75
    assert report["results"]["rubric"]["n"] == N
    assert len(report["scores"]["rubric"]) == N
    records = [json.loads(line) for line in files["records"].read_text().splitlines()]
    assert [r["id"] for r in records] == list(range(N))
    assert [r["prompt"] for r in records] == prompts.read_text().splitlines()
    assert records[0]["rows"][0]["question"].startswith("Are all the beings")
    assert "1 seen" in records[0]["rationale"]
    assert "1 seen" in files["markdown"].read_text()
    with files["scores"].open() as file:
        assert [float(row["rubric"]) for row in csv.DictReader(file)] == [0.75] * N
    asked = len(server.asked)
    done("judge", images, "--judge", f"m@{server.url}", "--prompts", prompts, *QUICK)
    assert len(server.asked) == asked
    assert set(server.asked.values()) == {1}


@WORDED
def test_edits_are_shown_with_their_sources(images: Path, prompts: Path, tmp_path: Path) -> None:
    sources = folder(tmp_path / "sources", random_images(N, 16, 9))

    def script(body: Body) -> Said:
        return Said(json.dumps({"score": [shown(body) * 4, 8], "reasoning": "seen"}))

    rule = ["--metrics", "vie_score", "--set", "vie_score.task=tie", "--json", tmp_path / "out.json"]
    with serving(script) as server:
        done("judge", images, "--judge", f"m@{server.url}", "--prompts", prompts, "--source", sources, *QUICK, *rule)
        refusal = refused("judge", images, "--judge", f"m@{server.url}", "--prompts", prompts, *QUICK, *rule, code=2)
    assert refusal == "error: vie_score requires `--source`"
    result = json.loads((tmp_path / "out.json").read_text())["results"]["vie_score"]
    assert result["details"]["sc"] == 8.0
    assert result["details"]["pq"] == 4.0
    assert result["value"] == pytest.approx(32**0.5)


def test_a_rival_in_both_orders(images: Path, prompts: Path, tmp_path: Path) -> None:
    rivals = folder(tmp_path / "rivals", random_images(N, 16, 5))
    first = json.dumps({"reasoning": "I like what comes first", "winner": 1})
    with serving(lambda body: Said(first)) as server:
        arguments = ["--rivals", rivals, "--metrics", "pairwise_judge", "--json", tmp_path / "out.json", *QUICK]
        answer = done("judge", images, "--judge", f"m@{server.url}", "--prompts", prompts, *arguments)
        assert sum(server.asked.values()) == 2 * N
    result = json.loads((tmp_path / "out.json").read_text())["results"]["pairwise_judge"]
    assert (result["value"], result["details"]["position_bias"], result["details"]["tie_rate"]) == (0.5, 1.0, 1.0)
    assert "both orders chose the same place in 100 % of the comparisons" in answer.err + answer.out


def tifa(tmp_path: Path, n: int = N, questions: int = 3) -> tuple[Path, Path]:
    """Images by id, without the last one, and the file of questions."""
    folder(tmp_path / "images", random_images(n - 1, 16, 1), [f"item_{i}.png" for i in range(n - 1)])
    rows = [
        {
            "id": f"item_{i}",
            "caption": f"caption {i}",
            "question": f"question {k} of {i}?",
            "choices": ["yes", "no"],
            "answer": "yes",
            "element_type": ("object", "color", "counting")[k % 3],
            "element": "thing",
        }
        for i in range(n)
        for k in range(questions)
    ]
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(rows))
    return tmp_path / "images", path


def test_a_benchmark_with_categories_and_what_is_missing(tmp_path: Path) -> None:
    images, questions = tifa(tmp_path)

    def script(body: Body) -> Said:
        return Said("no" if "question 1" in texts(body) else "yes")

    with serving(script) as server:
        arguments = ["--judge", f"m@{server.url}", "--questions", questions, *QUICK, "--json", tmp_path / "out.json"]
        answer = done("bench", "tifa", images, *arguments, "--records", tmp_path / "records")
    records = [json.loads(line) for line in (tmp_path / "records").read_text().splitlines()]
    assert [(r["prompt"], r["item"]) for r in records] == [(f"caption {i}", f"item_{i}") for i in range(N - 1)]
    assert "missing images: 1 (item_5)" in answer.err + answer.out
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["results"]["tifa"]["value"] == pytest.approx(2 / 3)
    assert {name: row["value"] for name, row in report["categories"]["tifa"].items()} == {
        "object": 1.0,
        "color": 0.0,
        "counting": 1.0,
    }
    assert report["results"]["tifa"]["details"]["n_missing_items"] == 1
    assert "color" in answer.out


def test_a_killed_benchmark_asks_no_question_twice(tmp_path: Path) -> None:
    images, questions = tifa(tmp_path, n=9, questions=4)
    allowed, resumed = iter(range(15)), [False]

    def fault(question: str, nth: int) -> str:
        return "" if resumed[0] or next(allowed, None) is not None else "hold"

    cache = tmp_path / "cache-of-both"
    place = {"IMGMETRICS_CACHE": str(cache), "OMP_NUM_THREADS": "1", "NO_PROXY": "*"}
    with serving(lambda body: Said("yes"), fault=fault) as server:
        command = [sys.executable, "-m", "lightning_imgmetrics", "bench", "tifa", str(images), *QUICK]
        command += ["--judge", f"m@{server.url}", "--questions", str(questions), "--concurrency", "2"]
        first = subprocess.Popen(
            command, env={**os.environ, **place}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        end = time.monotonic() + 120
        while len(list(cache.rglob("*.json"))) < 15:
            assert time.monotonic() < end
            assert first.poll() is None
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        answered = dict(server.answered)
        resumed[0] = True
        second = subprocess.run(command, env={**os.environ, **place}, capture_output=True, text=True, timeout=120)
        assert second.returncode == 0, second.stderr
        assert "tifa" in second.stdout
    assert len(answered) == 15
    assert len(server.answered) == 8 * 4
    assert set(server.answered.values()) == {1}


def dpg(tmp_path: Path) -> Path:
    columns = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    rows = [
        'a,"a red cat",,1,0,entity,whole,entity - whole (cat),is there a cat?',
        'a,"a red cat",,2,1,attribute,color,"attribute - color (cat, red)",is it red?',
    ]
    path = tmp_path / "dpg.csv"
    path.write_text("\n".join([f"{columns}question_natural_language", *rows]) + "\n")
    return path


def test_dpg_bench(tmp_path: Path) -> None:
    questions = dpg(tmp_path)
    images = folder(tmp_path / "dpg", random_images(1, 32, 2), ["a.png"])
    with serving(lambda body: Said("no" if "is there a cat" in texts(body) else "yes")) as server:
        arguments = ["--judge", f"m@{server.url}", "--questions", questions, *QUICK, "--json", tmp_path / "out.json"]
        done("bench", "dpg", images, *arguments, "--set", "dpg_bench.grid=2")
        assert sum(server.asked.values()) == 2 * 4
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["results"]["dpg_bench"]["value"] == 0.0  # no cat that could be red
    assert report["categories"]["dpg_bench"]["L2/attribute - color"]["value"] == 100.0


def test_text_rendering(tmp_path: Path) -> None:
    targets = tmp_path / "targets.jsonl"
    targets.write_text(json.dumps({"id": "sign", "prompt": 'a sign that says "open late"', "text": "open late"}) + "\n")
    images = folder(tmp_path / "signs", random_images(1, 16, 2), ["sign.png"])
    with serving(lambda body: Said(json.dumps({"text": "Open"}))) as server:
        arguments = ["--judge", f"m@{server.url}", "--questions", targets, *QUICK, "--json", tmp_path / "out.json"]
        done("bench", "text", images, *arguments)
    assert json.loads((tmp_path / "out.json").read_text())["results"]["text_rendering"]["value"] == 0.5


@WORDED
def test_gedit_bench(tmp_path: Path) -> None:
    sources = folder(tmp_path / "sources", random_images(2, 16, 2), ["s0.png", "s1.png"])
    items = [
        {
            "key": f"k{i}",
            "task_type": ("color_alter", "style_change")[i],
            "instruction": "make it blue",
            "instruction_language": "en",
            "input_image": str(sources / f"s{i}.png"),
            "Intersection_exist": True,
        }
        for i in range(2)
    ]
    questions = tmp_path / "gedit.json"
    questions.write_text(json.dumps(items))
    for i, group in enumerate(("color_alter", "style_change")):
        folder(tmp_path / "edited" / "fullset" / group / "en", random_images(1, 24, i), [f"k{i}.png"])

    def script(body: Body) -> Said:
        return Said(json.dumps({"score": [9, 9] if shown(body) == 2 else [4, 4], "reasoning": "so"}))

    with serving(script) as server:
        arguments = ["--judge", f"m@{server.url}", "--questions", questions, *QUICK, "--json", tmp_path / "out.json"]
        done("bench", "gedit", tmp_path / "edited", *arguments)
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["results"]["gedit_bench"]["value"] == 6.0
    assert set(report["categories"]["gedit_bench"]) == {"color_alter", "style_change"}


def test_geneval(tmp_path: Path) -> None:
    prompt: dict[str, Any] = {"tag": "counting", "prompt": "a photo of two cats"}
    prompt |= {"include": [{"class": "cat", "count": 2}], "exclude": [{"class": "cat", "count": 3}]}
    questions = tmp_path / "metadata.jsonl"
    questions.write_text(json.dumps(prompt) + "\n")
    place = tmp_path / "geneval" / "00000"
    folder(place / "samples", random_images(2, 16, 2), ["0000.png", "0001.png"])
    (place / "metadata.jsonl").write_text(json.dumps(prompt) + "\n")
    boxes = [{"class": "cat", "score": 0.95, "box": [0, 0, 5 + i, 5]} for i in range(2)]
    found = tmp_path / "found.jsonl"
    lines = [
        {"image": f"00000/samples/{name}", "detections": kept}
        for name, kept in (("0000.png", boxes), ("0001.png", boxes[:1]))
    ]
    found.write_text("".join(json.dumps(line) + "\n" for line in lines))
    answer = done(
        *("bench", "geneval", tmp_path / "geneval", "--questions", questions, *QUICK),
        *("--set", f"geneval.detections={found}", "--json", tmp_path / "out.json"),
    )
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["results"]["geneval"]["value"] == 0.5
    assert report["results"]["geneval"]["details"]["any_correct"] == 1.0
    assert "missing images: 2 (" in answer.err + answer.out


def test_temperature_and_asking_anew(images: Path, prompts: Path, server: OpenAIServer, tmp_path: Path) -> None:
    line = [
        "judge",
        images,
        "--judge",
        f"m@{server.url}",
        "--prompts",
        prompts,
        *QUICK,
        "--json",
        tmp_path / "out.json",
    ]
    done(*line, "--temperature", 0.7, "--set", "rubric.repeats=2")
    signature = json.loads((tmp_path / "out.json").read_text())["results"]["rubric"]["signature"]
    assert "temperature:0.7|repeats:2" in signature
    asked = sum(server.asked.values())
    for _ in range(2):
        done(*line, "--no-cache", "--limit", 1)
    assert sum(server.asked.values()) == asked + 2 * 7


def test_runs_are_paired_by_what_both_scored(images: Path, prompts: Path, tmp_path: Path) -> None:
    for k in range(2):

        def script(body: Body, k: int = k) -> Said:
            return Said("hm" if f"picture {k} of" in texts(body) else json.dumps({"reasoning": "so", "score": 3 + k}))

        with serving(script) as server:
            line = ["judge", images, "--judge", f"m{k}@{server.url}", "--prompts", prompts, *QUICK]
            done(*line, "--json", tmp_path / f"{k}.json", "--set", "rubric.max_failed=0.5")
    answer = done(
        "compare", tmp_path / "0.json", tmp_path / "1.json", "--force", "--json", tmp_path / "difference.json"
    )
    (row,) = json.loads((tmp_path / "difference.json").read_text())["comparisons"]
    assert row["by"] == "bootstrap of 4 pairs, 2 without a score left out"
    assert row["difference"] == -0.25
    assert "rubric" in answer.out


def test_prompts_that_are_no_items(images: Path, prompts: Path, tmp_path: Path) -> None:
    _, questions = tifa(tmp_path)
    told = refused(
        *("judge", images, "--judge", "m@http://x/v1", "--prompts", prompts, "--metrics", "tifa", *QUICK),
        *("--set", f"tifa.questions={questions}"),
        code=2,
    )
    assert "--prompts: `prompts[0]` is no prompt, and no name, of an item of tifa" in told


def test_a_report_without_results_says_why(images: Path, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("old")
    with serving(lambda body: Said("hm")) as server:
        line = ["judge", images, "--judge", f"m@{server.url}", "--prompts", prompts, *QUICK]
        refused(*line, "--json", tmp_path / "out.json", code=1)
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["results"] == {}
    assert "no usable answer for 6 of 6 samples" in report["errors"]["rubric"]


# What goes wrong


def test_a_server_that_is_down(images: Path, prompts: Path) -> None:
    told = refused(
        *("judge", images, "--judge", "m@http://127.0.0.1:9/v1", "--prompts", prompts, *QUICK, "--max-tries", 1),
        code=1,
    )
    assert "no rubric: rubric: the judge gave no usable answer for 6 of 6 samples" in told
    assert "there is no server at http://127.0.0.1:9/v1" in told


def test_a_model_that_is_not_served(images: Path, prompts: Path) -> None:
    with serving(lambda body: Said("no such model", status=404)) as server:
        told = refused("judge", images, "--judge", f"m@{server.url}", "--prompts", prompts, *QUICK, code=1)
    assert "does not serve 'm' to this key: HTTP 404: no such model" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--concurrency", "3"], "--concurrency requires `--judge`"),
        (["--judge", "m@http://x/v1", "--price", "2"], "--price must be IN,OUT per million tokens"),
        (["--judge", "m@http://x/v1", "--max-cost", "2"], "`max_cost` must be above 0 and needs a `price`"),
        (["--judge", "m@http://x/v1", "--dtype", "float32"], "--dtype: a ServerJudge does not take it"),
        (["--judge", "a/checkpoint", "--timeout", "3"], "--timeout: a LocalJudge does not take it"),
        (["--judge", "m@http://x/v1"], "rubric requires `--prompts`"),
        (["--judge", "m@http://x/v1", "--set", "rubric.rubric=nowhere"], "nowhere"),
        ([], "rubric requires `--judge`"),
        (["--judge", "@http://x/v1"], "--judge: "),
        (["--judge", "m@http://x/v1", "--judge-batch-size", "3"], "--judge-batch-size: a ServerJudge does not take it"),
        (
            ["--judge", "m@http://x/v1", "--metrics", "tifa"],
            "tifa requires `--set tifa.questions=...`",
        ),
        (["--judge", "m@http://x/v1", "--set", "rubric.repeats=3"], "temperature above 0"),
    ],
)
def test_bad_options(images: Path, prompts: Path, arguments: list[str], told: str) -> None:
    given = [] if "`--prompts`" in told else ["--prompts", prompts]
    assert told in refused("judge", images, *QUICK, *given, *arguments, code=2)


def test_an_unknown_benchmark(images: Path) -> None:
    told = refused("bench", "pope", images, "--questions", "q.json", *QUICK, code=2)
    assert "`benchmark` must be one of 'geneval', 'dpg', 'tifa', 'gedit', 'text'; got 'pope'" in told


def test_a_benchmark_without_images(tmp_path: Path) -> None:
    _, questions = tifa(tmp_path)
    (tmp_path / "empty").mkdir()
    told = refused("bench", "tifa", tmp_path / "empty", "--questions", questions, "--judge", "m@http://x/v1", code=2)
    assert "no image of tifa lies in" in told
    assert "'item_0', 'item_1', 'item_2' and 6 in all" in told
