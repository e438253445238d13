"""How weights arrive: background readers fill a ring of slots, ahead of the layer that is being computed.

A slot is free, filling, ready or held. Readers take free slots in the order of the layers, pass after pass, so the
first layers of the next pass arrive while the caller does other work. A slot goes back to the readers only when its
`with` block has ended.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Lock, Thread

import torch

from specdecodes.errors import StreamError
from specdecodes.offload.compression.compressed import CompressedLayer
from specdecodes.offload.compression.expander import Expander
from specdecodes.offload.storage.files import WeightFiles
from specdecodes.offload.storage.layout import Block
from specdecodes.offload.storage.store import ALIGNMENT, Storage, TensorSpan
from specdecodes.offload.streaming.counters import StreamCounters
from specdecodes.offload.streaming.ring import Ring
from specdecodes.offload.streaming.slots import Holder, Slot, Slots, State
from specdecodes.spans import span

BLOCK_BYTES = 8 * 2**20


class LayerStream:
    """Layers of a checkpoint, streamed through the slots of one ring. One thread asks; any thread may release."""

    def __init__(
        self,
        layers: Sequence[Mapping[str, TensorSpan]],
        *,
        slots: int = 2,
        readers: int = 2,
        block_bytes: int = BLOCK_BYTES,
        dtype: torch.dtype | None = None,
        compressed: Mapping[int, CompressedLayer] | None = None,
        ahead: bool = True,
    ) -> None:
        """Allocates the ring; reading begins with the first layer asked for.

        Args:
            layers: the tensors of each streamed layer, in the order of a pass.
            slots: at least 2, so that one layer is read while another is computed.
            readers: threads; with two the disk has work while one of them waits for the interpreter.
            block_bytes: bytes of a read, a multiple of 4096.
            dtype: what floating-point tensors are converted to, in one extra layer of memory; None keeps the file's.
            compressed: layers to be read from their compressed files, by their place in `layers`; the readers expand.
            ahead: whether the first layers of a pass are read while nobody has asked for it yet.

        Raises:
            CheckpointError: a file cannot be opened.
        """
        if not layers or slots < 2 or readers < 1 or block_bytes < 1 or block_bytes % ALIGNMENT:
            raise ValueError(f"a stream needs a layer, two slots, a reader and blocks of whole {ALIGNMENT} bytes")
        self._ring = self._make_ring(layers, slots, dtype)
        self._blocks = [tuple(layout.blocks(block_bytes)) for layout in self._ring.layouts]
        for place, layer in (compressed or {}).items():
            self._blocks[place] = layer.blocks
        if not all(self._blocks):
            raise ValueError("a streamed layer without bytes cannot be waited for")
        self._files = WeightFiles({block.path for blocks in self._blocks for block in blocks})
        self._expander = self._make_expander(readers)
        self._slots = Slots(slots, self._blocks, ahead=ahead)
        self._readers = readers
        self._process = os.getpid()
        # The caller may be interrupted anywhere, so it uses locks alone: a Condition loses its lock to a Ctrl-C.
        self._lock = Lock()  # guards the slots and everything below
        self._work = Condition(self._lock)  # readers wait for something to read
        self._bell = Lock()  # locked; a reader that changes something unlocks it for the waiting caller
        self._bell.acquire()
        self._threads: list[Thread] = []
        self._alive = 0  # readers at work
        self._reading = 0  # reads under way
        self._busy_since = 0.0
        self._error: StreamError | None = None
        self._closed = False
        self._totals = StreamCounters()
        atexit.register(self.close)  # a reader in the middle of a call would take the interpreter down with it

    @property
    def nbytes(self) -> int:
        """Memory of the ring, conversion and compressed bytes included."""
        return self._ring.nbytes + self._expander.nbytes

    @property
    def bytes_per_pass(self) -> int:
        """Bytes that one pass over all layers reads."""
        return sum(block.needed for blocks in self._blocks for block in blocks)

    @property
    def storage(self) -> dict[Path, Storage]:
        """How each file is read."""
        return dict(self._files.storage)

    @property
    def counters(self) -> StreamCounters:
        """A snapshot, reads under way included in its seconds."""
        with self._lock:
            busy = time.perf_counter() - self._busy_since if self._reading else 0.0
            return self._totals + StreamCounters(read_seconds=busy)

    @contextmanager
    def layer(self, index: int) -> Iterator[dict[str, torch.Tensor]]:
        """Waits for layer `index`; its tensors are views into the ring, valid until the block ends.

        Layers are expected in the order 0, 1, ..., n-1, 0, ...; any other layer drops what was read ahead.
        Raises StreamError when it cannot be read; the next call starts over.
        """
        if not 0 <= index < len(self._blocks):
            raise IndexError(f"layer {index} of a stream of {len(self._blocks)}")
        if os.getpid() != self._process:
            raise StreamError("a weight stream belongs to the process that made it; load the model in this one.")
        holder = Holder()  # made first, so that an interrupt at any point below still finds its slot
        try:
            with span(f"wait for streamed layer {index}"):
                slot = self._take(index, holder)
            self._begin_use(slot)
            yield self._ring.tensors(slot, index)
        finally:
            self._release(holder)

    def close(self) -> None:
        """Ends the readers and closes the files. May be called again, and while a layer is held."""
        if os.getpid() != self._process:
            return  # the readers stayed with the parent
        atexit.unregister(self.close)
        with self._lock:
            self._closed = True
            self._slots.halt()
            self._work.notify_all()
            self._ring_bell()
        for thread in self._threads:
            thread.join()
        self._files.close()

    def __enter__(self) -> LayerStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Where the slots are: here host memory, read into in place. A subclass for another device overrides these five.

    def _make_ring(self, layers: Sequence[Mapping[str, TensorSpan]], slots: int, dtype: torch.dtype | None) -> Ring:
        return Ring(layers, slots, dtype)

    def _make_expander(self, readers: int) -> Expander:
        return Expander((block for blocks in self._blocks for block in blocks), readers)

    def _fill(self, slot: Slot, block: Block) -> int:
        """Brings `block` into `slot`, in a reader's thread; returns its bytes, which are there. Raises StreamError."""
        if not block.expands_to:
            return self._files.read(block, self._ring.memory[slot.index])
        start = slot.index * self._ring.slot_bytes + block.slot_offset
        return self._expander.read(self._files, block, self._ring.bytes[start : start + block.expands_to])

    def _begin_use(self, slot: int) -> None:
        """Called in the caller's thread before the tensors in slot `slot` are handed out."""

    def _end_use(self, slot: Slot) -> None:
        """Called in the caller's thread before readers may have `slot` again."""

    # The caller's side.

    def _take(self, index: int, holder: Holder) -> int:
        """Waits for layer `index` and holds its slot, whose number is returned."""
        start = time.perf_counter()
        with self._lock:
            self._check_free()
            expected = self._expects(index)
            self._slots.ask()
            if not expected:
                self._slots.forget()  # an interrupt before the restart is done leaves the next call to restart
                self._slots.halt()
            self._work.notify_all()
        if not expected:
            self._wait(lambda: not self._reading)
            with self._lock:
                self._restart(index)
        self._wait(lambda: bool(self._slots.ready() or self._error or self._crippled or self._closed))
        with self._lock:
            slot = self._slots.ready()
            if slot is None or self._closed:
                self._slots.forget()
                raise self._error or StreamError("the weight stream was closed, or a reader died; try again.")
            self._slots.lend(slot, holder)
            self._totals += StreamCounters(wait_seconds=time.perf_counter() - start, layers=1)
            return slot.index

    def _check_free(self) -> None:
        """Frees slots whose release an interrupt cut short; raises when the caller may not have another one."""
        if self._closed:
            raise StreamError("this model is closed; load it again.")
        for slot in self._slots.held():
            if slot.holder is not None and slot.holder() is None:
                self._end_use(slot)
                slot.state = State.FREE
        kept = len(self._slots.held())
        if kept == len(self._slots) or (kept and self._ring.converts):
            raise RuntimeError("end the `with` block of an earlier layer first: its memory is needed")

    def _wait(self, holds: Callable[[], bool]) -> None:
        while True:
            with self._lock:
                if holds():
                    return
            self._bell.acquire()

    def _release(self, holder: Holder) -> None:
        with self._lock:
            for slot in self._slots.held():
                if slot.holder is not None and slot.holder() is holder:
                    self._end_use(slot)
                    slot.state = State.FREE
            self._work.notify_all()

    def _expects(self, index: int) -> bool:
        """Whether readers work towards layer `index`, or stopped at an error that is still to be told."""
        if self._crippled or not (self._slots.running or self._error):
            return False
        return self._slots.expected == index

    @property
    def _crippled(self) -> bool:
        return self._alive < self._readers

    def _restart(self, index: int) -> None:
        """Lets readers begin anew at layer `index`. No read is under way."""
        if self._error is not None:
            self._files.close()  # a file that was cut or replaced is to be opened anew
            self._error = None
        while self._crippled:
            thread = Thread(target=self._read_on, name="specdecodes-reader", daemon=True)
            thread.start()
            self._threads.append(thread)
            self._alive += 1
        self._slots.restart(index)
        self._work.notify_all()

    # The readers' side.

    def _read_on(self) -> None:
        try:
            while (work := self._next_block()) is not None:
                self._read(*work)
        finally:
            with self._lock:
                self._alive -= 1
                self._ring_bell()

    def _next_block(self) -> tuple[Slot, Block] | None:
        """The next read, waiting for a free slot; None when the stream is closed."""
        with self._lock:
            while not self._closed:
                if work := self._slots.next_read():
                    if not self._reading:
                        self._busy_since = time.perf_counter()
                    self._reading += 1
                    return work
                self._work.wait()
            return None

    def _read(self, slot: Slot, block: Block) -> None:
        count = 0
        try:
            with span(f"read streamed layer {slot.turn % len(self._blocks)}"):
                count = self._fill(slot, block)
        except StreamError as error:
            with self._lock:
                self._error = self._error or error
                self._slots.halt()
        finally:
            with self._lock:
                self._end_read(slot, count)

    def _end_read(self, slot: Slot, count: int) -> None:
        """Counts a read of `count` bytes, 0 when it failed."""
        self._reading -= 1
        busy = 0.0 if self._reading else time.perf_counter() - self._busy_since
        self._totals += StreamCounters(bytes_read=count, read_seconds=busy)
        if count:
            self._slots.arrived(slot)
        self._ring_bell()

    def _ring_bell(self) -> None:
        if self._bell.locked():
            self._bell.release()
