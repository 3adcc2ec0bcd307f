"""Bring your own judge, and measure how far it agrees with people before you believe it.

    python examples/custom_judge.py

A judge is anything that answers questions about images. This one is a CLIP of scikit-learn's handwritten digits: it
scores captions, and chooses among the digits that a question names. It is tested on real digits, half of them with the
caption of another digit, and its answers are compared with what people would say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor

from lightning_imgmetrics import (
    TIFA,
    Answer,
    Decoding,
    Judge,
    JudgeCalibration,
    MetricSuite,
    Question,
    Result,
    TifaQuestion,
    VQAScore,
)
from lightning_imgmetrics.judges.calibration.record import Calibration
from lightning_imgmetrics.models.encoders.clip import ClipExtractor

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = [f"a handwritten {name}" for name in NAMES]
CLIP = ClipExtractor("digits-clip")


@dataclass(frozen=True)
class DigitJudge(Judge):
    """Answers questions about digits; any other question has no score but a problem, which is counted."""

    def identity(self) -> Mapping[str, object]:  # answers are cached on disk by this
        return CLIP.signature()

    def signature(self) -> dict[str, str]:  # and results name the judge
        return {"network": "digit-judge", "clip": CLIP.signature()["weights"]}

    def reply(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        return [self._answer(question, device) for question in questions]

    def _answer(self, question: Question, device: torch.device) -> Answer:
        (image,) = question.images
        text = question.messages[-1]["content"][-1]["text"]
        probabilities = self._probabilities(image, device)
        if question.answer is not None:  # the question is how probable a yes is
            caption = re.search(r'"(.*)"', text)
            if caption is None or caption[1] not in CAPTIONS:
                return Answer(problem=f"no caption of a digit in {text!r}")
            return Answer(probability=float(probabilities[CAPTIONS.index(caption[1])]))
        choices = [i for i, name in enumerate(NAMES) if re.search(rf"\b{name}\b", text)]
        if not choices:
            return Answer(problem="no digit to choose from")
        return Answer(NAMES[max(choices, key=lambda i: probabilities[i])])

    def _probabilities(self, image: Tensor, device: torch.device) -> Tensor:
        features = CLIP([image[None]], ("embed",), device)["embed"]
        texts, _ = CLIP.embed_text(CAPTIONS, device)
        scale, _ = CLIP.logits(device)
        return (scale * torch.cosine_similarity(features, texts)).softmax(0)


def test_set(n: int) -> tuple[Tensor, list[str], dict[int, int]]:
    """Digits (n, 3, 8, 8) that digits-clip was not trained on, captions, and by id whether these are right."""
    data = load_digits()
    pictures, digits = data.images[3::4][:n], data.target[3::4][:n].tolist()
    images = (torch.from_numpy(pictures) * 255 / 16).to(torch.uint8)[:, None].repeat(1, 3, 1, 1)
    captioned = [(digit + (3 if i % 2 else 0)) % 10 for i, digit in enumerate(digits)]
    right = {i: int(digit == captioned[i]) for i, digit in enumerate(digits)}
    return images, [CAPTIONS[digit] for digit in captioned], right


def questions() -> list[TifaQuestion]:
    """One question for each caption: which digit is it?"""
    text = "Which digit is written here?"
    return [
        TifaQuestion(name, caption, text, NAMES, name, "counting", name)
        for name, caption in zip(NAMES, CAPTIONS, strict=True)
    ]


def main(n: int = 200) -> tuple[dict[str, Result], Calibration]:
    images, captions, right = test_set(n)
    judge = DigitJudge()
    vqa = VQAScore(judge)
    suite = MetricSuite({"vqa_score": vqa, "tifa": TIFA(questions(), judge)})
    suite.update(images, prompts=captions, ids=range(n))
    results = suite.results()
    calibration = JudgeCalibration(vqa, right).compute()
    table = Table("metric", "value", "interval", "n")
    for name, result in results.items():
        interval = "" if result.interval is None else "{:.3f} to {:.3f}".format(*result.interval)
        table.add_row(name, f"{result.value:.3f}", interval, str(result.n))
    Console().print(table, "Half of the captions are right.", str(calibration), sep="\n")
    return results, calibration


if __name__ == "__main__":
    main()
