"""Drawing samples: which a rank draws, their prompts and noise, and checks of what a sampler returns."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_imgmetrics._images import as_image_sets, as_images, quantize
from lightning_imgmetrics.errors import SamplerError, ShapeError, ValueRangeError
from lightning_imgmetrics.states.hash import uniform_hash

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

_ARGUMENTS = ("module", "ids", "prompts", "generators")


class Samples(NamedTuple):
    """Checked samples: batches of uint8 images, what belongs to each of them, and how many pixels were clamped."""

    images: list[Tensor]
    prompts: list[str] | None
    target: list[Tensor] | None
    source: list[tuple[Tensor, ...]] | None
    clamped: int

    def followed_by(self, other: Samples) -> Samples:
        """The samples of both."""
        prompts = None if self.prompts is None or other.prompts is None else self.prompts + other.prompts
        target = None if self.target is None or other.target is None else self.target + other.target
        source = None if self.source is None or other.source is None else self.source + other.source
        return Samples(self.images + other.images, prompts, target, source, self.clamped + other.clamped)


@dataclass(frozen=True)
class SampleSource:
    """The samples 0..num_samples-1 of a sampler (None: the module's method `sample`).

    Sample i has prompt i mod their number, and a generator seeded by (seed, i); it is drawn by rank i mod world size.
    Raises ValueError for a size below 1, and SamplerError for a sampler that requires an argument which is not offered.
    """

    sampler: Callable[..., Any] | None
    prompts: Sequence[str] | None
    num_samples: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        for name, number in (("num_samples", self.num_samples), ("batch_size", self.batch_size)):
            if number < 1:
                raise ValueError(f"`{name}` must be at least 1, got {number}")
        if self.sampler is not None:
            accepted_arguments(self.sampler)

    def passes(self, num_samples: int, rank: int, size: int) -> list[range]:
        """The ids of each forward pass of a rank; ranks make equally many passes, so some may have no ids.

        Sharded models need a pass of each rank for a pass of any.
        """
        ids = range(rank, num_samples, size)
        count = ceil(ceil(num_samples / size) / self.batch_size)
        return [ids[i * self.batch_size : (i + 1) * self.batch_size] for i in range(count)]

    def draw(self, module: LightningModule, ids: Sequence[int], value_range: tuple[float, float]) -> Samples:
        """The samples `ids`; a batch that is out of memory is halved. SamplerError: not one finite image per id."""
        prompts = None if self.prompts is None else [self.prompts[i % len(self.prompts)] for i in ids]
        try:
            output = self._call_sampler(module, ids, prompts)
        except torch.OutOfMemoryError:
            if len(ids) == 1:
                raise
            torch.cuda.empty_cache()
            first, second = ids[: len(ids) // 2], ids[len(ids) // 2 :]
            return self.draw(module, first, value_range).followed_by(self.draw(module, second, value_range))
        return _checked(output, len(ids), value_range)._replace(prompts=prompts)

    def _call_sampler(self, module: LightningModule, ids: Sequence[int], prompts: list[str] | None) -> Any:
        sampler: Any = getattr(module, "sample", None) if self.sampler is None else self.sampler
        if not callable(sampler):
            raise SamplerError(f"{type(module).__name__} has no method `sample`: define it, or pass `sampler`")
        generators = generators_of(self.seed, ids)
        # For samplers that draw from the global streams: other samples on every rank, the same at every evaluation.
        key = generators[0].initial_seed()
        torch.manual_seed(key)
        random.seed(key)
        np.random.seed(key % 2**32)
        offered: dict[str, Any] = {"ids": list(ids), "prompts": prompts, "generators": generators}
        if self.sampler is not None:  # a method has its module
            offered["module"] = module
        return sampler(**{name: offered[name] for name in accepted_arguments(sampler) if name in offered})


def noise(generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Standard normal noise that depends on a sample's generator alone; it is drawn on the CPU and then moved.

    Args:
        generators: one CPU generator per sample, as samplers get them.
        shape: the shape of one sample.
        device: where the noise goes.

    Returns:
        float32 tensor (n, *shape) for n generators.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import noise
        >>> first, again = (noise([torch.Generator().manual_seed(7)], (3, 8, 8)) for _ in range(2))
        >>> first.shape, torch.equal(first, again)
        (torch.Size([1, 3, 8, 8]), True)
    """
    return torch.stack([torch.randn(*shape, generator=g) for g in generators]).to(device)


def generators_of(seed: int, ids: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per sample id, seeded by (seed, id)."""
    keys = (uniform_hash(torch.tensor(ids), seed) * 2**53).long().tolist()
    return [torch.Generator().manual_seed(key) for key in keys]


def accepted_arguments(sampler: Callable[..., Any]) -> tuple[str, ...]:
    """Which of `ImageSampler`'s arguments a callable takes; SamplerError if it demands others."""
    parameters = inspect.signature(sampler).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return _ARGUMENTS
    for p in parameters:
        if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and p.name not in _ARGUMENTS:
            raise SamplerError(f"the sampler may take {', '.join(_ARGUMENTS)}, but it demands `{p.name}`")
    return tuple(p.name for p in parameters if p.name in _ARGUMENTS)


def _checked(output: Any, n: int, value_range: tuple[float, float]) -> Samples:
    """What a sampler returned for `n` ids: images, or an object that has `images` and `target` or `source`."""
    parts = {"images": getattr(output, "images", output)}
    parts |= {"target": output.target} if hasattr(output, "target") else {}
    batches, clamped = {}, 0
    try:
        for name, images in parts.items():
            batches[name], overshoot = _uint8(images, name, n, value_range)
            clamped += overshoot
        edited = hasattr(output, "source")
        source = as_image_sets(output.source, n, name="source", value_range=value_range) if edited else None
    except (ShapeError, ValueRangeError) as error:
        raise SamplerError(f"the sampler returned unusable images: {error}") from error
    return Samples(batches["images"], None, batches.get("target"), source, clamped)


def _uint8(images: Any, name: str, n: int, value_range: tuple[float, float]) -> tuple[list[Tensor], int]:
    if images is None:
        raise SamplerError(f"the sampler returned no `{name}` for {n} ids, got None")
    batches, clamped = as_images(images, name=f"{name} of the sampler", value_range=value_range)
    count = sum(map(len, batches))
    if count != n:
        raise SamplerError(f"the sampler must return one of `{name}` per id: asked for {n}, got {count}")
    return [quantize(batch) for batch in batches], clamped
