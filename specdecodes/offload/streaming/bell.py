"""Wakes a caller who may be interrupted anywhere: a Condition would lose its lock to a Ctrl-C."""

from __future__ import annotations

from contextlib import suppress
from threading import Lock


class Bell:
    """Of one caller, for any threads. Rung while nobody waits, it ends the next wait at once."""

    def __init__(self) -> None:
        self._silent = Lock()
        self._silent.acquire()

    def ring(self) -> None:
        with suppress(RuntimeError):  # it was rung already
            self._silent.release()

    def wait(self) -> None:
        self._silent.acquire()
