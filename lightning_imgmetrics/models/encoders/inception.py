"""Inception-v3 with the 2015 TensorFlow weights, for FID."""

from __future__ import annotations

import functools
import io
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lightning_imgmetrics._images import quantize
from lightning_imgmetrics.errors import UnknownName, WeightsMismatch
from lightning_imgmetrics.models.base.extractor import Extractor, Features
from lightning_imgmetrics.models.base.resize import RESIZE
from lightning_imgmetrics.models.base.weights import ModelCard, find_weights, load_tensors, sha256

INCEPTION = ModelCard(
    "inception-v3-2015",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d",
    "Apache-2.0",
)
# The blocks in order; features are taken after each stage, averaged over positions. "sfid" is not averaged: it is the
# first 7 of the 192 channels of Mixed_6d's 1x1 branch, which come first in the block's output.
_STAGES = {
    "64": ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1"),
    "192": ("Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    "sfid": ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d"),
    "768": ("Mixed_6e",),
    "2048": ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
}
_DIMS = {"64": 64, "192": 192, "sfid": 2023, "768": 768, "2048": 2048, "logits_unbiased": 1008, "logits": 1008}


@dataclass(frozen=True)
class InceptionExtractor(Extractor):
    """Layers "64", "192", "768", "2048", "logits_unbiased", "logits" and "sfid", all from one pass.

    "sfid" is a 17 x 17 x 7 map flattened in the order (h, w, c), as in ADM's statistics files (Nash et al. 2021).
    `resize`: a key of `RESIZE`. `rounding` of float images to 8 bits: "round" or "floor" (torchmetrics). `scale`: "tf"
    is (x - 128) / 128, "unit" is x / 127.5 - 1 (pytorch-fid). `weights`: a file in place of the published one.
    """

    resize: str = "bilinear-antialias"
    rounding: str = "round"
    scale: str = "tf"
    weights: str | None = None
    card = INCEPTION
    default_layer = "2048"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize not in RESIZE:
            raise UnknownName("resize", self.resize, RESIZE)

    @functools.cached_property
    def key(self) -> Hashable:
        return "inception", self.weights

    def load(self) -> nn.Module:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        path = find_weights(self.card, self.weights)
        file = io.BytesIO()  # the constructor unpickles its file, so it gets tensors that were read safely
        torch.save(load_tensors(self.card, path), file)
        file.seek(0)
        try:
            network = FeatureExtractorInceptionV3("inception", ["logits"], feature_extractor_weights_path=file)
        except RuntimeError as error:
            raise WeightsMismatch(f"{path} does not fit {self.card.name}: {shorten(str(error), 400)}") from error
        for block in network.modules():
            if isinstance(getattr(block, "bn", None), nn.BatchNorm2d):
                block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
        return network.to(memory_format=torch.channels_last)

    def prepare(self, images: Tensor) -> Tensor:
        if self.rounding == "floor" and images.is_floating_point():
            images = (images * 255).to(torch.uint8)
        x = RESIZE[self.resize](quantize(images).float(), 299)
        return (x - 128) / 128 if self.scale == "tf" else x / 127.5 - 1

    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        x = x.contiguous(memory_format=torch.channels_last)
        features: Features = {}
        for name, stage in _STAGES.items():
            for block in stage:
                x = network.get_submodule(block)(x)
            if name == "sfid" and name in layers:
                features[name] = x[:, :7].permute(0, 2, 3, 1).flatten(1)
            elif name in layers or name == "2048":
                features[name] = x.float().mean((2, 3))
            if all(layer in features for layer in layers):
                return {layer: features[layer] for layer in layers}
        features["logits_unbiased"] = features["2048"] @ network.fc.weight.mT
        features["logits"] = features["logits_unbiased"] + network.fc.bias
        return {layer: features[layer] for layer in layers}

    def dim(self, layer: str) -> int:
        if layer not in _DIMS:
            raise UnknownName("layer", layer, _DIMS)
        return _DIMS[layer]

    def signature_fields(self) -> dict[str, str]:
        weights = self.card.sha256 if self.weights is None else sha256(find_weights(self.card, self.weights))[:8]
        return {
            "weights": weights,
            "resize": f"{self.resize}-299",
            "quantize": self.rounding,
            "scale": self.scale,
        }
