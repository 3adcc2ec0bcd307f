"""Work that mostly waits, such as requests, on several threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def in_threads(run: Callable[[T], object], items: Iterable[T], most: int) -> None:
    """`run` on every item, begun in order, on `most` threads at a time.

    After an error nothing more is begun, what is under way ends, and the first error is raised. An interrupt is raised
    at once: what is under way is left to itself, on threads that do not keep the interpreter from ending.
    """
    waiting = deque(items)
    errors: list[BaseException] = []

    def work() -> None:
        while True:
            try:
                item = waiting.popleft()
            except IndexError:
                return
            try:
                run(item)
            except BaseException as error:
                errors.append(error)
                waiting.clear()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(most, len(waiting)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        waiting.clear()
        raise
    if errors:
        raise errors[0]
