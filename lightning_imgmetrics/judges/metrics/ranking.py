"""Rankings of several images by a judge that sees all of them at once, in several orders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics.functional.agreement import kendall
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import IMAGE, Message, Question, turn
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.pairwise import checked_criterion
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.quoting import RETRY_PREFIX, prompt_part, template_digest
from lightning_imgmetrics.judges.metrics.verdicts import Verdict
from lightning_imgmetrics.judges.parsing.answers import read_json
from lightning_imgmetrics.metrics.base.summary import Column
from lightning_imgmetrics.states.hash import uniform_hash

if TYPE_CHECKING:
    from lightning_imgmetrics.judges.metrics.answer_schemas import Ranked

CRITERION = "How faithfully does each show what the text asks for? Of equally faithful ones: how well is each made?"

_TASK = """Rank the {n} pictures, which were made from the same text, from the best to the worst.

Question: {criterion}"""
_ORDER = "Their order means nothing. First say what sets the pictures apart; then rank all of them, without ties."
_FORMAT = """Answer with one JSON object and nothing else:
{{"reasoning": "what decides, in one to three sentences", "ranking": [the numbers 1 to {n}, each once, best first]}}"""


class RankingJudge(JudgeMetric):
    """How high a judge that sees all of them at once ranks images among their rivals.

    The mean of (k + 1 - rank) / k for k rivals: in [0, 1], higher is better; 1 is the best of its list, 0 the worst,
    0.5 chance. Where one ranking cannot be parsed, the sample has no score. `details`: `mean_rank`, 1 being the best;
    `first_place_rate`, the share of rankings that the image leads; `order_sensitivity`, (1 - tau) / 2 for the mean of
    Kendall's tau between the rankings of two orders: the share of pairs of pictures that they put the other way round,
    0 for a judge that minds the pictures alone, 0.5 for chance. Reference: Kendall 1938.

    Args:
        judge: see `JudgeMetric`.
        criterion: what the judge is asked about the pictures.
        shuffles: in how many different orders they are shown (k rivals have (k + 1)!), drawn from `seed` and the
            sample's id, or its position in this process where it has none.
        seed: of the orders.
        kwargs: those of `JudgeMetric`.

    Raises:
        ValueError: `criterion` is empty, or `shuffles` below 1.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import Answer, Judge, RankingJudge
        >>> class Biased(Judge):  # for the first picture, whichever it is
        ...     def reply(self, questions, decoding, device):
        ...         return [Answer('{"reasoning": "it is sharper", "ranking": [1, 2]}') for _ in questions]
        >>> metric = RankingJudge(Biased())
        >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> metric.update(images=images, rivals=images, prompts="a red hat", ids=[0, 1])
        >>> metric.compute()  # of two pictures, both orders are shown
        tensor(0.5000, dtype=torch.float64)
        >>> metric.result().details["order_sensitivity"]
        1.0
    """

    name: ClassVar[str] = "ranking_judge"
    inputs = ("prompts", "rivals")
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def __init__(
        self, judge: Judge | str, criterion: str = CRITERION, *, shuffles: int = 2, seed: int = 0, **kwargs: Any
    ):
        if shuffles < 1:
            raise ValueError(f"`shuffles` must be at least 1, got {shuffles}")
        self.criterion, self.shuffles, self.seed = checked_criterion(criterion), shuffles, seed
        super().__init__(judge, **kwargs)

    def columns(self) -> tuple[Column, ...]:
        own = Column("mean_rank"), Column("first_place_rate"), Column("order_sensitivity", logged=True)
        return (*own, *super().columns())

    def queries(self, sample: Sample) -> list[Query]:
        images = (sample.image, *sample.rivals)
        return [
            replace(self._query([images[i] for i in order], sample.prompt), name=_place(order))
            for order in self._orders(sample)
        ]

    def _orders(self, sample: Sample) -> list[tuple[int, ...]]:
        identity = sample.position if sample.id is None else sample.id
        return shuffled(1 + len(sample.rivals), self.shuffles, identity=identity, seed=self.seed)

    def _query(self, images: Sequence[Tensor], prompt: str) -> Query:
        n = len(images)
        parts: list[str | Message] = []
        for number in range(1, n + 1):
            parts += [f"Picture {number}:", IMAGE]
        answer_format = _FORMAT.format(n=n)
        task = _TASK.format(n=n, criterion=self.criterion)
        parts.append("\n\n".join([task, prompt_part(prompt), _ORDER, answer_format]))
        return Query(Question(tuple(images), (turn(*parts),)), partial(_parse, n=n), RETRY_PREFIX + answer_format)

    def conclude(self, sample: Sample, answers: Sequence[Ranked | None]) -> Verdict:
        ranks, reasons = [], []
        for order, answer in zip(self._orders(sample), answers, strict=True):
            if answer is None:
                return Verdict(None)
            best_first = [order[number - 1] for number in answer.ranking]
            ranks.append([1 + best_first.index(i) for i in range(len(order))])
            reasons.append(f"{_place(order)}: {answer.reasoning}")
        own = [of[0] for of in ranks]
        mean_rank = sum(own) / len(own)
        discordance = [(1 - kendall(a, b)) / 2 for a, b in combinations(ranks, 2)]
        extra = {
            "mean_rank": mean_rank,
            "first_place_rate": own.count(1) / len(own),
            "order_sensitivity": sum(discordance) / len(discordance) if discordance else None,
        }
        k = len(sample.rivals)
        return Verdict((k + 1 - mean_rank) / k, extra, "\n".join(reasons))

    def signature_parameters(self) -> dict[str, object]:
        image = torch.zeros(3, 1, 1, dtype=torch.uint8)
        template = template_digest([self._query([image] * 2, "prompt")])
        orders = {"shuffles": self.shuffles, "order_seed": self.seed}
        return {"template": template, **orders, **super().signature_parameters()}


def shuffled(n: int, count: int, *, identity: int, seed: int) -> list[tuple[int, ...]]:
    """`count` different orders of n things, or all n! where these are fewer; random by `identity` >= 0 and `seed`."""
    start = int(uniform_hash(torch.tensor([identity]), seed) * 2.0**53)
    orders: dict[tuple[int, ...], None] = {}
    draw = 0
    while len(orders) < min(count, math.factorial(n)):
        keys = uniform_hash(torch.arange(start + n * draw, start + n * (draw + 1)), seed)
        orders[tuple(keys.argsort().tolist())] = None
        draw += 1
    return list(orders)


def _place(order: Sequence[int]) -> str:
    return f"shown as {order.index(0) + 1} of {len(order)}"


def _parse(text: str, n: int) -> Ranked | None:
    from lightning_imgmetrics.judges.metrics.answer_schemas import Ranked

    answer = read_json(text, Ranked)
    return answer if answer is not None and sorted(answer.ranking) == list(range(1, n + 1)) else None
