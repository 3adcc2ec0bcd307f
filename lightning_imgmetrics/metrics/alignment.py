"""How well an image matches a text, or another image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.metrics.base import ScoreMetric
from lightning_imgmetrics.metrics.streams import Ids
from lightning_imgmetrics.models.base import Features
from lightning_imgmetrics.models.clip import ClipExtractor

Texts = str | Sequence[str]


class CLIPScore(ScoreMetric):
    """Mean of 100 cos(source, target) in a CLIP space, floored at 0 after the mean; drop-in for torchmetrics.

    `model_name_or_path`: a hub id, a checkpoint folder (CLIP or SigLIP), "digits-clip", or a callable that returns
    (model, processor). Source and target are images or texts in any combination, one to one. Texts beyond the model's
    context are truncated before the end-of-text token; `details["truncated_fraction"]` says how many were.
    Range [-100, 100] per sample, higher is better. Source: Hessel et al. 2021 (who scale by 2.5, not 100).
    """

    name: ClassVar[str] = "clip_score"
    higher_is_better = True
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 100.0
    inputs = ("prompts",)
    layers = ("embed",)
    extractor: ClipExtractor
    texts: Tensor
    truncated: Tensor

    def __init__(
        self,
        model_name_or_path: str | Callable[[], tuple[Any, Any]] = "openai/clip-vit-large-patch14",
        *,
        revision: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.extractor = ClipExtractor(model_name_or_path, revision)
        for name in ("texts", "truncated"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, source: Images | Texts, target: Images | Texts, ids: Ids | None = None) -> None:
        """Add pairs: each side (n, 3, h, w) uint8 or float in `value_range`, a list of images, or n texts."""
        self._add_pairs(self._embed(source, "source"), self._embed(target, "target"), ids)

    def update_features(self, features: Features, *, prompts: Sequence[str], ids: Ids | None = None, **_: Any) -> None:
        self._add_pairs(features["embed"], self._embed(prompts, "prompts"), ids)

    def _embed(self, x: Images | Texts, name: str) -> Tensor:
        texts = _as_texts(x)
        if texts is None:
            return self.extract(self.accept(x, name))["embed"]  # type: ignore[arg-type]
        embeddings, truncated = self.extractor.embed_text(texts, self.device)
        self.texts += len(texts)
        self.truncated += truncated
        return embeddings

    def _add_pairs(self, source: Tensor, target: Tensor, ids: Ids | None) -> None:
        if len(source) != len(target):
            raise ShapeError(
                "Expected the number of source and target examples to be the same but got"
                f" {len(source)} and {len(target)}"
            )
        target = target.to(source.device)  # texts stay where the metric is, images may have moved it
        self.add_scores(100 * torch.nn.functional.cosine_similarity(source, target), ids)

    def value_of_mean(self, mean: Tensor) -> Tensor:
        return mean.clamp(min=0)

    def score_details(self, state: Tensor) -> dict[str, float]:
        truncated = {"truncated_fraction": float(self.truncated / self.texts)} if self.texts else {}
        return {**super().score_details(state), **truncated}


def clip_score(
    source: Images | Texts,
    target: Images | Texts,
    model_name_or_path: str | Callable[[], tuple[Any, Any]] = "openai/clip-vit-large-patch14",
) -> Tensor:
    """CLIPScore of one batch of pairs, as torchmetrics' functional: scalar in [0, 100]."""
    metric = CLIPScore(model_name_or_path, sync_on_compute=False)
    metric.update(source, target)
    return metric.compute()


def _as_texts(x: Any) -> list[str] | None:
    """The texts, or None for images; ShapeError for a mixture."""
    items = [x] if isinstance(x, str) else x
    if isinstance(items, Tensor) or not isinstance(items, Sequence) or not any(isinstance(i, str) for i in items):
        return None
    if odd := {type(i).__name__ for i in items if not isinstance(i, str)}:
        raise ShapeError(f"a list must hold texts alone or images alone, got a mixture of texts and {', '.join(odd)}")
    return list(items)
