"""How beautiful people would find an image, whatever it shows."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from lightning_imgmetrics.metrics.base.score_metric import ScoreMetric
from lightning_imgmetrics.models.base.extractor import Features
from lightning_imgmetrics.models.base.network import Network
from lightning_imgmetrics.models.encoders.clip import ClipExtractor
from lightning_imgmetrics.models.scorers.aesthetic import HEADS, AestheticHead


class AestheticScore(ScoreMetric):
    """Mean rating by a LAION aesthetic predictor: a small head on the image embedding of CLIP or SigLIP.

    Args:
        version: "v1", "v1-b32", "v2" (trained on SAC, Logos and AVA; the usual one), "v2-ava-logos", "v2-relu", or
            "v2.5" (SigLIP); ratings of different versions do not compare.
        network: the checkpoint of the image network; default the one that the head was trained on.
        head: a file in place of the published one.
        revision: of the checkpoint on the hub.
        dtype: "float32" or "bfloat16".
        kwargs: those of `ScoreMetric`.

    Returns:
        A scalar, nominally 1 to 10, unclamped; higher is better.

    Raises:
        MissingWeights: at the first image, where head or network are not on this machine and cannot be downloaded.

    References:
        Schuhmann 2022 (LAION-Aesthetics); v2.5: discus0434 2024, AGPL-3.0.

    Example:
        >>> from lightning_imgmetrics import AestheticScore
        >>> metric = AestheticScore("v2")  # weights are loaded at the first image
        >>> metric.update(images)  # doctest: +SKIP
    """

    name: ClassVar[str] = "aesthetic"
    higher_is_better = True
    layers = ("embed",)

    def __init__(
        self,
        version: str = "v2",
        *,
        network: str | None = None,
        head: str | None = None,
        revision: str | None = None,
        dtype: str = "float32",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.head = AestheticHead(version, head)
        self.extractor = ClipExtractor(network or HEADS[version][1], revision, dtype=dtype)

    @property
    def networks(self) -> tuple[Network, ...]:
        return *super().networks, self.head

    def scores_of(self, features: Features, **_: Any) -> Tensor:
        return self.head.rate(features["embed"])

    def signature_parameters(self) -> dict[str, object]:
        return {"variant": self.head.version, **self.head.signature_fields()}
