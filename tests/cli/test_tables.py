"""Results as JSON, CSV, Markdown and terminal tables."""

from __future__ import annotations

import csv
import json
import math

import pytest
from rich.console import Console

from lightning_imgmetrics.errors import IncompatibleStates
from lightning_imgmetrics.report.tables import Report, csv_text, json_text, rows, to_csv, to_markdown, to_table
from lightning_imgmetrics.result import Result

NAN, INF = math.nan, math.inf
FID = Result("fid", 1 / 3, 50, "", False, (0.25, INF), "metric:fid|n:50", {"bias_corrected": NAN}, (0.1, -INF, 0.3))
CLIP = Result("clip_score", 31.25, 50, "points", True)
FAILED = [{"side": "generated", "id": 3, "name": "a|b.png", "reason": "no image"}]
REPORT = Report({"fid": FID, "clip_score": CLIP}, {"clip_score": {0: 30.0, 7: NAN}}, FAILED, "samples", None)


def test_json_round_trip_with_numbers_that_json_lacks() -> None:
    text = REPORT.to_json()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert set(content) == {"results", "scores", "failed", "generated", "reference", "n_failed", "version"}
    assert content["n_failed"] == 1
    back = Report.from_json(text)
    assert back.results["clip_score"] == CLIP
    fid = back.results["fid"]
    assert (fid.value, fid.interval, fid.replicates) == (1 / 3, (0.25, INF), (0.1, -INF, 0.3))
    assert math.isnan(fid.details["bias_corrected"])
    assert back.scores["clip_score"][0] == 30.0
    assert math.isnan(back.scores["clip_score"][7])
    assert (back.failed, back.generated, back.reference) == (FAILED, "samples", None)
    assert back.to_json() == text


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"results": {"fid": {"value": 1}}, "scores": {}}', "null"])
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(IncompatibleStates, match="no JSON report"):
        Report.from_json(text, "x.json")


def test_csv_keeps_all_digits() -> None:
    table = list(csv.DictReader(to_csv([FID, CLIP]).splitlines()))
    assert float(table[0]["value"]) == 1 / 3
    assert (table[0]["better"], table[1]["better"], table[1]["low"]) == ("lower", "higher", "")
    assert rows([CLIP])[0]["low"] is None
    assert csv_text(["a"], [['say "a, b"'], [None]]) == 'a\n"say ""a, b"""\n""\n'


def test_markdown_has_signatures_and_failures() -> None:
    text = to_markdown(REPORT)
    assert "| fid | 0.333333 | [0.25, inf] | 50 | lower |" in text
    assert "| clip_score | 31.25 points |  | 50 | higher |" in text
    assert "- fid: `metric:fid|n:50`" in text
    assert "left out, as they could not be read: 1 (a|b.png: no image)" in text


def test_terminal_table_does_not_read_markup() -> None:
    console = Console(width=100, record=True)
    with console.capture() as capture:
        console.print(to_table(Report({"[red]x": Result("[red]x", 1.0, 2)})))
    assert "[red]x" in capture.get()


def test_json_text_of_nested_values() -> None:
    assert json.loads(json_text({"a": (1, INF), 2: [NAN, None, "text"]})) == {
        "a": [1, "Infinity"],
        "2": ["NaN", None, "text"],
    }
