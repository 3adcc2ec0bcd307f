"""The reference side of an evaluation: measured once, shared out over ranks, kept on disk by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_imgmetrics._compat.lightning import set_up_validation
from lightning_imgmetrics._distributed import rendezvous, sum_, world
from lightning_imgmetrics._files import cache_folder
from lightning_imgmetrics.data.images import ImageBatches, content_hash
from lightning_imgmetrics.errors import NotEnoughSamples

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from lightning_imgmetrics.suite import MetricSuite


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


def measure_reference(suite: MetricSuite, batches: ImageBatches, *, cache: bool) -> None:
    """Fill the reference side of `suite` on rank 0, from disk if the same images were measured in the same way before.

    The key is a hash of the pixels and of the signatures, so a changed image, network or protocol is measured anew.
    """
    rank, size = world()
    path = None
    distances = {name: m for name, m in suite.named().items() if "real" in m.inputs}
    identified = all(m.extractor is not None and m.extractor.identified for m in distances.values())
    if cache and identified and not isinstance(batches.source, Iterator):  # that could not be read twice
        content = content_hash(batches, suite.value_range)
        if size > 1:
            rendezvous("hashing the reference", timeout=86400)
            sum_(content)
        measures = sorted(str(m.signature()) for m in distances.values())
        names = ",".join(distances)
        key = hashlib.sha256(f"{content.tolist()}{names}{measures}".encode()).hexdigest()
        path = cache_folder("reference") / f"{key[:32]}.safetensors"
        found = torch.tensor(int(rank == 0 and _loaded(suite, path)))
        if size > 1:
            sum_(found)
        if found:
            rank_zero_info(f"reference of {int(content[1])} images read from {path}")
            return
    n = 0
    for ids, images in batches:
        suite.update(images, real=True, ids=ids)
        n += len(images)
    total = torch.tensor(n)
    if size > 1:
        rendezvous("measuring the reference", timeout=86400)
        sum_(total)
    if int(total) < 2:
        raise NotEnoughSamples("the reference", int(total), 2, "distances compare two sets")
    suite.pool()
    if rank == 0 and path is not None:
        try:
            suite.save(path, side="real")
        except OSError as error:  # a full disk must not end a training run
            rank_zero_info(f"the reference could not be cached: {error}")


def _loaded(suite: MetricSuite, path: Path) -> bool:
    """Whether the file was there and whole; a damaged one is measured and written anew."""
    try:
        if path.is_file():
            suite.load(path)
            return True
    except (OSError, ValueError) as error:
        rank_zero_info(f"the cached reference is measured anew: {error}")
    return False
