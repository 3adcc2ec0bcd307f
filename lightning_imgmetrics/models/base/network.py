"""The base of all networks: frozen, hashable descriptions, loaded once per process and device."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_imgmetrics._precision import default_float32
from lightning_imgmetrics.errors import ImgMetricsError, MissingWeights, NonFiniteFeatures, UnknownName
from lightning_imgmetrics.models.base.weights import ModelCard, find_weights, local_weights

T = TypeVar("T")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_CACHED_TEXTS = 16384  # texts cached per network: 64 MiB of embeddings of 1024 floats


class Network(ABC):
    """A network and the source of its weights: by default one file, which the card names or `weights` replaces.

    Loaded at the first use, outside every module tree.
    """

    card: ClassVar[ModelCard]
    weights: Any = None  # a path in place of the card's file
    dtype: str = "float32"  # a key of DTYPES

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """The identity of the loaded network; descriptions that differ in preprocessing alone share it."""

    @abstractmethod
    def load(self) -> nn.Module:
        """The network with its weights, on the CPU."""

    def signature_fields(self) -> dict[str, str]:
        """Weights and preprocessing, for the signature."""
        return {}

    def signature(self) -> dict[str, str]:
        """Everything that changes the outputs, the dtype only if it is not float32; empty without a network."""
        if not self.card.name:
            return {}
        dtype = {} if self.dtype == "float32" else {"dtype": self.dtype}
        return {"network": self.card.name, **self.signature_fields(), **dtype}

    def local_path(self) -> Path | None:
        """The weights on this machine, a file or a folder, neither read nor downloaded; None if they are absent."""
        return local_weights(self.card, self.weights) if self.card.file or self.weights else None

    def prefetch(self) -> Path:
        """The weights on this machine, downloaded if necessary and verified; MissingWeights or WeightsMismatch."""
        if not (self.card.file or self.weights):
            raise MissingWeights(f"{self.card.name} is the caller's own network: there is nothing to fetch")
        return find_weights(self.card, self.weights)

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        return self  # cloning a metric does not clone its network

    def network(self, device: torch.device) -> Any:
        """The loaded network on `device`, shared by all that use it: frozen, in eval mode."""
        place = self.key, device
        with LOCK:
            if place not in NETWORKS:
                # Building a network draws initial weights which must not advance the user's random generator.
                with default_float32(), torch.inference_mode(False), torch.random.fork_rng(devices=[]):
                    offloaded = OFFLOADED.pop(place, None)
                    network = self.load() if offloaded is None else offloaded
                    NETWORKS[place] = network.to(device).eval().requires_grad_(False)
            return NETWORKS[place]

    def offload(self, device: torch.device) -> None:
        """Free the memory of `device`: the network moves to host memory; on the CPU it is dropped and loaded again."""
        with LOCK:
            network = NETWORKS.pop((self.key, device), None)
            if network is None:
                return
            TEXT_CACHE.pop(network, None)
            if device.type != "cpu":
                OFFLOADED[self.key, device] = network.to("cpu")
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def autocast(self, device: torch.device) -> torch.autocast:
        """Autocast to `dtype`, if it is not float32; to be entered inside `full_precision`."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16")

    def check_finite(self, outputs: Tensor | list[Tensor], what: str) -> None:
        """NonFiniteFeatures unless all numbers are finite; reads one value back from the device."""
        if not all(part.isfinite().all() for part in (outputs if isinstance(outputs, list) else [outputs])):
            raise NonFiniteFeatures(f"{self.card.name} returned NaN or infinity {what}")


def check_dtype(dtype: str) -> None:
    """UnknownName unless it is a key of DTYPES."""
    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES)


NETWORKS: dict[tuple[Hashable, torch.device], Any] = {}
OFFLOADED: dict[tuple[Hashable, torch.device], nn.Module] = {}
TEXT_CACHE: WeakKeyDictionary[Any, OrderedDict[Hashable, Any]] = WeakKeyDictionary()  # of each network
LOCK = threading.RLock()


def cached_by_text(
    network: Any, kind: Hashable, texts: Sequence[str], compute: Callable[[list[str]], Sequence[T]]
) -> list[T]:
    """`compute(texts)`, one entry per text, from a cache of the network's most recent texts (LRU)."""
    with LOCK:
        cache = TEXT_CACHE.setdefault(network, OrderedDict())
    if new := [text for text in dict.fromkeys(texts) if (kind, text) not in cache]:
        cache.update({(kind, text): entry for text, entry in zip(new, compute(new), strict=True)})
    entries = [cache[kind, text] for text in texts]
    for text in texts:
        cache.move_to_end((kind, text))
    while len(cache) > _CACHED_TEXTS:
        cache.popitem(last=False)
    return entries


def run_in_batches(
    run: Callable[[slice], T],
    n: int,
    size: int,
    *,
    end: Callable[[int, int], int] = lambda start, stop: stop,
    on_halved: Callable[[int], None] = lambda size: None,
) -> list[T]:
    """`run` over slices of at most `size` of n items, in order; when memory runs out, `size` is halved.

    `end(start, stop)`: where a slice that might reach `stop` must end; `on_halved`: called with the new size.
    """
    results: list[T] = []
    start = 0
    while start < n:
        stop = end(start, min(start + size, n))
        try:
            results.append(run(slice(start, stop)))
        except torch.OutOfMemoryError as error:
            if stop - start == 1:
                raise ImgMetricsError("out of memory: one image is too large for the device") from error
            size = (stop - start) // 2
            on_halved(size)
        else:
            start = stop
            continue
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # after `except`, as its traceback keeps the tensors alive
    return results
