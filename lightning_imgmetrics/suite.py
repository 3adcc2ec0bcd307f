"""Metrics that share networks: each network sees each batch once."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchmetrics import MetricCollection

from lightning_imgmetrics._images import Images, as_images, quantize
from lightning_imgmetrics.errors import IncompatibleStates, ShapeError
from lightning_imgmetrics.metrics.base import DistributionMetric, ScoreMetric
from lightning_imgmetrics.metrics.stateful import Ids, ImageMetric, check_texts
from lightning_imgmetrics.metrics.table import metric
from lightning_imgmetrics.models.base import Extractor
from lightning_imgmetrics.result import Result, Signature


class MetricSuite(MetricCollection):
    """A `MetricCollection` that runs each network once per batch and hands its features to all metrics that use it.

    `metrics`: keys of `METRICS`, a mapping of names to metrics, or metrics (named by their key). Float images are
    quantized to 8 bits first, so that samples score the same in memory and as the PNG files they are saved to.
    Raises UnknownName for a key that is not in the table.
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
            listed = [metrics] if isinstance(metrics, str) else list(metrics)
            names = [m if isinstance(m, str) else _key(m) for m in listed]
            if len(set(names)) < len(names):
                raise ValueError(f"`metrics` must have one name each, got {names}; pass a mapping of names to metrics")
            members = {k: metric(m) if isinstance(m, str) else m for k, m in zip(names, listed, strict=True)}
        foreign = {name: type(m).__name__ for name, m in members.items() if not isinstance(m, ImageMetric)}
        if foreign or not members:
            raise TypeError(f"`metrics` must be keys or metrics of this package, got {foreign or 'none'}")
        # Metrics that agree on the first batch need not agree on the next, so states are never shared by comparison.
        super().__init__(members, compute_groups=False)
        self._order = list(members)  # the base class sorts
        self.value_range = value_range

    def named(self) -> dict[str, ImageMetric]:
        """name -> metric, in the order given."""
        return {name: self[name] for name in self._order}

    def update(  # type: ignore[override]
        self,
        images: Images,
        *,
        real: bool = False,
        prompts: Sequence[str] | None = None,
        target: Images | None = None,
        ids: Ids | None = None,
    ) -> None:
        """Add generated images (n, 3, h, w), their prompts (n) and targets (n, 3, h, w) where a metric takes them.

        With `real=True` the images go to the reference of the distribution metrics alone.
        """
        batches, clamped = self._accept(images, "images")
        targets, clamped_targets = (None, 0) if target is None else self._accept(target, "target")
        self.update_checked(batches, real=real, prompts=prompts, target=targets, ids=ids)
        for _, m in (pair for group in self._by_network(real).values() for pair in group):
            m.clamped += clamped + (clamped_targets if "target" in m.inputs else 0)

    def update_checked(
        self,
        batches: list[Tensor],
        *,
        real: bool = False,
        prompts: Sequence[str] | None = None,
        target: list[Tensor] | None = None,
        ids: Ids | None = None,
    ) -> None:
        """`update` with images that `as_images` has checked: lists of uint8 (k, 3, h, w)."""
        targets = target
        n = sum(map(len, batches))
        groups = self._by_network(real)
        members = [(name, m) for group in groups.values() for name, m in group]
        # A batch is refused before any metric has taken a part of it.
        given = {"real": real, "prompts": prompts, "target": targets}
        for name, m in members:
            for field in m.inputs:
                if given[field] is None:
                    raise TypeError(f"metric {name!r} needs `{field}=` in update")
        if prompts is not None:
            check_texts(prompts, n)
        if targets is not None and sum(map(len, targets)) != n:
            raise ShapeError(f"`target` must hold one entry per image, got {sum(map(len, targets))} for {n} images")
        if ids is not None and members:
            ids = members[0][1].check_ids(ids, n)
        device = self._device(batches[0])
        features = {}
        for extractor, group in groups.items():
            layers = tuple(dict.fromkeys(layer for _, m in group for layer in m.layers))
            paired = targets is not None and any("target" in m.inputs for _, m in group)
            features[extractor] = extractor(batches + (targets or []) if paired else batches, layers, device)
        for extractor, group in groups.items():
            alone = {layer: _head(x, n) for layer, x in features[extractor].items()}
            for _, m in group:
                pair = "target" in m.inputs
                m.feed(features[extractor] if pair else alone, real=real, prompts=prompts, ids=ids)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        raise TypeError("a MetricSuite has no value for one batch: call `update`, then `compute` or `results`")

    def update_reference(self, images: Images, *, ids: Ids | None = None) -> None:
        """Add reference images (n, 3, h, w)."""
        self.update(images, real=True, ids=ids)

    def results(self) -> dict[str, Result]:
        """name -> Result; collective over ranks, as `compute` is."""
        return {name: replace(m.result(), name=name) for name, m in self.named().items()}

    def scores(self) -> dict[str, dict[int, float]]:
        """name -> {sample id: score} of this rank, for the metrics that keep scores."""
        kept = {name: m for name, m in self.named().items() if isinstance(m, ScoreMetric) and m.keep_scores}
        tables = {name: [column.tolist() for column in m.scores()] for name, m in kept.items()}
        return {name: {int(i): s for i, s in zip(*table, strict=True) if i == i} for name, table in tables.items()}

    def reset_generated(self) -> None:
        """Forget the generated samples and keep the reference."""
        for m in self.named().values():
            if isinstance(m, DistributionMetric):
                kept, m.reset_real_features = m.reset_real_features, False
                m.reset()
                m.reset_real_features = kept
            else:
                m.reset()

    def count_clamped(self, pixels: int) -> None:
        """Note that `pixels` of the samples were clamped before they came here, for `Result.details`."""
        for m in self.named().values():
            m.clamped += pixels

    def pool(self) -> None:
        """Move the states of all ranks into rank 0; the others start empty. Collective."""
        for m in self.named().values():
            m.pool()

    # Save, load, merge

    def save(self, path: str | os.PathLike[str], *, side: str | None = None) -> None:
        """Write the states of this rank and their signatures to one safetensors file, atomically.

        `side="real"` writes the reference alone.
        """
        tensors = {}
        for name, m in self.named().items():
            for state in _states(m, side):
                value = m.table(state) if state in m._blanks else getattr(m, state)
                tensors[f"{name}/{state}"] = value.contiguous().clone().cpu()
        signatures = {name: str(m.signature()) for name, m in self.named().items()}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        save_file(tensors, part, metadata={"signatures": json.dumps(signatures), "side": side or "all"})
        os.replace(part, path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Replace the states that the file holds; SignatureMismatch or IncompatibleStates if they do not fit."""
        for m, states in self._read(path):
            for state, value in states.items():
                setattr(m, state, [value] if state in m._blanks else value)
            m._computed = None
            m._update_count = max(m._update_count, 1)

    def merge(self, other: MetricSuite | str | os.PathLike[str]) -> None:
        """Add the states of another suite or of a saved one: shards evaluated apart, or an earlier part of a run."""
        if isinstance(other, MetricSuite):
            theirs = other.named()
            self._check_names(theirs)
            for name, m in self.named().items():
                m.merge_state(theirs[name])
            return
        for m, states in self._read(other):
            empty = m.clone()
            empty.reset()
            incoming = empty.metric_state | {k: [v] if k in m._blanks else v for k, v in states.items()}
            m._update_count += 1
            m.merge_state(incoming)

    def _read(self, path: str | os.PathLike[str]) -> list[tuple[ImageMetric, dict[str, Tensor]]]:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        except SafetensorError as error:
            raise IncompatibleStates(f"{path} is not a saved suite: {error}") from error
        signatures = json.loads(metadata.get("signatures", "{}"))
        self._check_names(signatures)
        states: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, value in tensors.items():
            name, state = key.rsplit("/", 1)
            states[name][state] = value
        for name, m in self.named().items():
            Signature.parse(signatures[name]).require_like(m.signature())
        return [(m, {k: v.to(m._home) for k, v in states[name].items()}) for name, m in self.named().items()]

    def _check_names(self, names: Iterable[str]) -> None:
        if set(names) != set(self.named()):
            raise IncompatibleStates(f"the other suite measures {sorted(names)}, this one {sorted(self.named())}")

    # Images

    def _accept(self, images: Images, name: str) -> tuple[list[Tensor], int]:
        batches, clamped = as_images(images, name=name, value_range=self.value_range)
        return [quantize(batch) for batch in batches], clamped

    def _device(self, batch: Tensor) -> torch.device:
        device = next(iter(self.named().values())).device
        if batch.device.type != "cpu" and batch.device != device:
            self.to(batch.device)
            return batch.device
        return device

    def _by_network(self, real: bool) -> dict[Extractor, list[tuple[str, ImageMetric]]]:
        """The metrics that take this batch, by the network that they share."""
        groups: dict[Extractor, list[tuple[str, ImageMetric]]] = defaultdict(list)
        for name, m in self.named().items():
            if m.extractor is not None and (isinstance(m, DistributionMetric) or not real):
                groups[m.extractor].append((name, m))
        return groups


def _key(m: ImageMetric) -> str:
    network = m.extractor.card.name.replace("-", "_") if m.extractor is not None else ""
    return f"fd_{network}" if m.name == "frechet_distance" else m.name


def _states(m: ImageMetric, side: str | None) -> list[str]:
    return [state for state in m._defaults if side is None or state == side or state.startswith(f"{side}_")]


def _head(features: Any, n: int) -> Any:
    """The rows of the images, without those of the targets behind them."""
    return [x[:n] if x.ndim == 4 else x for x in features] if isinstance(features, list) else features[:n]
