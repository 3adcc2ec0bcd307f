"""HPSv3's network: backbone and head, their chats and positions, and the names of the tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lightning_imgmetrics.models.base.resize import TOKEN_SIDE
from lightning_imgmetrics.models.prompt_templates.templates import Template

IMAGE, REWARD = "<|image_pad|>", "<|Reward|>"
_PLACEHOLDER = "\ue000"  # for the text of a turn, to find out what the chat template puts around it


class HPSv3Network(nn.Module):
    """Backbone and head, with the tokenizer and image processor that make their inputs."""

    backbone: Any

    def __init__(self, backbone: nn.Module, head: nn.Module, tokenizer: Any, image_processor: Any):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.tokenizer = tokenizer
        self.image_processor = image_processor

    def turns(self, prompts: Sequence[str], instruction: Template, suffix: Template) -> list[Tensor]:
        """The token ids of each chat, in which the image is still a single token.

        The reference tokenizes the whole chat. Tokens never span a special token, so the parts give the same ids; and
        separately, special tokens in a prompt can be read as plain characters.
        """
        content = [{"type": "image"}, {"type": "text", "text": _PLACEHOLDER}]
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        before, _, after = chat.partition(_PLACEHOLDER)
        lead, _, trail = suffix.text.partition(REWARD)
        first, last = self._ids([before, REWARD + trail + after], split_special_tokens=False)
        texts = [instruction.fill(text_prompt=prompt) + lead for prompt in prompts]
        return [torch.tensor(first + ids + last) for ids in self._ids(texts, split_special_tokens=True)]

    def _ids(self, texts: list[str], **kwargs: Any) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, verbose=False, **kwargs)["input_ids"]

    def forward(self, images: Sequence[Tensor], turns: Sequence[Tensor], positions: str) -> Tensor:
        """Resized images and their chats, n each -> (n, 2): mean and logarithm of the spread."""
        device = images[0].device
        vision = self.image_processor(images=list(images), do_resize=False, return_tensors="pt")
        image_token, reward = self.tokenizer.convert_tokens_to_ids([IMAGE, REWARD])
        starts = [int((turn == image_token).nonzero()) for turn in turns]
        sizes = [(image.shape[1] // TOKEN_SIDE, image.shape[2] // TOKEN_SIDE) for image in images]
        ids = [_with_image(*parts) for parts in zip(turns, starts, sizes, strict=True)]
        position_ids = [
            mrope(len(row), start, *size) if positions == "mrope" else torch.arange(len(row)).expand(3, -1)
            for row, start, size in zip(ids, starts, sizes, strict=True)
        ]
        hidden = self.backbone(
            input_ids=pad_sequence(ids, batch_first=True).to(device),
            attention_mask=pad_sequence([torch.ones_like(row) for row in ids], batch_first=True).to(device),
            # Always passed, so that transformers neither derives them nor reuses those of another call.
            position_ids=pad_sequence([x.T for x in position_ids], batch_first=True).permute(2, 0, 1).to(device),
            pixel_values=vision["pixel_values"].to(device),
            image_grid_thw=vision["image_grid_thw"].to(device),
            use_cache=False,
        ).last_hidden_state
        rewards = [int((row == reward).nonzero()) for row in ids]
        return self.head(hidden[range(len(ids)), rewards].float())


def _with_image(turn: Tensor, start: int, size: tuple[int, int]) -> Tensor:
    """Token ids with rows * columns tokens for the image at `start`."""
    return torch.cat([turn[:start], turn[start].expand(size[0] * size[1]), turn[start + 1 :]])


def mrope(length: int, start: int, rows: int, columns: int) -> Tensor:
    """Positions (3, length) by time, row and column, of a text with an image of rows * columns tokens at `start`.

    Positions after the image continue from its longer side (Wang et al. 2024).
    """
    image = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns)).T
    after = torch.arange(length - start - rows * columns) + max(rows, columns)
    return torch.cat([torch.arange(start).expand(3, -1), start + image, start + after.expand(3, -1)], 1)


def ranking_head(width: int) -> nn.Module:
    """The ranking head; dropout has no effect here, but keeps the indices by which the file names the layers."""
    layers = nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
    return nn.Sequential(*layers)


def hpsv3_keys(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of backbone and head, named as their modules are, from a file in either layout.

    Older versions of transformers wrote `visual.*` and `model.{embed_tokens,layers,norm}.*`, newer ones
    `model.visual.*` and `model.language_model.*`. The language head `lm_head.*` does not contribute to the score.
    """
    backbone, head = {}, {}
    for key, x in tensors.items():
        if key.startswith("rm_head."):
            head[key.removeprefix("rm_head.")] = x
        elif key.startswith(("model.visual.", "model.language_model.")):
            backbone[key.removeprefix("model.")] = x
        elif key.startswith(("model.embed_tokens.", "model.layers.", "model.norm.")):
            backbone[key.replace("model.", "language_model.", 1)] = x
        elif not key.startswith("lm_head."):
            backbone[key] = x
    return backbone, head
