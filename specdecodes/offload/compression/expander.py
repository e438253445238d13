"""Reading what is compressed: into a buffer, and from there, restored, to where it is wanted.

Where every core computes, one that expands meanwhile keeps the others waiting at each barrier. There a reader leaves
what it has read to the caller, who expands it while waiting for its layer; only what nobody took for `PATIENCE` seconds
the reader expands itself.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from queue import SimpleQueue
from threading import Lock

import torch
from torch import Tensor

from specdecodes.errors import StreamError
from specdecodes.native import usable_cores
from specdecodes.offload.compression import codec
from specdecodes.offload.storage.files import WeightFiles
from specdecodes.offload.storage.layout import Block
from specdecodes.offload.storage.store import aligned_memory

PATIENCE = 0.02
"""Several times what a layer computes on such machines: within a pass the caller is back before."""


def damaged(block: Block) -> StreamError:
    return StreamError(
        f"{block.path} is damaged at byte {block.start}. Remove it, and let `run-compress` write it anew; or try again "
        "with --set memory.compress=off."
    )


class Parcel:
    """A block that was read, and where its weights go."""

    def __init__(self, compressed: Tensor, target: Tensor) -> None:
        self._compressed, self._target = compressed, target
        self.held = False  # by the caller, who expands it
        self.sound = False
        self.over = Lock()  # locked until the caller is done with it
        self.over.acquire()

    def expand(self) -> None:
        self.sound = codec.expand(self._compressed, self._target)


class Expander:
    """A buffer for each of `readers` threads, as large as the largest of `blocks` that are compressed.

    `helped`: the caller will wait again soon, and then `help`.
    """

    def __init__(self, blocks: Iterable[Block], readers: int) -> None:
        largest = max((block.length for block in blocks if block.expands_to), default=0)
        self.nbytes = readers * largest
        self.helped = False
        self._crowded = usable_cores() <= torch.get_num_threads()
        self._lock = Lock()  # guards what follows, and who holds a parcel
        self._parcels: deque[Parcel] = deque()  # that nobody expands yet
        self._free: SimpleQueue[mmap.mmap] = SimpleQueue()
        for _ in range(readers if largest else 0):
            self._free.put(aligned_memory(largest))

    def read(self, files: WeightFiles, block: Block, target: Tensor, call: Callable[[], None]) -> int:
        """Fills the first `block.expands_to` bytes of `target`; returns the bytes read. `call`s the caller if it is to
        help. Raises StreamError."""
        buffer = self._free.get()
        try:
            count = files.read(replace(block, slot_offset=0), memoryview(buffer))
            compressed = torch.frombuffer(buffer, dtype=torch.uint8, count=block.needed)
            parcel = Parcel(compressed, target[: block.expands_to])
            if not (self._crowded and self.helped and self._left_to_caller(parcel, call)):
                parcel.expand()
            if not parcel.sound:
                raise damaged(block)
            return count
        finally:
            self._free.put(buffer)

    def help(self) -> bool:
        """Expand a parcel, in the caller's thread, which may be interrupted anywhere; False where there is none."""
        parcel = None
        try:
            with self._lock:
                if not self._parcels:
                    return False
                parcel = self._parcels.popleft()
                parcel.held = True
            parcel.expand()
            parcel.over.release()
            return True
        finally:
            if parcel is not None:
                parcel.held = False

    def _left_to_caller(self, parcel: Parcel, call: Callable[[], None]) -> bool:
        """Whether the caller has expanded it; if not, nobody will but the reader."""
        with self._lock:
            self._parcels.append(parcel)
        call()
        while not parcel.over.acquire(timeout=PATIENCE):
            with self._lock:
                if not parcel.held:  # nobody came, or an interrupt sent the caller away
                    if parcel in self._parcels:
                        self._parcels.remove(parcel)
                    return False
        return True
