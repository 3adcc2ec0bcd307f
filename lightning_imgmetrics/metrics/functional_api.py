"""Metrics of one batch under the names, arguments and outputs of torchmetrics' functionals, as float64.

Each is its class, updated once on this process alone: it checks, reads and measures images as the class does. Values
carry no gradient, and images that require one are refused: for a loss use `functional.ssim`, `ms_ssim`, `psnr`, `vif`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.functional.structural_similarity import BETAS, Numbers
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.full_reference.base import Range
from lightning_imgmetrics.metrics.full_reference.perceptual import (
    DeepImageStructureAndTextureSimilarity,
    LearnedPerceptualImagePatchSimilarity,
)
from lightning_imgmetrics.metrics.full_reference.psnr import PeakSignalNoiseRatio, VisualInformationFidelity
from lightning_imgmetrics.metrics.full_reference.ssim import (
    MultiScaleStructuralSimilarityIndexMeasure,
    StructuralSimilarityIndexMeasure,
)
from lightning_imgmetrics.metrics.no_reference.clip_iqa import CLIPImageQualityAssessment, Prompts
from lightning_imgmetrics.metrics.text_image.base import Model, Texts
from lightning_imgmetrics.metrics.text_image.clip_score import CLIPScore


def clip_score(
    source: Images | Texts,
    target: Images | Texts,
    model_name_or_path: Model = CLIPScore.default_network,
) -> Tensor:
    """CLIPScore of one batch of pairs: 100 cos(source, target), averaged, and 0 if that is negative.

    Args:
        source: images (n, 3, h, w), uint8 or float in [0, 1], a list of them, or n texts.
        target: as many images or texts.
        model_name_or_path: see `CLIPScore`.

    Returns:
        A scalar in [0, 100]; higher is better.

    Raises:
        ShapeError: the sides do not hold as many.

    Example:
        >>> clip_score(torch.zeros(1, 3, 32, 32), "zero", "digits-clip") >= 0
        tensor(True)
    """
    return _of_one_batch(CLIPScore(model_name_or_path, sync_on_compute=False), source=source, target=target)


def clip_image_quality_assessment(
    images: Images,
    model_name_or_path: str = CLIPImageQualityAssessment.default_network,
    data_range: float = 1.0,
    prompts: Prompts = ("quality",),
) -> Tensor | dict[str, Tensor]:
    """CLIP-IQA of each image of one batch, in [0, 1], higher is better.

    Args:
        images: (n, 3, h, w), uint8 or float in [0, `data_range`], or a list of images.
        model_name_or_path: see `CLIPImageQualityAssessment`.
        data_range: the largest value of float images.
        prompts: names of prompts, or pairs (positive, negative).

    Returns:
        (n,), or a dict of them by prompt where there are several.

    Example:
        >>> clip_image_quality_assessment(torch.zeros(2, 3, 32, 32), "digits-clip", prompts=(("zero", "one"),)).shape
        torch.Size([2])
    """
    metric = CLIPImageQualityAssessment(model_name_or_path, data_range, prompts, sync_on_compute=False)
    return _of_one_batch(metric, images=images)


def peak_signal_noise_ratio(
    preds: Tensor,
    target: Tensor,
    data_range: Range,
    base: float = 10.0,
    reduction: str | None = "elementwise_mean",
    dim: int | tuple[int, ...] | None = None,
) -> Tensor:
    """PSNR of one batch: of the pooled squared error, or with `dim=(1, 2, 3)` of each image, in dB; higher is better.

    Args:
        preds: (n, c, ...), float on the scale of `data_range`.
        target: as `preds`.
        data_range: the largest minus the smallest possible value, or (low, high) to clamp to.
        base: of the logarithm.
        reduction: "elementwise_mean", "sum", or "none" for one value per image.
        dim: the axes of the error that a ratio is made of; None for all, those of the batch too.

    Returns:
        A scalar, or (n,) with `reduction="none"`; infinite for equal images.

    Example:
        >>> peak_signal_noise_ratio(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.1), data_range=1.0).round()
        tensor(20., dtype=torch.float64)
    """
    metric = PeakSignalNoiseRatio(data_range, base, reduction, dim, sync_on_compute=False)
    return _of_one_batch(metric, preds=preds, target=target)


def structural_similarity_index_measure(
    preds: Tensor,
    target: Tensor,
    gaussian_kernel: bool = True,
    sigma: Numbers = 1.5,
    kernel_size: int | Sequence[int] = 11,
    reduction: str | None = "elementwise_mean",
    data_range: Range | None = None,
    k1: float = 0.01,
    k2: float = 0.03,
    return_full_image: bool = False,
    return_contrast_sensitivity: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """SSIM of one batch, in [-1, 1], 1 for equal images.

    Args:
        preds: (n, c, h, w) or (n, c, d, h, w), float.
        target: as `preds`.
        gaussian_kernel: a Gaussian window, otherwise a uniform one.
        sigma: of the Gaussian, in pixels.
        kernel_size: sides of the uniform window.
        reduction: "elementwise_mean", "sum", or "none" for one value per image.
        data_range: the largest minus the smallest possible value, or (low, high) to clamp to. None: images in [0, 1],
            whatever the batch holds, where torchmetrics takes the range of the batch.
        k1: the luminance term's constant.
        k2: the contrast term's constant.
        return_full_image: return the map of each image too.
        return_contrast_sensitivity: return the contrast-structure term of each image too.

    Returns:
        A scalar, or (n,) with `reduction="none"`; a tuple of it and what else was wanted.

    Example:
        >>> image = torch.rand(1, 3, 32, 32)
        >>> structural_similarity_index_measure(image, image)
        tensor(1., dtype=torch.float64)
    """
    metric = StructuralSimilarityIndexMeasure(
        gaussian_kernel,
        sigma,
        kernel_size,
        reduction,
        data_range,
        k1,
        k2,
        return_full_image,
        return_contrast_sensitivity,
        sync_on_compute=False,
    )
    return _of_one_batch(metric, preds=preds, target=target)


def multiscale_structural_similarity_index_measure(
    preds: Tensor,
    target: Tensor,
    gaussian_kernel: bool = True,
    sigma: Numbers = 1.5,
    kernel_size: int | Sequence[int] = 11,
    reduction: str | None = "elementwise_mean",
    data_range: Range | None = None,
    k1: float = 0.01,
    k2: float = 0.03,
    betas: tuple[float, ...] = BETAS,
    normalize: str | None = "relu",
) -> Tensor:
    """MS-SSIM of one batch, 1 for equal images.

    Args:
        preds: (n, c, h, w) or (n, c, d, h, w), float; sides of at least 176 for five scales.
        target: as `preds`.
        gaussian_kernel: a Gaussian window, otherwise a uniform one.
        sigma: of the Gaussian, in pixels.
        kernel_size: sides of the uniform window.
        reduction: "elementwise_mean", "sum", or "none" for one value per image.
        data_range: as of `structural_similarity_index_measure`.
        k1: the luminance term's constant.
        k2: the contrast term's constant.
        betas: exponents of the scales, finest first.
        normalize: what becomes of negative terms, "relu", "simple" or None.

    Returns:
        A scalar, or (n,) with `reduction="none"`.

    Example:
        >>> image = torch.rand(1, 3, 176, 176)
        >>> multiscale_structural_similarity_index_measure(image, image)
        tensor(1., dtype=torch.float64)
    """
    metric = MultiScaleStructuralSimilarityIndexMeasure(
        gaussian_kernel, kernel_size, sigma, reduction, data_range, k1, k2, betas, normalize, sync_on_compute=False
    )
    return _of_one_batch(metric, preds=preds, target=target)


def visual_information_fidelity(
    preds: Tensor, target: Tensor, sigma_n_sq: float = 2.0, reduction: str = "mean"
) -> Tensor:
    """VIF of one batch: the share of the target's information that is kept, 1 for equal images; higher is better.

    Args:
        preds: (n, c, h, w), uint8 or float in [0, 255]; sides of at least 41.
        target: as `preds`.
        sigma_n_sq: variance of the eye's noise on that scale.
        reduction: "mean", or "none" for one value per image.

    Returns:
        A scalar, or (n,); NaN where the target is flat, which the mean leaves out.

    Example:
        >>> image = 255 * torch.rand(1, 3, 48, 48)
        >>> visual_information_fidelity(image, image).round(decimals=4)
        tensor(1., dtype=torch.float64)
    """
    metric = VisualInformationFidelity(sigma_n_sq, reduction, sync_on_compute=False)
    return _of_one_batch(metric, preds=preds, target=target)


def learned_perceptual_image_patch_similarity(
    img1: Images,
    img2: Images,
    net_type: str | nn.Module = "alex",
    reduction: str | None = "mean",
    normalize: bool = False,
) -> Tensor:
    """LPIPS of one batch, >= 0; lower is better.

    Args:
        img1: (n, 3, h, w), uint8 or float in [-1, 1], or a list of images.
        img2: as `img1`.
        net_type: "alex", "vgg" or "squeeze"; see `LearnedPerceptualImagePatchSimilarity`.
        reduction: "mean", "sum", or "none" for one value per pair.
        normalize: float images lie in [0, 1].

    Returns:
        A scalar, or (n,) with `reduction="none"`.

    Example:
        >>> image = torch.rand(1, 3, 32, 32)
        >>> learned_perceptual_image_patch_similarity(image, image, "digits-clip", normalize=True)
        tensor(0., dtype=torch.float64)
    """
    metric = LearnedPerceptualImagePatchSimilarity(net_type, reduction, normalize, sync_on_compute=False)
    return _of_one_batch(metric, img1=img1, img2=img2)


def deep_image_structure_and_texture_similarity(preds: Images, target: Images, reduction: str | None = None) -> Tensor:
    """DISTS of one batch, 0 for equal images; lower is better.

    Args:
        preds: (n, 3, h, w), uint8 or float in [0, 1], or a list of images.
        target: as `preds`.
        reduction: "mean", "sum", or None for one value per pair.

    Returns:
        (n,), or a scalar.

    Example:
        >>> image = torch.rand(1, 3, 64, 64)
        >>> deep_image_structure_and_texture_similarity(image, image)  # doctest: +SKIP
        tensor([0.], dtype=torch.float64)
    """
    each = reduction in (None, "none")
    metric = DeepImageStructureAndTextureSimilarity("mean" if each else str(reduction), sync_on_compute=False)
    value = _of_one_batch(metric, preds=preds, target=target)
    return metric.scores()[1] if each else value


def _of_one_batch(metric: ImageMetric, **sides: Any) -> Any:
    """The value of `metric` on one batch; ValueError for images that require a gradient, as it would be lost."""
    for name, x in sides.items():
        if torch.is_grad_enabled() and isinstance(x, Tensor) and x.requires_grad:
            raise ValueError(
                f"`{name}` requires a gradient, and {metric.name} has none: detach it, or use a pure function such as"
                " `lightning_imgmetrics.functional.ssim` for a loss"
            )
    metric.update(*sides.values())
    return metric.compute()
