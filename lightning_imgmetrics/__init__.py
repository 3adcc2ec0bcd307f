"""Streaming, distributed, citable image metrics for PyTorch Lightning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lightning_imgmetrics._version import __version__ as __version__

# Where each public name lives; loaded when it is first used, so that importing the package costs nothing.
_HOMES = {
    "metrics.distribution.frechet": (
        "FrechetDistance",
        "FrechetInceptionDistance",
        "FrechetInceptionDistanceInfinity",
        "SpatialFrechetInceptionDistance",
    ),
    "metrics.distribution.rfid": ("ReconstructionFrechetDistance",),
    "metrics.distribution.intra_fid": ("IntraFrechetInceptionDistance",),
    "metrics.distribution.mmd": ("CLIPMaximumMeanDiscrepancy", "KernelInceptionDistance"),
    "metrics.distribution.entropy": ("InceptionScore", "VendiScore"),
    "metrics.distribution.manifold": (
        "Authenticity",
        "DensityCoverage",
        "MemorizationInformedFrechetInceptionDistance",
        "PrecisionRecall",
    ),
    "metrics.distribution.likelihood": ("FeatureLikelihoodDivergence",),
    "metrics.distribution.reference_statistics": ("ReferenceStatistics",),
    "metrics.text_image.clip_score": ("BioCLIPScore", "CLIPScore", "SigLIPScore", "clip_score"),
    "metrics.text_image.preference": ("HPSv2", "HPSv3", "ImageReward", "PickScore"),
    "metrics.no_reference.aesthetic": ("AestheticScore",),
    "metrics.no_reference.clip_iqa": ("CLIPImageQualityAssessment",),
    "metrics.no_reference.rates": ("BlankRate", "ClassifierRate", "SafetyRate"),
    "metrics.no_reference.attribute_balance": ("AttributeBalance",),
    "metrics.full_reference.psnr": ("MeanSquaredError", "PeakSignalNoiseRatio", "VisualInformationFidelity"),
    "metrics.full_reference.ssim": ("MultiScaleStructuralSimilarityIndexMeasure", "StructuralSimilarityIndexMeasure"),
    "presets": ("PRESETS",),
    "metrics.no_reference.photometry": (
        "Colorfulness",
        "Contrast",
        "Exposure",
        "NoiseLevel",
        "Saturation",
        "Sharpness",
    ),
    "per_prompt": ("PerPrompt",),
    "scoring": ("score",),
    "metrics.full_reference.perceptual": (
        "DeepImageStructureAndTextureSimilarity",
        "LearnedPerceptualImagePatchSimilarity",
        "LPIPSDiversity",
    ),
    "judges.metrics.vqa_score": ("VQAScore",),
    "prompt_benchmarks.genai_bench": ("GenAIBench",),
    "judges.metrics.vie_score": ("VIEScore",),
    "judges.metrics.unified_reward": ("UnifiedReward",),
    "judges.metrics.unified_reward_edit": ("UnifiedRewardEdit",),
    "judges.metrics.qwen_image_bench": ("QwenImageBench",),
    "judges.metrics.rubric": ("RubricJudge",),
    "judges.metrics.pairwise": ("PairwiseJudge",),
    "judges.metrics.ranking": ("RankingJudge",),
    "prompt_benchmarks.tifa.metric": ("TIFA",),
    "prompt_benchmarks.tifa.generate": ("generate_questions", "write_tifa"),
    "prompt_benchmarks.dpg_bench": ("DPGBench",),
    "prompt_benchmarks.geneval.metric": ("GenEval",),
    "prompt_benchmarks.gedit_bench": ("GEditBench",),
    "prompt_benchmarks.text_rendering.metric": ("TextRendering",),
    "judges.calibration.judge_calibration": ("JudgeCalibration",),
    "judges.backends.base": ("Judge",),
    "judges.backends.question": ("IMAGE", "Answer", "Decoding", "Question", "turn"),
    "judges.metrics.rubric_file": ("Criterion", "Rubric", "read_rubric"),
    "prompt_benchmarks.base.question_files": ("DpgQuestion", "TifaQuestion"),
    "prompt_benchmarks.base.prompt_files": ("GEditItem",),
    "prompt_benchmarks.text_rendering.targets": ("TextTarget",),
    "models.detection.detections": ("Detection",),
    "prompt_benchmarks.geneval.prompts": ("GenEvalPrompt",),
    "judges.backends.clip_flant5": ("ClipFlanT5Judge",),
    "judges.backends.local": ("LocalJudge",),
    "judges.backends.ocr": ("TextReader",),
    "judges.backends.server": ("ServerJudge",),
    "metrics.human.win_rate": ("WinRate",),
    "registry": ("METRICS",),
    "suite": ("MetricSuite",),
    "result": ("Result", "Signature"),
    "callback.monitor": ("ImageMetricsCallback",),
    "callback.schedule": ("Every",),
    "callback.sampler": ("EditedImages", "ImageSampler", "PairedImages", "PairedSampler"),
    "callback.sampling": ("noise",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "IMAGE",
    "METRICS",
    "PRESETS",
    "TIFA",
    "AestheticScore",
    "Answer",
    "AttributeBalance",
    "Authenticity",
    "BioCLIPScore",
    "BlankRate",
    "CLIPImageQualityAssessment",
    "CLIPMaximumMeanDiscrepancy",
    "CLIPScore",
    "ClassifierRate",
    "ClipFlanT5Judge",
    "Colorfulness",
    "Contrast",
    "Criterion",
    "DPGBench",
    "Decoding",
    "DeepImageStructureAndTextureSimilarity",
    "DensityCoverage",
    "Detection",
    "DpgQuestion",
    "EditedImages",
    "Every",
    "Exposure",
    "FeatureLikelihoodDivergence",
    "FrechetDistance",
    "FrechetInceptionDistance",
    "FrechetInceptionDistanceInfinity",
    "GEditBench",
    "GEditItem",
    "GenAIBench",
    "GenEval",
    "GenEvalPrompt",
    "HPSv2",
    "HPSv3",
    "ImageMetricsCallback",
    "ImageReward",
    "ImageSampler",
    "InceptionScore",
    "IntraFrechetInceptionDistance",
    "Judge",
    "JudgeCalibration",
    "KernelInceptionDistance",
    "LPIPSDiversity",
    "LearnedPerceptualImagePatchSimilarity",
    "LocalJudge",
    "MeanSquaredError",
    "MemorizationInformedFrechetInceptionDistance",
    "MetricSuite",
    "MultiScaleStructuralSimilarityIndexMeasure",
    "NoiseLevel",
    "PairedImages",
    "PairedSampler",
    "PairwiseJudge",
    "PeakSignalNoiseRatio",
    "PerPrompt",
    "PickScore",
    "PrecisionRecall",
    "Question",
    "QwenImageBench",
    "RankingJudge",
    "ReconstructionFrechetDistance",
    "ReferenceStatistics",
    "Result",
    "Rubric",
    "RubricJudge",
    "SafetyRate",
    "Saturation",
    "ServerJudge",
    "Sharpness",
    "SigLIPScore",
    "Signature",
    "SpatialFrechetInceptionDistance",
    "StructuralSimilarityIndexMeasure",
    "TextReader",
    "TextRendering",
    "TextTarget",
    "TifaQuestion",
    "UnifiedReward",
    "UnifiedRewardEdit",
    "VIEScore",
    "VQAScore",
    "VendiScore",
    "VisualInformationFidelity",
    "WinRate",
    "clip_score",
    "generate_questions",
    "noise",
    "read_rubric",
    "score",
    "turn",
    "write_tifa",
]

if TYPE_CHECKING:
    from lightning_imgmetrics.callback.monitor import ImageMetricsCallback
    from lightning_imgmetrics.callback.sampler import EditedImages, ImageSampler, PairedImages, PairedSampler
    from lightning_imgmetrics.callback.sampling import noise
    from lightning_imgmetrics.callback.schedule import Every
    from lightning_imgmetrics.judges.backends.base import Judge
    from lightning_imgmetrics.judges.backends.clip_flant5 import ClipFlanT5Judge
    from lightning_imgmetrics.judges.backends.local import LocalJudge
    from lightning_imgmetrics.judges.backends.ocr import TextReader
    from lightning_imgmetrics.judges.backends.question import IMAGE, Answer, Decoding, Question, turn
    from lightning_imgmetrics.judges.backends.server import ServerJudge
    from lightning_imgmetrics.judges.calibration.judge_calibration import JudgeCalibration
    from lightning_imgmetrics.judges.metrics.pairwise import PairwiseJudge
    from lightning_imgmetrics.judges.metrics.qwen_image_bench import QwenImageBench
    from lightning_imgmetrics.judges.metrics.ranking import RankingJudge
    from lightning_imgmetrics.judges.metrics.rubric import RubricJudge
    from lightning_imgmetrics.judges.metrics.rubric_file import Criterion, Rubric, read_rubric
    from lightning_imgmetrics.judges.metrics.unified_reward import UnifiedReward
    from lightning_imgmetrics.judges.metrics.unified_reward_edit import UnifiedRewardEdit
    from lightning_imgmetrics.judges.metrics.vie_score import VIEScore
    from lightning_imgmetrics.judges.metrics.vqa_score import VQAScore
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
    from lightning_imgmetrics.metrics.distribution.reference_statistics import ReferenceStatistics
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
    from lightning_imgmetrics.metrics.text_image.clip_score import BioCLIPScore, CLIPScore, SigLIPScore, clip_score
    from lightning_imgmetrics.metrics.text_image.preference import HPSv2, HPSv3, ImageReward, PickScore
    from lightning_imgmetrics.models.detection.detections import Detection
    from lightning_imgmetrics.per_prompt import PerPrompt
    from lightning_imgmetrics.presets import PRESETS
    from lightning_imgmetrics.prompt_benchmarks.base.prompt_files import GEditItem
    from lightning_imgmetrics.prompt_benchmarks.base.question_files import DpgQuestion, TifaQuestion
    from lightning_imgmetrics.prompt_benchmarks.dpg_bench import DPGBench
    from lightning_imgmetrics.prompt_benchmarks.gedit_bench import GEditBench
    from lightning_imgmetrics.prompt_benchmarks.genai_bench import GenAIBench
    from lightning_imgmetrics.prompt_benchmarks.geneval.metric import GenEval
    from lightning_imgmetrics.prompt_benchmarks.geneval.prompts import GenEvalPrompt
    from lightning_imgmetrics.prompt_benchmarks.text_rendering.metric import TextRendering
    from lightning_imgmetrics.prompt_benchmarks.text_rendering.targets import TextTarget
    from lightning_imgmetrics.prompt_benchmarks.tifa.generate import generate_questions, write_tifa
    from lightning_imgmetrics.prompt_benchmarks.tifa.metric import TIFA
    from lightning_imgmetrics.registry import METRICS
    from lightning_imgmetrics.result import Result, Signature
    from lightning_imgmetrics.scoring import score
    from lightning_imgmetrics.suite import MetricSuite


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
