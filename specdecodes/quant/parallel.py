"""Work on pieces of a weight, a piece a thread.

Splitting every operation over all threads makes them meet some hundred thousand times for a billion weights, and beside
one other busy process each meeting can cost a scheduler's slice: minutes instead of seconds. Whole pieces never wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """As many threads as torch had when `workers()` was entered."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._inference = torch.is_inference_mode_enabled()  # a thread's own setting: workers take the caller's

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """`function` of every item, in order; the first error is raised."""

        def run(item: Item) -> Result:
            with torch.inference_mode(self._inference):
                return function(item)

        return list(self._pool.map(run, items))


@contextmanager
def workers() -> Iterator[Workers]:
    """Threads to work on pieces. Until it ends, torch runs every operation in one thread, the caller's too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield Workers(pool)
    finally:
        torch.set_num_threads(threads)
