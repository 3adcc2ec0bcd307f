"""The base of every distance between two sets of images, and of statistics of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics._compat.torchmetrics import keep_forward_value, this_rank_alone
from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import NotEnoughSamples
from lightning_imgmetrics.metrics.base.inputs import Ids
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.base.summary import Summary
from lightning_imgmetrics.models.base.extractor import Extractor, Features


class DistributionMetric(ImageMetric):
    """A statistic of the features of generated images, or a comparison with those of a reference.

    With two sides, `update(images, real=True)` adds to the reference and `real=False` to the generated images.

    Args:
        extractor: the network.
        fake, real: what is kept of either side, by kind; the stream is called `<side>_<kind>`.
        reset_real_features: whether `reset` clears the reference too.
        kwargs: those of `ImageMetric`.
    """

    inputs: ClassVar[tuple[str, ...]] = ("real",)
    protocol: str | None = None  # whose treatment of images the network follows, where that is not its own
    deviation: ClassVar[str | None] = None  # the detail that `compute` returns beside the value, as torchmetrics does

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
                self.streams[f"{side}_{kind}"] = stream.owned_by(self, side)

    def update(self, images: Images, real: bool, ids: Ids | None = None) -> None:
        """Add images, (n, 3, h, w) uint8 or float in `value_range`, to the reference or to the generated set."""
        self.stage(self.extract(self.validate_images(images)), real=real, ids=ids)()

    def stage(
        self, features: Features, *, real: bool = False, ids: Ids | None = None, **inputs: Any
    ) -> Callable[[], None]:
        if real not in (True, False):
            raise ValueError(f"`real` must be True for the reference or False for generated images, got {real!r}")
        side = "real" if real else "fake"
        streams = [stream for stream in self.streams.values() if stream.side == side and stream.owner is self]
        rows = [self.rows(stream, features, **inputs) for stream in streams]

        def commit() -> None:
            for stream, x in zip(streams, rows, strict=True):
                stream.add(x, ids)

        return commit

    def rows(self, stream: Stream, features: Features, **inputs: Any) -> Tensor:
        """What a batch adds to a stream, (n, width)."""
        return stream.vectors(features)

    def state(self, name: str) -> Tensor:
        """The state of a stream, `<side>_<kind>`, with every sample counted once."""
        return self.streams[name].read()

    def output(self, summary: Summary) -> Any:
        """The value; with `deviation`, (value, deviation), the latter NaN where there is but one part."""
        if self.deviation is None:
            return summary.value
        return summary.value, summary.value.new_tensor(summary.details.get(self.deviation, torch.nan))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """`update`, then the value over what this rank has seen so far; NaN while a set has fewer than 2 samples."""
        self.update(*args, **kwargs)
        with this_rank_alone(self):
            try:
                value = self.compute()
            except NotEnoughSamples:
                value = self.output(Summary(torch.full((), torch.nan, dtype=torch.float64, device=self.home), 0))
        return keep_forward_value(self, value)

    def clear(self, *, keep_reference: bool = False) -> None:
        """Forget the generated samples, and the reference unless it is kept, whatever `reset_real_features` says."""
        before, self.reset_real_features = self.reset_real_features, not keep_reference
        self.reset()
        self.reset_real_features = before

    def reset(self) -> None:
        """Clear both sets, or the generated one alone with `reset_real_features=False`."""
        owned = {} if self.reset_real_features else self.streams.owned()
        contents = {name: stream.content for name, stream in owned.items() if stream.is_reference}
        super().reset()
        self.streams.restore(contents)

    def signature_parameters(self) -> dict[str, object]:
        return {} if self.protocol is None else {"protocol": self.protocol}
