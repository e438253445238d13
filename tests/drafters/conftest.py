"""A clock that only moves when told to, for those who decide by seconds."""

from __future__ import annotations

import pytest

from specdecodes.drafters.pacing import pace, stride


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (pace, stride):
        monkeypatch.setattr(module, "time", clock)
    return clock
