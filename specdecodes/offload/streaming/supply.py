"""Where a stream's bytes come from: files, as they are or compressed, and memory that keeps compressed ones."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence

import torch

from specdecodes.offload.compression import compressed
from specdecodes.offload.compression.compressed import CompressedLayer
from specdecodes.offload.compression.parts import Guesses, Spans, compress_layer
from specdecodes.offload.storage.files import WeightFiles
from specdecodes.offload.storage.layout import Block, LayerLayout
from specdecodes.offload.streaming.kept import KeptLayer, kept_blocks


class Supply:
    """The blocks of every layer, in the order of a pass; the files that they are read from; and the layers that are
    kept, of which nothing is read any more."""

    def __init__(
        self,
        layers: Sequence[Spans],
        layouts: Sequence[LayerLayout],
        block_bytes: int,
        written: Mapping[int, CompressedLayer],
    ) -> None:
        """`written`: layers that have files of their own, by their place. Raises CheckpointError."""
        self._layers, self._layouts = layers, layouts
        self.blocks = [tuple(layout.blocks(block_bytes)) for layout in layouts]
        for place, layer in written.items():
            self.blocks[place] = layer.blocks
        if not all(self.blocks):
            raise ValueError("a streamed layer without bytes cannot be waited for")
        self.files = WeightFiles({block.path for blocks in self.blocks for block in blocks})
        self.kept: dict[int, KeptLayer] = {}

    @property
    def kept_bytes(self) -> int:
        """Memory of the layers that are kept."""
        return sum(layer.nbytes for layer in self.kept.values())

    @property
    def read(self) -> list[Block]:
        """All blocks that a pass reads."""
        return [block for place, blocks in enumerate(self.blocks) if place not in self.kept for block in blocks]

    def keep(self, places: Collection[int], guesses: Mapping[int, Guesses], device: torch.device) -> None:
        """Reads the layers at `places` into memory of `device`, where they stay, compressed: as their files have them,
        else now, beside what `guesses` has for them. Raises CheckpointError, and StreamError."""
        block_bytes = compressed.BLOCK_BYTES if device.type == "cpu" else compressed.HOST_BLOCK_BYTES
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for place in sorted(places):
                blocks, spans = self.blocks[place], self._layers[place]
                if blocks[0].packing is not None:
                    contents = kept_blocks(blocks, self.files)
                else:
                    layout = self._layouts[place]
                    contents = compress_layer(layout, spans, guesses.get(place), block_bytes)
                self.kept[place] = KeptLayer(contents, device)
                self.blocks[place] = self.kept[place].blocks
            undo.pop_all()

    def close(self) -> None:
        """Closes the files; what was kept stays, since it may still be read."""
        self.files.close()
