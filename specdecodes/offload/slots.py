"""The state of one slot of the ring. The stream's lock guards every field."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from enum import Enum


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
