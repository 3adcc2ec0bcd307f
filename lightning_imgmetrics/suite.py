"""Metrics that share networks: each network sees each batch once."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_imgmetrics._images import Images, ImageSets, as_image_sets, as_images, quantize
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.metrics.base.collection import Members
from lightning_imgmetrics.metrics.base.inputs import Ids, as_texts, check_ids
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.distribution.reference_statistics import ReferenceStatistics
from lightning_imgmetrics.models.base.extractor import BatchFeatures, Extractor
from lightning_imgmetrics.presets import PRESETS
from lightning_imgmetrics.registry import metric


class MetricSuite(Members):
    """A `MetricCollection` that runs each network once per batch and hands its features to all metrics that use it.

    Float images are quantized to 8 bits first, so that samples score the same in memory and as the PNG files they
    become. Metrics that keep the same of the same network keep it once. `save`, `load` and `merge` make shards, resumed
    runs and ranks one number.

    Args:
        metrics: keys of `METRICS` or of `PRESETS`, a mapping of names to metrics, or metrics (named by their key).
        value_range: what float images hold, (low, high).

    Returns:
        `compute`: name -> value. `results`: name -> `Result`, with count, interval and signature.

    Raises:
        UnknownName: a key that is not in the table.
        ValueError: two metrics of one name.
        TypeError: a metric of another package, or at `update` an input that a metric needs and that is missing.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import CLIPScore, FrechetDistance, MetricSuite
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> suite = MetricSuite([FrechetDistance("digits-clip"), CLIPScore("digits-clip")])
        >>> suite.update_reference(images[:4])
        >>> suite.update(images[4:], prompts="a handwritten seven")
        >>> {name: round(float(value), 3) for name, value in suite.compute().items()}
        {'clip_score': 21.621, 'fd_digits_clip': 6.519}
    """

    def __init__(
        self,
        metrics: Mapping[str, ImageMetric] | Iterable[str | ImageMetric],
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
    ):
        if isinstance(metrics, Mapping):
            members: dict[str, Any] = dict(metrics)
        else:
            entries = [metrics] if isinstance(metrics, str) else metrics
            listed = [one for m in entries for one in (PRESETS.get(m, (m,)) if isinstance(m, str) else (m,))]
            names = [m if isinstance(m, str) else _key(m) for m in listed]
            if len(set(names)) < len(names):
                raise ValueError(f"`metrics` must have one name each, got {names}; pass a mapping of names to metrics")
            members = {k: metric(m) if isinstance(m, str) else m for k, m in zip(names, listed, strict=True)}
        super().__init__(members)
        self.value_range = value_range

    def update(
        self,
        images: Images,
        *,
        real: bool = False,
        prompts: str | Sequence[str] | None = None,
        target: Images | None = None,
        source: ImageSets | None = None,
        rivals: ImageSets | None = None,
        labels: Tensor | Sequence[int] | None = None,
        ids: Ids | None = None,
    ) -> None:
        """Add generated images (n, 3, h, w), and prompts (n), targets (n, 3, h, w), labels (n) for who takes them.

        One string is the prompt of all images. Images and targets may be lists of mixed sizes. `source`, what was
        edited, and `rivals`, what others made of the same, hold one image or a list of images for each of the n.
        With `real=True` the images go to the reference of the distribution metrics alone.
        """
        batches, clamped = self._accept(images, "images")
        targets, clamped_targets = (None, 0) if target is None else self._accept(target, "target")
        n = sum(map(len, batches))
        sources, others = (
            None if x is None else as_image_sets(x, n, name=name, value_range=self.value_range)
            for name, x in (("source", source), ("rivals", rivals))
        )
        self.update_checked(
            batches,
            real=real,
            prompts=prompts,
            target=targets,
            source=sources,
            rivals=others,
            labels=labels,
            ids=ids,
        )
        for m in self._named.values():
            if m.extractor is not None and ("real" in m.inputs or not real):
                m.clamped += clamped + (clamped_targets if "target" in m.inputs else 0)

    def update_checked(
        self,
        batches: list[Tensor],
        *,
        real: bool = False,
        prompts: str | Sequence[str] | None = None,
        target: list[Tensor] | None = None,
        source: list[tuple[Tensor, ...]] | None = None,
        rivals: list[tuple[Tensor, ...]] | None = None,
        labels: Tensor | Sequence[int] | None = None,
        ids: Ids | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        """`update` with images that `as_images` has checked: lists of uint8 (k, 3, h, w), and n sets of (3, h, w).

        `only`: the metrics that take part; default all.
        """
        n = sum(map(len, batches))
        groups = self.by_network(real, only)
        members = [(name, m) for group in groups.values() for name, m in group]
        # A batch is refused before any metric has taken a part of it.
        prompts = None if prompts is None else as_texts(prompts, n)
        inputs: dict[str, Any] = {"real": real, "prompts": prompts, "target": target, "labels": labels}
        inputs |= {"source": source, "rivals": rivals}
        for name, m in members:
            for field in m.inputs:
                if inputs[field] is None:
                    raise TypeError(f"metric {name!r} needs `{field}=` in update")
        if target is not None and sum(map(len, target)) != n:
            raise ShapeError(f"`target` must hold one entry per image, got {sum(map(len, target))} for {n} images")
        for field, sets in (("labels", labels), ("source", source), ("rivals", rivals)):
            if sets is not None and len(sets) != n:
                raise ShapeError(f"`{field}` must hold one entry per image, got {len(sets)} for {n} images")
        for _, m in members:
            m.check_inputs(n, **inputs)
        if ids is not None and members:
            ids = check_ids(ids, n)
        device = self._device(batches[0])
        features = {}
        for extractor, group in groups.items():
            layers = tuple(dict.fromkeys(layer for _, m in group for layer in m.layers))
            paired = target is not None and any("target" in m.inputs for _, m in group)
            features[extractor] = BatchFeatures(
                extractor(batches + (target or []) if paired else batches, layers, device)
            )
        shared = {name: x for name, x in inputs.items() if name != "target"} | {"ids": ids}
        with full_precision(device):
            commits = []
            for extractor, group in groups.items():
                alone = BatchFeatures({layer: _head(x, n) for layer, x in features[extractor].items()})
                commits += [
                    m.begin_update(features[extractor] if "target" in m.inputs else alone, **shared) for _, m in group
                ]
            for commit in commits:
                commit()

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        raise TypeError("a MetricSuite has no value for one batch: call `update`, then `compute` or `results`")

    def update_reference(
        self,
        images: Images | ReferenceStatistics | str | os.PathLike[str],
        *,
        labels: Tensor | Sequence[int] | None = None,
        ids: Ids | None = None,
    ) -> None:
        """Add reference images (n, 3, h, w); or take the reference from statistics, or from the path of a file of them.

        Raises SignatureMismatch where they were measured in another way than a metric of this suite measures, and
        IncompatibleStates for a file that holds none.
        """
        if isinstance(images, str | os.PathLike):
            images = ReferenceStatistics.load(images)
        if isinstance(images, ReferenceStatistics):
            images.fill(self._named.values())
        else:
            self.update(images, real=True, labels=labels, ids=ids)

    def reference(self, *, content: str = "") -> ReferenceStatistics:
        """The reference side of this rank, to be saved (`pool` first under DDP); `content` identifies the images."""
        return ReferenceStatistics.of(self._named.values(), content=content)

    # Images

    def _accept(self, images: Images, name: str) -> tuple[list[Tensor], int]:
        batches, clamped = as_images(images, name=name, value_range=self.value_range)
        return [quantize(batch) for batch in batches], clamped

    def _device(self, batch: Tensor) -> torch.device:
        device = next(iter(self._named.values())).device
        if batch.device.type != "cpu" and batch.device != device:
            self.to(batch.device)
            return batch.device
        return device

    def by_network(
        self, real: bool, only: Collection[str] | None = None
    ) -> dict[Extractor, list[tuple[str, ImageMetric]]]:
        """The metrics that take this batch, by the network that they share."""
        groups: dict[Extractor, list[tuple[str, ImageMetric]]] = defaultdict(list)
        for name, m in self._named.items():
            if m.extractor is not None and ("real" in m.inputs or not real) and (only is None or name in only):
                groups[m.extractor].append((name, m))
        return groups


def _key(m: ImageMetric) -> str:
    network = m.extractor.card.name.replace("-", "_") if m.extractor is not None else ""
    return f"fd_{network}" if m.name == "frechet_distance" else m.name


def _head(features: Any, n: int) -> Any:
    """The rows of the images, without those of the targets behind them: of vectors, of images, or of each map."""
    if isinstance(features, list) and features[0].ndim != 3:
        return [x[:n] if x.ndim == 4 else x for x in features]
    return features[:n]
