"""CLIP-FlanT5, the first judge of VQAScore: a FlanT5 that reads what a CLIP sees."""

from __future__ import annotations

import functools
import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_imgmetrics.errors import WeightsMismatch
from lightning_imgmetrics.judges.backends.clip_flant5_net import ClipFlanT5, clip_flant5_keys, projector
from lightning_imgmetrics.judges.backends.local import LocalJudge
from lightning_imgmetrics.judges.backends.question import Answer, Decoding, Question, turn
from lightning_imgmetrics.judges.prompts.vqascore import VQASCORE_SYSTEM
from lightning_imgmetrics.models.base.checkpoint import (
    checkpoint_file,
    checkpoint_id,
    local_file,
    missing_checkpoint,
    vocabulary_files,
)
from lightning_imgmetrics.models.base.parameters import set_parameters
from lightning_imgmetrics.models.base.pretrained import PretrainedNetwork, build_pretrained
from lightning_imgmetrics.models.base.weights import load_tensors, shards
from lightning_imgmetrics.models.encoders.clip import ClipExtractor
from lightning_imgmetrics.models.prompt_templates.templates import Template, find_template

CLIP_FLANT5 = "zhiqiulin/clip-flant5-xxl"
_CLIP = "openai/clip-vit-large-patch14-336"
_LAYOUT = {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch"}
_PADDING = (122, 116, 104)  # CLIP's mean color in 8 bits, rounded down


@dataclass(frozen=True)
class ClipFlanT5Judge(LocalJudge):
    """CLIP-FlanT5 in its public layout: good at the probabilities of answers, less so at generating them.

    Images are padded to squares with CLIP's mean color, and a conversation opens with the system message of its
    training. A question longer than the context of 2048 tokens has no answer, as the part that asks would be cut off.
    Source: Lin et al. 2024, Evaluating Text-to-Visual Generation with Image-to-Text Generation.

    Args:
        model: A checkpoint folder, a name below `IMGMETRICS_WEIGHTS`, or a hub id.
        revision: Branch, tag or commit on the hub; default "main".
        vision: Checkpoint of its CLIP, instead of the one that its configuration names.
        tokenizer: Checkpoint of the FlanT5 whose tokenizer it uses.
        template: Copy of the Python source with the system message, where that cannot be downloaded.
        dtype: Of the weights, "bfloat16" or "float32".
        batch_size: Questions of one pass.
        cache: Keep answers on disk (see `Judge`).

    Raises:
        UnknownName: For another `dtype`.
        WeightsMismatch: When it is first used: the checkpoint is no CLIP-FlanT5.
        MissingWeights: When it is first used: a checkpoint is neither here nor can it be downloaded.

    Example:
        >>> from lightning_imgmetrics import ClipFlanT5Judge
        >>> ClipFlanT5Judge(batch_size=8).model  # nothing is loaded before the first question
        'zhiqiulin/clip-flant5-xxl'
    """

    model: str = CLIP_FLANT5
    vision: str | None = field(default=None, kw_only=True)
    tokenizer: str = field(default="google/flan-t5-xxl", kw_only=True)
    template: str | None = field(default=None, kw_only=True)

    @property
    def key(self) -> Hashable:
        return *super().key, self.vision, self.tokenizer

    @functools.cached_property
    def system_message(self) -> Template:
        """What a conversation opens with; read once, so that signature and answers agree."""
        return find_template(VQASCORE_SYSTEM, self.template)

    @property
    def clip(self) -> ClipExtractor:
        """The CLIP it sees with."""
        config = local_file(self.model, "config.json", self.revision)
        tower = None if config is None else json.loads(config.read_text()).get("mm_vision_tower")
        return ClipExtractor(self.vision or tower or _CLIP)

    def signature_fields(self) -> dict[str, str]:
        clip = self.clip
        return {
            **PretrainedNetwork.signature_fields(self),
            "config": checkpoint_id(self.model, config=True, revision=self.revision),
            "vision": checkpoint_id(str(clip.model), images=True, config=True),
            "vision_weights": clip.signature_fields()["weights"],
            "tokenizer": checkpoint_id(self.tokenizer),
            "template": self.system_message.origin,
        }

    def model_types(self) -> tuple[str, str]:
        return "clip_t5", "t5"

    def local_path(self) -> Path | None:
        """The checkpoint's folder; None where it, its CLIP or its tokenizer is absent."""
        complete = self.clip.local_path() is not None and vocabulary_files(self.tokenizer)
        return super().local_path() if complete else None

    def prefetch(self) -> Path:
        _ = self.system_message
        return super().prefetch()

    def load(self) -> nn.Module:
        from transformers import AutoImageProcessor, AutoTokenizer, T5Config, T5ForConditionalGeneration

        config = self.pretrained(T5Config)
        layout = {name: getattr(config, name, expected) for name, expected in _LAYOUT.items()}
        different = {name: value for name, value in layout.items() if value != _LAYOUT[name]}
        if different or not is_clip_flant5(self.model, self.revision):
            raise WeightsMismatch(f"`model` must be a CLIP-FlanT5 with {_LAYOUT}, got {self.model!r} with {different}")
        files = self._files()
        source, dtype = str(files[0].parent), getattr(torch, self.dtype)
        tensors = {key: x for file in files for key, x in load_tensors(self.card, file).items()}
        language, projection, tower = clip_flant5_keys(tensors)
        clip = self.clip.pretrained_model().vision_model
        if tower:
            clip = set_parameters(clip, tower, f"{source} (vision_tower)")
        layers = set_parameters(
            projector(clip.config.hidden_size, config.d_model), projection, f"{source} (mm_projector)"
        )
        return ClipFlanT5(
            build_pretrained(T5ForConditionalGeneration, config, language, source, dtype=dtype),
            layers.to(dtype),
            clip.to(dtype),
            self.companion(AutoTokenizer, self.tokenizer),
            self.companion(AutoImageProcessor, str(self.clip.model)),
        )

    def reply(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        return super().reply([self._as_in_training(q) for q in questions], decoding, device)

    def _as_in_training(self, question: Question) -> Question:
        images = tuple(pad_to_square(image) for image in question.images)
        if question.messages[0]["role"] == "system":
            return replace(question, images=images)
        system = turn(self.system_message.text, role="system")
        return replace(question, images=images, messages=(system, *question.messages))

    def _files(self) -> list[Path]:
        for name in ("model.safetensors", "pytorch_model.bin"):
            if file := checkpoint_file(self.model, name, self.revision):
                return [file]
            if index := checkpoint_file(self.model, f"{name}.index.json", self.revision):
                files = [checkpoint_file(self.model, shard.name, self.revision) for shard in shards(index)]
                present = [file for file in files if file is not None]
                if len(present) == len(files):
                    return present
        raise missing_checkpoint(self.model, self.revision, "it has no weights, or not all of their files")


def is_clip_flant5(model: str, revision: str | None = None) -> bool:
    """Whether a checkpoint is a CLIP-FlanT5: by its configuration or, where that is not on this machine, its name."""
    path = local_file(model, "config.json", revision)
    if path is None:
        return "clip-flant5" in model.lower()
    try:
        config = json.loads(path.read_text())
        return config.get("model_type") == "clip_t5" or "CLIPT5ForConditionalGeneration" in config["architectures"]
    except (ValueError, KeyError, TypeError, AttributeError):  # no configuration: reading the checkpoint will fail
        return False


def pad_to_square(image: Tensor) -> Tensor:
    """An image, uint8 (3, h, w), in the middle of a square of CLIP's mean color, as LLaVA-1.5 was trained."""
    height, width = image.shape[1:]
    side = max(height, width)
    out = torch.tensor(_PADDING, dtype=image.dtype)[:, None, None].expand(3, side, side).clone()
    top, left = (side - height) // 2, (side - width) // 2
    out[:, top : top + height, left : left + width] = image
    return out
