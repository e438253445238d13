"""How weights arrive: background readers fill a ring of slots, ahead of the layer that is being computed.

A slot is free, filling, ready or held. Readers take free slots in the order of the layers, pass after pass, so the
first layers of the next pass arrive while the caller does other work. A slot goes back to the readers only when its
`with` block has ended, or the layer, which came compressed, is restored elsewhere.
"""

from __future__ import annotations

import atexit
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import Self

import torch

from specdecodes.errors import StreamError
from specdecodes.offload.compression.compressed import CompressedLayer
from specdecodes.offload.compression.parts import Guesses
from specdecodes.offload.storage.layout import Block
from specdecodes.offload.storage.store import ALIGNMENT, Storage, TensorSpan
from specdecodes.offload.streaming.bell import Bell
from specdecodes.offload.streaming.counters import ReadClock, StreamCounters
from specdecodes.offload.streaming.ring import Ring
from specdecodes.offload.streaming.slots import Holder, Slot, Slots, State
from specdecodes.offload.streaming.supply import Supply
from specdecodes.spans import span

BLOCK_BYTES = 8 * 2**20


class SlotStream(ABC):
    """Layers of a checkpoint, streamed through the slots of one ring. One thread asks; any thread may release."""

    _device: torch.device  # where the ring is

    def __init__(
        self,
        layers: Sequence[Mapping[str, TensorSpan]],
        *,
        slots: int = 2,
        readers: int = 2,
        block_bytes: int = BLOCK_BYTES,
        dtype: torch.dtype | None = None,
        compressed: Mapping[int, CompressedLayer] | None = None,
        kept: Collection[int] = (),
        guesses: Mapping[int, Guesses] | None = None,
        ahead: bool = True,
    ) -> None:
        """Allocates the ring; reading begins with the first layer asked for.

        Args:
            layers: the tensors of each streamed layer, in the order of a pass.
            slots: at least 2, so that one layer is read while another is computed.
            readers: threads; with two the disk has work while one waits for the interpreter.
            block_bytes: bytes of a read, a multiple of 4096.
            dtype: what floating-point tensors are converted to, in one extra layer of memory; None keeps the file's.
            compressed: layers to be read from their compressed files, by their place in `layers`.
            kept: places of layers that are read now, and stay in memory of their own, compressed; no pass reads them.
            guesses: what substitutes say of layers that are compressed now, by their place; of others, alone.
            ahead: whether the first layers of a pass are read while nobody has asked for it yet.

        Raises:
            CheckpointError: a file cannot be opened.
            StreamError: a layer that is to be kept cannot be read.
        """
        if not layers or slots < 2 or readers < 1 or block_bytes < 1 or block_bytes % ALIGNMENT:
            raise ValueError(f"a stream needs a layer, two slots, a reader and blocks of whole {ALIGNMENT} bytes")
        packed = {place: sum(block.length for block in layer.blocks) for place, layer in (compressed or {}).items()}
        self._ring = self._make_ring(layers, slots, dtype, packed | dict.fromkeys(kept, 0))
        self._supply = Supply(layers, self._ring.layouts, block_bytes, compressed or {})
        self._supply.keep(kept, guesses or {}, self._device)
        self._blocks, self._files = self._supply.blocks, self._supply.files
        self._places, reads = self._reads()
        self._turns = {place: turn for turn, place in enumerate(self._places)}
        self._slots = Slots(slots, reads, ahead=ahead)
        self._readers = readers
        self._process = os.getpid()
        self._lock = Lock()  # guards the slots and everything below
        self._work = Condition(self._lock)  # readers wait for something to read
        self._bell = Bell(self._lock)  # the caller waits for a reader that changes something
        self._threads: list[Thread] = []
        self._alive = 0  # readers at work
        self._filling = 0  # blocks that readers are at work on
        self._reading = ReadClock()
        self._error: StreamError | None = None
        self._closed = False
        self._totals = StreamCounters()
        atexit.register(self.close)  # a reader in the middle of a call would take the interpreter down with it

    @property
    def nbytes(self) -> int:
        """Memory of the ring, conversion, and compressed bytes, those of layers that are kept included."""
        return self._ring.nbytes + self._supply.kept_bytes

    @property
    def bytes_per_pass(self) -> int:
        """Bytes that one pass over all layers reads."""
        return sum(block.needed for block in self._supply.read)

    @property
    def storage(self) -> dict[Path, Storage]:
        """How each file is read."""
        return dict(self._files.storage)

    @property
    def counters(self) -> StreamCounters:
        """A snapshot, reads under way included in its seconds."""
        with self._lock:
            return self._totals + StreamCounters(read_seconds=self._reading.running())

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
                slot = self._bring(index, holder)
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
            self._bell.ring()
        for thread in self._threads:
            thread.join()
        self._supply.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # What depends on where the slots are.

    @abstractmethod
    def _make_ring(
        self,
        layers: Sequence[Mapping[str, TensorSpan]],
        slots: int,
        dtype: torch.dtype | None,
        packed: Mapping[int, int],
    ) -> Ring:
        """`packed`: bytes of compressed layers, by their place; 0 of those that are kept."""

    @abstractmethod
    def _reads(self) -> tuple[Sequence[int], Sequence[Sequence[Block]]]:
        """The places of the layers that go through the slots, and the reads that bring them there."""

    @abstractmethod
    def _fill(self, slot: Slot, block: Block) -> int:
        """Brings `block` into `slot`, in a reader's thread; returns the bytes read. Raises StreamError."""

    def _bring(self, index: int, holder: Holder) -> int:
        """Waits for layer `index`, which `holder` then holds; the number of its slot. Raises StreamError."""
        return self._take(self._turns[index], holder)

    @abstractmethod
    def _end_use(self, slot: Slot) -> None:
        """Called in the caller's thread before readers may have `slot` again."""

    # The caller's side.

    def _take(self, index: int, holder: Holder) -> int:
        """Waits for turn `index` of the layers that go through slots, and holds its slot, whose number is returned."""
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
            self._bell.wait(lambda: not self._filling)
            with self._lock:
                self._restart(index)
        self._bell.wait(lambda: bool(self._slots.ready() or self._error or self._crippled or self._closed))
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
        held = len(self._slots.held())
        if held == len(self._slots) or (held and self._ring.shared):
            raise RuntimeError("end the `with` block of an earlier layer first: its memory is needed")

    def _release(self, holder: Holder) -> None:
        with self._lock:
            for slot in self._slots.held():
                if slot.holder is not None and slot.holder() is holder:
                    self._end_use(slot)
                    slot.state = State.FREE
            self._work.notify_all()

    def _expects(self, index: int) -> bool:
        """Whether readers work towards turn `index`, or stopped at an error that is still to be told."""
        if self._crippled or not (self._slots.running or self._error):
            return False
        return self._slots.expected == index

    @property
    def _crippled(self) -> bool:
        return self._alive < self._readers

    def _restart(self, index: int) -> None:
        """Lets readers begin anew at turn `index`. No read is under way."""
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
                self._bell.ring()

    def _next_block(self) -> tuple[Slot, Block] | None:
        """The next read, waiting for a free slot; None when the stream is closed."""
        with self._lock:
            while not self._closed:
                if work := self._slots.next_read():
                    self._filling += 1
                    if self._place(work[0]) not in self._supply.kept:
                        self._reading.begin()
                    return work
                self._work.wait()
            return None

    def _read(self, slot: Slot, block: Block) -> None:
        count: int | None = None
        try:
            with span(f"read streamed layer {self._place(slot)}"):
                count = self._fill(slot, block)
        except StreamError as error:
            with self._lock:
                self._error = self._error or error
                self._slots.halt()
        finally:
            with self._lock:
                self._filling -= 1
                busy = self._reading.end() if self._place(slot) not in self._supply.kept else 0.0
                self._totals += StreamCounters(bytes_read=count or 0, read_seconds=busy)
                if count is not None:
                    self._slots.arrived(slot)
                self._bell.ring()

    def _place(self, slot: Slot) -> int:
        """Of the layer that `slot` is filled with."""
        return self._places[slot.turn % len(self._places)]
