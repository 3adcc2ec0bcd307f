"""Tiny image classifiers in the layout of the hub, and what they say of an image, computed by hand."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

SIZE = 16


def save_classifier(
    folder: Path, labels: list[str], *, bias: list[float] | None = None, multi_label: bool = False, seed: int = 0
) -> str:
    """A ViT with random weights that tell images apart; with `bias`, the logits of every image."""
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=SIZE,
        patch_size=8,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type="multi_label_classification" if multi_label else None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ViTForImageClassification(config)
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.data.normal_(std=2 if "patch_emb" in name else 0.4)
    if bias is not None:
        model.classifier.weight.data.zero_()
        model.classifier.bias.data.copy_(torch.tensor(bias))
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def logits(folder: str, images: Tensor) -> Tensor:
    """uint8 (n, 3, 16, 16) -> (n, k), float64: transformers' model alone, one image at a time, normalized by hand."""
    model = ViTForImageClassification.from_pretrained(folder).double().eval()
    return torch.cat([model(pixel_values=(x[None].double() / 255 - 0.5) / 0.5).logits for x in images])
