"""Metrics by name, as one: their shared states, synced once, read, saved, loaded and merged together."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchmetrics import MetricCollection

from lightning_imgmetrics._compat.torchmetrics import (
    forget_value,
    is_synced,
    note_update,
    prefixed,
    sync_configuration,
    synced_together,
    update_count,
)
from lightning_imgmetrics._distributed import rendezvous, sync_timeout
from lightning_imgmetrics.errors import ImgMetricsError
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.base.state_file import check_names, read_states, require_equal_shares, save_states
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.result import Result


class Members(MetricCollection):
    """A `MetricCollection` of this package's metrics, in the given order, with one copy of equal streams.

    TypeError for metrics of other packages, or none; ValueError for one that shares its samples with others already.
    """

    def __init__(self, members: dict[str, Any]):
        foreign = {name: type(m).__name__ for name, m in members.items() if not isinstance(m, ImageMetric)}
        if foreign or not members:
            raise TypeError(f"`metrics` must be keys or metrics of this package, got {foreign or 'none'}")
        # Metrics that agree on the first batch need not agree on the next, so states are never shared by comparison.
        super().__init__(members, compute_groups=False)
        self._named: dict[str, ImageMetric] = dict(members)  # in their order; the base class sorts
        self._share_streams()

    def add_metrics(self, *args: Any, **kwargs: Any) -> None:
        if hasattr(self, "_named"):
            raise TypeError("a MetricSuite takes its metrics when it is made: make a new one")
        super().add_metrics(*args, **kwargs)

    def named(self) -> dict[str, ImageMetric]:
        """name -> metric, in the given order."""
        return self._named

    def _share_streams(self) -> None:
        """Metrics that keep the same of the same network (KID, precision, recall: all features) keep it once."""
        first: dict[tuple[object, ...], Stream] = {}
        members = list(self._named.values())
        for member, m in self._named.items():
            if any(all(owner is not other for other in members) for owner in m.streams.owners()):
                raise ValueError(
                    f"metric {member!r} shares its samples with the rest of another MetricSuite: make a new one"
                )
            if update_count(m) or not m.streams.untouched:  # the others have not seen its samples
                continue
            ways = *sync_configuration(m), getattr(m, "reset_real_features", None)
            for name, stream in m.streams.owned().items():
                if stream.layer and first.setdefault((m.extractor, name, stream.key, ways), stream) is not stream:
                    m.streams.share(name, first[m.extractor, name, stream.key, ways])

    def compute(self) -> dict[str, Any]:
        """name -> value; collective over ranks."""
        with self.synced():
            return super().compute()

    def results(self) -> dict[str, Result]:
        """name -> Result; collective over ranks, as `compute` is."""
        return self.outcomes(errors=())[0]

    def outcomes(
        self,
        only: Collection[str] | None = None,
        *,
        errors: type[Exception] | tuple[type[Exception], ...] = ImgMetricsError,
    ) -> tuple[dict[str, Result], dict[str, Exception]]:
        """name -> Result, and of the metrics that have none, name -> why: those of `errors` stop no other metric.

        Collective: the states are the same on all ranks, so what is an error is one on all. `only`: these metrics.
        """
        results, failed = {}, {}
        with self.synced():
            for name, m in self._named.items():
                if only is None or name in only:
                    try:
                        title = prefixed(self, name)
                        results[title] = replace(m.result(), name=title)
                    except errors as error:
                        failed[name] = error
        return results, failed

    @contextmanager
    def synced(self) -> Iterator[None]:
        """Every state synced once, also those that several metrics read, and what metrics compute shared."""
        members = list(self._named.values())
        timeouts = [m.sync_timeout for m in members if m.sync_timeout is not None and not is_synced(m)]
        if timeouts:  # for all of them: what makes a rank late holds up the sync of the first
            rendezvous("MetricSuite.compute()", members[0].process_group, timeout=sync_timeout(max(timeouts)))
        for m in members:
            m.memo = members[0].memo
        with synced_together(members):
            yield

    def scores(self) -> dict[str, dict[int, float]]:
        """name -> {sample id: score} of this rank, for the metrics that keep scores."""
        tables = {name: [x.tolist() for x in m.scores()] for name, m in self._named.items() if m.keeps_scores}
        return {name: {int(i): s for i, s in zip(*table, strict=True) if i == i} for name, table in tables.items()}

    def rationales(self) -> dict[str, dict[int, str]]:
        """name -> {sample id: why it has its score} of this process, for metrics that give reasons."""
        return {name: reasons for name, m in self._named.items() if (reasons := m.rationales())}

    def reset_all(self) -> None:
        """Forget everything, also the references of metrics with `reset_real_features=False`."""
        for m in self._named.values():
            m.clear()

    def reset_generated(self) -> None:
        """Forget the generated samples and keep the reference."""
        for m in self._named.values():
            m.clear(keep_reference=True)

    def count_clamped(self, pixels: int) -> None:
        """Note that `pixels` of the samples were clamped before they came here, for `Result.details`."""
        for m in self._named.values():
            m.clamped += pixels

    def pool(self) -> None:
        """Move the states of all ranks into rank 0; the others start empty. Collective."""
        for m in self._named.values():
            m.pool()

    # Save, load, merge

    def save(
        self, path: str | os.PathLike[str], *, side: str | None = None, about: Mapping[str, Any] | None = None
    ) -> None:
        """Write the states of this rank and their signatures to one safetensors file, atomically.

        Args:
            path: the file.
            side: "real" writes the reference alone.
            about: any JSON, which comes back from `load`.
        """
        save_states(self._named, Path(path), side=side, about=about)

    def load(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Replace the states that the file holds; SignatureMismatch or IncompatibleStates if they do not fit."""
        file = read_states(self._named, Path(path))
        file.restore(self._named)
        return file.about

    def merge(self, other: Members | str | os.PathLike[str]) -> None:
        """Add the states of another suite or of a saved one: shards evaluated apart, or an earlier part of a run.

        References add up as samples do: give each shard its own share of the reference images, or one of them all.
        """
        if not isinstance(other, Members):
            file = read_states(self._named, Path(other))
            for name, m in self._named.items():
                note_update(m)
                m.merge_member(file.state_of(name, m))
            return
        theirs = other.named()
        check_names(self._named, theirs)
        for name, m in self._named.items():  # all of them before the first is changed
            m.signature().require_like(theirs[name].signature())
        require_equal_shares(self._named, {name: m.streams.contents() for name, m in theirs.items()})
        for name, m in self._named.items():
            m.merge_member(theirs[name])

    def forget_values(self) -> None:
        """Have the next `compute` compute, after states were changed from outside."""
        for m in self._named.values():
            forget_value(m)
