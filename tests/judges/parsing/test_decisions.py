"""What judges decide in words; a decision that is not clear is none."""

from __future__ import annotations

import pytest

from lightning_imgmetrics.errors import ValueRangeError
from lightning_imgmetrics.judges.parsing.decisions import choice_of, preferred_image, yes_no


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Image {} is better.", 1),
        ("**Image {} is better.**", 1),
        ("Image {}", 1),
        ("The edited image {}.", 1),
        ("Answer: Image {}", 1),
        ("<think>Image 2 is better. Image 1 is better.</think>Image {} is better", 1),
        ("Edited Image {} is clearly superior to Edited Image {other}.", 1),
        ("The {ordinal} image is better than the {other_ordinal} one.", 1),
        ("Image {} is better than Image {other}, as it shows two dogs.", 1),
        ("Image {} is not better; Image {other} wins", 2),
        ("Image {} is worse. Image {other} is better.", 2),
        ("Although Image {} has no artifacts, Image {other} is better.", 2),
        ("Image {} is the better edit because it does not distort the hands.", 1),
        ("The winner is Image {}!", 1),
        ("I prefer edited image {} over edited image {other}.", 1),
        ("Quality: Image {other} is better.\nRealism: Image {} is better.\n\n### Conclusion:\nImage {} is better.", 1),
        ("Image {other} is better at hands. Overall, Image {} is the winner.", 1),
        ("Image {other} is better. In conclusion, Image {} is better.", 1),
        ("Therefore Image {} is preferred overall.", 1),
        ("In terms of overall quality, Image {} is better.", 1),
        ("Both images are equally good.", 0),
        ("Both edited images are equally good!", 0),
        ("The two images are equal overall.", 0),
        ("It's a tie.", 0),
        ("Tie", 0),
        ("**Verdict:** a tie", 0),
        ("Image {} is sharper. In conclusion, both images are equally good.", 0),
        ("Image {} is better. Image {other} is better.", None),
        ("Image {} is better. It is a tie.", None),
        ("Image {} is not better.", None),
        ("Image {} isn't better than Image {other}", None),
        ("I don't think that Image {} is better.", None),
        ("I don\u2019t think that Image {} is better.", None),
        ("It is not true that both images are equally good.", None),
        ("Image {} is no better than Image {other}.", None),
        ("Image {} is better in terms of color.", None),
        ("In terms of color, Image {} is better.", None),
        ("Color: Image {} is better.", None),
        ("Image {} has better colors.", None),
        ("The background of Image {} is better lit.", None),
        ("Image {} would be better if it had a dog.", None),
        ("It is hard to say whether Image {} is better.", None),
        ("Is Image {} better?", None),
        ("Which is better, Image {} or Image {other}?", None),
        ("Image {} and Image {other} are better than the source.", None),
        ("In conclusion, Image {}, unlike Image {other}, fails.", None),
        ("Both images are not equally good.", None),
        ("Both images are equally sharp.", None),
        ("The man wears a suit, tie, and hat. Tie", None),
        ("Image {}2 is better.", None),
        ("<think>Image {} is better.", None),
        ("I'm sorry, I can't compare these images.", None),
        ("", None),
    ],
)
def test_preferred_image(text: str, verdict: int | None) -> None:
    words = {1: ("first", "second"), 2: ("second", "first")}
    for image, other in ((1, 2), (2, 1)):
        ordinal, other_ordinal = words[image]
        filled = text.replace("{}", str(image)).format(other=other, ordinal=ordinal, other_ordinal=other_ordinal)
        expected = verdict if not verdict else (image if verdict == 1 else other)
        assert preferred_image(filled) == expected


@pytest.mark.parametrize(
    "text", ["{}", "{}.", "**{}**", "({})", "'{}'", "{}, it is.", "{}: a dog", "Answer: {}", "{}\n\nIt"]
)
@pytest.mark.parametrize("word", ["yes", "no", "Yes", "NO"])
def test_yes_no(text: str, word: str) -> None:
    assert yes_no(text.format(word)) is (word.lower() == "yes")
    assert yes_no(f"<think>Hm, {'no' if word.lower() == 'yes' else 'yes'}</think>\n{text.format(word)}") is (
        word.lower() == "yes"
    )


@pytest.mark.parametrize("text", ["Yes, there is no dog.", "Yes it is", "The answer is yes.", "yes - it has no dog"])
def test_a_yes_remains_one_whatever_follows(text: str) -> None:
    assert yes_no(text) is True


@pytest.mark.parametrize(
    "text",
    [
        *("", "not sure", "Not really.", "none", "nope", "yesterday", "7", "I think yes", "no doubt, yes", "No idea."),
        *(
            "yes and no",
            "yes/no",
            "Yes or no?",
            "No, yes",
            "No. Yes!",
            "No image was given.",
            "No one can say",
            "<think>yes",
        ),
        "I'm sorry, I can't say yes or no.",
    ],
)
def test_neither_yes_nor_no(text: str) -> None:
    assert yes_no(text) is None


CHOICES = ("red", "blue", "dark blue", "Green apple")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        *(
            (text, "blue")
            for text in ("(B)", "B", "b.", "B)", "(b) Blue", "B: blue", "Answer: B", "The answer is (B).")
        ),
        *((text, "blue") for text in ("blue", "Blue.", "**blue**", "It is blue, I think.", "B\nThe sky is clear.")),
        *((text, "dark blue") for text in ("Dark Blue", "It is dark blue.", "C. dark blue", "<think>red</think>(C)")),
        ("**(D)** green apple", "Green apple"),
        ("A", "red"),
        *((text, None) for text in ("", "E", "(E) red", "green", "A dog", "B: red", "B. dark blue", "(A) or (B)")),
        *(
            (text, None)
            for text in ("red or blue", "It is not red", "It isn't red", "reddish", "B and C", "<think>red")
        ),
        ("I'm sorry, I can't tell.", None),
    ],
)
def test_choice_of(text: str, choice: str | None) -> None:
    assert choice_of(text, CHOICES) == choice


def test_choices_that_look_like_letters_or_numbers() -> None:
    assert choice_of("B", ["B", "A"]) is None
    assert choice_of("(2)", ["1", "2"]) == "2"
    assert choice_of("-1", ["1", "-1"]) == "-1"
    assert choice_of("-1", ["1", "2"]) is None
    assert choice_of("3.5 m", ["3", "5", "3.5"]) == "3.5"
    assert choice_of("no.", ["yes", "no"]) == "no"


@pytest.mark.parametrize("choices", [[], ["a", "A"], ["a", "a."], ["a", ""]])
def test_refused_choices(choices: list[str]) -> None:
    with pytest.raises(ValueRangeError, match="`choices` must be different texts"):
        choice_of("a", choices)
