"""What is common to all networks: frozen and hashable descriptions, loaded once per process and device."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_imgmetrics._precision import default_float32
from lightning_imgmetrics.errors import ImgMetricsError, MissingWeights, WeightsMismatch
from lightning_imgmetrics.models.base.weights import ModelCard, find_weights, local_weights

T = TypeVar("T")
_CACHED_TEXTS = 16384  # rows a network remembers: 64 MiB of embeddings of 1024 floats


class Network(ABC):
    """A network and where its weights come from. Loaded at the first use, outside every module tree."""

    card: ClassVar[ModelCard]

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """What identifies the loaded network; descriptions that differ in preprocessing alone share it."""

    @abstractmethod
    def load(self) -> nn.Module:
        """The network with its weights, on the CPU."""

    def rules(self) -> dict[str, str]:
        """Weights and preprocessing, for the signature."""
        return {}

    def where(self) -> Path | None:
        """The weights on this machine, a file or a folder, neither read nor fetched; None where they are absent."""
        return None

    def prefetch(self) -> Path:
        """The weights, found or downloaded, and verified; MissingWeights or WeightsMismatch."""
        raise MissingWeights(f"{self.card.name} is the caller's own network: there is nothing to fetch")

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        return self  # cloning a metric does not clone its network

    def network(self, device: torch.device) -> Any:
        """The loaded network on `device`, shared by all that use it: frozen, in eval mode."""
        with LOCK:
            if (self.key, device) not in NETWORKS:
                # Building a network draws initial weights that the checkpoint replaces: not from the user's stream.
                with default_float32(), torch.inference_mode(False), torch.random.fork_rng(devices=[]):
                    parked = PARKED.pop((self.key, device), None)
                    loaded = self.load() if parked is None else parked
                    NETWORKS[self.key, device] = loaded.to(device).eval().requires_grad_(False)
            return NETWORKS[self.key, device]

    def offload(self, device: torch.device) -> None:
        """Free the memory of `device`: the network waits in host memory, or where that is the device, on disk."""
        with LOCK:
            network = NETWORKS.pop((self.key, device), None)
            if network is None:
                return
            TEXTS.pop(network, None)
            if device.type != "cpu":
                PARKED[self.key, device] = network.to("cpu")
        if device.type == "cuda":
            torch.cuda.empty_cache()


NETWORKS: dict[tuple[Hashable, torch.device], Any] = {}
PARKED: dict[tuple[Hashable, torch.device], nn.Module] = {}  # offloaded ones
TEXTS: WeakKeyDictionary[Any, OrderedDict[Hashable, Any]] = WeakKeyDictionary()  # what networks made of texts
LOCK = threading.RLock()


class FileNetwork(Network):
    """A network whose weights are one file, which its card names; `weights` is a path in place of it."""

    weights: str | None

    def where(self) -> Path | None:
        return local_weights(self.card, self.weights)

    def prefetch(self) -> Path:
        return find_weights(self.card, self.weights)


def remembered(
    network: Any, kind: Hashable, texts: Sequence[str], compute: Callable[[list[str]], Sequence[T]]
) -> list[T]:
    """`compute(texts)`, one entry per text, asked only for texts that this network has not seen of late."""
    with LOCK:
        known = TEXTS.setdefault(network, OrderedDict())
    if new := [text for text in dict.fromkeys(texts) if (kind, text) not in known]:
        known.update({(kind, text): entry for text, entry in zip(new, compute(new), strict=True)})
    found = [known[kind, text] for text in texts]
    for text in texts:
        known.move_to_end((kind, text))
    while len(known) > _CACHED_TEXTS:
        known.popitem(last=False)
    return found


def in_parts(run: Callable[[slice], T], n: int, most: int) -> list[T]:
    """`run` over slices of at most `most` of n items, in order; where memory runs out, the slices are halved."""
    out: list[T] = []
    start = 0
    while start < n:
        stop = min(start + most, n)
        try:
            out.append(run(slice(start, stop)))
        except torch.OutOfMemoryError as error:
            if stop - start == 1:
                raise ImgMetricsError("the device's memory does not suffice for one image") from error
            most = (stop - start) // 2
        else:
            start = stop
            continue
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # outside of `except`, whose traceback holds what is to be freed
    return out


def filled(module: nn.Module, tensors: dict[str, Tensor], source: str) -> nn.Module:
    """`module`, every parameter and buffer of which `tensors` has set, in float32.

    WeightsMismatch lists the keys that are missing, left over or of another shape.
    """
    wanted = module.state_dict()
    shapes = [(key, tensors[key].shape, x.shape) for key, x in wanted.items() if key in tensors]
    require_fit(
        source,
        missing=wanted.keys() - tensors.keys(),
        unexpected=tensors.keys() - wanted.keys(),
        misshaped=[shape for shape in shapes if shape[1] != shape[2]],
    )
    floats = {key: x.float() if x.is_floating_point() else x for key, x in tensors.items()}
    module.load_state_dict(floats, strict=True, assign=True)
    return module


def require_fit(
    source: str,
    *,
    missing: Iterable[str],
    unexpected: Iterable[str],
    misshaped: Iterable[tuple[str, Sequence[int], Sequence[int]]],
) -> None:
    """WeightsMismatch, with the keys, unless all are empty; `misshaped` are (key, shape found, shape needed)."""
    shapes = [f"{key} is {tuple(found)} and must be {tuple(needed)}" for key, found, needed in misshaped]
    unfit = {"missing": sorted(missing), "unexpected": sorted(unexpected), "of another shape": sorted(shapes)}
    if any(unfit.values()):
        told = "; ".join(f"{kind}: {_some(keys)}" for kind, keys in unfit.items() if keys)
        raise WeightsMismatch(f"{source} does not fit its network: keys {told}")


def _some(keys: Sequence[str], most: int = 8) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
