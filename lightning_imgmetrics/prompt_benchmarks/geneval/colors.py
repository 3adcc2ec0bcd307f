"""The color of an object in an image, as a CLIP tells it without having been trained for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightning_imgmetrics._images import quantize
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.models.detection.detections import COLORS, Detection
from lightning_imgmetrics.models.encoders.clip import ClipExtractor

CLIP_L14 = "openai/clip-vit-large-patch14"
COLOR_PROMPTS = ("a photo of a {color} {label}", "a photo of a {color}-colored {label}", "a photo of a {color} object")
BACKGROUND = 0x99  # the grey that is painted around an object


@dataclass(frozen=True)
class ColorClassifier:
    """Names the color, one of `COLORS`, of detected objects by zero-shot classification with `clip`.

    A color's direction is the mean of the normalized embeddings of three texts, normalized; the nearest one is the
    answer. Source: Ghosh, Hajishirzi & Schmidt 2023, with CLIP ViT-L/14, the default.
    """

    clip: ClipExtractor = field(default_factory=lambda: ClipExtractor(CLIP_L14))

    def __call__(self, image: Tensor, detections: Sequence[Detection], device: torch.device) -> list[str]:
        """The colors of objects of one image (3, h, w): one pass for all of them."""
        if not detections:
            return []
        crops = [object_crop(image, detection)[None] for detection in detections]
        with full_precision(device):
            objects = self.clip(crops, ("embed",), device)["embed"]
            directions = {label: self.directions(label, device) for label in {d.label for d in detections}}
            nearest = [int((directions[d.label] @ x).argmax()) for d, x in zip(detections, normalize(objects, dim=1))]
        return [COLORS[i] for i in nearest]

    def directions(self, label: str, device: torch.device) -> Tensor:
        """The unit vector of each color for objects of class `label`, (10, d)."""
        texts = [text.format(color=color, label=label) for color in COLORS for text in COLOR_PROMPTS]
        embeddings = normalize(self.clip.embed_text(texts, device)[0], dim=1)
        return normalize(embeddings.unflatten(0, (len(COLORS), -1)).mean(1), dim=1)


def object_crop(image: Tensor, detection: Detection) -> Tensor:
    """The box of a detection cut out of an image (3, h, w), what its mask leaves out painted grey; uint8.

    The box is rounded to whole pixels and cut off at the image, of which it keeps at least one pixel. ShapeError: the
    mask has another size than the image.
    """
    image, mask = quantize(image), detection.pixels()
    height, width = image.shape[1:]
    if mask is not None:
        if mask.shape != image.shape[1:]:
            raise ShapeError(
                f"the mask of a {detection.label} must have the size of its image, {height} x {width}, got"
                f" {' x '.join(map(str, mask.shape))}"
            )
        image = torch.where(mask.to(image.device), image, BACKGROUND)
    left, top, right, bottom = (round(x) for x in detection.box)
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return image[:, top : max(bottom, top + 1), left : max(right, left + 1)]
