"""A streamed layer kept in host memory, compressed or as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from specdecodes.offload.compression import compressed
from specdecodes.offload.compression.alone import codec
from specdecodes.offload.compression.compressed import compress_blocks
from specdecodes.offload.compression.expander import damaged
from specdecodes.offload.storage.files import WeightFiles
from specdecodes.offload.storage.layout import Block, LayerLayout
from specdecodes.offload.storage.locked import HostMemory
from specdecodes.offload.storage.store import ALIGNMENT


class KeptLayer:
    """A layer's bytes in host memory. `blocks` start where they are there; what is neither compressed nor refused by
    the system to be page-locked is one block for each long read, of which there is nearly always one."""

    def __init__(
        self,
        blocks: Sequence[Block],
        layout: LayerLayout,
        files: WeightFiles,
        device: torch.device,
        *,
        compress: torch.dtype | None,
        lock: bool,
    ) -> None:
        """Reads `blocks`; `compress`: of these 16-bit weights, and to be compressed now unless the blocks are.

        Raises StreamError, and CheckpointError.
        """
        contents = _compressed(layout, compress) if compress is not None and not blocks[0].expands_to else []
        if contents:
            raw = layout.blocks(compressed.HOST_BLOCK_BYTES)
            sizes = (content.numel() for content in contents)
            blocks = [
                replace(block, length=size, needed=size, expands_to=block.needed + block.needed % 2)
                for block, size in zip(raw, sizes, strict=True)
            ]
        nbytes, self.blocks = _placed(blocks, layout)
        self.memory = HostMemory(nbytes, device, lock=lock)
        for place, content in zip(self.blocks, contents, strict=False):
            self.memory.bytes[place.start :][: place.needed] = content
        with contextlib.ExitStack() as undo:
            undo.callback(self.memory.release)
            if not contents:
                self._read(blocks, files)
            undo.pop_all()
        if self.memory.locked and not self.blocks[0].expands_to:
            self.blocks = tuple(replace(block, start=block.slot_offset) for block in layout.blocks(nbytes))

    def bytes_of(self, block: Block) -> Tensor:
        return self.memory.bytes[block.start :][: block.needed]

    def _read(self, blocks: Sequence[Block], files: WeightFiles) -> None:
        for block, place in zip(blocks, self.blocks, strict=True):
            files.read(replace(block, slot_offset=place.start), self.memory.memory)
            if block.expands_to and not codec.sound(self.bytes_of(place), block.expands_to):
                raise damaged(block)


def _compressed(layout: LayerLayout, dtype: torch.dtype) -> list[Tensor]:
    """Empty where that gains nothing."""
    raw = list(layout.blocks(compressed.HOST_BLOCK_BYTES))
    contents = list(compress_blocks(raw, dtype))
    return contents if sum(content.numel() for content in contents) < layout.nbytes else []


def _placed(blocks: Sequence[Block], layout: LayerLayout) -> tuple[int, tuple[Block, ...]]:
    """The bytes that the blocks take, and the blocks, each starting where it will be: as in a slot, or in a row."""
    if not blocks[0].expands_to:
        return layout.nbytes, tuple(replace(block, start=block.slot_offset) for block in blocks)
    end, placed = 0, []
    for block in blocks:
        placed.append(replace(block, start=end))
        end += -(-block.length // ALIGNMENT) * ALIGNMENT
    return end, tuple(placed)
