"""DINOv2 through transformers, as in the Fréchet distance of Stein et al. 2023."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import quantize
from lightning_imgmetrics.errors import UnknownName, WeightsMismatch
from lightning_imgmetrics.models.base.extractor import Extractor, Features
from lightning_imgmetrics.models.base.pretrained import PretrainedNetwork
from lightning_imgmetrics.models.base.resize import RESIZE, standardize

_SIZE = 224
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Dinov2Extractor(PretrainedNetwork, Extractor):
    """Layer "embed": the class token after the last LayerNorm, of images resized to 224 x 224.

    `model`: a DINOv2 checkpoint folder or hub id, with registers or without. `resize`: a key of `RESIZE`;
    "bicubic-antialias-rounded" is dgm-eval's, "bicubic-antialias-unclamped" EDM2's, "tf1-bilinear" torch-fidelity's.
    Images are quantized to 8 bits first. Source: Oquab et al. 2023.
    """

    model: str = "facebook/dinov2-large"
    resize: str = "bicubic-antialias-rounded"
    default_layer = "embed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize not in RESIZE:
            raise UnknownName("resize", self.resize, RESIZE)

    def load(self) -> nn.Module:
        kind = self.config().model_type
        if not kind.startswith("dinov2"):
            raise WeightsMismatch(f"`model` must be a DINOv2 checkpoint, got {self.model!r} of model type {kind!r}")
        model = self.pretrained_model()
        if kind == "dinov2":
            embeddings = model.embeddings
            side = _SIZE // model.config.patch_size
            embeddings.position_embeddings = nn.Parameter(_positions(embeddings.position_embeddings.detach(), side))
        return model

    def prepare(self, images: Tensor) -> Tensor:
        return standardize(RESIZE[self.resize](quantize(images).float(), _SIZE) / 255, _MEAN, _STD)

    def run(self, network: Any, x: Tensor, layers: Sequence[str]) -> Features:
        return {"embed": network(pixel_values=x, return_dict=True).pooler_output}

    def dim(self, layer: str) -> int:
        if layer != "embed":
            raise UnknownName("layer", layer, ("embed",))
        return int(self.config().hidden_size)

    def signature_fields(self) -> dict[str, str]:
        return {**super().signature_fields(), "resize": f"{self.resize}-{_SIZE}"}


def _positions(learned: Tensor, side: int) -> Tensor:
    """Position embeddings (1, 1 + m*m, d), learned at 518 px, interpolated to side*side patches.

    Published DINOv2 features come from the authors' own code, which scales the grid by (side + 0.1) / m;
    transformers scales by side / m, which shifts the last patch by a fifth of a cell.
    """
    grid = learned[:, 1:]
    m = isqrt(grid.shape[1])
    if m == side:
        return learned
    grid = torch.nn.functional.interpolate(
        grid.mT.unflatten(2, (m, m)), scale_factor=(side + 0.1) / m, mode="bicubic", align_corners=False
    )
    return torch.cat([learned[:, :1], grid.flatten(2).mT], 1)
