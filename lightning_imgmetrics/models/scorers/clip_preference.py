"""Published preference models with the architecture of CLIP."""

from __future__ import annotations

from lightning_imgmetrics.models.base.weights import ModelCard
from lightning_imgmetrics.models.encoders.clip import ClipExtractor

PICKSCORE = "yuvalkirstain/PickScore_v1"
VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # the configuration, tokenizer and image processor of both
HPSV2 = {
    version: ModelCard.on_hub(f"HPS_{version}", "xswu/HPSv2", f"HPS_{file}_compressed.pt", license="Apache-2.0")
    for version, file in (("v2.0", "v2"), ("v2.1", "v2.1"))
}


def pickscore() -> ClipExtractor:
    """PickScore's CLIP (Kirstain et al. 2023)."""
    return ClipExtractor(PICKSCORE, processor=VIT_H)


def hpsv2(version: str) -> ClipExtractor:
    """HPSv2's CLIP (Wu et al. 2023), with the resizing of torchvision since 0.17."""
    return ClipExtractor(VIT_H, weights=HPSV2[version], resize="float-bicubic-antialias")
