"""Image classifiers through transformers: any checkpoint folder or hub id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import quantize, to_float
from lightning_imgmetrics.errors import UnknownName, WeightsMismatch
from lightning_imgmetrics.models.base.extractor import Extractor, Features
from lightning_imgmetrics.models.base.pretrained import PretrainedNetwork


class _Classifier(nn.Module):
    """A classifier with its image processor."""

    model: Any

    def __init__(self, model: nn.Module, image_processor: Any):
        super().__init__()
        self.model = model
        self.image_processor = image_processor


@dataclass(frozen=True)
class ClassifierExtractor(PretrainedNetwork, Extractor):
    """Layer "probabilities" (n, k) of a checkpoint's k labels; layer "peak" (n, 3), each channel's brightest pixel.

    `model`: a checkpoint folder or hub id that transformers reads as an image classifier. Probabilities are a softmax,
    or one sigmoid per label if the checkpoint is for "multi_label_classification". Images are quantized to 8 bits and
    preprocessed by the checkpoint's own image processor; "peak" is taken before, in [0, 1], to detect black images.
    WeightsMismatch: a checkpoint that is not an image classifier, or has a single output.
    """

    default_layer = "probabilities"
    max_batch = 64

    def labels(self) -> tuple[str, ...]:
        """The names of the labels, in the order of the probabilities."""
        names = self.config().id2label
        if len(names) < 2:
            raise WeightsMismatch(f"`model` must classify into two labels or more, {self.model!r} has {len(names)}")
        return tuple(str(names[i]) for i in range(len(names)))

    def exclusive(self) -> bool:
        """Whether an image has exactly one label, so that probabilities sum to 1."""
        return self.config().problem_type != "multi_label_classification"

    def load(self) -> nn.Module:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        model = self.pretrained_model(AutoModelForImageClassification)
        return _Classifier(model, self.pretrained(AutoImageProcessor))

    def prepare(self, images: Tensor) -> Tensor:
        processor = self.network(images.device).image_processor
        pixels = processor(images=list(quantize(images)), return_tensors="pt")["pixel_values"]
        return pixels.to(images.device, torch.float32)

    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        logits = network.model(pixel_values=x).logits.float()
        exclusive = network.model.config.problem_type != "multi_label_classification"
        return {"probabilities": logits.softmax(1) if exclusive else logits.sigmoid()}

    def __call__(self, batches: Sequence[Tensor], layers: Sequence[str], device: torch.device) -> Features:
        features = super().__call__(batches, ("probabilities",), device)
        if "peak" in layers:  # computed from the images themselves, which `run` does not get
            features["peak"] = torch.cat([to_float(quantize(batch).amax((2, 3))).to(device) for batch in batches])
        return features

    def dim(self, layer: str) -> int:
        if layer not in ("probabilities", "peak"):
            raise UnknownName("layer", layer, ("probabilities", "peak"))
        return 3 if layer == "peak" else len(self.labels())

    def signature_fields(self) -> dict[str, str]:
        return {**super().signature_fields(), "resize": "processor"}
