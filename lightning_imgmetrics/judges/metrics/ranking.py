"""Rankings of several images by a judge that sees all of them at once, in several orders."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics.functional.agreement import kendall
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.question import IMAGE, Message, Question, turn
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.pairwise import checked_criterion
from lightning_imgmetrics.judges.metrics.queries import Ask, Sample, Verdict
from lightning_imgmetrics.judges.metrics.quoting import AGAIN, prompt_part, wording_digest
from lightning_imgmetrics.judges.parsing.answers import read_json
from lightning_imgmetrics.states.hash import uniform_hash

if TYPE_CHECKING:
    from lightning_imgmetrics.judges.metrics.answer_schemas import Ranked

CRITERION = "How faithfully does each show what the text asks for? Of equally faithful ones: how well is each made?"

_TASK = """Rank the {n} pictures, which were made from the same text, from the best to the worst.

Question: {criterion}"""
_ORDER = "Their order means nothing. First say what sets the pictures apart; then rank all of them, without ties."
_FORM = """Answer with one JSON object and nothing else:
{{"reasoning": "what decides, in one to three sentences", "ranking": [the numbers 1 to {n}, each once, best first]}}"""


class RankingJudge(JudgeMetric):
    """How high a judge ranks images among their rivals: the mean of (k + 1 - rank) / k, in [0, 1], of k rivals.

    1: the best of its list, 0: the worst; 0.5 is chance. The judge sees an image and all its rivals at once, in
    `shuffles` different orders (of which k rivals have (k + 1)!), drawn from `seed` and the sample's id alone, or its
    place in this process where it has none. Where one ranking cannot be read, the sample has no score. `details`:
    `mean_rank`, 1 being the best; `first_place_rate`, the share of rankings that the image leads; `order_sensitivity`,
    (1 - tau) / 2 for the mean of Kendall's tau between the rankings of two orders: the share of pairs of pictures that
    they put the other way round, 0 for a judge that minds the pictures alone, 0.5 for chance. `criterion`: what the
    judge is asked. Other arguments: see `JudgeMetric`.
    """

    name: ClassVar[str] = "ranking_judge"
    inputs = ("prompts", "rivals")
    logged = (*JudgeMetric.logged, "order_sensitivity")
    figures = ("mean_rank", "first_place_rate", "order_sensitivity")
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def __init__(
        self, judge: Judge | str, criterion: str = CRITERION, *, shuffles: int = 2, seed: int = 0, **kwargs: Any
    ):
        if shuffles < 1:
            raise ValueError(f"`shuffles` must be at least 1, got {shuffles}")
        self.criterion, self.shuffles, self.seed = checked_criterion(criterion), shuffles, seed
        super().__init__(judge, **kwargs)

    def asks(self, sample: Sample) -> list[Ask]:
        shown = (sample.image, *sample.rivals)
        return [
            replace(self._ask([shown[i] for i in order], sample.prompt), name=_place(order))
            for order in self._orders(sample)
        ]

    def _orders(self, sample: Sample) -> list[tuple[int, ...]]:
        identity = sample.place if sample.id is None else sample.id
        return shuffled(1 + len(sample.rivals), self.shuffles, identity=identity, seed=self.seed)

    def _ask(self, images: Sequence[Tensor], prompt: str) -> Ask:
        n = len(images)
        shown: list[str | Message] = []
        for number in range(1, n + 1):
            shown += [f"Picture {number}:", IMAGE]
        form = _FORM.format(n=n)
        task = _TASK.format(n=n, criterion=self.criterion)
        shown.append("\n\n".join([task, prompt_part(prompt), _ORDER, form]))
        return Ask(Question(tuple(images), (turn(*shown),)), _reader(n), AGAIN + form)

    def conclude(self, sample: Sample, readings: Sequence[Ranked | None]) -> Verdict:
        ranks, reasons = [], []
        for order, read in zip(self._orders(sample), readings, strict=True):
            if read is None:
                return Verdict(None)
            best_first = [order[number - 1] for number in read.ranking]
            ranks.append([1 + best_first.index(i) for i in range(len(order))])
            reasons.append(f"{_place(order)}: {read.reasoning}")
        own = [of[0] for of in ranks]
        mean_rank = sum(own) / len(own)
        turned = [(1 - kendall(a, b)) / 2 for a, b in combinations(ranks, 2)]
        figures = {
            "mean_rank": mean_rank,
            "first_place_rate": own.count(1) / len(own),
            "order_sensitivity": sum(turned) / len(turned) if turned else None,
        }
        k = len(sample.rivals)
        return Verdict((k + 1 - mean_rank) / k, figures, "\n".join(reasons))

    def signature_parameters(self) -> dict[str, object]:
        image = torch.zeros(3, 1, 1, dtype=torch.uint8)
        template = wording_digest([self._ask([image] * 2, "prompt")])
        drawn = {"shuffles": self.shuffles, "order_seed": self.seed}
        return {"template": template, **drawn, **super().signature_parameters()}


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


def _reader(n: int) -> Callable[[str], Ranked | None]:
    def read(text: str) -> Ranked | None:
        from lightning_imgmetrics.judges.metrics.answer_schemas import Ranked

        ranked = read_json(text, Ranked)
        return ranked if ranked is not None and sorted(ranked.ranking) == list(range(1, n + 1)) else None

    return read
