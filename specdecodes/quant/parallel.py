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

CPU = torch.device("cpu")
ON_ACCELERATORS = 8
"""Times as many weights in a piece: there a launch takes as long as the work on a million of them."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def piece(weights: int, device: torch.device) -> int:
    """Weights to work on at a time, where a processor takes `weights`."""
    return weights if device.type == "cpu" else weights * ON_ACCELERATORS


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
def workers(device: torch.device = CPU) -> Iterator[Workers]:
    """Threads to work on pieces. Until it ends, torch runs every operation in one thread, the caller's too. On an
    accelerator it is one thread: kernels of several would run one after another, each with its own scratch memory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads if device.type == "cpu" else 1) as pool:
            yield Workers(pool)
    finally:
        torch.set_num_threads(threads)
