"""Two images shown to a judge in both orders, and what its two decisions come to."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_imgmetrics.judges.metrics.queries import Sample

ORDER_COLUMNS = ("tie_rate", "position_bias", "first_rate")
FOR_FIRST = {1: 1.0, 2: 0.0, 0: 0.5}  # what a decision (1, 2, or 0 for neither) gives the first place
PLACES = ("shown first", "shown second")  # of the image, by query


def checked_orders(orders: int) -> int:
    """The number itself; ValueError unless it is 1 or 2."""
    if orders not in (1, 2):
        raise ValueError(f"`orders` must be 1 (the image first) or 2 (then the rival first), got {orders!r}")
    return int(orders)


def in_orders(sample: Sample, orders: int = 2) -> list[tuple[Tensor, Tensor]]:
    """The image and its rival, then the rival and the image."""
    pair = sample.image, sample.rivals[0]
    return [pair, pair[::-1]][:orders]


def both_orders(first: Sequence[float]) -> tuple[float, dict[str, float | None]]:
    """The outcome for an image that was shown first, then second, and `ORDER_COLUMNS`.

    `first` (1 or 2): what each decision gives the first place: 1, 0.5 or 0. Where the two disagree about the image, it
    is a tie. `position_bias` is 1 where the same place won both times, and None of a single decision.
    """
    if len(first) == 1:
        return first[0], {"tie_rate": float(first[0] == 0.5), "position_bias": None, "first_rate": first[0]}
    ahead, behind = first
    score = ahead if ahead == 1 - behind else 0.5
    return score, {
        "tie_rate": float(score == 0.5),
        "position_bias": float(ahead == behind != 0.5),
        "first_rate": (ahead + behind) / 2,
    }
