"""Quantized weights kept on disk, so that a model is solved once.

One safetensors file a layer, in a folder named by a digest of everything the result depends on: the checkpoint's files,
the schemes of all paths, and the versions of this format and of the solvers. Entries hold codes, not a kernel's layout:
packing takes seconds for a billion weights, layouts differ between machines and kernels, and one entry serves them all.
Scales are kept in float32, so what is loaded equals what was solved, bit for bit.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from specdecodes import __version__
from specdecodes.folders import cache_folder, replacing
from specdecodes.notify import Notify
from specdecodes.quant.codes import Codes, Solved
from specdecodes.quant.spec import Rules

FORMAT = "2"
SAMPLES = 64  # blocks of a checkpoint file that take part in its identity
SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class CacheEntry:
    """One quantized checkpoint on disk: the folder of the checkpoint, and how its weights were put on their grids."""

    folder: Path
    checkpoint: str
    scheme: str
    layers: int
    nbytes: int


def checkpoint_identity(files: Sequence[Path], *, times: bool = True) -> str:
    """A digest that changes when weights change: each file's name, size, time, header and a sample of its bytes.

    Reading every byte would cost as much as loading the model. A rewrite changes the time; a copy that keeps the time
    of other weights is caught by the sample. Without `times` a copy elsewhere has the same digest.
    """
    digest = hashlib.sha256()
    for path in sorted(file.resolve() for file in files):
        stat = path.stat()
        digest.update(f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns if times else ''}\0".encode())
        with path.open("rb") as file:
            start = file.read(8)
            header = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            digest.update(start + file.read(header if header < stat.st_size else 0))  # a zip file has none
            for index in range(SAMPLES):
                file.seek(index * max(stat.st_size - SAMPLE_BYTES, 0) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


class SubstituteCache:
    """The entries of one checkpoint. Trouble with the disk is told through `notify` and never stops a run."""

    def __init__(
        self,
        files: Sequence[Path],
        *,
        folder: Path | None = None,
        notify: Notify | None = None,
        room: int | None = None,
    ) -> None:
        """`room`: bytes that may still be written; None leaves that to the disk."""
        self.root = _entries_folder(folder)
        self.identity = checkpoint_identity(files)
        self._origin = str(min(files).parent) if files else ""
        self._notify = notify or logging.getLogger(__name__).warning
        self._writable, self._room = True, room

    def path(self, layer: str, rules: Rules) -> Path:
        """The file that holds this layer under these rules, present or not."""
        key = "\0".join([FORMAT, __version__, self.identity, rules.weights])
        return self.root / hashlib.sha256(key.encode()).hexdigest()[:24] / f"{layer}.safetensors"

    def load(self, layer: str, rules: Rules) -> dict[str, Solved] | None:
        """The layer's solved linears on the CPU; None when they are absent, cut or altered."""
        path = self.path(layer, rules)
        try:
            with safe_open(path, framework="pt") as file:
                # Copies: what is checked below is what is used, whatever becomes of the mapped file.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
                expected = (file.metadata() or {}).get("digest")
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            self._notify(f"the cached weights in {path} cannot be read ({error}); they are made anew.")
            return None
        if expected != _digest(tensors):
            self._notify(f"the cached weights in {path} are damaged; they are made anew.")
            return None
        return _to_solved(tensors)

    @property
    def kept_bytes(self) -> int:
        """Of all entries that were made of this checkpoint."""
        return sum(entry.nbytes for entry in entries(self.root.parent) if entry.checkpoint == self._origin)

    def store(self, layer: str, rules: Rules, linears: Mapping[str, Solved]) -> None:
        """Write the layer's entry whole or not at all. After a failed write the run goes on without storing."""
        if not self._writable:
            return
        path = self.path(layer, rules)
        tensors = _to_tensors(linears)
        try:
            about = {"digest": _digest(tensors), "checkpoint": self._origin, "scheme": rules.weights}
            self._write(path, save(tensors, about))
        except OSError as error:
            self._writable = False
            cure = "free some space or set SPECDECODES_CACHE to another folder"
            self._notify(f"quantized weights are not kept: {path.parent}: {error.strerror}; {cure}.")

    def _write(self, path: Path, content: bytes) -> None:
        if self._room is not None:
            if len(content) > self._room:
                raise OSError(errno.EDQUOT, "the budget of disk is used up (memory.disk)")
            self._room -= len(content)
        with replacing(path) as file:
            file.write(content)


def entries(folder: Path | None = None) -> list[CacheEntry]:
    """What the cache holds, largest first."""
    found = []
    for path in sorted(_entries_folder(folder).glob("*/")):
        files = sorted(path.glob("*.safetensors"))
        about = _about(files[0]) if files else {}
        origin = about.get("checkpoint", "unknown"), about.get("scheme", "unknown")
        found.append(CacheEntry(path, *origin, len(files), sum(file.stat().st_size for file in files)))
    return sorted(found, key=lambda entry: -entry.nbytes)


def _about(path: Path) -> dict[str, str]:
    """What the writer of an entry said of it; nothing where the file is cut or gone."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def clear(folder: Path | None = None) -> int:
    """Remove every entry and what killed writers left; gives the bytes freed."""
    root = _entries_folder(folder)
    freed = sum(file.stat().st_size for file in root.glob("*/*"))
    if root.exists():
        shutil.rmtree(root)
    return freed


def _entries_folder(folder: Path | None) -> Path:
    return (folder or cache_folder()) / "substitutes"


def _to_tensors(linears: Mapping[str, Solved]) -> dict[str, Tensor]:
    tensors = {}
    for name, linear in linears.items():
        parts = linear.codes.tensors() | {"bias": linear.bias}
        tensors.update({f"{name}.{key}": part.cpu().contiguous() for key, part in parts.items() if part is not None})
    return tensors


def _to_solved(tensors: Mapping[str, Tensor]) -> dict[str, Solved]:
    linears: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition(".")
        linears.setdefault(name, {})[part] = tensor
    return {name: Solved(Codes.from_tensors(parts), parts.get("bias")) for name, parts in linears.items()}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
