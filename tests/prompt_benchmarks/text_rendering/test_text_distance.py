"""Text that was read against text that was asked for: cases by hand, laws, quotes in prompts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, strategies as st

from lightning_imgmetrics.errors import ValueRangeError
from lightning_imgmetrics.prompt_benchmarks.text_rendering.targets import quoted_texts
from lightning_imgmetrics.prompt_benchmarks.text_rendering.text_distance import (
    exact_match,
    normalized,
    normalized_edit_distance,
    word_accuracy,
)

LANGUAGES = st.sampled_from(["en", "zh"])


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  Hello,\n\tWORLD! ", "hello world"),
        ("ＯＰＥＮ\u3000２４", "open 24"),
        ("ﬁre", "fire"),
        ("Straße", "strasse"),
        ("Don’t don't", "dont dont"),
        ("ice-cream/shop", "ice cream shop"),
        ("zero\u200bwidth \ufeff", "zerowidth"),
        ("“5€ + $3”", "5€ + $3"),
        ("e\u0301", "\u00e9"),
        ("¿Qué?", "qué"),
        ("Привет, МИР", "привет мир"),
        ("!?…", ""),
    ],
)
def test_normalized(text: str, plain: str) -> None:
    assert normalized(text) == plain


def test_chinese_has_no_spaces_and_keeps_its_script() -> None:
    for language in ("zh", "cn", "zh-Hans", "ZH_cn"):
        assert normalized("欢 迎，光临！ Open", language) == "欢迎光临open"
    assert normalized("欢 迎") == "欢 迎"
    assert normalized("開", "zh") == "開"


@given(st.text(), LANGUAGES)
def test_normalizing_twice_is_normalizing_once(text: str, language: str) -> None:
    assert normalized(normalized(text, language), language) == normalized(text, language)


@pytest.mark.parametrize(
    ("target", "read", "language", "expected"),
    [
        ("Grand Opening Today", "today: GRAND opening!", "en", 1.0),
        ("Grand Opening Today", "grand opning", "en", 1 / 3),
        ("no no no", "no no", "en", 2 / 3),
        ("no", "no no no", "en", 1.0),
        ("no", "", "en", 0.0),
        ("欢迎光临", "光 欢", "zh", 0.5),
        ("好好", "好", "zh", 0.5),
        ("ice-cream", "ICE CREAM", "en", 1.0),
    ],
)
def test_word_accuracy(target: str, read: str, language: str, expected: float) -> None:
    assert word_accuracy(target, read, language) == pytest.approx(expected)


@pytest.mark.parametrize("target", ["", " ", "?!", "\u200b"])
def test_a_target_without_a_word_has_no_accuracy(target: str) -> None:
    with pytest.raises(ValueRangeError, match="`target` must hold a letter"):
        word_accuracy(target, "anything")


@pytest.mark.parametrize(
    ("target", "read", "expected"),
    [
        ("open", "OPEN!", 0.0),
        ("open", "oven", 0.25),
        ("kitten", "sitting", 3 / 7),
        ("open", "", 1.0),
        ("", "", 0.0),
        ("欢迎", "欢乐", 0.5),
    ],
)
def test_normalized_edit_distance(target: str, read: str, expected: float) -> None:
    assert normalized_edit_distance(target, read) == pytest.approx(expected)


@given(st.text(max_size=30), st.text(max_size=30), LANGUAGES)
def test_laws(target: str, read: str, language: str) -> None:
    distance = normalized_edit_distance(target, read, language)
    assert 0 <= distance <= 1
    assert distance == normalized_edit_distance(read, target, language)
    assert (distance == 0) == exact_match(target, read, language)
    if normalized(target, language):
        assert 0 <= word_accuracy(target, read, language) <= 1
        assert word_accuracy(target, f"{target} {read}", language) == 1
        if exact_match(target, read, language):
            assert word_accuracy(target, read, language) == 1


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ('a sign "OPEN" and a door "No entry."', ["OPEN", "No entry."]),
        ("a sign “Café ‘Noir’” here", ["Café ‘Noir’"]),
        ("ein Schild „Geöffnet“ und «Ouvert»", ["Geöffnet", "Ouvert"]),
        ("招牌写着“欢迎光临”和「开门」与『大吉』", ["欢迎光临", "开门", "大吉"]),
        ("写着\"欢迎\"的牌子, 写着'你好'的牌子", ["欢迎", "你好"]),
        ("a shirt that says 'Hello World', and 'bye'", ["Hello World", "bye"]),
        ("a shirt that says 'Don't stop'", ["Don't stop"]),
        ("a card ‘Don’t stop’ and it’s red", ["Don’t stop"]),
        ("it's the dogs' bowl, rock 'n roll, o'clock", []),
        ("the '90s shop \"It's '90s\" of James'", ["It's '90s"]),
        ('a 5" nail and a 7" nail', []),
        ('a 5" nail under "SALE 7"', ["SALE 7"]),
        ('two\nlines "first\nsecond"', ["first\nsecond"]),
        ('"" and " " and "x"', ["x"]),
        ('an open " quote', []),
        ('braces "{x} %s {{y}}"', ["{x} %s {{y}}"]),
        ("", []),
    ],
)
def test_quoted_texts(prompt: str, texts: list[str]) -> None:
    assert quoted_texts(prompt) == texts


def test_long_prompts_with_many_quotes_take_no_time() -> None:
    start = time.perf_counter()
    assert quoted_texts(" 'a" * 3400) == []
    assert quoted_texts('"' * 10_001) == []
    assert quoted_texts(f'"{"木" * 10_000}"') == ["木" * 10_000]
    assert time.perf_counter() - start < 5


@given(st.text(max_size=60), st.text(alphabet="ab {}木\n", min_size=1, max_size=20).filter(str.strip))
def test_a_quoted_text_is_found(words: str, text: str) -> None:
    calm = "".join(character for character in words if character.isalpha())
    assert quoted_texts(f'{calm} "{text}" {calm}') == [text.strip()]
