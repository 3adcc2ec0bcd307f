"""The reference side of an evaluation: measured once, divided among ranks, cached on disk by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_imgmetrics._compat.lightning import set_up_validation
from lightning_imgmetrics._distributed import DAY, rendezvous, sum_
from lightning_imgmetrics._files import cache_folder
from lightning_imgmetrics.data.images import ImageBatches, Source, content_hash
from lightning_imgmetrics.errors import NotEnoughSamples
from lightning_imgmetrics.metrics.distribution.reference_statistics import ReferenceStatistics

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from lightning_imgmetrics.metrics.base.metric import ImageMetric
    from lightning_imgmetrics.suite import MetricSuite


class Reference:
    """Real images (None: the trainer's validation loader) or their statistics, for the metrics that compare with them.

    With `cache`, images are hashed first: the same images measured in the same way before are read from disk.
    """

    def __init__(
        self,
        source: Source | ReferenceStatistics | None,
        *,
        batch_size: int,
        image_key: int | str | None,
        cache: bool,
    ):
        self.source, self.batch_size, self.image_key, self.cache = source, batch_size, image_key, cache
        self.measured = False

    def start_run(self) -> None:
        """To be called when a trainer begins, which may have another validation loader."""
        self.measured = self.measured and self.source is not None

    def measure(self, suite: MetricSuite, trainer: Trainer, rank: int, size: int) -> None:
        """Fill the reference side of `suite`. Collective."""
        suite.reset_all()
        metrics = [m for m in suite.named().values() if "real" in m.inputs]
        if isinstance(self.source, ReferenceStatistics):
            suite.update_reference(self.source)
        elif metrics:
            source = validation_loader(trainer) if self.source is None else self.source
            batches = ImageBatches(source, self.batch_size, self.image_key, rank, size)
            file = CachedReference.of(metrics, batches, suite.value_range) if self.cache else None
            if file is None or not file.load(suite):
                _measure_images(suite, batches)
                if file is not None and rank == 0:
                    file.save(suite)
        self.measured = True


@dataclass(frozen=True)
class CachedReference:
    """A file of `ReferenceStatistics`, named for the pixels (`content`) and for how `n` images are measured."""

    path: Path
    content: str
    n: int
    rank: int
    size: int

    @classmethod
    def of(
        cls, metrics: Sequence[ImageMetric], batches: ImageBatches, value_range: tuple[float, float]
    ) -> CachedReference | None:
        """The file for these metrics and images, whether or not it is there. Collective.

        None for images that can be read once only, and for networks that signatures do not identify.
        """
        cacheable = all(m.extractor is not None and m.extractor.cacheable for m in metrics)
        if not cacheable or isinstance(batches.source, Iterator):
            return None
        sums = content_hash(batches, value_range)
        if batches.world_size > 1:
            rendezvous("hashing the reference", timeout=DAY)
            sum_(sums)
        digest, n = sums.tolist()
        content = f"{digest % (1 << 64):016x}-{n}"
        key = hashlib.sha256(f"{content}{sorted({str(m.signature()) for m in metrics})}".encode()).hexdigest()
        return cls(cache_folder("reference") / f"{key[:32]}.safetensors", content, n, batches.rank, batches.world_size)

    def load(self, suite: MetricSuite) -> bool:
        """Load the file on rank 0; returns whether it was there and fits. Collective."""
        success = torch.tensor(int(self.rank == 0 and self._read(suite)))
        if self.size > 1:
            sum_(success)
        if success:
            rank_zero_info(f"reference of {self.n} images read from {self.path}")
        return bool(success)

    def _read(self, suite: MetricSuite) -> bool:
        if not self.path.is_file():
            return False
        try:
            statistics = ReferenceStatistics.load(self.path)
            if statistics.content != self.content:
                raise ValueError(f"it is of the images {statistics.content!r} and not of {self.content!r}")
            suite.update_reference(statistics)
        except (OSError, ValueError) as error:
            rank_zero_info(f"the cached reference {self.path} cannot be used and is measured again: {error}")
            return False
        return True

    def save(self, suite: MetricSuite) -> None:
        """Write the reference side of `suite`."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            suite.reference(content=self.content).save(self.path)
        except OSError as error:  # a full disk must not end a training run
            rank_zero_info(f"the reference could not be cached: {error}")


def _measure_images(suite: MetricSuite, batches: ImageBatches) -> None:
    """Feed the images of all ranks, and merge the statistics on rank 0. Collective."""
    n = 0
    for ids, images in batches:
        suite.update(images, real=True, ids=ids)
        n += len(images)
    total = torch.tensor(n)
    if batches.world_size > 1:
        rendezvous("measuring the reference", timeout=DAY)
        sum_(total)
    if int(total) < 2:
        raise NotEnoughSamples("the reference", int(total), 2, "distances compare two sets")
    suite.pool()


def validation_loader(trainer: Trainer) -> Any:
    """The trainer's (first) validation loader, the default reference; ValueError where it has none."""
    if trainer.val_dataloaders is None and trainer.state.fn == "fit" and trainer.enable_validation:
        set_up_validation(trainer)
    loaders = trainer.val_dataloaders
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    source = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
    if source is None:
        raise ValueError("`reference` is the trainer's validation loader by default, and it has none: pass one")
    return source
