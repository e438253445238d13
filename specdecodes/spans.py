"""Named ranges in a profiler's trace: phases, draft levels, layers, reads and waits."""

from __future__ import annotations

import contextlib

from torch.autograd import profiler

_NO_SPAN = contextlib.nullcontext()


def profiled() -> bool:
    """Whether a profiler runs."""
    return bool(profiler._is_profiler_enabled)


def span(name: str) -> contextlib.AbstractContextManager[object]:
    """A range of that name in the trace of a profiler, if one runs. Asking costs 0.3 microseconds if none
    does, where a `record_function` costs six."""
    return profiler.record_function(name) if profiled() else _NO_SPAN
