"""When an evaluation is due, and construction from plain values."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from callback_parts import Painter, loaders, monitor, trainer
from hypothesis import given, strategies as st

from lightning_imgmetrics import Every, ImageMetricsCallback
from lightning_imgmetrics.errors import UnknownName


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, Every(epochs=1)),
        ("2 epochs", Every(epochs=2)),
        ("1 epoch", Every(epochs=1)),
        ("500 steps", Every(steps=500)),
        (" 1  step ", Every(steps=1)),
        ("3steps", Every(steps=3)),
        (Every(steps=[0, 10]), Every(steps=[0, 10])),
    ],
)
def test_parse(value: Any, expected: Every) -> None:
    assert Every.parse(value) == expected


@pytest.mark.parametrize(
    "value", [0, -1, "0 steps", "0 epochs", "often", "", "steps", "1.5 epochs", "-2 steps", "3", "2 hours", "2 stepss"]
)
def test_bad_cadences_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="`every`"):
        Every.parse(value)


@pytest.mark.parametrize("value", [None, 1.5, ["2 steps"], {}])
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="`every`"):
        Every.parse(value)


@pytest.mark.parametrize("arguments", [{}, {"epochs": 1, "steps": 1}, {"steps": []}, {"steps": [-1]}])
def test_contradictory_cadences_are_refused(arguments: Any) -> None:
    with pytest.raises(ValueError, match="`every`"):
        Every(**arguments)


@given(every=st.integers(1, 7), start=st.integers(0, 5))
def test_epochs_are_evenly_spaced(every: int, start: int) -> None:
    last, due = None, []
    for epoch in range(start, 30):
        if Every(epochs=every).due(10 * epoch, epoch, last):
            due.append(epoch)
            last = (10 * epoch, epoch)
    assert due == list(range(start, 30, every))


@given(every=st.integers(1, 7), jumps=st.lists(st.integers(1, 3), max_size=40))
def test_steps_are_never_missed(every: int, jumps: list[int]) -> None:
    """One evaluation for each multiple passed, also where the counter moves on by several (several optimizers do)."""
    last, step = None, 0
    for jump in jumps:
        step += jump
        passed = any(s % every == 0 for s in range((last[0] if last else 0) + 1, step + 1))
        assert Every(steps=every).due(step, 0, last) == passed
        if passed:
            last = (step, 0)
            assert not Every(steps=every).due(step, 0, last)


@given(
    listed=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    jumps=st.lists(st.integers(1, 3), min_size=1, max_size=40),
)
def test_each_listed_step_is_due_once(listed: list[int], jumps: list[int]) -> None:
    every, last, step, due = Every(steps=tuple(listed)), None, 0, []
    for jump in [0, *jumps]:
        step += jump
        if every.due(step, 0, last):
            due.append(step)
            last = (step, 0)
    reached = {s for s in listed if s <= step}
    assert len(due) <= len(reached)
    assert all(any(0 <= f - s <= 2 for f in due) for s in reached)


def test_a_period_can_be_compared_and_hashed() -> None:
    assert Every(epochs=2) == Every.parse("2 epochs")
    assert hash(Every(steps=5)) == hash(Every(steps=5))
    assert Every(steps=5).by_step
    assert not Every(epochs=5).by_step


# Plain values


CONFIG = {
    "metrics": ["fd_digits_clip", "clip_score"],
    "prompts": ["a handwritten zero"],
    "num_samples": 6,
    "batch_size": 4,
    "every": "2 epochs",
    "value_range": [0.0, 1.0],
    "weights": "auto",
    "media": 2,
}


def plain(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    from functools import partial

    from lightning_imgmetrics import CLIPScore, registry as table

    monkeypatch.setitem(table.METRICS, "clip_score", partial(CLIPScore, "digits-clip"))
    return dict(CONFIG)


def test_construction_from_plain_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a YAML file can hold: numbers, texts and lists."""
    callback = ImageMetricsCallback(**plain(monkeypatch))
    trainer(tmp_path, callback, max_epochs=3).fit(Painter(), *loaders())
    assert [record["epoch"] for record in callback.history] == [0, 2]
    assert set(callback.history[0]["values"]) == {"fd_digits_clip", "clip_score"}


def test_construction_by_jsonargparse(monkeypatch: pytest.MonkeyPatch) -> None:
    jsonargparse = pytest.importorskip("jsonargparse")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's own deprecations
        parser = jsonargparse.ArgumentParser()
        parser.add_class_arguments(ImageMetricsCallback, "callback")
        parsed = parser.instantiate_classes(parser.parse_object({"callback": plain(monkeypatch)}))
    assert isinstance(parsed.callback, ImageMetricsCallback)
    assert parsed.callback.schedule.every == Every(epochs=2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weights": "averaged"}, UnknownName, "'auto', 'raw', 'ema'; got 'averaged'"),
        ({"num_samples": 0}, ValueError, "`num_samples` must be at least 1, got 0"),
        ({"batch_size": -1}, ValueError, "`batch_size` must be at least 1, got -1"),
        ({"media": -1}, ValueError, "`media`"),
        ({"every": "sometimes"}, ValueError, "`every`"),
        ({"value_range": (1.0, 0.0)}, ValueError, "`value_range`"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        monitor(**arguments)


def test_an_unknown_metric_lists_the_known() -> None:
    with pytest.raises(UnknownName, match=r"'fid'.*got 'fidd'"):
        monitor(["fidd"])


def test_one_key_is_a_list_of_one() -> None:
    assert list(monitor("fd_digits_clip").suite.named()) == ["fd_digits_clip"]


def test_state_keys_differ_by_prefix() -> None:
    assert monitor(prefix="quick").state_key != monitor(prefix="full").state_key


def test_two_callbacks_with_one_prefix_are_refused(tmp_path: Path) -> None:
    """They would overwrite each other's values and states."""
    with pytest.raises(RuntimeError, match="state_key"):
        trainer(tmp_path, monitor(), monitor()).fit(Painter(), *loaders())
