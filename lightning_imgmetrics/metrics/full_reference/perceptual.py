"""Image against image: perceptual distance of pairs, and diversity among the samples of one prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import Images, as_images
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError
from lightning_imgmetrics.functional.perceptual import dists, lpips_layers, lpips_map, perceptual_embedding
from lightning_imgmetrics.metrics.base.inputs import Ids, as_texts
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.base.summary import Column, Summary
from lightning_imgmetrics.metrics.full_reference.base import FullReferenceMetric
from lightning_imgmetrics.models.base.custom import CustomExtractor
from lightning_imgmetrics.models.base.extractor import Extractor, Features
from lightning_imgmetrics.models.encoders.clip import DIGITS_CLIP, ClipExtractor
from lightning_imgmetrics.models.encoders.dists import DistsExtractor
from lightning_imgmetrics.models.encoders.lpips import LpipsExtractor
from lightning_imgmetrics.models.registry import network_argument
from lightning_imgmetrics.states.hash import text_key
from lightning_imgmetrics.states.tables import Groups


def perceptual_extractor(network: str | nn.Module, weights: str | None, image_size: int | None) -> Extractor:
    """An extractor with the layer "maps": LPIPS' trunks with their heads, `digits-clip`, or a user's module."""
    if isinstance(network, nn.Module):
        return CustomExtractor(network, maps=True)
    return ClipExtractor() if network == DIGITS_CLIP else LpipsExtractor(network, weights, image_size)


class LearnedPerceptualImagePatchSimilarity(FullReferenceMetric):
    """LPIPS v0.1 of image pairs, as the `lpips` package computes it; drop-in for torchmetrics.

    Args:
        net_type: torchmetrics' name for `network`.
        reduction: "mean", "sum", or "none" for one value per pair.
        normalize: float images lie in [0, 1]; in [-1, 1] otherwise. uint8 is read as 0..255.
        network: "alex" (default), "vgg" or "squeeze"; or a module that maps images in [-1, 1] to a sequence of (n, c,
            h, w) feature maps, or "digits-clip", all channels then having the same weight.
        per_layer: report the mean of each layer's part in the details, "layer0" being the finest; they add up to the
            value.
        weights: a file in place of torchvision's trunk.
        kwargs: those of `FullReferenceMetric`.

    Returns:
        A scalar >= 0, or (n,); lower is better.

    Raises:
        ShapeError: at `update`, for pairs of different sizes.

    References:
        Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import LearnedPerceptualImagePatchSimilarity
        >>> target = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> preds = 255 - target
        >>> metric = LearnedPerceptualImagePatchSimilarity("digits-clip")
        >>> metric.update(preds, target)
        >>> round(float(metric.compute()), 3)
        0.483
    """

    name: ClassVar[str] = "lpips"
    higher_is_better = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    layers = ("maps",)
    default_network: ClassVar[str] = "alex"

    def __init__(
        self,
        net_type: str | nn.Module | None = None,
        reduction: str | None = "mean",
        normalize: bool = False,
        *,
        network: str | nn.Module | None = None,
        per_layer: bool = False,
        weights: str | None = None,
        **kwargs: Any,
    ):
        if not isinstance(normalize, bool):
            raise ValueError(f"Argument `normalize` should be an bool but got {normalize}")
        network = network_argument(network, self.default_network, net_type=net_type)
        extractor = perceptual_extractor(network, weights, None)
        self.depth = 0  # of the layers that are reported
        if per_layer:
            if not isinstance(extractor, LpipsExtractor):
                raise ValueError(f"`per_layer` needs `network` 'alex', 'vgg' or 'squeeze', got {network!r}")
            self.depth = extractor.depth
        super().__init__(reduction, **{"value_range": (0.0, 1.0) if normalize else (-1.0, 1.0), **kwargs})
        self.extractor = extractor

    def update(self, img1: Images, img2: Images, ids: Ids | None = None) -> None:
        """Add pairs of images, each side (n, 3, h, w) or a list of (3, h, w); the two of a pair have one size."""
        self.add_pairs(ids, img1=img1, img2=img2)

    def scores_of(self, features: Features, **_: Any) -> Tensor:
        parts = torch.stack([layer.mean((1, 2, 3)) for layer in _layers(features)], 1)
        total = parts.sum(1, keepdim=True)
        return torch.cat([total, parts], 1) if self.depth else total

    def columns(self) -> tuple[Column, ...]:
        return (*super().columns(), *(Column(f"layer{i}") for i in range(self.depth)))

    def maps(self, img1: Images, img2: Images) -> Tensor:
        """Where the images of each pair differ, (n, 1, h, w); adds nothing to the state. All images have one size."""
        sides = [
            as_images(images, name=name, value_range=self.value_range)[0]
            for name, images in (("img1", img1), ("img2", img2))
        ]
        n, m = (sum(map(len, side)) for side in sides)
        if n != m:
            raise ShapeError(f"`img2` must hold one entry per image, got {m} for {n} images")
        with full_precision(self.device):
            size = sides[0][0].shape[2:]
            return lpips_map(_layers(self.extract([*sides[0], *sides[1]])), (size[0], size[1]))


def _layers(features: Features) -> list[Tensor]:
    """Maps of images and then as many others -> how far each pair is apart at each layer and position."""
    halves = [x.chunk(2) for x in features["maps"]]
    return lpips_layers([x for x, _ in halves], [y for _, y in halves], features.get("heads"))


class DeepImageStructureAndTextureSimilarity(FullReferenceMetric):
    """DISTS of image pairs: tolerant of resampled textures, strict about structure; drop-in for torchmetrics.

    Images are not resized (the paper's code first resizes the short side to 256).

    Args:
        reduction: "mean" or "sum".
        weights: a file in place of torchvision's VGG-16.
        kwargs: those of `FullReferenceMetric`; float images lie in [0, 1].

    Returns:
        A scalar in [0, 2], in practice below 1, 0 for equal images; lower is better.

    Raises:
        ShapeError: at `update`, for pairs of different sizes.
        MissingWeights: at the first pair, where the weights are not on this machine and cannot be downloaded.

    References:
        Ding et al. 2020, "Image quality assessment: unifying structure and texture similarity".

    Example:
        >>> from lightning_imgmetrics import DeepImageStructureAndTextureSimilarity
        >>> metric = DeepImageStructureAndTextureSimilarity()  # weights are loaded at the first pair
        >>> metric.update(preds, target)  # doctest: +SKIP
    """

    name: ClassVar[str] = "dists"
    higher_is_better = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    layers = ("maps",)
    reductions = ("mean", "sum")

    def __init__(self, reduction: str = "mean", *, weights: str | None = None, **kwargs: Any):
        super().__init__(reduction, **kwargs)
        self.extractor = DistsExtractor(weights)

    def scores_of(self, features: Features, **_: Any) -> Tensor:
        halves = [x.chunk(2) for x in features["maps"]]
        return dists([x for x, _ in halves], [y for _, y in halves], features["alpha"], features["beta"])


class LPIPSDiversity(ImageMetric):
    """Mean pairwise LPIPS among the samples of one prompt, averaged over prompts.

    LPIPS is a squared distance between embeddings, so the mean over all pairs of a prompt is twice the unbiased
    variance: one pass per image, any order, any split over ranks.

    Args:
        net_type: as for LPIPS.
        network: as for LPIPS.
        image_size: images are resized to it, so that all have comparable maps (perceptual path length uses 64, too).
        max_prompts: of more prompts those with the smallest hash are kept, 8 bytes times the embedding length each
            (alex at 64: 250 KB).
        weights: a file in place of torchvision's trunk.
        kwargs: those of `ImageMetric`.

    Returns:
        A scalar >= 0; higher is more diverse.

    Raises:
        NotEnoughSamples: at `compute`, where no prompt has two samples.

    References:
        Zhu et al. 2017, "Toward multimodal image-to-image translation" (BicycleGAN).

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import LPIPSDiversity
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = LPIPSDiversity("digits-clip")
        >>> metric.update(images, prompts=["a three"] * 4 + ["a seven"] * 4)
        >>> round(float(metric.compute()), 3)
        0.231
    """

    name: ClassVar[str] = "lpips_diversity"
    higher_is_better = True
    plot_lower_bound: float = 0.0
    inputs = ("prompts",)
    layers = ("maps",)
    default_network: ClassVar[str] = "alex"

    def __init__(
        self,
        net_type: str | nn.Module | None = None,
        *,
        network: str | nn.Module | None = None,
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
        network = network_argument(network, self.default_network, net_type=net_type)
        self.extractor = perceptual_extractor(network, weights, image_size)
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
        self.stage(self.extract(self.validate_images(images)), prompts=prompts, ids=ids)()

    def stage(
        self, features: Features, *, prompts: Sequence[str] = (), ids: Ids | None = None, **_: Any
    ) -> Callable[[], None]:
        embedding = perceptual_embedding(features["maps"], features.get("heads"))
        prompts = as_texts(prompts, len(embedding))
        embedding = embedding.to(self.home, torch.float64)
        keys = torch.tensor([[text_key(prompt)] for prompt in prompts], dtype=torch.float64, device=embedding.device)
        return partial(self.streams["prompt"].add, torch.cat([keys, embedding], 1), ids)

    def summarize(self) -> Summary:
        count, spread, _ = self.per_prompt.unpack(self.streams["prompt"].read())
        several = count > 1
        if not several.any():
            raise NotEnoughSamples(self.name, int(count.max()) if len(count) else 0, 2, "samples of one prompt")
        diversity = 2 * spread[several] / (count[several] - 1)
        prompts = len(diversity)
        error = float(diversity.std() / prompts**0.5) if prompts > 1 else None
        return Summary(diversity.mean(), int(count[several].sum()), error, prompts, {"n_prompts": float(prompts)})

    def signature_parameters(self) -> dict[str, object]:
        return {"max_prompts": self.max_prompts}
