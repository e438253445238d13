"""The round's arithmetic beside a clock that runs layer by layer: what a pass waits for, and where layers stay best."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from specdecodes.offload.planning.candidates import SLOTS, spread
from specdecodes.offload.planning.predict import Step, StepTimes, Workload, predict
from specdecodes.offload.planning.work import Machine, Work

LAYERS, MB = 64, 10**6
LAYER = 46 * MB
ROUNDS = 6


def round_seconds(
    resident: Collection[int], slots: int, *, gbps: float, compute: float, draft: float, ahead: bool = True
) -> float:
    """Of the last of a few rounds: a draft, then all layers in order. The link brings the streamed ones one after the
    other, each into a slot that no earlier layer still uses."""
    arrival = LAYER / gbps / 1e9
    now, linked, released = 0.0, 0.0, [0.0] * slots
    began = now
    for _ in range(ROUNDS):
        began = now
        now += draft
        for layer in range(LAYERS):
            if layer not in resident:
                linked = max(linked, released[-slots], 0.0 if ahead else began + draft) + arrival
                now = max(now, linked) + compute
                released.append(now)
            else:
                now += compute
    return now - began


def expected(resident: Collection[int], slots: int, *, gbps: float, compute: float, draft: float) -> float:
    """The same as the plan has it."""
    size = (LAYERS - len(resident)) * LAYER
    work = Work(draft, LAYERS * compute, size, size, ahead_bytes=slots * LAYER)
    times = StepTimes(Step(0.0), Step(0.0))
    workload = Workload(100, times, levels=1, adaptive=False)
    return predict(work, Machine(gbps, round_seconds=0.0), workload).round_s


@pytest.mark.parametrize("gbps", [1.0, 1.7, 4.0, 8.0])
@pytest.mark.parametrize("draft", [0.05, 0.4, 2.0])
@pytest.mark.parametrize(("count", "slots"), [(0, 2), (18, 2), (20, 2), (4, 18), (1, 22), (30, 8)])
def test_a_round_takes_what_the_plan_says(gbps: float, draft: float, count: int, slots: int) -> None:
    told = dict(gbps=gbps, compute=0.0106, draft=draft)
    clock = round_seconds(spread(count, LAYERS), slots, **told)
    assert expected(spread(count, LAYERS), slots, **told) == pytest.approx(clock, rel=0.06)


@pytest.mark.parametrize("draft", [0.1, 0.42, 1.5])
def test_a_slot_hides_no_more_than_a_resident_layer(draft: float) -> None:
    """Both take as much, while a substitute drafts either."""
    told = dict(gbps=1.7, compute=0.0106, draft=draft)
    mixed = [round_seconds(spread(22 - slots, LAYERS), slots, **told) for slots in (SLOTS, 6, 12, 18, 22)]
    assert mixed[0] <= min(mixed) * 1.01
    unread = round_seconds((), 22, **told, ahead=False)
    assert unread > mixed[-1] + 0.9 * min(draft, 22 * LAYER / 1.7e9)


@pytest.mark.parametrize(("gbps", "gain"), [(1.7, 1.0), (3.0, 1.1), (8.0, 1.0)])
def test_resident_layers_lie_best_where_they_are_spread(gbps: float, gain: float) -> None:
    """Where the link and the computing are about even it counts, else it does not matter."""
    told = dict(gbps=gbps, compute=0.0106, draft=0.4)
    even = round_seconds(spread(20, LAYERS), SLOTS, **told)
    for together in (range(20), range(LAYERS - 20, LAYERS), range(22, 42)):
        assert even * gain <= round_seconds(together, SLOTS, **told) * 1.01
