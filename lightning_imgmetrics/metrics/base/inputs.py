"""What `update` gets besides features: ids of samples, texts, and images that must be uint8."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import ShapeError

Ids = Tensor | Sequence[int]
_MAX_ID = 1 << 53  # ids share float64 tables with scores


def check_ids(ids: Ids, n: int) -> Tensor:
    """Ids as int64 (n,) on the CPU; ValueError or ShapeError where they are not `n` of them."""
    try:
        ids = torch.as_tensor(ids, device="cpu")
    except (TypeError, ValueError) as error:
        raise ValueError(f"`ids` must be integers, got {ids!r}") from error
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"`ids` must be integers, got {ids.dtype}")
    ids = ids.long()
    if ids.shape != (n,):
        raise ShapeError(f"`ids` must be ({n},), one per sample, got shape {tuple(ids.shape)}")
    if n and not 0 <= int(ids.min()) <= int(ids.max()) < _MAX_ID:
        raise ValueError(f"`ids` must lie in [0, 2^53), got {int(ids.min())}..{int(ids.max())}")
    return ids


def as_texts(prompts: str | Sequence[str], n: int) -> list[str]:
    """One text per image; one string stands for all of them. ShapeError or TypeError unless they are n texts."""
    if isinstance(prompts, str):
        return [prompts] * n
    if not isinstance(prompts, Sequence):
        raise TypeError(f"`prompts` must be texts, one per image or one for all, got {type(prompts).__name__}")
    if len(prompts) != n:
        raise ShapeError(f"`prompts` must hold one entry per image, got {len(prompts)} for {n} images")
    if odd := {type(p).__name__ for p in prompts if not isinstance(p, str)}:
        raise TypeError(f"`prompts` must be texts, got {', '.join(sorted(odd))}")
    return list(prompts)


def refuse_floats(images: Images, name: str) -> None:
    """ValueError, in torchmetrics' terms, for float images."""
    batches = images if isinstance(images, list | tuple) else [images]
    if any(isinstance(x, Tensor) and x.is_floating_point() for x in batches):
        raise ValueError(
            "Expecting image as torch.Tensor with dtype=torch.uint8, got float"
            f" `{name}`: pass normalize=True for float images"
        )
