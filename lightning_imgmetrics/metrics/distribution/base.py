"""The base of every distance between two sets of images, and of statistics of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import NotEnoughSamples
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.base.streams import Ids, Stream
from lightning_imgmetrics.models.base.extractor import Extractor, Features


class DistributionMetric(ImageMetric):
    """A statistic of the features of generated images, or a comparison with those of a reference.

    `fake` and `real` say what is kept of either side, by kind; the state is called `<side>_<kind>`. With two sides,
    `update(images, real=True)` adds to the reference and `real=False` to the generated images.
    """

    inputs: ClassVar[tuple[str, ...]] = ("real",)

    def __init__(
        self,
        extractor: Extractor,
        fake: Mapping[str, Stream],
        real: Mapping[str, Stream],
        *,
        reset_real_features: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not isinstance(reset_real_features, bool):
            raise ValueError("Argument `reset_real_features` expected to be a bool")
        self.extractor: Extractor | None = extractor
        self.layers = tuple(dict.fromkeys(stream.layer for stream in fake.values()))
        self.reset_real_features = reset_real_features
        for side, streams in (("real", real), ("fake", fake)):
            for kind, stream in streams.items():
                self.add_stream(f"{side}_{kind}", stream)

    def update(self, images: Images, real: bool, ids: Ids | None = None) -> None:
        """Add images, (n, 3, h, w) uint8 or float in `value_range`, to the reference or to the generated set."""
        self.update_features(self.extract(self.accept(images)), real=real, ids=ids)

    def update_features(self, features: Features, *, real: bool = False, ids: Ids | None = None, **_: Any) -> None:
        if real not in (True, False):
            raise ValueError(f"`real` must be True for the reference or False for generated images, got {real!r}")
        for name in self.streams_of(real):
            self.absorb(name, self._streams[name].vectors(features), ids)

    def streams_of(self, real: bool) -> list[str]:
        """The names of the streams of one side."""
        return [name for name in self._streams if name.startswith("real_") == bool(real)]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """`update`, then the value over what this rank has seen so far; NaN while a set has fewer than 2 samples."""
        self.update(*args, **kwargs)
        to_sync, self._to_sync = self._to_sync, self.dist_sync_on_step
        try:
            value = self.compute()
        except NotEnoughSamples:
            value = torch.full((), torch.nan, dtype=torch.float64, device=self._home)
        finally:
            self._to_sync = to_sync
            self._computed: Any = None
        self._forward_cache: Any = value
        return value

    def clear(self, *, keep_reference: bool = False) -> None:
        """Forget the generated samples, and the reference unless it is kept, whatever `reset_real_features` says."""
        before, self.reset_real_features = self.reset_real_features, not keep_reference
        self.reset()
        self.reset_real_features = before

    def reset(self) -> None:
        """Clear both sets, or the generated one alone with `reset_real_features=False`."""
        kept = {} if self.reset_real_features else {n: getattr(self, n) for n in self._defaults if n.startswith("real")}
        for name, value in kept.items():
            setattr(self, name, [] if isinstance(value, list) else value)  # the base class clears lists in place
        super().reset()
        for name, value in kept.items():
            setattr(self, name, value)


class DeviationMetric(DistributionMetric):
    """A distribution metric whose `compute` returns (mean, standard deviation) over parts of the samples."""

    deviation: ClassVar[str]  # its name among the details, where it is left out if there is but one part

    def compute(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(mean, standard deviation): scalars, float64; the latter is NaN where there is but one part."""
        mean = super().compute()
        assert self._summary is not None
        return mean, mean.new_tensor(self._summary.details.get(self.deviation, torch.nan))

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        value = super().forward(*args, **kwargs)
        self._forward_cache = (value, value.clone()) if isinstance(value, Tensor) else value
        return self._forward_cache

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """As of any metric; of a pair that `compute` returned, the mean is drawn."""
        val = self.compute() if val is None else val
        means = [x[0] if isinstance(x, tuple) else x for x in (val if isinstance(val, list) else [val])]
        return super().plot(means if isinstance(val, list) else means[0], ax)
