"""Prompts to sample for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_imgmetrics.errors import ShapeError


def read_prompts(prompts: Sequence[str] | str | Path | None) -> list[str] | None:
    """Texts as they are, or the lines of a text file that are not blank; ShapeError where there are none."""
    if prompts is None:
        return None
    if isinstance(prompts, str | Path):
        prompts = [line for line in Path(prompts).read_text().splitlines() if line.strip()]
    if not prompts or not all(isinstance(p, str) for p in prompts):
        raise ShapeError(f"`prompts` must be a list of at least one text, or a file with one per line, got {prompts!r}")
    return list(prompts)
