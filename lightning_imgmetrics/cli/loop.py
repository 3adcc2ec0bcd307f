"""The loop over the images: batches in, states updated, position kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_imgmetrics._images import as_images, quantize
from lightning_imgmetrics.cli.inputs import Side
from lightning_imgmetrics.cli.ranks import default_workers
from lightning_imgmetrics.cli.request import Request
from lightning_imgmetrics.cli.resume import Position, RunFolder
from lightning_imgmetrics.data.images import Failure, ImageBatches, content_hash, refuse_failures
from lightning_imgmetrics.models.base.extractor import PixelExtractor, measured_deviation
from lightning_imgmetrics.models.base.network import run_in_batches
from lightning_imgmetrics.suite import MetricSuite

_LARGEST = {"cpu": 32}  # images per batch where the batch size is ours to choose; no larger one is faster on a CPU
_LARGEST_ELSEWHERE = 256


class ProgressReporter(Protocol):
    """Where notes and progress go."""

    def note(self, text: str) -> None:
        """A message beside the results."""

    def bar(self, title: str, total: int, done: int) -> AbstractContextManager[Callable[[int], None]]:
        """A progress bar over `total` images, `done` of them already; yields what advances it by a number."""


@dataclass
class Loop:
    """Measures the sides of one request on one rank: share `rank` of `size`."""

    suite: MetricSuite
    request: Request
    device: torch.device
    rank: int
    size: int
    position: Position
    folder: RunFolder | None
    reporter: ProgressReporter

    def __post_init__(self) -> None:
        self.batch_size = self.request.batch_size or _LARGEST.get(self.device.type, _LARGEST_ELSEWHERE)
        self.position.chunk = self.position.chunk or self.batch_size
        self._deviation_is_due = not self.request.spec.plain_precision

    def measure(self, side: Side, *, after: str) -> None:
        """Update the suite with this rank's share of `side`, from where the run stopped; `after` is the next side."""
        earlier = [failure for failure in self.position.failed if failure["side"] == side.name]
        others = [failure for failure in self.position.failed if failure["side"] != side.name]
        batches = self._batches(side)
        share = len(range(self.rank, len(side.source), self.size))
        with self.reporter.bar(side.name, share, min(share, self.position.batch * self.batch_size)) as advance:
            for ids, images in self._read(batches, side, others + earlier):
                self._update(side, list(ids), images)
                self.position.batch = (ids[0] - self.rank) // self.size // self.batch_size + 1
                if self.folder is not None:
                    self.folder.save(self.suite, self.position)
                advance(len(ids))
        self.position.side, self.position.batch = after, 0
        if self.folder is not None:
            self.folder.save(self.suite, self.position, due=True)

    def _batches(self, side: Side) -> ImageBatches:
        workers = self.request.workers
        return ImageBatches(
            side.source,
            self.batch_size,
            rank=self.rank,
            world_size=self.size,
            num_workers=default_workers() if workers is None else workers,
            pin_memory=self.device.type == "cuda",
            start=self.position.batch,
            max_failed=len(side.source),  # `refuse_failed` counts those of all parts of a run
            alpha=self.request.alpha,
        )

    def _read(self, batches: ImageBatches, side: Side, earlier: list[dict[str, Any]]) -> Iterator[tuple[Any, Any]]:
        """The batches; images that failed are noted in the position, with those of before the run was interrupted."""

        def note() -> None:
            now = [{"side": side.name, **failure._asdict()} for failure in batches.failures]
            self.position.failed = earlier + now
            refuse_failed(self.position.failed, {side.name: len(side.source)}, self.request.max_failed)

        for batch in batches:
            note()
            yield batch
        note()

    def _update(self, side: Side, ids: list[int], images: Any) -> None:
        def end(start: int, stop: int) -> int:
            """Pairs of one pass have one size, as networks for pairs do not resize."""
            shapes = [pair[0].shape for pair in images[start:stop]] if "target" in side.extras else []
            return next((start + i for i, shape in enumerate(shapes) if shape != shapes[0]), stop)

        def halved(most: int) -> None:
            self.position.chunk = most
            self.reporter.note(f"out of memory: continuing with {most} images per pass")

        chunk = self.position.chunk
        run_in_batches(
            lambda part: self._pass(side, ids[part], images[part]), len(ids), chunk, end=end, on_halved=halved
        )

    def _pass(self, side: Side, ids: list[int], images: Any) -> None:
        first, others = _columns(images, side.extras)
        if self._deviation_is_due:
            self._report_deviation(first)
        labels = None if side.labels is None else [side.labels[i] for i in ids]
        if side.real:
            self.suite.update_checked(decoded(first), real=True, labels=labels, ids=ids)
            if self.request.hashed:
                total, count = content_hash([(ids, first)], self.suite.value_range).tolist()
                before = torch.tensor([self.position.content[0], total]).sum()  # wraps around, as the hash does
                self.position.content = (int(before), self.position.content[1] + count)
            return
        prompts = None if side.prompts is None else [side.prompts[i] for i in ids]
        self.suite.update_checked(decoded(first), prompts=prompts, labels=labels, ids=ids, **others)

    def _report_deviation(self, images: Any) -> None:
        """What the declared precision costs, on the first images."""
        self._deviation_is_due = False
        batches = decoded(images)
        for extractor, group in self.suite.by_network(real=False).items():
            if isinstance(extractor, PixelExtractor):  # whose features are the images
                continue
            layers = list(dict.fromkeys(layer for _, m in group for layer in m.layers))
            worst = measured_deviation(extractor, batches, layers, self.device)
            how = extractor.dtype + (", compiled" if extractor.compiled and extractor.compilable else "")
            self.reporter.note(
                f"{extractor.card.name} ({how}): features of the first {sum(map(len, batches))} images deviate from"
                f" plain float32 by at most {worst:.2g} of their length"
            )


def _columns(images: Any, extras: Mapping[str, int]) -> tuple[Any, dict[str, Any]]:
    """The images, and what came with them as a suite takes it."""
    if not extras:
        return images, {}
    first, *columns = (list(column) for column in zip(*images, strict=True))
    others: dict[str, Any] = {}
    for kind, k in extras.items():
        some, columns = columns[:k], columns[k:]
        if kind == "target":
            others[kind] = decoded(some[0])
        else:
            singles = [[image for batch in decoded(column) for image in batch] for column in some]
            others[kind] = list(zip(*singles, strict=True))
    return first, others


def decoded(images: Any) -> list[Tensor]:
    """Checked batches of images that were read from files."""
    return [quantize(batch) for batch in as_images(images, decoded=True)[0]]


def refuse_failed(failed: list[dict[str, Any]], totals: dict[str, int], max_failed: float) -> None:
    """UnreadableImage where more images of a side failed than are allowed."""
    for side, total in totals.items():
        failures = [Failure(f["id"], f["name"], f["reason"]) for f in failed if f["side"] == side]
        refuse_failures(failures, total, max_failed, images=f"{side} images", option="--max-failed")
