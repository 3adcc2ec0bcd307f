"""Bring your own judge, and measure how far it agrees with people before you believe it.

    python examples/custom_judge.py

A judge is anything that answers questions about images. This one is a CLIP of scikit-learn's handwritten digits: it
weighs captions, and picks among the digits that a question names. It sits an exam of real digits, half of them with the
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

from lightning_imgmetrics import TIFA, Answer, Decoding, Judge, JudgeCalibration, MetricSuite, Question, VQAScore
from lightning_imgmetrics.judges.calibration.record import Calibration
from lightning_imgmetrics.models.encoders.clip import ClipExtractor
from lightning_imgmetrics.prompt_benchmarks.base.question_files import TifaQuestion
from lightning_imgmetrics.result import Result

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = [f"a handwritten {name}" for name in NAMES]
CLIP = ClipExtractor("digits-clip")


@dataclass(frozen=True)
class DigitJudge(Judge):
    """Knows digits and nothing else: what it cannot answer is a problem, and no score."""

    def identity(self) -> Mapping[str, object]:  # answers are kept on disk, under this
        return CLIP.signature()

    def signature(self) -> dict[str, str]:  # and results say who judged
        return {"network": "digit-judge", "clip": CLIP.signature()["weights"]}

    def reply(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        return [self._answered(question, device) for question in questions]

    def _answered(self, question: Question, device: torch.device) -> Answer:
        (image,) = question.images
        text = question.messages[-1]["content"][-1]["text"]
        chances = self._chances(image, device)
        if question.answer is not None:  # asked how likely it is to say yes
            caption = re.search(r'"(.*)"', text)
            if caption is None or caption[1] not in CAPTIONS:
                return Answer(problem=f"no caption of a digit in {text!r}")
            return Answer(probability=float(chances[CAPTIONS.index(caption[1])]))
        named = [i for i, name in enumerate(NAMES) if re.search(rf"\b{name}\b", text)]
        return (
            Answer(NAMES[max(named, key=lambda i: chances[i])]) if named else Answer(problem="no digit to choose from")
        )

    def _chances(self, image: Tensor, device: torch.device) -> Tensor:
        shown = CLIP([image[None]], ("embed",), device)["embed"]
        texts, _ = CLIP.embed_text(CAPTIONS, device)
        scale, _ = CLIP.logits(device)
        return (scale * torch.cosine_similarity(shown, texts)).softmax(0)


def exam(n: int) -> tuple[Tensor, list[str], dict[int, int]]:
    """Digits (n, 3, 8, 8) that digits-clip was not trained on, captions, and by id whether these are right."""
    data = load_digits()
    pictures, digits = data.images[3::4][:n], data.target[3::4][:n].tolist()
    images = (torch.from_numpy(pictures) * 255 / 16).to(torch.uint8)[:, None].repeat(1, 3, 1, 1)
    said = [(digit + (3 if i % 2 else 0)) % 10 for i, digit in enumerate(digits)]
    right = {i: int(digit == said[i]) for i, digit in enumerate(digits)}
    return images, [CAPTIONS[digit] for digit in said], right


def questions() -> list[TifaQuestion]:
    """One question for each caption: which digit is it?"""
    asked = "Which digit is written here?"
    return [
        TifaQuestion(name, caption, asked, NAMES, name, "counting", name)
        for name, caption in zip(NAMES, CAPTIONS, strict=True)
    ]


def main(n: int = 200) -> tuple[dict[str, Result], Calibration]:
    images, captions, right = exam(n)
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
