"""Layers kept compressed on disk, beside the checkpoint: fewer bytes to read, restored bit for bit.

One file a layer, in a folder named by a digest of the checkpoint's files. A file: 8 bytes of magic, then little endian
its size (8 bytes), the CRC-32 of the rest of this header (4) and the number of blocks (4); for each block where it
starts, its bytes, where in a slot its weights go, and how many bytes those are (8 each); then the blocks (codec.h),
each from a multiple of 4096 on, so that they can be read directly.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from specdecodes.errors import CheckpointError
from specdecodes.folders import cache_folder, replacing
from specdecodes.offload.compression.alone import codec
from specdecodes.offload.storage.files import WeightFiles
from specdecodes.offload.storage.layout import Block, LayerLayout
from specdecodes.offload.storage.store import ALIGNMENT, aligned_memory

BLOCK_BYTES = 16 * 2**20
"""Bytes of weights in a block; smaller ones read slower."""

HOST_BLOCK_BYTES = 32 * 2**20
"""The same of layers kept in host memory for an accelerator: a thread needs 0.1 to 0.2 ms to send a block and to launch
what restores it, in which a fast link brings 8 MB."""

READERS = 4
"""Threads of a stream of compressed layers: while two expand, two read; with three, passes took a tenth longer. Each
has memory of its own for a block."""

_MAGIC = b"SDLAYER1"
_HEAD, _ENTRY = struct.Struct("<8sQII"), struct.Struct("<4Q")
_SAMPLES, _SAMPLE_BYTES = 16, 256 * 1024


@dataclass(frozen=True)
class CompressedLayer:
    """A layer's file, and the reads that bring it."""

    path: Path
    blocks: tuple[Block, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that a pass reads."""
        return sum(block.needed for block in self.blocks)


def compressed_folder(identity: str, folder: Path | None = None) -> Path:
    """Where the layers of a checkpoint are kept, which `identity` names by all of its files' contents."""
    key = "\0".join([_MAGIC.decode(), str(BLOCK_BYTES), identity])
    return (folder or cache_folder()) / "compressed" / hashlib.sha256(key.encode()).hexdigest()[:24]


def layer_path(folder: Path, layer: int) -> Path:
    return folder / f"layers.{layer}.weights"


def open_layer(path: Path, layout: LayerLayout) -> CompressedLayer | None:
    """The compressed layer at `path`, None when there is none; reads its header only.

    Raises CheckpointError for a file that is cut, damaged or of another layer.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
            magic, size, check, count = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", 0, 0, 0)
            table = file.read(count * _ENTRY.size if magic == _MAGIC else 0)
            actual = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if magic != _MAGIC or actual < size or zlib.crc32(struct.pack("<QI", size, count) + table) != check:
        raise CheckpointError(f"{path} is cut or damaged; `run-compress` writes it anew.")
    blocks = tuple(
        Block(path, start, _up(needed), needed, slot_offset, expands_to)
        for start, needed, slot_offset, expands_to in _ENTRY.iter_unpack(table)
    )
    wanted = [(block.slot_offset, _even(block.needed)) for block in layout.blocks(BLOCK_BYTES)]
    if [(block.slot_offset, block.expands_to) for block in blocks] != wanted:
        raise CheckpointError(f"{path} is not this checkpoint's layer; `run-compress` writes it anew.")
    return CompressedLayer(path, blocks)


def write_layer(path: Path, layout: LayerLayout, dtype: torch.dtype) -> CompressedLayer:
    """Compresses a layer of `dtype` into `path`, which is whole or absent at any moment.

    Raises CheckpointError when the disk refuses, StreamError when the layer cannot be read.
    """
    blocks = list(layout.blocks(BLOCK_BYTES))
    at = _up(_HEAD.size + len(blocks) * _ENTRY.size)
    table = b""
    try:
        with replacing(path) as file:
            for block, content in zip(blocks, compress_blocks(blocks, dtype), strict=True):
                file.seek(at)
                file.write(content.numpy().data)
                table += _ENTRY.pack(at, content.numel(), block.slot_offset, _even(block.needed))
                at = _up(at + content.numel())
            file.truncate(at)
            file.seek(0)
            check = zlib.crc32(struct.pack("<QI", at, len(blocks)) + table)
            file.write(_HEAD.pack(_MAGIC, at, check, len(blocks)) + table)
    except OSError as error:
        raise CheckpointError(
            f"the compressed layers cannot be written to {path.parent}: {error.strerror}. Free some space, set "
            "SPECDECODES_CACHE to another folder, or leave compression off with --set memory.compress=off."
        ) from error
    layer = open_layer(path, layout)
    if layer is None:
        raise CheckpointError(f"{path} went while it was written; try again.")
    return layer


def compress_blocks(blocks: Sequence[Block], dtype: torch.dtype) -> Iterator[Tensor]:
    """The blocks' bytes, read and compressed, in order; as many at a time as torch has threads."""
    files = WeightFiles({block.path for block in blocks})
    threads = torch.get_num_threads()

    def work(block: Block) -> Tensor:
        area = aligned_memory(block.length)
        files.read(replace(block, slot_offset=0), memoryview(area))
        raw = torch.frombuffer(area, dtype=torch.uint8)
        raw[block.needed : _even(block.needed)] = 0
        return codec.compress(raw[: _even(block.needed)], dtype).clone()  # without the room that it might have needed

    try:
        with ThreadPoolExecutor(threads) as pool:
            for first in range(0, len(blocks), threads):
                yield from pool.map(work, blocks[first : first + threads])
    finally:
        files.close()


def sample_ratio(layouts: Sequence[LayerLayout], dtype: torch.dtype) -> float:
    """The share of their bytes that compressed layers will take, from pieces all over them."""
    whole = [block for layout in layouts for block in layout.blocks(_SAMPLE_BYTES) if block.needed == _SAMPLE_BYTES]
    every = whole or [block for layout in layouts for block in layout.blocks(_SAMPLE_BYTES)]
    pieces = every[:: -(-len(every) // _SAMPLES)]
    compressed = sum(content.numel() for content in compress_blocks(pieces, dtype))
    return compressed / sum(block.needed for block in pieces)


def _even(nbytes: int) -> int:
    return nbytes + nbytes % 2


def _up(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
