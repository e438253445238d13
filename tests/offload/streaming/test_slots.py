"""The bookkeeping of the ring's slots, without threads and without bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from specdecodes.offload.storage.layout import Block
from specdecodes.offload.streaming.slots import Holder, Slot, Slots, State


def blocks(layer: int, count: int) -> list[Block]:
    return [Block(Path(f"{layer}"), 4096 * place, 4096, 4096, 4096 * place) for place in range(count)]


@pytest.fixture
def slots() -> Slots:
    """Two slots for three layers, of which the second is two reads."""
    return Slots(2, [blocks(0, 1), blocks(1, 2), blocks(2, 1)])


def fill(slots: Slots) -> list[int]:
    """Read what may be read; the layers that the reads were for."""
    read = []
    while (work := slots.next_read()) is not None:
        slot, block = work
        slots.arrived(slot)
        read.append(int(block.path.name))
    return read


def lend(slots: Slots) -> tuple[Slot, Holder]:
    slot, holder = slots.ready(), Holder()
    assert slot is not None
    slots.lend(slot, holder)
    return slot, holder


def test_nothing_is_read_before_it_is_asked_for(slots):
    assert slots.expected is None and slots.next_read() is None


def test_layers_come_in_order_pass_after_pass_as_slots_become_free(slots):
    slots.restart(1)
    assert fill(slots) == [1, 1, 2]
    order = []
    for _ in range(6):
        order.append(slots.expected)
        slot, _ = lend(slots)
        assert slots.held() == [slot] and not fill(slots)
        slot.state = State.FREE
        assert fill(slots)
    assert order == [1, 2, 0, 1, 2, 0]


def test_a_slot_is_ready_when_its_last_block_is_there(slots):
    slots.restart(1)
    (slot, _), (same, _) = slots.next_read(), slots.next_read()
    assert slot is same and slots.ready() is None
    slots.arrived(slot)
    assert slots.ready() is None
    slots.arrived(slot)
    assert slots.ready() is slot


def test_halting_drops_reads_that_have_not_begun(slots):
    slots.restart(1)
    assert slots.next_read() is not None
    slots.halt()
    assert slots.next_read() is None and not slots.running


def test_a_restart_leaves_what_is_lent_alone(slots):
    slots.restart(0)
    assert fill(slots) == [0, 1, 1]
    lent, _ = lend(slots)
    slots.restart(2)
    assert slots.held() == [lent] and slots.expected == 2
    assert fill(slots) == [2]
    assert lend(slots)[0] is not lent
