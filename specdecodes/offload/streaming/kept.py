"""A streamed layer whose compressed bytes stay in the device's memory, beside the ring: no link brings it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from specdecodes.offload.compression.compressed import damaged
from specdecodes.offload.storage.files import WeightFiles
from specdecodes.offload.storage.layout import Block, Packing
from specdecodes.offload.storage.store import huge_pages

_ALIGNED = 256


class KeptLayer:
    """A layer's blocks in a device's memory. They start nowhere in a file: `start` is their number."""

    def __init__(self, contents: Iterable[tuple[Block, Tensor]], device: torch.device) -> None:
        """Takes what `kept_blocks` or `compress_layer` brings, each in memory of its own. Raises what they raise."""
        self._held: list[tuple[Packing, Tensor, tuple[int, ...]]] = []
        placed = []
        for number, (block, content) in enumerate(contents):
            assert block.packing is not None, "what is kept is compressed"
            self._held.append((block.packing, content, block.packing.cuts(content)))
            placed.append(replace(block, start=number))
        if device.type != "cpu":
            self._move(device)
        self.blocks = tuple(placed)

    @property
    def nbytes(self) -> int:
        return sum(content.nbytes for _, content, _ in self._held)

    def held(self, block: Block) -> tuple[Packing, Tensor, tuple[int, ...]]:
        """What restores the block, its bytes, and where the pieces of those begin."""
        return self._held[block.start]

    def _move(self, device: torch.device) -> None:
        """To one piece of its memory: an allocator that takes pieces of 20 MB from a device, as torch's does for blocks
        such as these, would lose a tenth of it."""
        ends = list(accumulate(-(-content.numel() // _ALIGNED) * _ALIGNED for _, content, _ in self._held))
        memory = torch.empty(ends[-1], dtype=torch.uint8, device=device)
        for number, ((packing, content, cuts), start) in enumerate(zip(self._held, [0, *ends], strict=False)):
            self._held[number] = packing, memory[start : start + content.numel()].copy_(content), cuts


def kept_blocks(blocks: Sequence[Block], files: WeightFiles) -> Iterator[tuple[Block, Tensor]]:
    """Compressed `blocks` and their bytes, which are read. Raises StreamError."""
    for block in blocks:
        assert block.packing is not None, "read from a file of compressed ones"
        area = huge_pages(block.length)  # since it is read through once a pass
        files.read(replace(block, slot_offset=0), area.numpy().data)
        content = area[: block.needed]
        if not block.packing.sound(content, block.expands_to):
            raise damaged(block)
        yield block, content
