"""How the caller waits for what readers do."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock


class Bell:
    """Wakes the one thread that waits. It may be interrupted anywhere, so it uses locks alone: a Condition loses its
    lock to a Ctrl-C."""

    def __init__(self, lock: Lock) -> None:
        """`lock` guards what is waited for."""
        self._lock, self._silent = lock, Lock()  # the second is unlocked for the thread that waits
        self._silent.acquire()

    def ring(self) -> None:
        """Something has changed; called with the lock held."""
        if self._silent.locked():
            self._silent.release()

    def wait(self, holds: Callable[[], bool]) -> None:
        """Returns once `holds` does, which is asked with the lock held."""
        while True:
            with self._lock:
                if holds():
                    return
            self._silent.acquire()
