"""The items of a benchmark: what there is to know about the images of each, and which item a sample belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from lightning_imgmetrics.errors import UnreadableQuestions
from lightning_imgmetrics.judges.metrics.queries import Sample

T = TypeVar("T")
Disambiguate = Callable[[Sequence[str], Sample], str]


class ItemSet(Mapping[str, T]):
    """Name -> item; an image belongs to the item whose prompt, or name, it comes with in `prompts=`.

    `texts`: the prompt of each, also of items that are left out. Spaces do not tell prompts apart; what is a name is
    taken as one. `content`: what identifies the items, for `digest`. `disambiguate`: which of several items of one
    prompt a sample belongs to; by default any, or the one in its place where samples come in order.
    """

    def __init__(
        self,
        metric: str,
        items: Mapping[str, T],
        *,
        texts: Mapping[str, str],
        content: object = (),
        disambiguate: Disambiguate | None = None,
    ):
        self.metric = metric
        self._items = dict(items)
        if not self._items:
            raise UnreadableQuestions(f"`{metric}` must have at least one item to ask about, got none")
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self.digest = hashlib.sha256(canonical).hexdigest()[:8]
        self.texts = dict(texts)
        self.numbers = {name: i for i, name in enumerate(self._items)}
        self._disambiguate = disambiguate or self._by_position
        self._names: dict[str, list[str]] = {}
        for name, text in texts.items():
            self._names.setdefault(single_spaced(text), []).append(name)
        self._names |= {single_spaced(name): [name] for name in texts}  # also where it is the prompt of others

    def __getitem__(self, name: str) -> T:
        """The item; ValueError for one that is left out."""
        if name not in self._items and name in self.texts:
            raise ValueError(f"the item {name!r} of {self.metric} is left out, got an image of it to score")
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, name: object) -> bool:
        return name in self._items

    @property
    def prompts(self) -> list[str]:
        """The prompts of all items, in order."""
        return [self.texts[name] for name in self]

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """ValueError where a text is no prompt, and no name, of an item."""
        for i, prompt in enumerate(prompts):
            if single_spaced(prompt) not in self._names:
                raise ValueError(
                    f"`prompts[{i}]` is no prompt, and no name, of an item of {self.metric}: {prompt[:200]!r}; the"
                    f" first of {len(self)} is {self.prompts[0][:200]!r}, with the name {next(iter(self))!r}"
                )

    def identified(self, sample: Sample) -> Sample:
        """The sample with the name of its item, maybe one that is left out, and the prompt of that."""
        names = self._names[single_spaced(sample.prompt)]
        name = names[0] if len(names) == 1 else self._disambiguate(names, sample)
        return replace(sample, item=name, prompt=self.texts[name])

    def names_of(self, numbers: Tensor) -> list[str]:
        """The names of items (n,) by their numbers."""
        names = list(self)
        return [names[int(number)] for number in numbers.tolist()]

    def missing(self, names: Sequence[str]) -> tuple[str, ...]:
        """The items that are not among `names`."""
        present = set(names)
        return tuple(name for name in self if name not in present)

    def _by_position(self, names: Sequence[str], sample: Sample) -> str:
        position = sample.position if sample.id is None else sample.id
        here = [name for name in names if self.numbers.get(name) == position % len(self)]
        return here[0] if here else names[position % len(names)]


def single_spaced(text: str) -> str:
    """A text whose spaces are single."""
    return " ".join(text.split())
