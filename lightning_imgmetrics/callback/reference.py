"""The reference side of an evaluation: measured once, shared out over ranks, kept on disk by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_imgmetrics._compat.lightning import set_up_validation
from lightning_imgmetrics._distributed import DAY, rendezvous, sum_, world
from lightning_imgmetrics._files import cache_folder
from lightning_imgmetrics.data.images import ImageBatches, Source, content_hash
from lightning_imgmetrics.errors import NotEnoughSamples
from lightning_imgmetrics.metrics.distribution.reference_statistics import ReferenceStatistics

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

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
        """Note that a trainer begins, which may have another validation loader."""
        self.measured = self.measured and self.source is not None

    def measure(self, suite: MetricSuite, trainer: Trainer) -> None:
        """Fill the reference side of `suite`, unless that has been done. Collective."""
        if self.measured:
            return
        suite.reset_all()
        if isinstance(self.source, ReferenceStatistics):
            suite.update_reference(self.source)
        elif any("real" in m.inputs for m in suite.named().values()):
            source = validation_loader(trainer) if self.source is None else self.source
            batches = ImageBatches(source, self.batch_size, self.image_key, *world())
            self._measure_images(suite, batches)
        self.measured = True

    def _measure_images(self, suite: MetricSuite, batches: ImageBatches) -> None:
        cached = CachedReference.of(suite, batches) if self.cache and _can_be_cached(suite, batches) else None
        if cached is not None and cached.load(suite):
            return
        n = 0
        for ids, images in batches:
            suite.update(images, real=True, ids=ids)
            n += len(images)
        total = torch.tensor(n)
        if world()[1] > 1:
            rendezvous("measuring the reference", timeout=DAY)
            sum_(total)
        if int(total) < 2:
            raise NotEnoughSamples("the reference", int(total), 2, "distances compare two sets")
        suite.pool()
        if cached is not None:
            cached.save(suite)


@dataclass(frozen=True)
class CachedReference:
    """A file of `ReferenceStatistics`, named for the pixels (`content`) and for how they are measured."""

    path: Path
    content: str
    n: int

    @classmethod
    def of(cls, suite: MetricSuite, batches: ImageBatches) -> CachedReference:
        """The file for these images and metrics, whether or not it is there. Collective."""
        content = content_hash(batches, suite.value_range)
        if world()[1] > 1:
            rendezvous("hashing the reference", timeout=DAY)
            sum_(content)
        digest, n = content.tolist()
        text = f"{digest % (1 << 64):016x}-{n}"
        signatures = sorted({str(m.signature()) for m in suite.named().values() if "real" in m.inputs})
        key = hashlib.sha256(f"{text}{signatures}".encode()).hexdigest()
        return cls(cache_folder("reference") / f"{key[:32]}.safetensors", text, n)

    def load(self, suite: MetricSuite) -> bool:
        """Whether rank 0 found the file and took it; one that does not fit is measured again. Collective."""
        rank, size = world()
        success = torch.tensor(int(rank == 0 and self._read(suite)))
        if size > 1:
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
        """Write the reference side of `suite` on rank 0, which has been given that of all ranks."""
        if world()[0] > 0:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            suite.reference(content=self.content).save(self.path)
        except OSError as error:  # a full disk must not end a training run
            rank_zero_info(f"the reference could not be cached: {error}")


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


def _can_be_cached(suite: MetricSuite, batches: ImageBatches) -> bool:
    """Whether the images can be read twice, and the networks are identified by their signatures."""
    extractors = [m.extractor for m in suite.named().values() if "real" in m.inputs]
    return not isinstance(batches.source, Iterator) and all(x is not None and x.identified for x in extractors)
