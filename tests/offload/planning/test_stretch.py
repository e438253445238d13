"""How many rows of a prompt go through a pass of the weights."""

from __future__ import annotations

from specdecodes.offload.planning.predict import Step, StepTimes
from specdecodes.offload.planning.stretch import LEAST, rows_beside, stretches

TIMES = StepTimes(streamed_pass=Step(layer=0.01, rest=0.1), resident_pass=Step(9.0))


def test_as_many_rows_as_are_computed_while_the_weights_arrive():
    """A pass of 64 rows over 90 layers takes a second; in ten seconds of streaming there is time for 640."""
    assert rows_beside(TIMES, rows=64, layers=90, stream_seconds=10.0) == 640
    assert rows_beside(StepTimes(Step(0.0), Step(0.0)), rows=64, layers=90, stream_seconds=10.0) == 0


def test_a_slow_link_takes_more_along_as_long_as_it_fits():
    assert stretches(beside=10_000, chunk=256, longest=32768) == (20_000, LEAST, 256)
    assert stretches(beside=10_000, chunk=256, longest=8192) == (8192, LEAST, 256)


def test_a_fast_link_takes_thousands_all_the_same():
    assert stretches(beside=100, chunk=256, longest=32768) == (LEAST, 256)


def test_never_more_than_can_come_nor_less_than_a_chunk():
    assert stretches(beside=100, chunk=64, longest=1000) == (1000, 64)
    assert stretches(beside=100, chunk=512, longest=512) == (512,)
