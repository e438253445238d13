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
from specdecodes.offload.storage.store import aligned_memory

_ALIGNED = 256


class KeptLayer:
    """A layer's blocks in a device's memory. They start nowhere in a file: `start` is their number."""

    def __init__(self, contents: Iterable[tuple[Block, Tensor]], device: torch.device) -> None:
        """Takes what `kept_blocks` or `compress_layer` brings, block by block. Raises what they raise."""
        self._held: list[tuple[Packing, Tensor, tuple[int, ...]]] = []
        placed = []
        moved = _in_host_memory(contents) if device.type == "cpu" else _on_device(list(contents), device)
        for number, (block, content, there) in enumerate(moved):
            assert block.packing is not None, "what is kept is compressed"
            self._held.append((block.packing, there, block.packing.cuts(content)))
            placed.append(replace(block, start=number))
        self.blocks = tuple(placed)

    @property
    def nbytes(self) -> int:
        return sum(content.nbytes for _, content, _ in self._held)

    def held(self, block: Block) -> tuple[Packing, Tensor, tuple[int, ...]]:
        """What restores the block, its bytes, and where the pieces of those begin."""
        return self._held[block.start]


def kept_blocks(blocks: Sequence[Block], files: WeightFiles) -> Iterator[tuple[Block, Tensor]]:
    """Compressed `blocks` and their bytes, which are read. Raises StreamError."""
    for block in blocks:
        assert block.packing is not None, "read from a file of compressed ones"
        area = aligned_memory(block.length)
        files.read(replace(block, slot_offset=0), memoryview(area))
        content = torch.frombuffer(area, dtype=torch.uint8, count=block.needed)
        if not block.packing.sound(content, block.expands_to):
            raise damaged(block)
        yield block, content


def _in_host_memory(contents: Iterable[tuple[Block, Tensor]]) -> Iterator[tuple[Block, Tensor, Tensor]]:
    """Each content once more, in huge pages, since it is read through once a pass."""
    for block, content in contents:
        yield block, content, torch.frombuffer(aligned_memory(content.numel()), dtype=torch.uint8).copy_(content)


def _on_device(
    contents: Sequence[tuple[Block, Tensor]], device: torch.device
) -> Iterator[tuple[Block, Tensor, Tensor]]:
    """All contents in one piece of memory: an allocator that takes pieces of 20 MB from a device, as torch's does for
    blocks such as these, would lose a tenth of it."""
    ends = list(accumulate(-(-content.numel() // _ALIGNED) * _ALIGNED for _, content in contents))
    memory = torch.empty(ends[-1], dtype=torch.uint8, device=device)
    for (block, content), start in zip(contents, [0, *ends], strict=False):
        yield block, content, memory[start : start + content.numel()].copy_(content)
