"""The short names of all metrics, for the callback, the command line and the tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.judges.metrics.pairwise import PairwiseJudge
from lightning_imgmetrics.judges.metrics.qwen_image_bench import QwenImageBench
from lightning_imgmetrics.judges.metrics.ranking import RankingJudge
from lightning_imgmetrics.judges.metrics.rubric import RubricJudge
from lightning_imgmetrics.judges.metrics.unified_reward import UnifiedReward
from lightning_imgmetrics.judges.metrics.unified_reward_edit import UnifiedRewardEdit
from lightning_imgmetrics.judges.metrics.vie_score import VIEScore
from lightning_imgmetrics.judges.metrics.vqa_score import VQAScore
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.distribution.entropy import InceptionScore, VendiScore
from lightning_imgmetrics.metrics.distribution.frechet import (
    FrechetDistance,
    FrechetInceptionDistance,
    FrechetInceptionDistanceInfinity,
    SpatialFrechetInceptionDistance,
)
from lightning_imgmetrics.metrics.distribution.intra_fid import IntraFrechetInceptionDistance
from lightning_imgmetrics.metrics.distribution.likelihood import FeatureLikelihoodDivergence
from lightning_imgmetrics.metrics.distribution.manifold import (
    Authenticity,
    DensityCoverage,
    MemorizationInformedFrechetInceptionDistance,
    PrecisionRecall,
)
from lightning_imgmetrics.metrics.distribution.mmd import CLIPMaximumMeanDiscrepancy, KernelInceptionDistance
from lightning_imgmetrics.metrics.distribution.rfid import ReconstructionFrechetDistance
from lightning_imgmetrics.metrics.full_reference.perceptual import (
    DeepImageStructureAndTextureSimilarity,
    LearnedPerceptualImagePatchSimilarity,
    LPIPSDiversity,
)
from lightning_imgmetrics.metrics.full_reference.psnr import (
    MeanSquaredError,
    PeakSignalNoiseRatio,
    VisualInformationFidelity,
)
from lightning_imgmetrics.metrics.full_reference.ssim import (
    MultiScaleStructuralSimilarityIndexMeasure,
    StructuralSimilarityIndexMeasure,
)
from lightning_imgmetrics.metrics.human.win_rate import WinRate
from lightning_imgmetrics.metrics.no_reference.aesthetic import AestheticScore
from lightning_imgmetrics.metrics.no_reference.attribute_balance import AttributeBalance
from lightning_imgmetrics.metrics.no_reference.clip_iqa import CLIPImageQualityAssessment
from lightning_imgmetrics.metrics.no_reference.photometry import (
    Colorfulness,
    Contrast,
    Exposure,
    NoiseLevel,
    Saturation,
    Sharpness,
)
from lightning_imgmetrics.metrics.no_reference.rates import BlankRate, ClassifierRate, SafetyRate
from lightning_imgmetrics.metrics.text_image.clip_score import BioCLIPScore, CLIPScore, SigLIPScore
from lightning_imgmetrics.metrics.text_image.preference import HPSv2, HPSv3, ImageReward, PickScore
from lightning_imgmetrics.prompt_benchmarks.dpg_bench import DPGBench
from lightning_imgmetrics.prompt_benchmarks.gedit_bench import GEditBench
from lightning_imgmetrics.prompt_benchmarks.genai_bench import GenAIBench
from lightning_imgmetrics.prompt_benchmarks.geneval.metric import GenEval
from lightning_imgmetrics.prompt_benchmarks.text_rendering.metric import TextRendering
from lightning_imgmetrics.prompt_benchmarks.tifa.metric import TIFA

METRICS: dict[str, Callable[..., ImageMetric]] = {
    "fid": FrechetInceptionDistance,
    "sfid": SpatialFrechetInceptionDistance,
    "fid_infinity": FrechetInceptionDistanceInfinity,
    "intra_fid": IntraFrechetInceptionDistance,
    "mifid": MemorizationInformedFrechetInceptionDistance,
    "fd_dinov2": partial(FrechetDistance, "dinov2"),
    "fd_clip": partial(FrechetDistance, "openai/clip-vit-large-patch14"),
    "clip_fid": partial(FrechetDistance, "openai/clip-vit-base-patch32"),
    "fd_digits_clip": partial(FrechetDistance, "digits-clip"),
    "kid": KernelInceptionDistance,
    "cmmd": CLIPMaximumMeanDiscrepancy,
    "inception_score": InceptionScore,
    "precision": partial(PrecisionRecall, "precision"),
    "recall": partial(PrecisionRecall, "recall"),
    "density": partial(DensityCoverage, "density"),
    "coverage": partial(DensityCoverage, "coverage"),
    "authenticity": Authenticity,
    "vendi": VendiScore,
    "fld": FeatureLikelihoodDivergence,
    "clip_score": CLIPScore,
    "siglip_score": SigLIPScore,
    "bioclip_score": BioCLIPScore,
    "pickscore": PickScore,
    "imagereward": ImageReward,
    "hpsv2": HPSv2,
    "hpsv3": HPSv3,
    "aesthetic": AestheticScore,
    "clip_iqa": partial(CLIPImageQualityAssessment, reduction="mean"),
    "mse": MeanSquaredError,
    "psnr": partial(PeakSignalNoiseRatio, dim=(1, 2, 3)),
    "ssim": StructuralSimilarityIndexMeasure,
    "ms_ssim": MultiScaleStructuralSimilarityIndexMeasure,
    "vif": VisualInformationFidelity,
    "lpips": LearnedPerceptualImagePatchSimilarity,
    "dists": DeepImageStructureAndTextureSimilarity,
    "rfid": ReconstructionFrechetDistance,
    "lpips_diversity": LPIPSDiversity,
    "sharpness": Sharpness,
    "noise": NoiseLevel,
    "exposure": Exposure,
    "saturation": Saturation,
    "contrast": Contrast,
    "colorfulness": Colorfulness,
    "blank_rate": BlankRate,
    "safety_rate": SafetyRate,
    "artifact_rate": ClassifierRate,
    "attribute_balance": AttributeBalance,
    "vqa_score": VQAScore,
    "genai_bench": GenAIBench,
    "vie_score": VIEScore,
    "unified_reward": UnifiedReward,
    "unified_reward_edit": UnifiedRewardEdit,
    "qwen_image_bench": QwenImageBench,
    "rubric": RubricJudge,
    "pairwise_judge": PairwiseJudge,
    "ranking_judge": RankingJudge,
    "tifa": TIFA,
    "dpg_bench": DPGBench,
    "geneval": GenEval,
    "gedit_bench": GEditBench,
    "text_rendering": TextRendering,
    "win_rate": WinRate,
}


def metric(key: str, **kwargs: Any) -> ImageMetric:
    """The metric of a key; UnknownName lists the known ones."""
    if key not in METRICS:
        raise UnknownName("metric", key, METRICS)
    return METRICS[key](**kwargs)


def metric_class(key: str) -> type[ImageMetric]:
    """The class of a key's metric, whose attributes need no metric to be made."""
    maker: Any = METRICS[key]
    return getattr(maker, "func", maker)
