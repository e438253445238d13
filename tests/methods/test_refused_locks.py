"""Memory that the system does not page-lock is told while a model loads, and the plan expects less from then on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdecodes.methods import assembly, build, plan_for
from specdecodes.offload.streaming.slot_stream import SlotStream
from specdecodes.offload.streaming.stream_cuda import CudaLayerStream
from tests.test_lossless import pipeline_for

LINK = 1e-3  # GB/s, so slow that it alone decides


class Refused(CudaLayerStream):
    """Stands for a stream to a device; this machine's own does the work."""

    note = "the system refused to page-lock host memory."  # type: ignore[assignment]

    def __init__(self, stream: SlotStream, nbytes: int) -> None:
        self._stream, self._refused = stream, nbytes

    @property
    def unlocked_bytes(self) -> int:
        return self._refused

    def close(self) -> None:
        self._stream.close()


@pytest.mark.usefixtures("untimed")
def test_it_is_told_and_changes_what_the_plan_expects(tiny_checkpoint, monkeypatch):
    pipeline = pipeline_for("vanilla", tiny_checkpoint("llama"), None, exact=True, streamed=True)
    plan, sources, told = plan_for(pipeline), assembly._sources, []
    work, machine, workload = plan.basis
    plan = replace(plan, basis=(work, replace(machine, host_gbps=LINK), workload))

    def refused(*given):
        layers, stream = sources(*given)
        return layers, Refused(stream, plan.bytes_per_pass)

    monkeypatch.setattr(assembly, "_sources", refused)
    with build(pipeline, plan, progress=told.append) as generator:
        expected = generator.placement.predicted
        assert expected.stream_s == pytest.approx(2 * plan.bytes_per_pass / LINK / 1e9)
        assert any(part == "not page-locked" for part, *_ in generator.placement.rows())
    (line,) = [line for line in told if "page-lock" in line]
    assert line == f"{Refused.note} {expected.tokens_per_second:.3g} tokens/s are expected now."
