"""What people would prefer, as networks learned it from their choices."""

from __future__ import annotations

from typing import Any, ClassVar

from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.metrics.alignment import CosineMetric, Model
from lightning_imgmetrics.models.weights import ModelCard

_PICKSCORE = "yuvalkirstain/PickScore_v1"
_VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # configuration, tokenizer and image processor of several scorers


class PickScore(CosineMetric):
    """exp(logit_scale) cos(prompt, image) of a CLIP trained on the choices of Pick-a-Pic's users.

    About 16 to 26; only scores of one prompt compare. `model`: a hub id or checkpoint folder; `weights`: a file with
    the network's tensors in the layout of transformers or open_clip; `processor`: where tokenizer and image processor
    lie. `probabilities` gives the chance of each candidate of one prompt. Higher is better.
    Source: Kirstain et al. 2023.
    """

    name: ClassVar[str] = "pickscore"

    def __init__(self, model: Model = _PICKSCORE, *, processor: str | None = None, **kwargs: Any):
        if processor is None and model == _PICKSCORE:
            processor = _VIT_H
        super().__init__(model, formula="logit", processor=processor, **kwargs)


class HPSv2(CosineMetric):
    """Human Preference Score v2: the cosine of prompt and image in a CLIP ViT-H/14 trained on HPDv2, times `scale`.

    `version`: "v2.1" or "v2.0", whose scores do not compare. `scale`: 1 as `hpsv2.score` gives (about 0.13 to 0.33),
    or 100 as in published tables. `antialias`: as torchvision resizes tensors since 0.17; the published numbers are
    older, and made without. `weights`: a file in place of the published one; `model`: the checkpoint with
    configuration, tokenizer and image processor. Higher is better. Source: Wu et al. 2023.
    """

    name: ClassVar[str] = "hpsv2"
    versions: ClassVar[dict[str, ModelCard]] = {
        version: ModelCard.on_hub(f"HPS_{version}", "xswu/HPSv2", f"HPS_{file}_compressed.pt", license="Apache-2.0")
        for version, file in (("v2.0", "v2"), ("v2.1", "v2.1"))
    }

    def __init__(
        self,
        version: str = "v2.1",
        *,
        scale: int = 1,
        antialias: bool = True,
        weights: str | None = None,
        model: str = _VIT_H,
        **kwargs: Any,
    ):
        if version not in self.versions:
            raise UnknownName("version", version, self.versions)
        if scale not in (1, 100):
            raise ValueError(f"`scale` must be 1 or 100, got {scale!r}")
        resize = "float-bicubic-antialias" if antialias else "float-bicubic"
        formula = "plain" if scale == 1 else "cosine"
        super().__init__(model, formula=formula, resize=resize, weights=weights or self.versions[version], **kwargs)
        self.version = version

    def parameters_of_value(self) -> dict[str, object]:
        return {"variant": self.version, **super().parameters_of_value()}
