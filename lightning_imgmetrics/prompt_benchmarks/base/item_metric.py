"""Metrics of fixed items: each sample belongs to one of them, by its prompt or by the item's name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor

from lightning_imgmetrics.errors import UnreadableQuestions
from lightning_imgmetrics.judges.metrics.queries import Sample, Verdict
from lightning_imgmetrics.judges.metrics.verdict_metric import VerdictMetric
from lightning_imgmetrics.prompt_benchmarks.base.categories import Category

T = TypeVar("T")


class ItemMetric(VerdictMetric, Generic[T]):
    """Verdicts on samples of items; `prompts=` of an update holds the prompt, or the name, of each sample's item.

    `items`: name -> what there is to know; `texts`: the prompt of each, also of items that are left out, whose samples
    are passed over. Spaces do not tell prompts apart; what is a name is taken as one. `content`: what identifies the
    items, for the signature. `prompts`: those of all items, in order; see `categories`, `missing` and `records`.
    """

    marks: tuple[str, ...] = ("item",)
    logged = (*VerdictMetric.logged, "n_missing_items")

    def __init__(self, items: Mapping[str, T], *, texts: Mapping[str, str], content: object = (), **kwargs: Any):
        super().__init__(**kwargs)
        self.items = dict(items)
        if not self.items:
            raise UnreadableQuestions(f"`{self.name}` must have at least one item to ask about, got none")
        self.prompts = [texts[name] for name in self.items]
        told = json.dumps(content, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self.digest = hashlib.sha256(told).hexdigest()[:8]
        self._numbers = {name: i for i, name in enumerate(self.items)}
        self._texts = dict(texts)
        self._named: dict[str, list[str]] = {}
        for name, text in texts.items():
            self._named.setdefault(spaced(text), []).append(name)
        self._named |= {spaced(name): [name] for name in texts}  # also where it is the prompt of others
        self._categories: dict[str, Category] = {}
        self._missing: list[str] = []

    def check_inputs(self, n: int, **inputs: Any) -> None:
        super().check_inputs(n, **inputs)
        for i, prompt in enumerate(inputs.get("prompts") or ()):
            if spaced(prompt) not in self._named:
                raise ValueError(
                    f"`prompts[{i}]` is no prompt, and no name, of an item of {self.name}: {prompt[:200]!r}; the first"
                    f" of {len(self.items)} is {self.prompts[0][:200]!r}, with the name {next(iter(self.items))!r}"
                )

    def name_of(self, sample: Sample) -> str:
        """The item that a sample belongs to, maybe one that is left out."""
        names = self._named[spaced(sample.prompt)]
        return names[0] if len(names) == 1 else self.told_apart(names, sample)

    def told_apart(self, names: Sequence[str], sample: Sample) -> str:
        """Which of the items with one prompt: any may have it; the one in its place, where samples come in order."""
        turn = sample.place if sample.id is None else sample.id
        here = [name for name in names if self._numbers.get(name) == turn % len(self.items)]
        return here[0] if here else names[turn % len(names)]

    def item_of(self, sample: Sample) -> T:
        """What there is to know about a sample."""
        name = self.name_of(sample)
        if name not in self.items:
            raise ValueError(f"the item {name!r} of {self.name} is left out, got an image of it to score")
        return self.items[name]

    def mark_of(self, sample: Sample) -> dict[str, float | None]:
        """The figure that says which item a sample belongs to."""
        return {"item": float(self._numbers[self.name_of(sample)])}

    def wanted(self, sample: Sample) -> bool:
        return super().wanted(sample) and self.name_of(sample) in self.items

    def _record(self, sample: Sample, verdict: Verdict) -> dict[str, Any]:
        name = self.name_of(sample)
        return {**super()._record(sample, verdict), "prompt": self._texts[name], "item": name}

    # Reading the state

    def column(self, rows: Tensor, name: str) -> Tensor:
        """A figure (n,) of samples (n, 1 + columns)."""
        return rows[:, 1 + [column.name for column in self.row].index(name)]

    def owners(self, rows: Tensor) -> list[str]:
        """The items of samples (n, 1 + columns) with a score; the others are `missing` from now on."""
        names = list(self.items)
        owners = [names[int(i)] for i in self.column(rows, "item").tolist()]
        known = set(owners)
        self._missing = [name for name in names if name not in known]
        return owners

    def categories(self) -> dict[str, Category]:
        """name -> `Category`, of the last `compute`; one of which nothing is known is absent."""
        return dict(self._categories)

    def missing(self) -> list[str]:
        """The names of the items of which no image had a score at the last `compute`."""
        return list(self._missing)

    def reset(self) -> None:
        super().reset()
        self._categories, self._missing = {}, []

    def signature_parameters(self) -> dict[str, object]:
        return {"questions": self.digest, **super().signature_parameters()}


def spaced(text: str) -> str:
    """A text whose spaces are single."""
    return " ".join(text.split())
