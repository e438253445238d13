"""Where weights rest: safetensors files, read in place, never copied to a second file.

The format: 8 bytes of header length (little endian), a JSON header, then the tensors' bytes.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from specdecodes.errors import CheckpointError
from specdecodes.units import format_bytes

ALIGNMENT = 4096
"""Offset, length and address of a direct read are multiples of this; devices with 512-byte sectors accept it too."""

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LONGEST_HEADER = 100_000_000  # the format's own limit; a larger number means that this is no safetensors file
_CHUNK = 16 * 2**20
_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")


@dataclass(frozen=True)
class TensorSpan:
    """A tensor's bytes: `nbytes` of `path` from `offset` (counted from the start of the file)."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Storage:
    """How the files of a folder can be read. `reason` says why reads are direct or not, for the plan to print."""

    direct: bool
    reason: str


def read_index(folder: Path) -> dict[str, TensorSpan]:
    """Every tensor of a checkpoint folder, from `model.safetensors` or the shards that its index lists.

    Reads headers only. Raises CheckpointError for a missing, truncated or inconsistent file.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give the folder that holds config.json and {SINGLE}.")
    if (folder / SINGLE).exists():
        return {span.name: span for span in read_header(folder / SINGLE)}
    if (folder / INDEX).exists():
        return _read_shards(folder)
    raise CheckpointError(_nothing_to_read(folder))


def _read_shards(folder: Path) -> dict[str, TensorSpan]:
    index = folder / INDEX
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not a checkpoint index (no weight_map); download it again.") from error
    spans: dict[str, TensorSpan] = {}
    for shard in shards:
        if not (folder / shard).exists():
            raise CheckpointError(f"{folder / shard} is missing although {INDEX} lists it; download it again.")
        spans |= {span.name: span for span in read_header(folder / shard) if weight_map.get(span.name) == shard}
    missing = sorted(weight_map.keys() - spans.keys())
    if missing:
        where = folder / weight_map[missing[0]]
        raise CheckpointError(f"{where} lacks {missing[0]}, which {INDEX} places there; download the checkpoint again.")
    return spans


def _nothing_to_read(folder: Path) -> str:
    if any(folder.glob("*.bin")):
        return (
            f"{folder} holds .bin weights only; convert them once with Transformers: "
            f"AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)."
        )
    if any(folder.glob("*.gguf")):
        return f"{folder} holds GGUF weights only; give the safetensors checkpoint that they were made from."
    return f"{folder} holds neither {SINGLE} nor {INDEX}; check the path, or download the checkpoint again."


def read_header(path: Path) -> list[TensorSpan]:
    """The tensors of one file, in file order. Raises CheckpointError when the file is cut or is no safetensors file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            lead = file.read(8)
            length = struct.unpack("<Q", lead)[0] if len(lead) == 8 else 0
            if lead.startswith(b"version "):
                raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` there.")
            if len(lead) == 8 and length > _LONGEST_HEADER:
                raise CheckpointError(f"{path} is not a safetensors file; download it again.")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if len(lead) < 8 or len(text) < length:
        raise CheckpointError(_truncated(path, size, 8 + length))
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        spans = [_span(path, 8 + length, name, entry) for name, entry in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} has an unreadable header; download it again.") from error
    end = max((span.offset + span.nbytes for span in spans), default=0)
    if end > size:
        raise CheckpointError(_truncated(path, size, end))
    return sorted(spans, key=lambda span: span.offset)


def _span(path: Path, start: int, name: str, entry: Mapping[str, Any]) -> TensorSpan:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise CheckpointError(
            f"{path}: {name} has dtype {entry['dtype']}, which cannot be read; known: {', '.join(_DTYPES)}."
        )
    shape = tuple(int(side) for side in entry["shape"])
    begin, end = entry["data_offsets"]
    if begin < 0 or end - begin != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"{path}: {name} has {end - begin} bytes, which is not its shape {list(shape)}.")
    return TensorSpan(name, dtype, shape, path, start + begin, end - begin)


def _truncated(path: Path, size: int, expected: int) -> str:
    missing = expected - size
    return (
        f"{path} is truncated: {format_bytes(missing)} ({missing} bytes) of {format_bytes(expected)} are missing; "
        f"download it again."
    )


def load_tensor(span: TensorSpan) -> torch.Tensor:
    """The tensor in memory of its own, shape `span.shape`. Raises CheckpointError when the file went or was cut."""
    flat = torch.empty(span.nbytes, dtype=torch.uint8)
    window, filled = flat.numpy().data, 0
    try:
        with span.path.open("rb", buffering=0) as file:
            file.seek(span.offset)
            while filled < span.nbytes:
                if sys.platform == "linux":
                    # By itself the kernel reads ahead in small steps, at a third of the disk's speed.
                    os.posix_fadvise(file.fileno(), file.tell(), 2 * _CHUNK, os.POSIX_FADV_WILLNEED)
                count = file.readinto(window[filled : filled + _CHUNK])
                if not count:
                    break
                filled += count
    except OSError as error:
        raise CheckpointError(f"{span.path} cannot be read: {error.strerror}.") from error
    if filled < span.nbytes:
        raise CheckpointError(_truncated(span.path, span.offset + filled, span.offset + span.nbytes))
    return flat.view(span.dtype).view(span.shape)


def aligned_memory(nbytes: int) -> mmap.mmap:
    """Zeroed page-aligned memory of this process alone, in huge pages where the system has them."""
    if sys.platform != "linux":
        return mmap.mmap(-1, nbytes)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A fork during a direct read would copy pages under it, so children get no mapping.
    memory.madvise(mmap.MADV_DONTFORK)
    if Path("/sys/kernel/mm/transparent_hugepage").exists():
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def huge_pages(nbytes: int) -> torch.Tensor:
    """The same as zeros [nbytes] uint8: for buffers that come and go, which a process would else hold on to."""
    return torch.frombuffer(aligned_memory(max(1, nbytes)), dtype=torch.uint8)[:nbytes]


def open_for_reading(path: Path, *, direct: bool) -> int:
    """A file descriptor, with O_DIRECT when `direct`."""
    if direct and sys.platform == "linux":
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def probe(path: Path) -> Storage:
    """Whether `path` can be read past the page cache, found out by opening and reading it. Raises CheckpointError."""
    kind = _file_system(path)
    if kind in _IN_MEMORY:
        return Storage(False, f"{kind} keeps its files in memory, so there is no disk to read")
    if sys.platform != "linux":
        return Storage(False, f"{sys.platform} has no O_DIRECT; reads go through the page cache")
    try:
        os.close(open_for_reading(path, direct=False))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        file = open_for_reading(path, direct=True)
        try:
            os.preadv(file, [aligned_memory(ALIGNMENT)], 0)
        finally:
            os.close(file)
    except OSError as error:
        return Storage(False, f"{kind} refuses O_DIRECT ({error.strerror}); reads go through the page cache")
    return Storage(True, f"{kind}, read with O_DIRECT")


def _file_system(path: Path) -> str:
    """The type of the file system that holds `path`, such as ext4."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "this file system"
    found, longest = "this file system", -1
    real = path.resolve()
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, place, kind, *_ = line.split(" ")
        root = Path(place.encode().decode("unicode_escape"))  # blanks are written as \040
        if real.is_relative_to(root) and len(root.parts) >= longest:
            found, longest = kind, len(root.parts)
    return found


def measure_read(paths: Sequence[Path], *, direct: bool, max_bytes: int = 256 * 2**20, block: int = 8 * 2**20) -> float:
    """GB/s of reading up to `max_bytes` of `paths` in order, in blocks of `block` bytes, as a reader of a stream.

    Without `direct` the page cache is dropped first, so that the disk is measured. Raises CheckpointError.
    """
    buffer, done, seconds = memoryview(aligned_memory(block)), 0, 0.0
    for path in paths:
        try:
            file = open_for_reading(path, direct=direct)
            try:
                if not direct and sys.platform == "linux":
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                start = time.perf_counter()
                done += _read_through(file, buffer, max_bytes - done, direct)
                seconds += time.perf_counter() - start
            finally:
                os.close(file)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    return done / seconds / 1e9 if seconds else 0.0


def _read_through(file: int, buffer: memoryview, most: int, direct: bool) -> int:
    """Reads `file` from its start, up to `most` bytes and the rest of a buffer; returns the bytes read."""
    done = 0
    while done < most:
        if not direct and sys.platform == "linux":
            os.posix_fadvise(file, done, len(buffer), os.POSIX_FADV_WILLNEED)
        count = os.preadv(file, [buffer], done)
        done += count
        if count < len(buffer):  # the end of the file; a further direct read would start off the alignment
            break
    return done
