"""What metrics on the features themselves share: banks of both sides, and who is near whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_imgmetrics.errors import NonFiniteFeatures, NotEnoughSamples, UnknownName
from lightning_imgmetrics.functional.manifold import nearest
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.distribution.base import DistributionMetric
from lightning_imgmetrics.metrics.distribution.inception_protocols import network_of
from lightning_imgmetrics.models.base.extractor import Extractor
from lightning_imgmetrics.states.bank import Bank

BANKS = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
_COMMON_K = 5
Network = str | nn.Module | Callable[[Tensor], Tensor] | Extractor


class BankMetric(DistributionMetric):
    """A comparison of two sets that needs their features, not only sums of them.

    They are kept in host memory as `bank` numbers ("float32", or "float16" in half the space): 8.2 KB for each sample
    of 2048 features, all of them or the `max_samples` with the smallest hashed ids, a uniform sample that does not
    depend on order or rank.
    """

    def __init__(
        self,
        network: Network,
        *,
        layer: str | None = None,
        max_samples: int | None = None,
        bank: str = "float32",
        transform: Callable[[Tensor], Tensor] | None = None,
        extra: dict[str, Stream] | None = None,
        **kwargs: Any,
    ):
        if bank not in BANKS:
            raise UnknownName("bank", bank, BANKS)
        if max_samples is not None and max_samples < 1:
            raise ValueError(f"`max_samples` must be None or at least 1, got {max_samples}")
        extractor, own = network_of(network)
        layer = layer or own
        d = extractor.dim(layer)
        self.store, self.max_samples, self.bank = Bank(d, max_samples, BANKS[bank]), max_samples, bank
        streams = {"bank": Stream(self.store, d, layer, transform), **(extra or {})}
        super().__init__(extractor, streams, streams, **kwargs)

    def features(self, side: str) -> Tensor:
        """Features (n, d) of "real" or "fake", in the order of their hashed ids, in host memory."""
        state = self.state(f"{side}_bank")
        whole = self.store.features(state)
        if not all(part.isfinite().all() for part in whole.split(4096)):
            raise NonFiniteFeatures(f"{self.name}: the network returned NaN or infinity for some images")
        return whole.to(self.home) if self.home.type == "cuda" else whole

    def both(self, need: int, why: str) -> tuple[Tensor, Tensor]:
        """Features of reference and generated images, at least `need` of each."""
        real, fake = self.features("real"), self.features("fake")
        if min(len(real), len(fake)) < need:
            raise NotEnoughSamples(self.name, min(len(real), len(fake)), need, why)
        return real, fake

    def radius(self, side: str, points: Tensor, k: int) -> Tensor:
        """Distance (n,) of each sample to its k-th nearest neighbor on its own side."""
        largest_k = max(k, min(_COMMON_K, len(points) - 1))  # metrics with different k, up to this, search once
        distances = self.cached(
            ("nearest", side, largest_k),
            [self.state(f"{side}_bank")],
            lambda: self.over_ranks(
                lambda share: nearest(points, points, largest_k, exclude_self=True, share=share)[0]
            ),
        )
        return distances[:, k - 1]

    @property
    def keeps_neighbors(self) -> bool:
        return "fake_bank" in self.streams

    def neighbors(self, k: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """The k reference images nearest to each generated one: ids (n,), reference ids (n, k), distances (n, k).

        Sorted by the first distance, so that what may be copied comes first. Ids are negative where none were given.
        """
        real, fake = self.both(k, f"{k} neighbors")
        distance, index = self.over_ranks(lambda share: nearest(fake, real, k, share=share))
        order = distance[:, 0].argsort(stable=True).cpu()
        ids = self.store.ids(self.state("fake_bank"))
        real_ids = self.store.ids(self.state("real_bank"))[index.cpu()]
        return ids[order], real_ids[order], distance.cpu()[order]

    @property
    def real_features(self) -> list[Tensor]:
        """torchmetrics' name for the features of the reference."""
        return [x for x in [self.features("real")] if len(x)]

    @property
    def fake_features(self) -> list[Tensor]:
        """torchmetrics' name for the features of the generated images."""
        return [x for x in [self.features("fake")] if len(x)]

    def signature_parameters(self) -> dict[str, object]:
        mine = {"max_samples": self.max_samples} if self.max_samples else {}
        return {**super().signature_parameters(), **mine, **({} if self.bank == "float32" else {"bank": self.bank})}
