"""What a command says on the terminal: tables on stdout, the rest on stderr, all from the first rank."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

_WIDTH = 200  # of files and pipes, which would otherwise be taken for a terminal of 80 columns


class Terminal:
    """Output of the first rank; `quiet` leaves errors and notes alone."""

    def __init__(self, *, rank: int = 0, quiet: bool = False):
        self.is_first, self.quiet = rank == 0, quiet
        known = sys.stdout.isatty() or "COLUMNS" in os.environ
        self._out, self._err = Console(width=None if known else _WIDTH), Console(stderr=True)

    def note(self, text: str) -> None:
        if self.is_first:
            self._err.print(text, soft_wrap=True, markup=False, highlight=False)

    def show(self, *tables: Any) -> None:
        """Tables as they are, texts without wrapping."""
        for table in tables if self.is_first and not self.quiet else ():
            if isinstance(table, str):
                self._out.print(table, soft_wrap=True, markup=False, highlight=False)
            else:
                self._out.print(table)

    @contextmanager
    def bar(self, title: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
        """Images, images per second and time left; only where somebody watches."""
        if not self.is_first or self.quiet or not sys.stderr.isatty():
            yield lambda n: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        speed = TextColumn("{task.fields[speed]}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
        with Progress(*columns, console=self._err) as progress:
            task = progress.add_task(title, total=total, completed=done, speed="")

            def advance(n: int) -> None:
                progress.advance(task, n)
                rate = progress.tasks[0].speed
                progress.update(task, speed="" if rate is None else f"{rate:.1f} images/s")

            yield advance
