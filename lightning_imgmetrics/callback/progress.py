"""A bar for the sampling of an evaluation, in the style of the trainer's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import RichProgressBar
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


@contextmanager
def sampling_bar(trainer: Trainer, total: int, description: str, shown: bool) -> Iterator[Callable[[], object]]:
    """Yields a function that advances the bar by one; a bar shows where the trainer shows its own, in a terminal."""
    bar: Any = trainer.progress_bar_callback
    shown = shown and bar is not None and bar.is_enabled and trainer.is_global_zero
    if shown and isinstance(bar, RichProgressBar) and bar.progress is not None:
        progress: Any = bar.progress
        task = progress.add_task(f"[white]{description}", total=total)
        try:
            yield lambda: progress.update(task, advance=1, refresh=True)
        finally:
            progress.update(task, visible=False)  # Lightning finds its bars by position: none may be removed
        return
    with tqdm(total=total, desc=description, leave=False, disable=None if shown else True, dynamic_ncols=True) as line:
        yield line.update
