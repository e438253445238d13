"""Reading what is compressed: into a buffer, and from there, restored, to where it is wanted."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import replace
from queue import SimpleQueue

import torch

from specdecodes.errors import StreamError
from specdecodes.offload.storage.files import WeightFiles
from specdecodes.offload.storage.layout import Block
from specdecodes.offload.storage.store import aligned_memory


def damaged(block: Block) -> StreamError:
    return StreamError(
        f"{block.path} is damaged at byte {block.start}. Remove it, and let `run-compress` write it anew; or try again "
        "with --set memory.compress=off."
    )


class Expander:
    """A buffer for each of `readers` threads, as large as the largest of `blocks` that are compressed."""

    def __init__(self, blocks: Iterable[Block], readers: int) -> None:
        largest = max((block.length for block in blocks if block.packing), default=0)
        self.nbytes = readers * largest
        self._free: SimpleQueue[mmap.mmap] = SimpleQueue()
        for _ in range(readers if largest else 0):
            self._free.put(aligned_memory(largest))

    def read(self, files: WeightFiles, block: Block, target: torch.Tensor) -> int:
        """Fills `target` [block.expands_to]; returns the bytes read. Raises StreamError."""
        assert block.packing is not None, "of a block that is compressed"
        buffer = self._free.get()
        try:
            count = files.read(replace(block, slot_offset=0), memoryview(buffer))
            compressed = torch.frombuffer(buffer, dtype=torch.uint8, count=block.needed)
            if not block.packing.expand(compressed, target):
                raise damaged(block)
            return count
        finally:
            self._free.put(buffer)
