"""A streamed layer in host memory, from where an accelerator is sent it: compressed or as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from specdecodes.offload.compression import compressed
from specdecodes.offload.compression.compressed import damaged
from specdecodes.offload.compression.parts import Guesses, Spans, compress_layer
from specdecodes.offload.storage.files import WeightFiles
from specdecodes.offload.storage.layout import Block, LayerLayout, lay_out
from specdecodes.offload.storage.locked import HostMemory
from specdecodes.offload.storage.store import ALIGNMENT


class PinnedLayer:
    """A layer's bytes in host memory. `blocks` start where they are there; what is neither compressed nor refused by
    the system to be page-locked is one block for each long read, of which there is nearly always one."""

    def __init__(
        self,
        blocks: Sequence[Block],
        spans: Spans,
        files: WeightFiles,
        device: torch.device,
        *,
        compress: bool,
        guesses: Guesses | None,
        lock: bool,
    ) -> None:
        """Reads `blocks`; `compress`: now, unless they are, and beside `guesses` if there are any.

        Raises StreamError, and CheckpointError.
        """
        layout = lay_out(spans)
        contents = _compressed(layout, spans, guesses) if compress and blocks[0].packing is None else []
        nbytes, self.blocks = _placed([block for block, _ in contents] or blocks, layout)
        self.memory = HostMemory(nbytes, device, lock=lock)
        for place, (_, content) in zip(self.blocks, contents, strict=False):
            self.bytes_of(place).copy_(content)
        with contextlib.ExitStack() as undo:
            undo.callback(self.memory.release)
            if not contents:
                self._read(blocks, files)
            undo.pop_all()
        if self.memory.locked and self.blocks[0].packing is None:
            self.blocks = tuple(replace(block, start=block.slot_offset) for block in layout.blocks(nbytes))
        packed = ((block, block.packing) for block in self.blocks)
        self._cuts = {block.start: packing.cuts(self.bytes_of(block)) for block, packing in packed if packing}

    def bytes_of(self, block: Block) -> Tensor:
        return self.memory.bytes[block.start :][: block.needed]

    def cuts_of(self, block: Block) -> tuple[int, ...]:
        return self._cuts.get(block.start, ())

    def _read(self, blocks: Sequence[Block], files: WeightFiles) -> None:
        for block, place in zip(blocks, self.blocks, strict=True):
            files.read(replace(block, slot_offset=place.start), self.memory.memory)
            if block.packing and not block.packing.sound(self.bytes_of(place), block.expands_to):
                raise damaged(block)


def _compressed(layout: LayerLayout, spans: Spans, guesses: Guesses | None) -> list[tuple[Block, Tensor]]:
    """Empty where that gains nothing."""
    contents = list(compress_layer(layout, spans, guesses, compressed.HOST_BLOCK_BYTES))
    return contents if sum(content.numel() for _, content in contents) < layout.nbytes else []


def _placed(blocks: Sequence[Block], layout: LayerLayout) -> tuple[int, tuple[Block, ...]]:
    """The bytes that the blocks take, and the blocks, each starting where it will be: as in a slot, or in a row."""
    if blocks[0].packing is None:
        return layout.nbytes, tuple(replace(block, start=block.slot_offset) for block in blocks)
    end, placed = 0, []
    for block in blocks:
        placed.append(replace(block, start=end))
        end += -(-block.length // ALIGNMENT) * ALIGNMENT
    return end, tuple(placed)
