"""Image against image: perceptual distance of pairs, and diversity among the samples of one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError, UnknownName
from lightning_imgmetrics.functional.perceptual import lpips_distance, perceptual_embedding
from lightning_imgmetrics.metrics.base import ScoreMetric
from lightning_imgmetrics.metrics.stateful import ImageMetric, Summary, as_texts
from lightning_imgmetrics.metrics.streams import Ids, Stream
from lightning_imgmetrics.models.base import Extractor, Features
from lightning_imgmetrics.models.clip import DIGITS_CLIP, ClipExtractor
from lightning_imgmetrics.models.custom import CustomExtractor
from lightning_imgmetrics.models.lpips_nets import LpipsExtractor
from lightning_imgmetrics.states.hash import text_key
from lightning_imgmetrics.states.tables import Groups


def perceptual_extractor(net_type: str | nn.Module, weights: str | None, image_size: int | None) -> Extractor:
    """An extractor with the layer "maps": LPIPS' trunks with their heads, `digits-clip`, or a user's module."""
    if isinstance(net_type, nn.Module):
        return CustomExtractor(net_type, maps=True)
    return ClipExtractor() if net_type == DIGITS_CLIP else LpipsExtractor(net_type, weights, image_size)


class LearnedPerceptualImagePatchSimilarity(ScoreMetric):
    """LPIPS v0.1 of image pairs, as the `lpips` package computes it; drop-in for torchmetrics.

    `net_type`: "alex", "vgg" or "squeeze"; or a module that maps images in [-1, 1] to a sequence of (n, c, h, w)
    feature maps, or "digits-clip", all channels then weighing alike. Float images lie in [-1, 1], or in [0, 1] with
    `normalize=True`; uint8 is read as 0..255. `reduction`: "mean", "sum", or "none" for one value per pair.
    Each >= 0, lower is better. Source: Zhang et al. 2018.
    """

    name: ClassVar[str] = "lpips"
    higher_is_better = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    inputs = ("target",)
    layers = ("maps",)

    def __init__(
        self,
        net_type: str | nn.Module = "alex",
        reduction: str | None = "mean",
        normalize: bool = False,
        *,
        weights: str | None = None,
        keep_scores: bool = True,
        **kwargs: Any,
    ):
        if reduction not in ("mean", "sum", "none", None):
            raise UnknownName("reduction", reduction, ("mean", "sum", "none", None))
        if not isinstance(normalize, bool):
            raise ValueError(f"Argument `normalize` should be an bool but got {normalize}")
        kwargs.setdefault("value_range", (0.0, 1.0) if normalize else (-1.0, 1.0))
        self.reduction = reduction
        super().__init__(keep_scores=keep_scores or reduction in ("none", None), **kwargs)
        self.extractor = perceptual_extractor(net_type, weights, None)

    def update(self, img1: Images, img2: Images, ids: Ids | None = None) -> None:
        """Add pairs of images, each side (n, 3, h, w) or a list of (3, h, w); the two of a pair have one size."""
        pairs = self.accept(img1, "img1"), self.accept(img2, "img2")
        shapes = [[tuple(x.shape) for batch in side for x in batch] for side in pairs]
        if shapes[0] != shapes[1]:
            raise ShapeError(f"`img1` and `img2` must hold images of the same sizes, got {shapes[0]} and {shapes[1]}")
        if len(pairs[0]) > 1 or len(pairs[1]) > 1:  # images of several sizes go through pair by pair
            pairs = [x[None] for batch in pairs[0] for x in batch], [x[None] for batch in pairs[1] for x in batch]
        self.add_scores(torch.cat([_distances(self.extract([a, b])) for a, b in zip(*pairs, strict=True)]), ids)

    def scores_of(self, features: Features, **_: Any) -> Tensor:
        return _distances(features)

    def summarize(self) -> Summary:
        summary = super().summarize()
        if self.reduction == "sum":
            return Summary(summary.value * summary.n, summary.n, details=summary.details)
        if self.reduction in ("none", None):
            return replace(summary, value=self.read("score")[:, 1])
        return summary

    def parameters_of_value(self) -> dict[str, object]:
        return {"reduction": self.reduction}


def _distances(features: Features) -> Tensor:
    """Maps of images and then as many targets -> (n,)."""
    embedding = perceptual_embedding(features["maps"], features.get("heads"))
    return lpips_distance(*embedding.chunk(2))


class LPIPSDiversity(ImageMetric):
    """Mean pairwise LPIPS among the samples of one prompt, averaged over prompts.

    `net_type` as for LPIPS; images are resized to `image_size` so that all have comparable maps (perceptual path
    length uses 64, too). LPIPS is a squared distance between embeddings, so the mean over all pairs of a prompt is
    twice the unbiased variance: one pass per image, any order, any split over ranks. Of more than `max_prompts`
    prompts those with the smallest hash are kept, 8 bytes times the embedding length each (alex at 64: 250 KB).
    Scalar >= 0, higher is more diverse; needs a prompt with two samples. Source: Zhu et al. 2017 (BicycleGAN).
    """

    name: ClassVar[str] = "lpips_diversity"
    higher_is_better = True
    plot_lower_bound: float = 0.0
    inputs = ("prompts",)
    layers = ("maps",)

    def __init__(
        self,
        net_type: str | nn.Module = "alex",
        *,
        image_size: int = 64,
        max_prompts: int = 32,
        weights: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        for name, number in (("image_size", image_size), ("max_prompts", max_prompts)):
            if number < 1:
                raise ValueError(f"`{name}` must be at least 1, got {number}")
        self.max_prompts = max_prompts
        self.extractor = perceptual_extractor(net_type, weights, image_size)
        self.per_prompt = Groups(max_prompts, self._length(image_size))
        self.add_stream("prompt", Stream(self.per_prompt, 1 + self.per_prompt.d))

    def _length(self, image_size: int) -> int:
        if not isinstance(self.extractor, CustomExtractor):
            assert self.extractor is not None
            return self.extractor.dim("maps")
        dummy = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8)
        return perceptual_embedding(self.extract([dummy])["maps"]).shape[1]

    def update(self, images: Images, prompts: Sequence[str], ids: Ids | None = None) -> None:
        """Add images (n, 3, h, w) and the prompt (n strings) that each was sampled for."""
        self.update_features(self.extract(self.accept(images)), prompts=prompts, ids=ids)

    def update_features(self, features: Features, *, prompts: Sequence[str], ids: Ids | None = None, **_: Any) -> None:
        embedding = perceptual_embedding(features["maps"], features.get("heads"))
        prompts = as_texts(prompts, len(embedding))
        embedding = embedding.to(self._home, torch.float64)
        keys = torch.tensor([[text_key(prompt)] for prompt in prompts], dtype=torch.float64, device=embedding.device)
        self.absorb("prompt", torch.cat([keys, embedding], 1), ids)

    def summarize(self) -> Summary:
        count, spread, _ = self.per_prompt.unpack(self.read("prompt"))
        several = count > 1
        if not several.any():
            raise NotEnoughSamples(self.name, int(count.max()) if len(count) else 0, 2, "samples of one prompt")
        diversity = 2 * spread[several] / (count[several] - 1)
        prompts = len(diversity)
        error = float(diversity.std() / prompts**0.5) if prompts > 1 else None
        return Summary(diversity.mean(), int(count[several].sum()), error, prompts, {"n_prompts": float(prompts)})

    def parameters_of_value(self) -> dict[str, object]:
        return {"max_prompts": self.max_prompts}
