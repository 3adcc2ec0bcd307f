"""Panels: some samples of an evaluation as one picture with captions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_GAP = 8
_FONT_SIZE = 11


@dataclass(frozen=True)
class Panel:
    """Sample images, each uint8 (3, h, w), with a caption each, and judges' reasons: metric -> rationale."""

    images: Sequence[Tensor]
    captions: Sequence[str]
    columns: int = 8
    rationales: Sequence[Mapping[str, str]] = ()

    def tiles(self, side: int = 96) -> list[Image.Image]:
        """The images, enlarged by a whole factor where their shorter side is below `side` pixels."""
        return [_enlarged(image, side) for image in self.images]

    def picture(self, side: int = 96) -> Image.Image:
        """One picture: tiles with captions below and gaps between."""
        tiles = self.tiles(side)
        width, height = max(t.width for t in tiles), max(t.height for t in tiles)
        font = ImageFont.load_default(_FONT_SIZE)
        letters = max(8, int(width / font.getlength("n")))
        texts = ["\n".join(textwrap.wrap(caption, letters)[:4]) for caption in self.captions]
        below = (max((t.count("\n") + 1 if t else 0) for t in texts)) * (_FONT_SIZE + 4)
        columns = min(self.columns, len(tiles))
        rows = -(-len(tiles) // columns)
        step_x, step_y = width + _GAP, height + below + _GAP
        canvas = Image.new("RGB", (columns * step_x + _GAP, rows * step_y + _GAP), "white")
        draw = ImageDraw.Draw(canvas)
        for i, (tile, text) in enumerate(zip(tiles, texts, strict=True)):
            x, y = _GAP + i % columns * step_x, _GAP + i // columns * step_y
            canvas.paste(tile, (x, y))
            draw.multiline_text((x, y + height + 2), text, fill="black", font=font, spacing=2)
        return canvas


def gather_panel(
    samples: Sequence[tuple[int, Tensor]],
    scores: Mapping[str, Mapping[int, float]],
    prompts: Sequence[str] | None,
    rationales: Mapping[str, Mapping[int, str]],
    rank: int,
    size: int,
) -> Panel | None:
    """The panel of all ranks' (id, image), in order of the ids, on rank 0; None on the others. Collective.

    A caption holds prompt, id and scores.
    """
    own = {
        i: (image, _caption(i, scores, prompts), {name: texts[i] for name, texts in rationales.items() if i in texts})
        for i, image in samples
    }
    parts: list[Any] = [own]
    if size > 1:
        parts = [None] * size
        dist.all_gather_object(parts, own)
    tiles = {i: tile for part in parts for i, tile in part.items()}
    if rank > 0 or not tiles:
        return None
    columns = len(prompts) if prompts and len(prompts) <= 12 else 8  # one prompt below another
    images, captions, reasons = zip(*(tiles[i] for i in sorted(tiles)), strict=True)
    return Panel(images, captions, columns, reasons if any(reasons) else ())


def _caption(i: int, scores: Mapping[str, Mapping[int, float]], prompts: Sequence[str] | None) -> str:
    own = {name: rows[i] for name, rows in scores.items() if i in rows}
    texts = [f"{name} {x:.3g}" if x == x else f"{name} failed" for name, x in own.items()]
    return ", ".join([*([prompts[i % len(prompts)]] if prompts else []), f"#{i}", *texts])


def _enlarged(image: Tensor, side: int) -> Image.Image:
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().to("cpu", torch.uint8).numpy())
    scale = -(-side // min(picture.size))
    if scale <= 1:
        return picture
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
