"""The files of a checkpoint and the one way to read a block: direct where the disk allows, else leaving no cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from specdecodes.errors import StreamError
from specdecodes.offload.storage.layout import Block
from specdecodes.offload.storage.store import ALIGNMENT, Storage, open_for_reading, probe
from specdecodes.units import format_bytes


class WeightFiles:
    """Files of a checkpoint, each opened once at its first read, from any thread."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Raises CheckpointError for a file that cannot be opened."""
        self.storage: dict[Path, Storage] = {path: probe(path) for path in paths}
        self._open: dict[Path, int] = {}
        self._lock = Lock()

    def read(self, block: Block, slot: memoryview) -> int:
        """Fills the block's part of `slot`; returns the bytes read. Raises StreamError naming the file."""
        direct = self.storage[block.path].direct
        target = slot[block.slot_offset : block.slot_offset + block.length]
        try:
            file = self._descriptor(block.path, direct)
            if direct or sys.platform != "linux":
                return _fill(file, block, target)
            os.posix_fadvise(file, block.start, block.length, os.POSIX_FADV_WILLNEED)
            count = _fill(file, block, target)
            # The page cache would otherwise hold a second copy of weights that are not read again for a whole pass.
            os.posix_fadvise(file, block.start, block.length, os.POSIX_FADV_DONTNEED)
            return count
        except OSError as error:
            raise StreamError(
                f"{block.path} cannot be read: {error.strerror}. Check the disk and the file, then try again."
            ) from error

    def close(self) -> None:
        """Closes every file; a later read opens it again. No read may be under way."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])

    def _descriptor(self, path: Path, direct: bool) -> int:
        with self._lock:
            if path not in self._open:
                self._open[path] = open_for_reading(path, direct=direct)
            return self._open[path]


def _fill(file: int, block: Block, target: memoryview) -> int:
    done = 0
    while done < block.needed:
        count = os.preadv(file, [target[done:]], block.start + done)
        if done + count >= block.needed:
            return done + count
        if count < ALIGNMENT:
            missing = block.needed - done - count
            raise StreamError(
                f"{block.path} was cut while in use: {format_bytes(missing)} ({missing} bytes) are missing at byte "
                f"{block.start + done + count}. Restore the file, then try again."
            )
        done += count - count % ALIGNMENT  # a direct read goes on from an aligned offset only
    return done
