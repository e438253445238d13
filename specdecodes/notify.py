"""How work that takes long says what it is doing."""

from __future__ import annotations

from collections.abc import Callable

Notify = Callable[[str], None]
"""Takes one line for whoever waits, as `print` does."""
