"""Where compressed bytes arrive on a device, and the stream of kernels that restore them from there."""

from __future__ import annotations

import torch
from torch import Tensor

COUNT = 3
"""One is copied to and one expanded from; a third keeps both at work when a block takes longer."""

_ALIGNED = 256


def stream_beside(device: torch.device) -> torch.cuda.Stream:
    """A stream that no CUDA graph is ever recorded on. Torch hands out the 32 streams of a priority again and again: of
    the usual one, a copy could get into a recording that is under way."""
    return torch.cuda.Stream(device, priority=-1)


class Landings:
    """`COUNT` places for blocks of up to `nbytes`, taken in turn; `stream` expands what is in them."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self._size = -(-nbytes // _ALIGNED) * _ALIGNED
        self._bytes = torch.empty(COUNT * self._size, dtype=torch.uint8, device=device)
        self._expanded: list[torch.cuda.Event | None] = [None] * COUNT
        self._turn = 0
        self.stream = stream_beside(device)

    @property
    def nbytes(self) -> int:
        return self._bytes.nbytes

    def take(self, nbytes: int, copies: torch.cuda.Stream) -> Tensor:
        """The next place; `copies` waits until what was there is expanded."""
        self._turn = (self._turn + 1) % COUNT
        expanded = self._expanded[self._turn]
        if expanded is not None:
            copies.wait_event(expanded)
        return self._bytes[self._turn * self._size :][:nbytes]

    def give_back(self, expanded: torch.cuda.Event) -> None:
        """The place that was taken last is free after `expanded`."""
        self._expanded[self._turn] = expanded
