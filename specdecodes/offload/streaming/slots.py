"""The slots of the ring: which layer of which pass is in which of them, and what is to be read next.

Bookkeeping alone: it waits for nothing and reads nothing. The stream's lock guards all of it.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from specdecodes.offload.storage.layout import Block


class State(Enum):
    """Free, being read into, read, or lent to the caller."""

    FREE = "free"
    FILLING = "filling"
    READY = "ready"
    HELD = "held"


class Holder:
    """Identity of one `with` block; when it is gone without a release, its slot may be taken back."""


@dataclass
class Slot:
    """A slot, by its number in the ring."""

    index: int
    state: State = State.FREE
    turn: int = -1  # which layer of which pass: layer + pass * number of layers
    missing: int = 0  # blocks still to arrive
    holder: weakref.ReferenceType[Holder] | None = None


class Slots:
    """All slots. Free ones are filled in the order of the turns, from the turn of the last `restart` on."""

    def __init__(self, count: int, blocks: Sequence[Sequence[Block]], *, ahead: bool = True) -> None:
        """`blocks`: the reads that each layer is made of, looked up when its turn begins. `ahead`: the turns of a pass
        begin before any of them was asked for."""
        self._slots, self._blocks = [Slot(index) for index in range(count)], blocks
        self._pending: deque[tuple[Slot, Block]] = deque()
        self._ahead, self._asked = ahead, 0  # the last turn asked for
        self._filled = 0  # the next turn to read
        self._expected: int | None = None  # the next turn to hand out; None: start over
        self.running = False  # whether another read may begin

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def expected(self) -> int | None:
        """The layer to hand out next, as long as it is asked for in order; None: any, after a restart."""
        return None if self._expected is None else self._expected % len(self._blocks)

    def held(self) -> list[Slot]:
        """The slots that are lent."""
        return [slot for slot in self._slots if slot.state is State.HELD]

    def ready(self) -> Slot | None:
        """The slot of the expected turn, if all of its bytes are there."""
        return next((slot for slot in self._slots if slot.state is State.READY and slot.turn == self._expected), None)

    def lend(self, slot: Slot, holder: Holder) -> None:
        """Lend a ready slot; the turn after its own is expected next."""
        slot.state, slot.holder = State.HELD, weakref.ref(holder)
        self._expected = slot.turn + 1

    def next_read(self) -> tuple[Slot, Block] | None:
        """What to read next, and into which slot; None where there is no free one, or nothing may begin."""
        if self.running and not self._pending:
            self._begin_turn()
        return self._pending.popleft() if self._pending else None

    def arrived(self, slot: Slot) -> None:
        """Count a block that is there."""
        slot.missing -= 1
        if not slot.missing:
            slot.state = State.READY

    def halt(self) -> None:
        """Begin no other read."""
        self.running = False
        self._pending.clear()

    def ask(self) -> None:
        """The expected turn is asked for."""
        self._asked = self._asked if self._expected is None else self._expected

    def forget(self) -> None:
        """Expect no turn: the next layer asked for takes a restart."""
        self._expected = None

    def restart(self, layer: int) -> None:
        """Begin anew at `layer`; slots that are not lent become free. No read may be under way."""
        for slot in self._slots:
            if slot.state is not State.HELD:
                slot.state = State.FREE
        self._filled, self.running = layer, True
        self._expected = self._asked = layer

    def _begin_turn(self) -> None:
        slot = next((slot for slot in self._slots if slot.state is State.FREE), None)
        layers = len(self._blocks)
        early = self._filled // layers > self._asked // layers  # of a pass that has not begun
        if slot is None or (early and not self._ahead):
            return
        blocks = self._blocks[self._filled % layers]
        slot.state, slot.turn, slot.missing = State.FILLING, self._filled, len(blocks)
        self._filled += 1
        self._pending.extend((slot, block) for block in blocks)
