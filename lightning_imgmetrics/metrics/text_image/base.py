"""Scores of images by their prompts: the bases of alignment and preference metrics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from lightning_imgmetrics._images import Images
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import ShapeError, UnknownName
from lightning_imgmetrics.metrics.base.inputs import Ids, as_texts
from lightning_imgmetrics.metrics.base.score_metric import ScoreMetric
from lightning_imgmetrics.metrics.base.summary import Column
from lightning_imgmetrics.models.base.extractor import BatchFeatures, Extractor, Features
from lightning_imgmetrics.models.base.weights import ModelCard
from lightning_imgmetrics.models.encoders.clip import ClipExtractor

Texts = str | Sequence[str]
Model = str | Callable[[], tuple[Any, Any]]
CAPTION = "A photo depicts "  # what Hessel et al. put before a caption


class PromptMetric(ScoreMetric):
    """A score of each image by its prompt; `details["truncated_fraction"]`: prompts beyond the model's context."""

    inputs = ("prompts",)
    higher_is_better = True
    extractor: Extractor
    texts: Tensor
    truncated: Tensor

    def columns(self) -> tuple[Column, ...]:
        counters = Column("texts", "counter"), Column("truncated", "counter")
        return (*super().columns(), *counters, Column("truncated_fraction", "detail", logged=True))

    def update(self, *, images: Images, prompts: Texts, ids: Ids | None = None) -> None:
        """Add images, (n, 3, h, w) uint8 or float in `value_range` or a list of mixed sizes, and n prompts.

        One string is the prompt of all images. ShapeError: counts that differ. ValueError: an empty prompt.
        """
        batches = self.validate_images(images)
        texts = as_texts(prompts, sum(map(len, batches)))
        self.check_inputs(len(texts), prompts=texts)
        self.stage(self.extract(batches), prompts=texts, ids=ids)()

    def check_inputs(self, n: int, *, prompts: Sequence[str] = (), **_: Any) -> None:
        empty = [i for i, prompt in enumerate(prompts) if not prompt.strip()]
        if empty:
            raise ValueError(f"`prompts[{empty[0]}]` is empty: {self.name} has nothing to compare the image with")

    def scores_of(self, features: Features, *, prompts: Sequence[str], **_: Any) -> Tensor:
        scores, truncated = self.judge(features, prompts)
        self.texts += len(prompts)
        self.truncated += truncated
        return scores

    @abstractmethod
    def judge(self, features: Features, prompts: Sequence[str]) -> tuple[Tensor, int]:
        """The scores (n,) or (n, 1 + k), and how many prompts were truncated."""

    def features_of(self, images: Images) -> BatchFeatures:
        """The features of images that do not count: neither they nor their clamped pixels."""
        clamped = float(self.clamped)
        try:
            return self.extract(self.validate_images(images))
        finally:
            self.clamped.fill_(clamped)

    def counter_details(self, counts: Mapping[str, float]) -> dict[str, float]:
        return {"truncated_fraction": counts["truncated"] / counts["texts"]} if counts["texts"] else {}


class ScorerMetric(PromptMetric):
    """A `PromptMetric` whose network reads image and prompt together."""

    def judge(self, features: BatchFeatures, prompts: Sequence[str]) -> tuple[Tensor, int]:
        # Once for all that ask the same of a batch, such as this metric and its `PerPrompt` in one suite.
        key = self.extractor, tuple(prompts)
        return features.once(key, lambda: self.extractor.score(features, prompts, self.device))


class CosineMetric(PromptMetric):
    """A function of the cosine between the embeddings of image and prompt.

    `formula`: "cosine" 100 cos; "logit" exp(logit_scale) cos, with the factor that the checkpoint was trained with, and
    SigLIP's bias; "sigmoid" its probability, 1 / (1 + exp(-logit)), as SigLIP was trained to give; "hessel"
    2.5 max(cos, 0) with "A photo depicts " before the prompt (Hessel et al. 2021); "plain" the cosine itself.
    `network`, `weights`, `processor`, `revision`, `resize`, `dtype`: see `ClipExtractor`.
    """

    layers = ("embed",)
    extractor: ClipExtractor
    formulas: ClassVar[tuple[str, ...]] = ("cosine", "logit", "sigmoid", "hessel", "plain")

    def __init__(
        self,
        network: Model,
        *,
        formula: str,
        weights: str | ModelCard | None = None,
        processor: str | None = None,
        revision: str | None = None,
        resize: str = "processor",
        dtype: str = "float32",
        **kwargs: Any,
    ):
        if formula not in self.formulas:
            raise UnknownName("formula", formula, self.formulas)
        super().__init__(**kwargs)
        self.formula = formula
        self.extractor = ClipExtractor(
            network, revision, processor=processor, weights=weights, resize=resize, dtype=dtype
        )

    def judge(self, features: Features, prompts: Sequence[str]) -> tuple[Tensor, int]:
        image = features["embed"]
        text, truncated = self.embed_prompts(prompts)
        return self.of_cosine(cosine_similarity(image, text.to(image.device))), truncated

    def embed_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, int]:
        """Prompts (n) -> (n, d), as the formula words them, and how many were truncated."""
        worded = [CAPTION + prompt for prompt in prompts] if self.formula == "hessel" else list(prompts)
        return self.extractor.embed_text(worded, self.device)

    def of_cosine(self, cosine: Tensor) -> Tensor:
        """The score, of any shape."""
        if self.formula == "plain":
            return cosine
        if self.formula == "cosine":
            return 100 * cosine
        if self.formula == "hessel":
            return 2.5 * cosine.clamp(min=0)
        scale, bias = self.extractor.logits(cosine.device)
        logit = scale * cosine + bias
        return logit.sigmoid() if self.formula == "sigmoid" else logit

    def similarity(self, *, images: Images, prompts: Texts) -> Tensor:
        """The score of every prompt with every image: m prompts, n images -> (m, n). Nothing is added to the state."""
        return self.of_cosine(self._cosines(images, prompts, self.embed_prompts))

    def probabilities(self, *, images: Images, prompt: str) -> Tensor:
        """The chance of each image to be preferred among all of them: the softmax of exp(logit_scale) cos, (n,).

        As the checkpoint was trained, whatever the formula of the score: nothing is put before the prompt.
        """
        if not isinstance(prompt, str):
            raise TypeError(f"`prompt` must be one text, got {type(prompt).__name__}")
        cosines = self._cosines(images, prompt, lambda texts: self.extractor.embed_text(texts, self.device))[0]
        return (self.extractor.logits(cosines.device)[0] * cosines).softmax(0)

    def _cosines(self, images: Images, prompts: Texts, embed: Callable[[Sequence[str]], tuple[Tensor, int]]) -> Tensor:
        texts = [prompts] if isinstance(prompts, str) else as_texts(prompts, len(prompts))
        if not texts:
            raise ShapeError("`prompts` must hold at least one text, got none")
        self.check_inputs(len(texts), prompts=texts)
        with full_precision(self.device):
            image = normalize(self.features_of(images)["embed"], dim=1)
            text = normalize(embed(texts)[0].to(image.device), dim=1)
            return text @ image.mT

    def signature_parameters(self) -> dict[str, object]:
        return {"formula": self.formula}
