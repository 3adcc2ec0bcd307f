"""Metrics by name, as one: their shared states, synced once, read, saved, loaded and merged together."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchmetrics import MetricCollection

from lightning_imgmetrics._distributed import rendezvous, sync_timeout
from lightning_imgmetrics.errors import ImgMetricsError
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.base.score_metric import ScoreMetric
from lightning_imgmetrics.metrics.base.state_file import check_names, read_states, require_shared, save_states
from lightning_imgmetrics.result import Result


class Members(MetricCollection):
    """A `MetricCollection` of this package's metrics, in the order given, which keep once what they keep alike.

    TypeError for metrics of other packages, or none; ValueError for one that shares its samples with others already.
    """

    def __init__(self, members: dict[str, Any]):
        foreign = {name: type(m).__name__ for name, m in members.items() if not isinstance(m, ImageMetric)}
        if foreign or not members:
            raise TypeError(f"`metrics` must be keys or metrics of this package, got {foreign or 'none'}")
        # Metrics that agree on the first batch need not agree on the next, so states are never shared by comparison.
        super().__init__(members, compute_groups=False)
        self._order = list(members)  # the base class sorts
        self._share_streams()

    def add_metrics(self, *args: Any, **kwargs: Any) -> None:
        if hasattr(self, "_order"):
            raise TypeError("a MetricSuite takes its metrics when it is made: make a new one")
        super().add_metrics(*args, **kwargs)

    def named(self) -> dict[str, ImageMetric]:
        """name -> metric, in the order given."""
        return {name: self[name] for name in self._order}

    def _share_streams(self) -> None:
        """Metrics that keep the same of the same network (KID, precision, recall: all features) keep it once."""
        kept: dict[tuple[object, ...], ImageMetric] = {}
        members = {id(m) for m in self.named().values()}
        for name, m in self.named().items():
            if any(id(lender) not in members for lender, _ in m._lenders.values()):
                raise ValueError(
                    f"metric {name!r} shares its samples with the rest of another MetricSuite: make a new one"
                )
            if m._update_count or not m.untouched:  # what it has seen, the others have not
                continue
            ways = m._to_sync, m.dist_sync_fn, m.process_group, getattr(m, "reset_real_features", None)
            for name, stream in m._streams.items():
                if name in m._lenders:
                    continue
                lender = kept.setdefault((m.extractor, name, stream, ways), m) if stream.layer else m
                if lender is not m:
                    m.borrow(name, lender, name)

    def compute(self) -> dict[str, Any]:
        """name -> value; collective over ranks."""
        with self._synced():
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
        with self._synced():
            for name, m in self.named().items():
                if only is None or name in only:
                    try:
                        results[self._set_name(name)] = replace(m.result(), name=self._set_name(name))
                    except errors as error:
                        failed[name] = error
        return results, failed

    @contextmanager
    def _synced(self) -> Iterator[None]:
        """Every state synced once, also those that several metrics read, and what metrics compute shared."""
        members = list(self.named().values())
        waiting = [m.patience for m in members if m.patience is not None and not m._is_synced]
        if waiting:  # for all of them: what makes a rank late holds up the sync of the first
            rendezvous("MetricSuite.compute()", members[0].process_group, timeout=sync_timeout(max(waiting)))
        flags = [(m, m._to_sync, m._should_unsync) for m in members if not m._is_synced]
        try:
            for m in members:
                m._memo = members[0]._memo
            for m, to_sync, _ in flags:
                if to_sync and not m._is_synced:  # it may have been synced with a metric that reads it
                    m.sync(dist_sync_fn=m.dist_sync_fn)
                    if m._is_synced:  # other ranks may have added samples
                        m._computed = None
                m._to_sync = m._should_unsync = False
            yield
        finally:
            for m, to_sync, should_unsync in flags:
                m._to_sync, m._should_unsync = to_sync, should_unsync
                if m._is_synced:
                    m.unsync()

    def scores(self) -> dict[str, dict[int, float]]:
        """name -> {sample id: score} of this rank, for the metrics that keep scores."""
        kept = {name: m for name, m in self.named().items() if isinstance(m, ScoreMetric) and m.keep_scores}
        tables = {name: [column.tolist() for column in m.scores()] for name, m in kept.items()}
        return {name: {int(i): s for i, s in zip(*table, strict=True) if i == i} for name, table in tables.items()}

    def rationales(self) -> dict[str, dict[int, str]]:
        """name -> {sample id: why the judge decided so} of this process, for metrics that give reasons."""
        return {name: reasons for name, m in self.named().items() if (reasons := m.rationales())}

    def reset_all(self) -> None:
        """Forget everything, also the references of metrics with `reset_real_features=False`."""
        for m in self.named().values():
            m.clear()

    def reset_generated(self) -> None:
        """Forget the generated samples and keep the reference."""
        for m in self.named().values():
            m.clear(keep_reference=True)

    def count_clamped(self, pixels: int) -> None:
        """Note that `pixels` of the samples were clamped before they came here, for `Result.details`."""
        for m in self.named().values():
            m.clamped += pixels

    def pool(self) -> None:
        """Move the states of all ranks into rank 0; the others start empty. Collective."""
        for m in self.named().values():
            m.pool()

    # Save, load, merge

    def save(
        self, path: str | os.PathLike[str], *, side: str | None = None, about: Mapping[str, Any] | None = None
    ) -> None:
        """Write the states of this rank and their signatures to one safetensors file, atomically.

        `side="real"` writes the reference alone; `about`, any JSON, comes back from `load`.
        """
        save_states(self.named(), Path(path), side=side, about=about)

    def load(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Replace the states that the file holds; SignatureMismatch or IncompatibleStates if they do not fit."""
        states, about = read_states(self.named(), Path(path))
        for name, m in self.named().items():
            for state, value in states[name].items():
                setattr(m, state, [value] if state in m._blanks else value)
            m._computed = None
            m._update_count = max(m._update_count, 1)
        return about

    def merge(self, other: Members | str | os.PathLike[str]) -> None:
        """Add the states of another suite or of a saved one: shards evaluated apart, or an earlier part of a run.

        References add up as samples do: give each shard its own share of the reference images, or one of them all.
        """
        if isinstance(other, Members):
            theirs = other.named()
            check_names(self.named(), theirs)
            for name, m in self.named().items():  # all of them before the first is changed
                m.signature().require_like(theirs[name].signature())
            require_shared(self.named(), {name: m.metric_state for name, m in theirs.items()})
            for name, m in self.named().items():
                m.merge_member(theirs[name])
            return
        states, _ = read_states(self.named(), Path(other))
        for name, m in self.named().items():
            empty: dict[str, Any] = {k: [] if isinstance(v, list) else v.clone() for k, v in m._defaults.items()}
            m._update_count += 1
            m.merge_member(empty | {k: [v] if k in m._blanks else v for k, v in states[name].items()})
