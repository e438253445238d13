"""Named ranges appear in a profiler's trace, and nowhere else."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch.profiler import ProfilerActivity, profile

from specdecodes.engine.timing import PhaseClock
from specdecodes.spans import span


def test_phases_and_spans_are_ranges_of_a_running_profiler():
    clock = PhaseClock(torch.device("cpu"))
    with span("layer 9"), clock("draft"):
        pass
    with profile(activities=[ProfilerActivity.CPU]) as profiler, clock("draft"), span("layer 3"):
        pass
    assert {event.name for event in profiler.events()} >= {"draft", "layer 3"}
    assert "layer 9" not in {event.name for event in profiler.events()}
    assert clock.lap()["draft"] > 0


def test_a_phase_waits_for_its_own_kernels_and_not_for_weights_on_their_way(monkeypatch):
    waited = []
    stream = SimpleNamespace(synchronize=lambda: waited.append("compute"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append("everything"))
    clock = PhaseClock(torch.device("cuda"))
    with clock("draft"):
        assert not waited
    assert waited == ["compute"]
