"""The scores of some images, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_imgmetrics._images import Images, ImageSets, as_image_sets, as_images, quantize
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import ShapeError, UnknownName
from lightning_imgmetrics.metrics.base.inputs import as_texts
from lightning_imgmetrics.registry import METRICS, metric, metric_class


def score(
    key: str,
    *,
    images: Images,
    prompts: str | Sequence[str] | None = None,
    target: Images | None = None,
    source: ImageSets | None = None,
    rivals: ImageSets | None = None,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    **arguments: Any,
) -> Tensor:
    """The score of each image by a metric of `METRICS`.

    Args:
        key: a key that scores single images.
        images: (n, 3, h, w) uint8 or float in [0, 1] (or in the `value_range` among `arguments`), or a list of mixed
            sizes.
        prompts: n texts, or one for all.
        target: as `images`, one for each.
        source: one image or a list of images for each of n, what it was made from.
        rivals: one image or a list of images for each of n, what others made of the same.
        batch_size: images per network pass.
        device: default that of the images.
        arguments: those of the metric's constructor.

    Returns:
        (n,) float64 on the CPU; NaN where a judge failed, or was not asked as its `limit` is lower.

    Raises:
        UnknownName: the key scores no single images.
        TypeError: the metric needs what is not given.
        ShapeError: `target`, `prompts`, `source` or `rivals` hold another number of entries than there are images.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import score
        >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> images[1] = 255
        >>> score("exposure", images=images)
        tensor([0., 1.], dtype=torch.float64)
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
    if key not in METRICS or not metric_class(key).scores_samples:
        raise UnknownName("key", key, [k for k in METRICS if metric_class(k).scores_samples])
    m: Any = metric(key, **arguments)
    inputs = {"images": images, "prompts": prompts, "target": target, "source": source, "rivals": rivals}
    for name in m.inputs:
        if inputs.get(name) is None:
            raise TypeError(f"metric {key!r} needs `{name}=`")
    value_range = arguments.get("value_range", (0.0, 1.0))  # not the metric's own default: LPIPS' is (-1, 1)
    sides = [_singles(x, name, value_range) for name, x in (("images", images), ("target", target)) if x is not None]
    n = len(sides[0])
    if len(sides[-1]) != n:
        raise ShapeError(f"`target` must hold one entry per image, got {len(sides[-1])} for {n} images")
    sides = sides if "target" in m.inputs else sides[:1]
    others: dict[str, Any] = {} if prompts is None else {"prompts": as_texts(prompts, n)}
    for name, sets in (("source", source), ("rivals", rivals)):
        if sets is not None:
            others[name] = as_image_sets(sets, n, name=name, value_range=value_range)
    m.check_inputs(n, **others)
    others["ids"] = torch.arange(n)  # a judge's verdicts may depend on them
    m.to(sides[0][0].device if device is None else device)
    out = []
    try:
        with full_precision(m.device):
            for start in range(0, n, batch_size):
                part = slice(start, start + batch_size)
                batches = [as_images(side[part], decoded=True)[0] for side in sides]
                scores = m.scores_of_images(*batches, **{name: column[part] for name, column in others.items()})
                out.append((scores if scores.ndim == 1 else scores[:, 0]).double().cpu())
    finally:
        for network in m.networks if m.offload else ():
            network.offload(m.device)
    return torch.cat(out)


def _singles(images: Images, name: str, value_range: tuple[float, float]) -> list[Tensor]:
    """8-bit images (3, h, w), as a suite measures them."""
    batches, _ = as_images(images, name=name, value_range=value_range)
    return [image for batch in batches for image in quantize(batch)]
