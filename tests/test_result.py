"""Results are citable records that can be compared, written and read."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, strategies as st

from lightning_imgmetrics import Result, Signature
from lightning_imgmetrics.errors import SignatureMismatch

RESULT = Result(
    name="fid",
    value=12.3456,
    n=5000,
    unit="px",
    higher_is_better=False,
    interval=(11.0, 13.5),
    signature="metric:fid|network:inception|version:0.1.0",
    details={"n_real": 5000.0},
)


def test_text_contains_every_field() -> None:
    assert str(RESULT) == "fid = 12.35 [11, 13.5] px (n = 5000) metric:fid|network:inception|version:0.1.0"
    assert str(Result("x", 0.5, 3)) == "x = 0.5 (n = 3)"


def test_a_negative_value_keeps_its_interval() -> None:
    assert "[-2, -1]" in str(Result("kid", -1.5, 10, interval=(-2.0, -1.0)))


@given(
    value=st.floats(allow_nan=False, allow_infinity=False),
    n=st.integers(0, 10**9),
    interval=st.none() | st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)),
    better=st.none() | st.booleans(),
    details=st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)
def test_json_round_trip(value: float, n: int, interval: object, better: bool | None, details: dict) -> None:
    result = Result("m", value, n, "u", better, interval, "metric:m", details)
    assert Result.from_json(result.to_json()) == result
    assert set(json.loads(result.to_json())) == {field.name for field in dataclasses.fields(Result)}


def test_results_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RESULT.value = 0.0


KEYS = st.text("abcdefgh_", min_size=1, max_size=6)


@given(st.dictionaries(KEYS, st.text(max_size=12), max_size=5))
def test_signature_text_round_trip(fields: dict[str, str]) -> None:
    """Values may contain any character: a network may be a folder on Windows, or a name with a bar."""
    signature = Signature(fields)
    assert dict(Signature.parse(str(signature)).fields) == fields


def test_signatures_keep_their_order_and_take_any_value() -> None:
    signature = Signature.of(metric="fid", n=3, ratio=0.5, none=None)
    assert str(signature) == "metric:fid|n:3|ratio:0.5|none:None"
    assert Signature.parse(str(signature)) == signature
    assert Signature.parse("").fields == {}


def test_difference_of_comparable_results() -> None:
    other = dataclasses.replace(RESULT, value=10.0)
    assert RESULT.difference(other) == pytest.approx(2.3456)


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("metric:fid|network:dino|version:0.1.0", "network: inception against dino"),
        ("metric:fid|version:0.1.0", "network: inception against None"),
        ("metric:fid|network:inception|layer:64|version:0.1.0", "layer: None against 64"),
    ],
)
def test_incomparable_results_are_refused(signature: str, message: str) -> None:
    other = dataclasses.replace(RESULT, value=10.0, signature=signature)
    with pytest.raises(SignatureMismatch, match=message):
        RESULT.difference(other)
    with pytest.raises(SignatureMismatch):
        other.difference(RESULT)
    assert RESULT.difference(other, force=True) == pytest.approx(2.3456)


@pytest.mark.parametrize("field", ["version", "seed", "model_weights"])
def test_incidental_fields_may_differ(field: str) -> None:
    one, two = (Signature.of(metric="fid", **{field: value}) for value in ("a", "b"))
    one.require_like(two)
    with pytest.raises(SignatureMismatch, match="metric: fid against kid"):
        one.require_like(Signature.of(metric="kid"))
    one.require_like(Signature.of(metric="kid"), ignore=("metric",))
