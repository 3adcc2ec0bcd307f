"""The look of images by pairs of opposite texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.metrics.base.score_metric import ScoreMetric
from lightning_imgmetrics.metrics.base.summary import Column, Summary
from lightning_imgmetrics.models.base.extractor import Features
from lightning_imgmetrics.models.encoders.clip import ClipExtractor
from lightning_imgmetrics.models.encoders.clip_resnet import ClipResNetExtractor
from lightning_imgmetrics.models.registry import network_argument

Prompts = Sequence[str | Sequence[str]]
# name: what is said of an image that scores high, and of one that scores low
PROMPTS = {
    "quality": ("Good photo.", "Bad photo."),
    "brightness": ("Bright photo.", "Dark photo."),
    "noisiness": ("Clean photo.", "Noisy photo."),
    "colorfullness": ("Colorful photo.", "Dull photo."),
    "sharpness": ("Sharp photo.", "Blurry photo."),
    "contrast": ("High contrast photo.", "Low contrast photo."),
    "complexity": ("Complex photo.", "Simple photo."),
    "natural": ("Natural photo.", "Synthetic photo."),
    "happy": ("Happy photo.", "Sad photo."),
    "scary": ("Scary photo.", "Peaceful photo."),
    "new": ("New photo.", "Old photo."),
    "warm": ("Warm photo.", "Cold photo."),
    "real": ("Real photo.", "Abstract photo."),
    "beautiful": ("Beautiful photo.", "Ugly photo."),
    "lonely": ("Lonely photo.", "Sociable photo."),
    "relaxing": ("Relaxing photo.", "Stressful photo."),
}
_REDUCTIONS = ("mean", "none")


class CLIPImageQualityAssessment(ScoreMetric):
    """CLIP-IQA: the softmax of 100 cos between an image and a pair of opposite texts; drop-in for torchmetrics.

    Args:
        model_name_or_path: torchmetrics' name for `network`.
        data_range: float images lie in [0, `data_range`]; uint8 is read as 0..255.
        prompts: names of `PROMPTS`, or pairs (positive, negative), which are named "user_defined_<i>".
        network: "clip_iqa", the published one (CLIP's ResNet-50 without positional embedding; needs the extra "iqa"),
            or whatever `ClipExtractor` takes.
        reduction: "none" for one value per image (n,), in a dict by prompt where there are several; "mean" for the mean
            of the first prompt. The others' means are in the details.
        weights, processor, revision, dtype: see `ClipExtractor`.
        keep_scores: see `ScoreMetric`.
        kwargs: those of `ScoreMetric`.

    Returns:
        Values in [0, 1]; higher is better.

    Raises:
        ValueError: prompts that are neither names nor pairs of texts.

    References:
        Wang, Chan & Loy 2023, "Exploring CLIP for assessing the look and feel of images".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import CLIPImageQualityAssessment
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = CLIPImageQualityAssessment(network="digits-clip", prompts=("sharpness",), reduction="mean")
        >>> metric.update(images)
        >>> round(float(metric.compute()), 3)
        0.5
    """

    name: ClassVar[str] = "clip_iqa"
    higher_is_better = True
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    layers = ("embed",)
    extractor: ClipExtractor | ClipResNetExtractor
    default_network: ClassVar[str] = "clip_iqa"

    def __init__(
        self,
        model_name_or_path: str | None = None,
        data_range: float = 1.0,
        prompts: Prompts = ("quality",),
        *,
        network: str | None = None,
        reduction: str = "none",
        weights: str | None = None,
        processor: str | None = None,
        revision: str | None = None,
        dtype: str = "float32",
        keep_scores: bool = True,
        **kwargs: Any,
    ):
        if not isinstance(data_range, int | float) or isinstance(data_range, bool) or not data_range > 0:
            raise ValueError(f"Argument `data_range` should be a positive number, got {data_range!r}")
        if reduction not in _REDUCTIONS:
            raise UnknownName("reduction", reduction, _REDUCTIONS)
        self.pairs = prompt_pairs(prompts)
        self.reduction = reduction
        kwargs.setdefault("value_range", (0.0, float(data_range)))
        super().__init__(keep_scores=keep_scores or reduction == "none", **kwargs)
        network = network_argument(network, self.default_network, model_name_or_path=model_name_or_path)
        if network == self.default_network:
            self.extractor = ClipResNetExtractor(weights=weights, processor=processor, dtype=dtype)
        else:
            self.extractor = ClipExtractor(network, revision, processor=processor, weights=weights, dtype=dtype)

    def columns(self) -> tuple[Column, ...]:
        return (*super().columns(), *(Column(name) for name in tuple(self.pairs)[1:]))

    def scores_of(self, features: Features, **_: Any) -> Tensor:
        image = normalize(features["embed"], dim=1)
        texts = [text for pair in self.pairs.values() for text in pair]
        anchors = normalize(self.extractor.embed_text(texts, self.device)[0].to(image.device), dim=1)
        return (100 * image @ anchors.mT).unflatten(1, (-1, 2)).softmax(2)[:, :, 0]

    def summarize(self) -> Summary:
        summary = super().summarize()
        return summary if self.reduction == "mean" else replace(summary, value=self.streams["score"].read()[:, 1])

    def output(self, summary: Summary) -> Tensor | dict[str, Tensor]:
        """The scores (n,), sorted by id where there are ids, or a dict of them by prompt; or their mean: float64."""
        if self.reduction == "mean" or len(self.pairs) == 1:
            return summary.value
        return dict(zip(self.pairs, self.streams["score"].read()[:, 1:].unbind(1), strict=True))

    def signature_parameters(self) -> dict[str, object]:
        pairs = ("/".join(pair) if name.startswith("user_defined_") else name for name, pair in self.pairs.items())
        return {"prompts": "+".join(pairs)}


def prompt_pairs(prompts: Prompts) -> dict[str, tuple[str, str]]:
    """name -> (positive, negative), of names and pairs; ValueError, in torchmetrics' terms, where they are neither."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not prompts:
        raise _no_prompts(prompts)
    pairs: dict[str, tuple[str, str]] = {}
    for prompt in prompts:
        if not isinstance(prompt, str):
            pairs[f"user_defined_{sum(name not in PROMPTS for name in pairs)}"] = _pair(prompt)
        elif prompt not in PROMPTS:
            names = ", ".join(PROMPTS)
            raise ValueError(f"All elements of `prompts` must be one of {names}, or pairs of texts; got {prompt!r}")
        elif prompt in pairs:
            raise ValueError(f"`prompts` must hold {prompt!r} once")
        else:
            pairs[prompt] = PROMPTS[prompt]
    return pairs


def _pair(prompt: Sequence[str]) -> tuple[str, str]:
    if not isinstance(prompt, Sequence) or not all(isinstance(text, str) for text in prompt):
        raise _no_prompts(prompt)
    if len(prompt) != 2:
        raise ValueError(f"If a tuple is provided in argument `prompts`, it must be of length 2, got {prompt!r}")
    return prompt[0], prompt[1]


def _no_prompts(got: object) -> ValueError:
    return ValueError(f"Argument `prompts` must be a tuple containing strings or tuples of strings, got {got!r}")
