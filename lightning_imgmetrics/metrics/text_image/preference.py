"""What people would prefer, as networks learned it from their choices."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from lightning_imgmetrics._images import Images
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.metrics.base.summary import Column
from lightning_imgmetrics.metrics.text_image.base import CosineMetric, Model, ScorerMetric
from lightning_imgmetrics.models.scorers.clip_preference import HPSV2, PICKSCORE, VIT_H
from lightning_imgmetrics.models.scorers.hpsv3 import QWEN2_VL, HPSv3Extractor
from lightning_imgmetrics.models.scorers.imagereward import TOKENIZER, ImageRewardExtractor


class PickScore(CosineMetric):
    """exp(logit_scale) cos(prompt, image) of a CLIP trained on the choices of Pick-a-Pic's users.

    Only scores of one prompt compare. `probabilities` gives the chance of each candidate of one prompt.

    Args:
        network: a hub id or checkpoint folder.
        processor: where tokenizer and image processor lie.
        kwargs: those of `CosineMetric`: `weights`, `processor`, `revision`, `resize`, `dtype`.

    Returns:
        A scalar, about 16 to 26; higher is better.

    Raises:
        ShapeError: at `update`, for numbers of images and prompts that differ.
        ValueError: at `update`, for an empty prompt.

    References:
        Kirstain et al. 2023, "Pick-a-Pic: an open dataset of user preferences for text-to-image generation".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import PickScore
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = PickScore("digits-clip")
        >>> metric.update(images=images, prompts="a handwritten seven")
        >>> round(float(metric.compute()), 3)
        2.329
    """

    name: ClassVar[str] = "pickscore"

    def __init__(self, network: Model = PICKSCORE, *, processor: str | None = None, **kwargs: Any):
        if processor is None and network == PICKSCORE:
            processor = VIT_H
        super().__init__(network, formula="logit", processor=processor, **kwargs)


class HPSv2(CosineMetric):
    """Human Preference Score v2: the cosine of prompt and image in a CLIP ViT-H/14 trained on HPDv2, times `scale`.

    Args:
        version: "v2.1" or "v2.0", whose scores do not compare.
        scale: 1 as `hpsv2.score` gives (about 0.13 to 0.33), or 100 as in published tables.
        antialias: as torchvision resizes tensors since 0.17; the published numbers are older, and made without.
        weights: a file in place of the published one.
        network: the checkpoint with configuration, tokenizer and image processor.
        kwargs: those of `CosineMetric`.

    Returns:
        A scalar; higher is better.

    Raises:
        UnknownName: a version that there is not.
        MissingWeights: at the first image, where the weights are not on this machine and cannot be downloaded.

    References:
        Wu et al. 2023, "Human Preference Score v2".

    Example:
        >>> from lightning_imgmetrics import HPSv2
        >>> metric = HPSv2("v2.1", scale=100)  # weights are loaded at the first image
        >>> metric.update(images=images, prompts="a red cube")  # doctest: +SKIP
    """

    name: ClassVar[str] = "hpsv2"

    def __init__(
        self,
        version: str = "v2.1",
        *,
        scale: int = 1,
        antialias: bool = True,
        weights: str | None = None,
        network: str = VIT_H,
        **kwargs: Any,
    ):
        if version not in HPSV2:
            raise UnknownName("version", version, HPSV2)
        if scale not in (1, 100):
            raise ValueError(f"`scale` must be 1 or 100, got {scale!r}")
        resize = "float-bicubic-antialias" if antialias else "float-bicubic"
        formula = "plain" if scale == 1 else "cosine"
        source = HPSV2[version] if weights is None else weights
        super().__init__(network, formula=formula, resize=resize, weights=source, **kwargs)
        self.version = version

    def signature_parameters(self) -> dict[str, object]:
        return {"variant": self.version, **super().signature_parameters()}


class ImageReward(ScorerMetric):
    """The reward that BLIP, trained on experts' rankings of generated images, gives an image for its prompt.

    `ranks` orders the images of one prompt. Prompts are read up to 35 tokens.

    Args:
        weights: a file in place of the published `ImageReward.pt`.
        tokenizer: the folder or hub id of BERT's uncased tokenizer.
        dtype: "float32" or "bfloat16".
        kwargs: those of `ScoreMetric`.

    Returns:
        A scalar, unbounded, about N(0, 1) over the images it was trained on; higher is better.

    Raises:
        MissingWeights: at the first image, where the weights are not on this machine and cannot be downloaded.

    References:
        Xu et al. 2023, "ImageReward: learning and evaluating human preferences for text-to-image generation".

    Example:
        >>> from lightning_imgmetrics import ImageReward
        >>> metric = ImageReward()  # weights are loaded at the first image
        >>> metric.update(images=images, prompts="a red cube")  # doctest: +SKIP
    """

    name: ClassVar[str] = "imagereward"
    layers = ("tokens",)

    def __init__(
        self, *, weights: str | None = None, tokenizer: str = TOKENIZER, dtype: str = "float32", **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.extractor = ImageRewardExtractor(weights, tokenizer, dtype=dtype)

    def ranks(self, *, images: Images, prompt: str) -> Tensor:
        """The rank of each of n images for one prompt, 1 the best: (n,) int64. Nothing is added to the state."""
        self.check_inputs(1, prompts=[prompt])
        features = self.features_of(images)
        with full_precision(self.device):
            rewards, _ = self.judge(features, [prompt] * len(features["tokens"]))
        return rewards.argsort(descending=True, stable=True).argsort() + 1


class HPSv3(ScorerMetric):
    """Human Preference Score v3: the mean of people's preference for an image by its prompt, as a Qwen2-VL gives it.

    `sigma` in the details is the mean of its own uncertainty. Prompts are not truncated, and special tokens in them are
    read as letters.

    Args:
        weights: a file in place of the published one.
        processor: the checkpoint with configuration, tokenizer and image processor.
        positions: "sequential" as trained, or "mrope".
        dtype: "float32", or "bfloat16" as the published code computes, in half the memory.
        template: a copy of the Python source of the prompt, where it cannot be downloaded.
        kwargs: those of `ScoreMetric`.

    Returns:
        A scalar, unbounded, about -5 to 15; higher is better.

    Raises:
        MissingWeights: at the first image, where the weights are not on this machine and cannot be downloaded.

    References:
        Ma et al. 2025, "HPSv3: towards wide-spectrum human preference score".

    Example:
        >>> from lightning_imgmetrics import HPSv3
        >>> metric = HPSv3(dtype="bfloat16")  # weights are loaded at the first image
        >>> metric.update(images=images, prompts="a red cube")  # doctest: +SKIP
    """

    name: ClassVar[str] = "hpsv3"
    layers = ("pixels",)
    extractor: HPSv3Extractor

    def columns(self) -> tuple[Column, ...]:
        return (*super().columns(), *map(Column, HPSv3Extractor.columns))

    def __init__(
        self,
        *,
        weights: str | None = None,
        processor: str = QWEN2_VL,
        positions: str = "sequential",
        dtype: str = "float32",
        template: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.extractor = HPSv3Extractor(
            weights=weights, processor=processor, positions=positions, dtype=dtype, template=template
        )
