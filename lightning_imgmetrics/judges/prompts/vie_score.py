"""VIEScore: semantic consistency per task, and perceptual quality; context, rule and scoring text (Ku et al. 2024)."""

from __future__ import annotations

from lightning_imgmetrics.models.prompt_templates.templates import TemplateCard, quoted_slot

_SOURCE = (
    "https://raw.githubusercontent.com/TIGER-AI-Lab/VIEScore/2cbea4e8ce5721425a8772590ecdbe7d2edd1721"
    "/viescore/vie_prompts.py"
)

_ROLE = """Judge pictures that models made or changed, as an artist with a sharp eye would. Who is in them does not
matter.

Answer with one JSON object and nothing else. Give the numbers, then the reason in a sentence or two:
{
"score" : [...],
"reasoning" : "..."
}
"""

_FOLLOWS = "following the text: 0 where the generated picture shows nothing of it, 10 where it shows all of it"
_ALIKE = "likeness: 0 where the subject looks nothing like the one of {0}, 10 where it is the very same"
_DONE = "success: 0 where nothing of what was told has been done, 10 where all of it has, just as told"
_SPARING = "restraint: 0 where little is left of the picture before the edit, 10 where no more has changed than had to"
_PROMPT = quoted_slot("prompt", "The text that was to be drawn")
_INSTRUCTION = quoted_slot("instruction", "What the editor was told to do")
_BEFORE_AFTER = """You see two pictures: one before an edit, then the same after it. Where both look alike, the edit has
failed."""


def _generic(images: str, scales: tuple[str, ...], quoted: str = "") -> str:
    numbers = "\n".join(f"{number}. {scale}" for number, scale in enumerate(scales, 1))
    order = ", ".join(f"number {number}" for number in range(1, len(scales) + 1))
    text = f"{_ROLE}\n{images}\n\nWhole numbers from 0 to 10, the list being [{order}]:\n{numbers}\n"
    return f"{text}\n{quoted}" if quoted else text


def _consistency(task: str, rule: str, sha256: str, length: int, slot: str, generic: str) -> TemplateCard:
    symbol = ("_context_no_delimit", f"_prompts_0shot_{rule}_rule", f"_prompts_0shot_{task}_rule_SC")
    return TemplateCard(f"viescore-{task}", _SOURCE, symbol, sha256, length, generic, (slot,), license="MIT")


VIESCORE_SC = {
    "t2i": _consistency(
        "t2i",
        "one_image_gen",
        "17cc0818cedb3bf27b342aefcc9c43819740ba00422696aa4e02beaf67717d1a",
        882,
        "prompt",
        _generic("You see one picture, which a model made from a text.", (_FOLLOWS,), _PROMPT),
    ),
    "tie": _consistency(
        "tie",
        "two_image_edit",
        "8f529562c2f89f8db51a3f7cc4d487686f676909c21010b67b0e65ec78150de5",
        1512,
        "instruction",
        _generic(_BEFORE_AFTER, (_DONE, _SPARING), _INSTRUCTION),
    ),
    "mie": _consistency(
        "mie",
        "two_image_edit",
        "5518ccad41d54499d7a377e40961c142a93c2a5a948baa214299153f17a025d9",
        1511,
        "instruction",
        _generic(_BEFORE_AFTER, (_DONE, _SPARING), _INSTRUCTION),
    ),
    "cig": _consistency(
        "cig",
        "control_image_gen",
        "b5b2a1ece5d379da209a3b3d8fe9a66eeb44ec7998b253f0ba4f8c8daea3a17b",
        1310,
        "prompt",
        _generic(
            "You see two pictures: a guide (edges, a pose, gray values or the like), then what a model made of it and a"
            " text.",
            (
                _FOLLOWS,
                "following the guide: 0 where the second picture ignores it, 10 where it keeps to it throughout",
            ),
            _PROMPT,
        ),
    ),
    "sdig": _consistency(
        "sdig",
        "subject_image_gen",
        "30d25a64a162c1eafd7551321521e534ec0c99f4e93d61a486b69fd8bcfae329",
        1346,
        "prompt",
        _generic(
            "You see two pictures: one of a subject, then what a model made of this subject and of a text.",
            (_FOLLOWS, _ALIKE.format("the first picture")),
            _PROMPT,
        ),
    ),
    "sdie": _consistency(
        "sdie",
        "subject_image_edit",
        "8013c1e7970326272e62c964ae5838cd7153600d9abdce5a6b723dee0524ed85",
        1533,
        "subject",
        _generic(
            "You see three pictures: one before an edit, one of a subject, and the first again after an edit that was"
            " to put this subject into it.",
            (_ALIKE.format("the second picture"), _SPARING),
            quoted_slot("subject", "The name of the subject"),
        ),
    ),
    "msdig": _consistency(
        "msdig",
        "multi_subject_image_gen",
        "0d77ac543572ca79aa6e7ba0e268772ca11760ff49283c9bab7115b0f9e7755f",
        1919,
        "prompt",
        _generic(
            "You see two pictures: one whose halves show a subject each, then what a model made of them and a text.",
            (_FOLLOWS, _ALIKE.format("the first half"), _ALIKE.format("the second half")),
            _PROMPT,
        ),
    ),
}

VIESCORE_PQ = TemplateCard(
    "viescore-quality",
    _SOURCE,
    ("_context_no_delimit", "_prompts_0shot_rule_PQ"),
    "2473ff2c7406e06545c5c039ceb039ff2604ebacf150868a48f0bf07c9e733b0",
    1184,
    _generic(
        "You see one picture, which a model made. What it shows does not matter here.",
        (
            "naturalness: 0 where distances, shadows or light are plainly wrong, 10 where all looks as it would in the"
            " world",
            "cleanness: 0 where much is distorted, blurred, scratched, watermarked, misshapen or out of place, 10 where"
            " nothing is",
        ),
    ),
    license="MIT",
)
