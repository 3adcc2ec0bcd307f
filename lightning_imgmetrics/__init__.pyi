"""The public names and where each lives: what `__init__` loads when it is used, and what type checkers read."""

from lightning_imgmetrics import functional as functional
from lightning_imgmetrics.callback.monitor import ImageMetricsCallback as ImageMetricsCallback
from lightning_imgmetrics.callback.sampler import (
    EditedImages as EditedImages,
    ImageSampler as ImageSampler,
    PairedImages as PairedImages,
    PairedSampler as PairedSampler,
)
from lightning_imgmetrics.callback.sampling import noise as noise
from lightning_imgmetrics.callback.schedule import Every as Every
from lightning_imgmetrics.judges.backends.base import Judge as Judge
from lightning_imgmetrics.judges.backends.clip_flant5 import ClipFlanT5Judge as ClipFlanT5Judge
from lightning_imgmetrics.judges.backends.local import LocalJudge as LocalJudge
from lightning_imgmetrics.judges.backends.ocr import TextReader as TextReader
from lightning_imgmetrics.judges.backends.question import (
    IMAGE as IMAGE,
    Answer as Answer,
    Decoding as Decoding,
    Question as Question,
    turn as turn,
)
from lightning_imgmetrics.judges.backends.server import ServerJudge as ServerJudge
from lightning_imgmetrics.judges.calibration.judge_calibration import JudgeCalibration as JudgeCalibration
from lightning_imgmetrics.judges.metrics.pairwise import PairwiseJudge as PairwiseJudge
from lightning_imgmetrics.judges.metrics.qwen_image_bench import QwenImageBench as QwenImageBench
from lightning_imgmetrics.judges.metrics.ranking import RankingJudge as RankingJudge
from lightning_imgmetrics.judges.metrics.rubric import RubricJudge as RubricJudge
from lightning_imgmetrics.judges.metrics.rubric_file import (
    Criterion as Criterion,
    Rubric as Rubric,
    read_rubric as read_rubric,
)
from lightning_imgmetrics.judges.metrics.unified_reward import UnifiedReward as UnifiedReward
from lightning_imgmetrics.judges.metrics.unified_reward_edit import UnifiedRewardEdit as UnifiedRewardEdit
from lightning_imgmetrics.judges.metrics.vie_score import VIEScore as VIEScore
from lightning_imgmetrics.judges.metrics.vqa_score import VQAScore as VQAScore
from lightning_imgmetrics.metrics.distribution.entropy import InceptionScore as InceptionScore, VendiScore as VendiScore
from lightning_imgmetrics.metrics.distribution.frechet import (
    FrechetDistance as FrechetDistance,
    FrechetInceptionDistance as FrechetInceptionDistance,
    FrechetInceptionDistanceInfinity as FrechetInceptionDistanceInfinity,
    SpatialFrechetInceptionDistance as SpatialFrechetInceptionDistance,
)
from lightning_imgmetrics.metrics.distribution.intra_fid import (
    IntraFrechetInceptionDistance as IntraFrechetInceptionDistance,
)
from lightning_imgmetrics.metrics.distribution.likelihood import (
    FeatureLikelihoodDivergence as FeatureLikelihoodDivergence,
)
from lightning_imgmetrics.metrics.distribution.manifold import (
    Authenticity as Authenticity,
    DensityCoverage as DensityCoverage,
    MemorizationInformedFrechetInceptionDistance as MemorizationInformedFrechetInceptionDistance,
    PrecisionRecall as PrecisionRecall,
)
from lightning_imgmetrics.metrics.distribution.mmd import (
    CLIPMaximumMeanDiscrepancy as CLIPMaximumMeanDiscrepancy,
    KernelInceptionDistance as KernelInceptionDistance,
)
from lightning_imgmetrics.metrics.distribution.reference_statistics import ReferenceStatistics as ReferenceStatistics
from lightning_imgmetrics.metrics.distribution.rfid import (
    ReconstructionFrechetDistance as ReconstructionFrechetDistance,
)
from lightning_imgmetrics.metrics.full_reference.perceptual import (
    DeepImageStructureAndTextureSimilarity as DeepImageStructureAndTextureSimilarity,
    LearnedPerceptualImagePatchSimilarity as LearnedPerceptualImagePatchSimilarity,
    LPIPSDiversity as LPIPSDiversity,
)
from lightning_imgmetrics.metrics.full_reference.psnr import (
    MeanSquaredError as MeanSquaredError,
    PeakSignalNoiseRatio as PeakSignalNoiseRatio,
    VisualInformationFidelity as VisualInformationFidelity,
)
from lightning_imgmetrics.metrics.full_reference.ssim import (
    MultiScaleStructuralSimilarityIndexMeasure as MultiScaleStructuralSimilarityIndexMeasure,
    StructuralSimilarityIndexMeasure as StructuralSimilarityIndexMeasure,
)
from lightning_imgmetrics.metrics.functional_api import clip_score as clip_score
from lightning_imgmetrics.metrics.human.win_rate import WinRate as WinRate
from lightning_imgmetrics.metrics.no_reference.aesthetic import AestheticScore as AestheticScore
from lightning_imgmetrics.metrics.no_reference.attribute_balance import AttributeBalance as AttributeBalance
from lightning_imgmetrics.metrics.no_reference.clip_iqa import CLIPImageQualityAssessment as CLIPImageQualityAssessment
from lightning_imgmetrics.metrics.no_reference.photometry import (
    Colorfulness as Colorfulness,
    Contrast as Contrast,
    Exposure as Exposure,
    NoiseLevel as NoiseLevel,
    Saturation as Saturation,
    Sharpness as Sharpness,
)
from lightning_imgmetrics.metrics.no_reference.rates import (
    BlankRate as BlankRate,
    ClassifierRate as ClassifierRate,
    SafetyRate as SafetyRate,
)
from lightning_imgmetrics.metrics.text_image.clip_score import (
    BioCLIPScore as BioCLIPScore,
    CLIPScore as CLIPScore,
    SigLIPScore as SigLIPScore,
)
from lightning_imgmetrics.metrics.text_image.preference import (
    HPSv2 as HPSv2,
    HPSv3 as HPSv3,
    ImageReward as ImageReward,
    PickScore as PickScore,
)
from lightning_imgmetrics.models.detection.detections import Detection as Detection
from lightning_imgmetrics.per_prompt import PerPrompt as PerPrompt
from lightning_imgmetrics.presets import PRESETS as PRESETS
from lightning_imgmetrics.prompt_benchmarks.base.prompt_files import GEditItem as GEditItem
from lightning_imgmetrics.prompt_benchmarks.base.question_files import (
    DpgQuestion as DpgQuestion,
    TifaQuestion as TifaQuestion,
)
from lightning_imgmetrics.prompt_benchmarks.dpg_bench import DPGBench as DPGBench
from lightning_imgmetrics.prompt_benchmarks.gedit_bench import GEditBench as GEditBench
from lightning_imgmetrics.prompt_benchmarks.genai_bench import GenAIBench as GenAIBench
from lightning_imgmetrics.prompt_benchmarks.geneval.metric import GenEval as GenEval
from lightning_imgmetrics.prompt_benchmarks.geneval.prompts import GenEvalPrompt as GenEvalPrompt
from lightning_imgmetrics.prompt_benchmarks.text_rendering.metric import TextRendering as TextRendering
from lightning_imgmetrics.prompt_benchmarks.text_rendering.targets import TextTarget as TextTarget
from lightning_imgmetrics.prompt_benchmarks.tifa.generate import (
    generate_questions as generate_questions,
    write_tifa as write_tifa,
)
from lightning_imgmetrics.prompt_benchmarks.tifa.metric import TIFA as TIFA
from lightning_imgmetrics.registry import METRICS as METRICS
from lightning_imgmetrics.result import Result as Result, Signature as Signature
from lightning_imgmetrics.scoring import score as score
from lightning_imgmetrics.suite import MetricSuite as MetricSuite

__version__: str
