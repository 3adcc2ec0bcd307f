"""An object detector through transformers: a Mask2Former of COCO's 80 classes, from a checkpoint folder or hub id."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lightning_imgmetrics._images import quantize
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import UnknownName, ValueRangeError, WeightsMismatch
from lightning_imgmetrics.models.base.extractor import PixelExtractor
from lightning_imgmetrics.models.base.network import run_in_batches
from lightning_imgmetrics.models.base.parameters import require_fit
from lightning_imgmetrics.models.base.pretrained import LOADING_OPTIONS, PretrainedNetwork
from lightning_imgmetrics.models.detection.detections import CLASSES, Box, Detection

MASK2FORMER = "facebook/mask2former-swin-small-coco-instance"
_SIZES = {"coco": {"size": {"shortest_edge": 800, "longest_edge": 1333}}, "processor": {}}
_MOST = 100  # pairs of a query and a class
# Stored by some versions of transformers, computed by others, and irrelevant to detections.
_UNUSED = ("criterion.", "relative_position_index", "encoder.swin.layernorm.")


class _Detector(nn.Module):
    """A detector with its image processor."""

    model: Any

    def __init__(self, model: nn.Module, image_processor: Any):
        super().__init__()
        self.model = model
        self.image_processor = image_processor


@dataclass(frozen=True)
class DetectorExtractor(PretrainedNetwork, PixelExtractor):
    """Layer "pixels": 8-bit images (3, h, w), of any sizes. `detect`: the objects in them.

    `model`: a checkpoint folder or hub id of a Mask2Former for instance segmentation of COCO's 80 classes, which are
    identified by their index and named as in GenEval. `resize`: "coco", short side 800 and long side at most 1333, as
    in the evaluation on COCO and in GenEval; "processor", the checkpoint's own size. Detections below `min_score` are
    not returned. GenEval's thresholds were chosen for another training run, MMDetection's: its published scores do not
    compare with those of this detector. Source: Cheng et al. 2022.
    """

    model: str = MASK2FORMER
    resize: str = "coco"
    min_score: float = 0.0
    compilable = False
    max_batch = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize not in _SIZES:
            raise UnknownName("resize", self.resize, _SIZES)
        if not 0 <= self.min_score < 1:
            raise ValueRangeError(f"`min_score` must lie in [0, 1), got {self.min_score}")

    def load(self) -> nn.Module:
        from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation, Mask2FormerConfig

        config = self.config()
        if not isinstance(config, Mask2FormerConfig) or config.num_labels != len(CLASSES):
            raise WeightsMismatch(
                f"`model` must be a Mask2Former of COCO's {len(CLASSES)} classes, {self.model!r} is"
                f" {config.model_type!r} with {config.num_labels} labels"
            )
        model, loading_info = self.pretrained(AutoModelForUniversalSegmentation, **LOADING_OPTIONS)
        require_fit(
            f"the checkpoint {self.model!r}",
            missing=_used(loading_info["missing_keys"]),
            unexpected=_used(loading_info["unexpected_keys"]),
            misshaped=loading_info["mismatched_keys"],
        )
        return _Detector(model, self.pretrained(AutoImageProcessor))

    def prepare(self, images: Tensor) -> Tensor:
        return quantize(images)

    def detect(self, images: Sequence[Tensor], device: torch.device) -> list[list[Detection]]:
        """Images (3, h, w) -> the detections of each above `min_score`, at most 100, by descending score.

        The score is the probability of the class times the mean probability of the mask's pixels, those above 0.5.
        Masks are bool (h, w) on `device`, and boxes fit them tightly. One mask may be detected as several classes.
        """
        by_size: dict[Hashable, list[int]] = defaultdict(list)
        for i, image in enumerate(images):
            by_size[tuple(image.shape)].append(i)
        detections: dict[int, list[Detection]] = {}
        with full_precision(device):
            network = self.network(device)
            for indices in by_size.values():
                group = torch.stack([self.prepare(images[i]).to(device) for i in indices])
                parts = run_in_batches(partial(self._of_one_size, network, group), len(group), self.max_batch)
                detections.update(zip(indices, chain.from_iterable(parts), strict=True))
        return [detections[i] for i in range(len(images))]

    def _of_one_size(self, network: Any, images: Tensor, part: slice) -> list[list[Detection]]:
        images = images[part]
        inputs = network.image_processor(images=list(images), return_tensors="pt", **_SIZES[self.resize])
        pixels, mask = inputs["pixel_values"].to(images.device, torch.float32), inputs["pixel_mask"][0]
        with self.autocast(images.device):
            outputs = network.model(pixel_values=pixels)
        classes, masks = outputs.class_queries_logits.float(), outputs.masks_queries_logits.float()
        if images.device.type == "cpu":
            self.check_finite([classes, masks], "for images")
        unpadded = int(mask.any(1).sum()), int(mask.any(0).sum())
        sizes = (tuple(pixels.shape[2:]), unpadded, tuple(images.shape[2:]))
        return [self._instances(c, m, *sizes) for c, m in zip(classes, masks, strict=True)]

    def _instances(
        self,
        classes: Tensor,
        masks: Tensor,
        padded: tuple[int, ...],
        unpadded: tuple[int, int],
        size: tuple[int, ...],
    ) -> list[Detection]:
        """From logits (q, 81) and (q, h', w') of an image that was resized from `size` to `unpadded`, then `padded`."""
        probabilities = classes.softmax(1)[:, :-1].flatten()
        highest = probabilities.topk(min(_MOST, len(probabilities)))
        shapes: dict[int, tuple[Tensor, Box, float]] = {}
        detections = []
        for probability, index in zip(highest.values.tolist(), highest.indices.tolist(), strict=True):
            if probability <= self.min_score:  # the mask's probability could only lower it
                break
            query, label = divmod(index, len(CLASSES))
            if query not in shapes:
                logits = interpolate(masks[query][None, None], padded, mode="bilinear")
                logits = interpolate(logits[..., : unpadded[0], : unpadded[1]], size, mode="bilinear")
                shapes[query] = _shape(logits[0, 0])
            mask, box, mask_probability = shapes[query]
            if probability * mask_probability > self.min_score:
                detections.append(Detection(CLASSES[label], probability * mask_probability, box, mask))
        return sorted(detections, key=lambda detection: -detection.score)

    def signature_fields(self) -> dict[str, str]:
        return {**super().signature_fields(), "resize": self.resize, "min_score": f"{self.min_score:g}"}


def _used(keys: Iterable[str]) -> list[str]:
    return [key for key in keys if not any(part in key for part in _UNUSED)]


def _shape(logits: Tensor) -> tuple[Tensor, Box, float]:
    """Mask, tight box and mean probability within the mask, 0 for an empty one."""
    mask = logits > 0
    rows, columns = mask.any(1).nonzero()[:, 0].tolist(), mask.any(0).nonzero()[:, 0].tolist()
    if not rows:
        return mask, (0.0, 0.0, 0.0, 0.0), 0.0
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return mask, box, float(logits[mask].sigmoid().mean())
