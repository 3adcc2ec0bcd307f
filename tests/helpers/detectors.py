"""Tiny Mask2Formers in the layout of the hub, and what they find in an image, computed from their definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from helpers.checkpoints import randomized
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import resize
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    SwinConfig,
)

SIDE = 64
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def save_detector(folder: Path, *, labels: int = 80, **processor: Any) -> str:
    """A Mask2Former of 12 queries on a Swin 8 wide, with random weights; images become squares of 64 pixels."""
    stages = [f"stage{i}" for i in range(1, 5)]
    swin = SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1, 2, 2, 2], window_size=4, out_features=stages)
    with torch.random.fork_rng():
        model = Mask2FormerForUniversalSegmentation(
            Mask2FormerConfig(
                backbone_config=swin,
                feature_size=32,
                mask_feature_size=32,
                hidden_dim=32,
                encoder_feedforward_dim=16,
                encoder_layers=1,
                decoder_layers=3,
                num_attention_heads=4,
                dim_feedforward=16,
                num_queries=12,
                num_labels=labels,
            )
        )
    randomized(model).save_pretrained(folder)
    Mask2FormerImageProcessor(size={"height": SIDE, "width": SIDE}, **processor).save_pretrained(folder)
    return str(folder)


Found = tuple[float, int, Tensor]  # score, class, logits of the mask


@torch.no_grad()
def detections_of(folder: str, image: Tensor, size: tuple[int, int] = (SIDE, SIDE), padded: int = 0) -> list[Found]:
    """All that the 100 most probable pairs of query and class give, by score, of one image (3, h, w)."""
    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval()
    x = (resize(image, list(size), antialias=True) - 255 * MEAN[:, None, None]) / (255 * STD[:, None, None])
    frame = torch.zeros(3, padded or size[0], padded or size[1])
    frame[:, : size[0], : size[1]] = x
    out = model(pixel_values=frame[None])
    probabilities, masks = out.class_queries_logits[0].double().softmax(1), out.masks_queries_logits.double()
    pairs = [(float(probabilities[q, c]), q, c) for q in range(12) for c in range(80)]
    found = []
    for probability, q, c in sorted(pairs, reverse=True)[:100]:
        logits = interpolate(masks[:, q : q + 1], frame.shape[1:], mode="bilinear")
        logits = interpolate(logits[..., : size[0], : size[1]], image.shape[1:], mode="bilinear")[0, 0]
        inside = logits[logits > 0]
        if len(inside):
            found.append((probability * float(inside.sigmoid().mean()), c, logits))
    return sorted(found, key=lambda one: -one[0])
