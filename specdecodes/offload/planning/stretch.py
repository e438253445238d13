"""How much of a long prompt a pass of the streamed weights takes along. Pure arithmetic.

Fewer rows than are computed while the weights arrive, and the prompt waits for the link; more, and their hidden states
take memory for nothing.
"""

from __future__ import annotations

from specdecodes.offload.planning.predict import StepTimes

LEAST = 2048  # rows, where memory allows: the hidden states of so many cost less than a second pass might
MARGIN = 2.0  # on an estimate from short contexts and narrow chunks


def rows_beside(times: StepTimes, rows: int, layers: int, stream_seconds: float) -> int:
    """Prompt rows that take as long to compute as all layers take to arrive, when a pass of `rows` takes `times`."""
    compute = times.target_pass(layers, layers) / rows
    return round(stream_seconds / compute) if compute else 0


def stretches(beside: int, chunk: int, longest: int) -> tuple[int, ...]:
    """The stretches to plan with, best first: `beside` rows are computed in the time of a pass, `longest` can come."""
    best = max(LEAST, round(MARGIN * beside))
    return tuple(sorted({max(chunk, min(rows, longest)) for rows in (best, LEAST, chunk)}, reverse=True))
