"""Detected objects with COCO's class names, and their masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeGuard

import torch
from torch import Tensor

from lightning_imgmetrics.errors import UnknownName, ValueRangeError

# COCO's 80 classes in its order, with the names that GenEval's prompts use in place of mouse, remote and keyboard.
_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, "
    "skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, "
    "sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining "
    "table, toilet, tv, laptop, computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, "
    "toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
)
CLASSES = tuple(_NAMES.split(", "))
COCO_NAMES = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class RunLengths:
    """A mask in COCO's run-length encoding: alternating runs of 0 and 1, 0 first, down the columns of `size` (h, w)."""

    size: tuple[int, int]
    runs: Tensor

    @classmethod
    def of(cls, record: Any) -> RunLengths:
        """{"size": [h, w], "counts": runs or COCO's string of them}; ValueRangeError for anything else."""
        size, counts = (record.get(key) for key in ("size", "counts")) if isinstance(record, Mapping) else (None, None)
        if not isinstance(size, list) or len(size) != 2 or not all(is_count(x) for x in size):
            raise ValueRangeError(f'a mask must be {{"size": [h, w], "counts": ...}}, got {str(record)[:80]}')
        runs = _runs(counts) if isinstance(counts, str) else counts
        if not isinstance(runs, list) or not all(type(x) is int and x >= 0 for x in runs):
            raise ValueRangeError(f'"counts" of a mask must be lengths of runs, got {str(counts)[:80]}')
        if sum(runs) != size[0] * size[1]:
            raise ValueRangeError(f"a mask of {size[0]} x {size[1]} must have runs of as many pixels, got {sum(runs)}")
        return cls((size[0], size[1]), torch.tensor(runs))

    def pixels(self) -> Tensor:
        """The mask, bool (h, w)."""
        height, width = self.size
        return (torch.arange(len(self.runs)) % 2 == 1).repeat_interleave(self.runs).view(width, height).T.contiguous()


def _runs(text: str) -> list[int]:
    """COCO's string: numbers in groups of 5 bits, low ones first; from the fourth on, minus the one two before."""
    runs: list[int] = []
    value = shift = 0
    for code in text.encode():
        code -= 48
        if not 0 <= code < 64:
            raise ValueRangeError(f'"counts" of a mask is no string of COCO: it holds {chr(code + 48)!r}')
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << shift - 4  # the sign
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueRangeError('"counts" of a mask ends within a number')
    return runs


@dataclass(frozen=True)
class Detection:
    """An object that a detector found in an image.

    Args:
        label: One of COCO's 80 classes, with GenEval's names.
        score: The detector's confidence, in [0, 1].
        box: (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
        mask: bool (h, w) of the whole image, as a tensor or in COCO's run-length encoding; None if there is none.
        color: One of red, orange, yellow, green, blue, purple, pink, brown, black and white; None if it is not known.

    Raises:
        UnknownName: Another class or color.
        ValueRangeError: A score or box that is not finite, or a box with x0 > x1 or y0 > y1.

    Example:
        >>> cat = Detection("cat", 0.92, (10, 20, 110, 90), color="black")
        >>> cat.label, cat.pixels()
        ('cat', None)
    """

    label: str
    score: float
    box: Box
    mask: Tensor | RunLengths | None = field(default=None, compare=False, repr=False)
    color: str | None = None

    def __post_init__(self) -> None:
        if self.label not in CLASSES:
            raise UnknownName("label", self.label, CLASSES)
        if self.color is not None and self.color not in COLORS:
            raise UnknownName("color", self.color, COLORS)
        left, top, right, bottom = self.box
        if not all(isfinite(x) for x in (self.score, *self.box)) or left > right or top > bottom:
            raise ValueRangeError(
                f"a detection must have a finite score and a box x0 <= x1, y0 <= y1, got {self.score} and {self.box}"
            )

    def pixels(self) -> Tensor | None:
        """The mask, bool (h, w); None if there is none."""
        return self.mask if self.mask is None or isinstance(self.mask, Tensor) else self.mask.pixels()


def is_count(x: object) -> TypeGuard[int]:
    """Whether x is a positive integer."""
    return type(x) is int and x >= 1
