"""TIFA: questions about what a caption says, answered by looking at the image made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics.errors import UnknownName, UnreadableQuestions
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import Decoding
from lightning_imgmetrics.judges.metrics.closed_questions import choice_query, short_query
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.quoting import template_digest
from lightning_imgmetrics.judges.metrics.verdicts import Verdict
from lightning_imgmetrics.judges.parsing.decisions import literal_choice
from lightning_imgmetrics.models.base.network import Network
from lightning_imgmetrics.prompt_benchmarks.base.benchmark_metric import BenchmarkMetric
from lightning_imgmetrics.prompt_benchmarks.base.categories import mean_known, records_of, sample_deviation
from lightning_imgmetrics.prompt_benchmarks.base.item_set import ItemSet
from lightning_imgmetrics.prompt_benchmarks.base.question_files import TifaQuestion, read_tifa
from lightning_imgmetrics.prompt_benchmarks.base.question_scores import closest_choice
from lightning_imgmetrics.prompt_benchmarks.tifa.sentence_embedder import SentenceEmbedder

_MATCHING = ("choices", "free")
_EMBEDDER = "sentence-transformers/all-mpnet-base-v2"


class TIFA(BenchmarkMetric):
    """Share of the questions about a caption that a judge, looking at its image, answers right; in [0, 1].

    The mean over captions of the mean over their images; higher is better. `details["stdev"]`: over captions.
    `categories`: means over the questions of each element type. The published judge is mPLUG-large; the numbers of
    another are on a scale of their own. Reference: Hu et al. 2023.

    Args:
        questions: a file as TIFA publishes it, or `TifaQuestion`s, such as `generate_questions` makes.
        judge: see `JudgeMetric`.
        matching: "choices" shows the judge the choices, of which it must answer one; "free", as published, has it
            answer in its own words: literally a choice, else the one whose sentence embedding is closest.
        embedder: of sentences, for "free": a checkpoint folder or hub id.
        kwargs: those of `BenchmarkMetric`.

    Raises:
        UnreadableQuestions: the file is malformed, or an answer is none of its choices.
        UnknownName: another `matching`.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import TIFA, Answer, Judge, TifaQuestion
        >>> class Agreeable(Judge):
        ...     def reply(self, questions, decoding, device):
        ...         return [Answer("yes") for _ in questions]
        >>> texts = {"is there a cat?": "yes", "is there a dog?": "no"}
        >>> questions = [TifaQuestion("0", "a cat", q, ("yes", "no"), a, "animal", "cat") for q, a in texts.items()]
        >>> metric = TIFA(questions, Agreeable())
        >>> metric.update(images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8), prompts=["a cat"])
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    name: ClassVar[str] = "tifa"
    default_decoding = Decoding(max_tokens=256)
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    items: ItemSet[tuple[TifaQuestion, ...]]

    def __init__(
        self,
        questions: str | Path | Sequence[TifaQuestion],
        judge: Judge | str,
        *,
        matching: str = "choices",
        embedder: str = _EMBEDDER,
        **kwargs: Any,
    ):
        if matching not in _MATCHING:
            raise UnknownName("matching", matching, _MATCHING)
        listed = records_of(questions, TifaQuestion, read_tifa)
        items: dict[str, tuple[TifaQuestion, ...]] = {}
        for i, question in enumerate(listed):
            if question.answer not in question.choices:
                raise UnreadableQuestions(
                    f"`questions[{i}]` must have one of its choices as its answer, got {question.answer!r}"
                )
            items[question.id] = (*items.get(question.id, ()), question)
        texts = {name: of[0].caption for name, of in items.items()}
        super().__init__(
            ItemSet(self.name, items, texts=texts, content=[asdict(question) for question in listed]),
            judge,
            kinds=sorted({question.element_type for question in listed}),
            **kwargs,
        )
        self.matching = matching
        self.embedder = SentenceEmbedder(embedder) if matching == "free" else None

    @property
    def networks(self) -> tuple[Network, ...]:
        return (*super().networks, *(() if self.embedder is None else (self.embedder,)))

    def queries(self, sample: Sample) -> list[Query]:
        return [self._query(question, sample.image) for question in self.items[sample.item]]

    def _query(self, question: TifaQuestion, image: Tensor) -> Query:
        if self.matching == "free":
            return short_query(question.question, image)
        return choice_query(question.question, question.choices, image)

    def conclude(self, sample: Sample, answers: Sequence[str | None]) -> Verdict:
        rows, scores = [], []
        for question, answer in zip(self.items[sample.item], answers, strict=True):
            choice = answer if answer is None or self.embedder is None else self._closest(answer, question.choices)
            about = {"question": question.question, "category": question.element_type, "expected": question.answer}
            scores.append(None if choice is None else float(choice == question.answer))
            rows.append({**about, "read": answer, "choice": choice, "score": scores[-1]})
        return Verdict(mean_known(scores), {}, _rationale(rows), rows)

    def _closest(self, answer: str, choices: tuple[str, ...]) -> str:
        position = literal_choice(answer, choices)
        if position is None:
            assert self.embedder is not None
            embedding, *others = self.embedder.embed((answer, *choices), self.device)
            position = closest_choice(embedding, torch.stack(others))
        return choices[position]

    def item_details(self, scores: Sequence[float]) -> dict[str, float]:
        deviation = sample_deviation(scores)
        return {} if deviation is None else {"stdev": deviation}

    def signature_parameters(self) -> dict[str, object]:
        blank = TifaQuestion("", "", "question", ("first", "second"), "first", "", "")
        template = template_digest([self._query(blank, torch.zeros(3, 1, 1, dtype=torch.uint8))])
        network = {} if self.embedder is None else self.embedder.signature()
        return {"matching": self.matching, **network, "template": template, **super().signature_parameters()}


def _rationale(rows: Sequence[Mapping[str, Any]]) -> str:
    """What went wrong, question by question."""
    wrong = [row for row in rows if row["score"] == 0]
    return "; ".join(f"{row['question']} {row['read']!r} instead of {row['expected']!r}" for row in wrong)
