"""Layers kept compressed on disk, beside the checkpoint: fewer bytes to read, restored bit for bit.

One file a layer, in a folder named by a digest of the checkpoint's files, and of the substitute beside which they were
compressed, if any. A file: 8 bytes of magic, then little endian its size (8 bytes), the CRC-32 of the rest of this
header (4) and the number of blocks (4); beside a substitute the digest of what that says of the layer (32); for each
block where it starts, its bytes, where in a slot its weights go, and how many bytes those are (8 each); then the
blocks (codec.h, remainder.h), each from a multiple of 4096 on, so that they can be read directly.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specdecodes.errors import CheckpointError, StreamError
from specdecodes.folders import cache_folder, replacing
from specdecodes.offload.compression.beside.guess import digest
from specdecodes.offload.compression.parts import Guesses, Spans, compress_layer, compress_parts, cut
from specdecodes.offload.storage.layout import Block, lay_out
from specdecodes.offload.storage.store import ALIGNMENT

BLOCK_BYTES = 16 * 2**20
"""Bytes of weights in a block; smaller ones read slower."""

HOST_BLOCK_BYTES = 32 * 2**20
"""The same of layers kept in host memory for an accelerator: a thread needs 0.1 to 0.2 ms to send a block and to launch
what restores it, in which a fast link brings 8 MB."""

_ALONE, _BESIDE = b"SDLAYER1", b"SDLAYER2"
_HEAD, _ENTRY = struct.Struct("<8sQII"), struct.Struct("<4Q")
_DIGEST = 32
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


@dataclass(frozen=True)
class _Header:
    """What a layer's file says of itself; `substitute` is empty where there was none."""

    substitute: bytes
    entries: tuple[tuple[int, int, int, int], ...]


def damaged(block: Block) -> StreamError:
    return StreamError(
        f"{block.path} is damaged at byte {block.start}. Remove it, and let `run-compress` write it anew; or try again "
        "with --set memory.compress=off."
    )


def compressed_folder(identity: str, folder: Path | None = None, *, substitute: str = "") -> Path:
    """Where the layers of a checkpoint are kept, which `identity` names by all of its files' contents; compressed
    alone, and in there, beside the substitute that `substitute` names."""
    alone = (folder or cache_folder()) / "compressed" / _name(_ALONE.decode(), str(BLOCK_BYTES), identity)
    return alone / _name(_BESIDE.decode(), substitute) if substitute else alone


def layer_path(folder: Path, layer: int) -> Path:
    return folder / f"layers.{layer}.weights"


def written_bytes(path: Path) -> int | None:
    """Bytes that a pass reads of the layer at `path`, None when there is none; reads its header only, and does not ask
    for which substitute it was made. Raises CheckpointError for a file that is cut or damaged."""
    header = _read_header(path)
    return None if header is None else sum(needed for _, needed, _, _ in header.entries)


def open_layer(path: Path, spans: Spans, guesses: Guesses | None = None) -> CompressedLayer | None:
    """The compressed layer at `path`, None when there is none; reads its header only.

    Raises CheckpointError for a file that is cut, damaged, of another layer, or made beside another substitute.
    """
    header = _read_header(path)
    if header is None:
        return None
    if header.substitute != (digest(guesses) if guesses else b""):
        raise CheckpointError(f"{path} was made for another substitute; `run-compress` writes it anew.")
    parts = cut(lay_out(spans), spans, guesses, BLOCK_BYTES)
    wanted = [(part.slot_offset, part.expands_to) for part in parts]
    if [(slot_offset, expands_to) for _, _, slot_offset, expands_to in header.entries] != wanted:
        raise CheckpointError(f"{path} is not this checkpoint's layer; `run-compress` writes it anew.")
    blocks = tuple(
        Block(path, start, _up(needed), needed, slot_offset, expands_to, part.packing)
        for part, (start, needed, slot_offset, expands_to) in zip(parts, header.entries, strict=True)
    )
    return CompressedLayer(path, blocks)


def _read_header(path: Path) -> _Header | None:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
            magic, size, check, count = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", 0, 0, 0)
            substitute = file.read(_DIGEST if magic == _BESIDE else 0)
            table = file.read(count * _ENTRY.size if magic in (_ALONE, _BESIDE) else 0)
            actual = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if magic not in (_ALONE, _BESIDE) or actual < size or _check(size, count, substitute + table) != check:
        raise CheckpointError(f"{path} is cut or damaged; `run-compress` writes it anew.")
    return _Header(substitute, tuple(_ENTRY.iter_unpack(table)))


def write_layer(path: Path, spans: Spans, guesses: Guesses | None = None) -> CompressedLayer:
    """Compresses a layer into `path`, which is whole or absent at any moment: alone, or beside the substitute that
    `guesses` are of.

    Raises CheckpointError when the disk refuses, StreamError when the layer cannot be read.
    """
    layout, substitute = lay_out(spans), digest(guesses) if guesses else b""
    count = len(cut(layout, spans, guesses, BLOCK_BYTES))
    at = _up(_HEAD.size + len(substitute) + count * _ENTRY.size)
    table = substitute
    try:
        with replacing(path) as file:
            for block, content in compress_layer(layout, spans, guesses, BLOCK_BYTES):
                file.seek(at)
                file.write(content.numpy().data)
                table += _ENTRY.pack(at, block.needed, block.slot_offset, block.expands_to)
                at = _up(at + block.needed)
            file.truncate(at)
            file.seek(0)
            magic = _BESIDE if guesses else _ALONE
            file.write(_HEAD.pack(magic, at, _check(at, count, table), count) + table)
    except OSError as error:
        raise CheckpointError(
            f"the compressed layers cannot be written to {path.parent}: {error.strerror}. Free some space, set "
            "SPECDECODES_CACHE to another folder, or leave compression off with --set memory.compress=off."
        ) from error
    layer = open_layer(path, spans, guesses)
    if layer is None:
        raise CheckpointError(f"{path} went while it was written; try again.")
    return layer


def sample_ratio(layers: Sequence[Spans], guesses: Sequence[Guesses] | None = None) -> float:
    """The share of their bytes that compressed layers will take, from pieces all over them; beside a substitute where
    `guesses` are given for each of them."""
    known = guesses if guesses is not None else [{}] * len(layers)
    pairs = zip(layers, known, strict=True)
    every = [part for spans, here in pairs for part in cut(lay_out(spans), spans, here, _SAMPLE_BYTES)]
    usual = [part for part in every if 2 * part.nbytes >= _SAMPLE_BYTES] or every
    pieces = usual[:: -(-len(usual) // _SAMPLES)]
    compressed = sum(content.numel() for content in compress_parts(pieces))
    return compressed / sum(part.nbytes for part in pieces)


def _name(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _check(size: int, count: int, rest: bytes) -> int:
    return zlib.crc32(struct.pack("<QI", size, count) + rest)


def _up(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
