"""HPSv3: what people would prefer, as a vision-language model learned it."""

from __future__ import annotations

from typing import Any, ClassVar

from lightning_imgmetrics.metrics.text_image.base import ScorerMetric
from lightning_imgmetrics.models.scorers.hpsv3 import QWEN2_VL, HPSv3Extractor


class HPSv3(ScorerMetric):
    """Human Preference Score v3: the mean of people's preference for an image by its prompt, as a Qwen2-VL gives it.

    Unbounded, about -5 to 15; `details["sigma"]` is the mean of its own uncertainty. `weights`: a file in place of the
    published one; `processor`: the checkpoint with configuration, tokenizer and image processor. `positions`:
    "sequential" as trained, or "mrope". `dtype="bfloat16"` computes as the published code does, in half the memory.
    `template`: a copy of the Python source of the prompt, where it cannot be downloaded. Prompts are not truncated,
    and special tokens in them are read as letters. Higher is better. Source: Ma et al. 2025.
    """

    name: ClassVar[str] = "hpsv3"
    layers = ("pixels",)
    columns = HPSv3Extractor.columns
    extractor: HPSv3Extractor

    def __init__(
        self,
        *,
        weights: str | None = None,
        processor: str = QWEN2_VL,
        positions: str = "sequential",
        dtype: str = "float32",
        template: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.extractor = HPSv3Extractor(
            weights=weights, processor=processor, positions=positions, dtype=dtype, template=template
        )
