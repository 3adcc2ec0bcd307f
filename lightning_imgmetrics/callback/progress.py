"""A progress bar for the sampling of an evaluation, in the style of the trainer's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import RichProgressBar
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


@contextmanager
def sampling_bar(trainer: Trainer, total: int, description: str, enabled: bool) -> Iterator[Callable[[], object]]:
    """Yields a function that advances the bar by one; a bar is visible where the trainer's own is, in a terminal."""
    trainer_bar: Any = trainer.progress_bar_callback
    enabled = enabled and trainer_bar is not None and trainer_bar.is_enabled and trainer.is_global_zero
    if enabled and isinstance(trainer_bar, RichProgressBar) and trainer_bar.progress is not None:
        progress: Any = trainer_bar.progress
        task = progress.add_task(f"[white]{description}", total=total)
        try:
            yield lambda: progress.update(task, advance=1, refresh=True)
        finally:
            progress.update(task, visible=False)  # Lightning addresses its bars by position: none may be removed
        return
    disable = None if enabled else True
    with tqdm(total=total, desc=description, leave=False, disable=disable, dynamic_ncols=True) as bar:
        yield bar.update
