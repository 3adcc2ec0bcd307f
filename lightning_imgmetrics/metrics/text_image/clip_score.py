"""How well images match their prompts, or other images, in a space that images and texts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import cosine_similarity

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.metrics.base.inputs import Ids
from lightning_imgmetrics.metrics.base.summary import Summary
from lightning_imgmetrics.metrics.text_image.base import CosineMetric, Model, Texts
from lightning_imgmetrics.models.registry import network_argument


class CLIPScore(CosineMetric):
    """Mean of 100 cos(source, target) in a CLIP space, floored at 0 after the mean; drop-in for torchmetrics.

    Source and target are images or texts in any combination, one to one; or `images=` and `prompts=`. Texts beyond the
    model's context are truncated before the end-of-text token; `truncated_fraction` is in the details. The interval is
    that of the mean before the floor.

    Args:
        model_name_or_path: torchmetrics' name for `network`.
        network: a hub id or checkpoint folder (CLIP, SigLIP, open_clip), "digits-clip", or a callable that returns
            (model, processor); default "openai/clip-vit-large-patch14".
        formula: "cosine", "logit", "sigmoid", "hessel" or "plain"; see `CosineMetric`.
        kwargs: those of `CosineMetric`: `weights`, `processor`, `revision`, `resize`, `dtype`.

    Returns:
        A scalar in [0, 100], per sample in [-100, 100]; higher is better.

    Raises:
        ShapeError: at `update`, for numbers of images and prompts that differ.
        ValueError: at `update`, for an empty prompt.

    References:
        Hessel et al. 2021, "CLIPScore: a reference-free evaluation metric for image captioning".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import CLIPScore
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = CLIPScore("digits-clip")
        >>> metric.update(images=images, prompts="a handwritten seven")
        >>> round(float(metric.compute()), 3)
        20.181
    """

    name: ClassVar[str] = "clip_score"
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 100.0

    default_network: ClassVar[str] = "openai/clip-vit-large-patch14"

    def __init__(
        self,
        model_name_or_path: Model | None = None,
        *,
        network: Model | None = None,
        formula: str = "cosine",
        **kwargs: Any,
    ):
        network = network_argument(network, self.default_network, model_name_or_path=model_name_or_path)
        super().__init__(network, formula=formula, **kwargs)

    def update(
        self,
        source: Images | Texts | None = None,
        target: Images | Texts | None = None,
        ids: Ids | None = None,
        *,
        images: Images | None = None,
        prompts: Texts | None = None,
    ) -> None:
        """Add pairs: each side (n, 3, h, w) uint8 or float in `value_range`, a list of images, or n texts."""
        placed = source is not None or target is not None
        if not placed and images is not None and prompts is not None:
            super().update(images=images, prompts=prompts, ids=ids)
            return
        if source is None or target is None or images is not None or prompts is not None:
            raise TypeError("CLIPScore needs `images=` and `prompts=`, or `source` and `target`")
        pair = self._embed(source, "source"), self._embed(target, "target")
        if len(pair[0]) != len(pair[1]):
            raise ShapeError(
                "Expected the number of source and target examples to be the same but got"
                f" {len(pair[0])} and {len(pair[1])}"
            )
        target = pair[1].to(pair[0].device)  # texts stay where the metric is, images may have moved it
        self.add_scores(self.of_cosine(cosine_similarity(pair[0], target)), ids)

    def _embed(self, x: Images | Texts, name: str) -> Tensor:
        texts = _as_texts(x)
        if texts is None:
            return self.extract(self.validate_images(x, name))["embed"]  # type: ignore[arg-type]
        embeddings, truncated = self.embed_prompts(texts)
        self.texts += len(texts)
        self.truncated += truncated
        return embeddings

    def summarize(self) -> Summary:
        summary = super().summarize()
        if self.formula != "cosine":
            return summary
        return replace(summary, value=summary.value.clamp(min=0), estimate=float(summary.value))


class SigLIPScore(CosineMetric):
    """Mean of 100 cos(prompt, image) in a SigLIP space.

    Args:
        network: a hub id or checkpoint folder of SigLIP or SigLIP 2.
        formula: "cosine"; "sigmoid" for the probability that prompt and image belong together; see `CosineMetric`.
        kwargs: those of `CosineMetric`: `weights`, `processor`, `revision`, `resize`, `dtype`.

    Returns:
        A scalar in [-100, 100], or [0, 1] with "sigmoid"; higher is better.

    Raises:
        ShapeError: at `update`, for numbers of images and prompts that differ.
        ValueError: at `update`, for an empty prompt.

    References:
        Zhai et al. 2023, "Sigmoid loss for language image pre-training".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import SigLIPScore
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = SigLIPScore("digits-clip")
        >>> metric.update(images=images, prompts="a handwritten seven")
        >>> round(float(metric.compute()), 3)
        20.181
    """

    name: ClassVar[str] = "siglip_score"

    def __init__(self, network: Model = "google/siglip-so400m-patch14-384", *, formula: str = "cosine", **kwargs: Any):
        super().__init__(network, formula=formula, **kwargs)


class BioCLIPScore(CosineMetric):
    """exp(logit_scale) cos(prompt, image) in BioCLIP 2, a CLIP of organisms: does the image show the named species?

    Args:
        network: a hub id or folder, in open_clip's layout as published.
        formula: see `CosineMetric`.
        kwargs: those of `CosineMetric`: `weights`, `processor`, `revision`, `resize`, `dtype`.

    Returns:
        A scalar; higher is better.

    Raises:
        ShapeError: at `update`, for numbers of images and prompts that differ.
        ValueError: at `update`, for an empty prompt.

    References:
        Gu et al. 2025, "BioCLIP 2: emergent properties from scaling hierarchical contrastive learning".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import BioCLIPScore
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = BioCLIPScore("digits-clip")
        >>> metric.update(images=images, prompts="a handwritten seven")
        >>> round(float(metric.compute()), 3)
        2.329
    """

    name: ClassVar[str] = "bioclip_score"

    def __init__(self, network: Model = "imageomics/bioclip-2", *, formula: str = "logit", **kwargs: Any):
        super().__init__(network, formula=formula, **kwargs)


def _as_texts(x: Any) -> list[str] | None:
    """The texts, or None for images; ShapeError for a mixture."""
    items = [x] if isinstance(x, str) else x
    if isinstance(items, Tensor) or not isinstance(items, Sequence) or not any(isinstance(i, str) for i in items):
        return None
    if odd := {type(i).__name__ for i in items if not isinstance(i, str)}:
        raise ShapeError(f"a list must hold texts alone or images alone, got a mixture of texts and {', '.join(odd)}")
    return list(items)
