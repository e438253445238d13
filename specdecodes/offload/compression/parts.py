"""A layer's bytes, cut into parts that are compressed by themselves, each restored by one block.

Without guesses a part is what one read brings. Beside a substitute it is a run of whole rows of weights that are
guessed and of all that lies between such weights (norms, biases), which the codec compresses alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from specdecodes.offload.compression.alone.codec import KINDS
from specdecodes.offload.compression.alone.packing import Alone
from specdecodes.offload.compression.beside.guess import Guess
from specdecodes.offload.compression.beside.packing import Beside, Piece
from specdecodes.offload.storage.files import WeightFiles
from specdecodes.offload.storage.layout import Block, LayerLayout, Packing
from specdecodes.offload.storage.store import ALIGNMENT, TensorSpan, huge_pages

Spans = Mapping[str, TensorSpan]
Guesses = Mapping[str, Guess]
"""What a substitute says of a layer's linear weights, by their names in the layer ("mlp.up_proj.weight")."""

_ROWS = 16  # a part ends where a multiple of so many rows does: kernels hold that many side by side


@dataclass(frozen=True)
class LayerPart:
    """`nbytes` of `path` from `start`, in a slot from `slot_offset` on, and how they are to be packed."""

    path: Path
    start: int
    nbytes: int
    slot_offset: int
    packing: Packing

    @property
    def expands_to(self) -> int:
        """Bytes of the slot that it fills: whole 16-bit words."""
        return self.nbytes + self.nbytes % 2

    def block(self, compressed: int) -> Block:
        """It as a block of so many bytes, which starts nowhere yet."""
        return Block(self.path, 0, compressed, compressed, self.slot_offset, self.expands_to, self.packing)


def cut(layout: LayerLayout, spans: Spans, guesses: Guesses | None, block_bytes: int) -> tuple[LayerPart, ...]:
    """The parts of a layer, of at most `block_bytes` (even; one row may be more). `guesses`: of some of its bfloat16
    weights; of a layer whose weights have to be moved once they arrived they are of no use.

    Raises ValueError for a guess of weights of another shape.
    """
    for name, guess in (guesses or {}).items():
        if spans[name].shape != (guess.rows, guess.width):
            raise ValueError(f"{name} is {list(spans[name].shape)}, and its guess {[guess.rows, guess.width]}")
    known = {name: guess for name, guess in (guesses or {}).items() if spans[name].dtype == torch.bfloat16}
    if not known or layout.moves:
        whole, alone = layout.blocks(block_bytes), Alone(_weights(spans))
        return tuple(LayerPart(block.path, block.start, block.needed, block.slot_offset, alone) for block in whole)
    cutters = [_Cutter(read, block_bytes) for read in layout.ranges]
    return tuple(part for cutter in cutters for part in cutter.parts(layout, spans, known))


class _Cutter:
    """Cuts the long read `whole` of a layer: fills a part as far as it goes, then begins the next one."""

    def __init__(self, whole: Block, block_bytes: int) -> None:
        self._whole, self._most = whole, block_bytes
        self._pieces: list[Piece] = []
        self._filled = 0

    def parts(self, layout: LayerLayout, spans: Spans, guesses: Guesses) -> Iterator[LayerPart]:
        whole = self._whole
        inside = range(whole.slot_offset, whole.slot_offset + whole.length)
        tensors = sorted((at, name) for name, at in layout.offsets.items() if at in inside)
        end, stop = tensors[0][0], whole.slot_offset + whole.needed
        for at, name in tensors:
            if name in guesses and at >= end:  # two names of the same bytes are one
                yield from self._stretch(end, at - end, None)
                yield from self._stretch(at, spans[name].nbytes, guesses[name])
                end = at + spans[name].nbytes
        yield from self._stretch(end, stop - end, None)
        if self._filled:
            yield self._close(stop)

    def _stretch(self, start: int, nbytes: int, guess: Guess | None) -> Iterator[LayerPart]:
        done = 0
        while done < nbytes:
            take = self._room(nbytes, done, guess)
            if take:
                row = 0 if guess is None else nbytes // guess.rows
                part = None if guess is None else guess.part(done // row, take // row)
                self._pieces.append(Piece(self._filled, take + take % 2, part))
                self._filled += take
                done += take
            if done < nbytes:
                yield self._close(start + done)

    def _room(self, nbytes: int, done: int, guess: Guess | None) -> int:
        """How many of the bytes from `done` on the part that is being filled has room for."""
        room, left = self._most - self._filled, nbytes - done
        if guess is None or left <= room:
            return min(left, room)
        row = nbytes // guess.rows
        ahead = (done + room) // row
        whole = ahead // _ROWS * _ROWS
        if whole * row > done:
            return whole * row - done
        return 0 if self._filled else max(row, ahead * row - done)

    def _close(self, end: int) -> LayerPart:
        """What was filled, up to byte `end` of a slot."""
        start, whole = end - self._filled, self._whole
        packing = Beside(tuple(self._pieces))
        part = LayerPart(whole.path, whole.start + start - whole.slot_offset, self._filled, start, packing)
        self._pieces, self._filled = [], 0
        return part


def compress_parts(parts: Sequence[LayerPart]) -> Iterator[Tensor]:
    """The parts' blocks, in order; as many at a time as torch has threads. Raises StreamError."""
    files = WeightFiles({part.path for part in parts})
    threads = torch.get_num_threads()

    def work(part: LayerPart) -> Tensor:
        # Copied, without the room that it might have needed.
        block = part.packing.compress(_raw(part, files))
        return huge_pages(block.numel()).copy_(block)

    try:
        with ThreadPoolExecutor(threads) as pool:
            for first in range(0, len(parts), threads):
                yield from pool.map(work, parts[first : first + threads])
    finally:
        files.close()


def compress_layer(
    layout: LayerLayout, spans: Spans, guesses: Guesses | None, block_bytes: int
) -> Iterator[tuple[Block, Tensor]]:
    """A layer's blocks and their bytes, here; blocks are expanded where the `guesses` lie. Raises StreamError."""
    parts = cut(layout, spans, guesses, block_bytes)
    for part, content in zip(parts, compress_parts(parts), strict=True):
        yield part.block(content.numel()), content


def _raw(part: LayerPart, files: WeightFiles) -> Tensor:
    """Its bytes, read through a window that is aligned; zeros to whole words."""
    lead = part.start % ALIGNMENT
    length = -(-(lead + part.expands_to) // ALIGNMENT) * ALIGNMENT
    area = huge_pages(length)
    files.read(Block(part.path, part.start - lead, length, lead + part.nbytes, 0), area.numpy().data)
    raw = area[lead:][: part.expands_to]
    raw[part.nbytes :] = 0
    return raw


def _weights(spans: Spans) -> torch.dtype:
    """The 16-bit type that most of a layer has."""
    sizes = Counter({torch.bfloat16: 0})
    for span in spans.values():
        if span.dtype in KINDS:
            sizes[span.dtype] += span.nbytes
    return sizes.most_common(1)[0][0]
