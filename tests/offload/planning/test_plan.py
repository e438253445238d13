"""Placements: they fit, they are the fastest that fit, and what cannot fit is refused with the exact shortfall."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from specdecodes.errors import BudgetError
from specdecodes.offload.planning.alternatives import NEARLY
from specdecodes.offload.planning.candidates import SLOTS, STAGING, candidates, counted, ring_of, spread
from specdecodes.offload.planning.plan import Placement, plan
from specdecodes.offload.planning.predict import Step, StepTimes, Workload
from specdecodes.offload.planning.shape import BESIDE, Budgets, Compression, ModelShape
from specdecodes.offload.planning.work import Machine

MB = 10**6
LAYERS = 20
PLAIN = ModelShape(
    layer_bytes=(50 * MB,) * LAYERS,
    embedding_bytes=60 * MB,
    kv_bytes_per_token=20_000,
    working_bytes=30 * MB,
    slot_bytes=(50 * MB + 8192,) * LAYERS,
)
SUBSPEC = replace(PLAIN, substitute_bytes=(14 * MB,) * LAYERS)
CLASSIC = replace(PLAIN, draft_bytes=80 * MB, draft_kv_bytes_per_token=5_000)
CPU = Machine(disk_gbps=0.8, process_bytes=300 * MB)
GPU = Machine(disk_gbps=2.0, host_gbps=12.0)
TIMES = StepTimes(
    streamed_pass=Step(0.0034, 0.004),
    resident_pass=Step(0.0034, 0.004),
    level=Step(0.0033, 0.005),
    substitute=0.001,
    draft_model=0.0,
    source="timed",
)
SAME_TIMES = replace(TIMES, substitute=0.0033)  # where a substitute beside a resident layer gains nothing
RUN = Workload(cache_rows=1000, draft_cache_rows=1000, times=TIMES)
DRAFTED = replace(RUN, levels=16)
DRAFTED_ALIKE = replace(DRAFTED, times=SAME_TIMES)
RING = SLOTS * (50 * MB + 8192)
FIXED = (60 + 20 + 30) * MB  # embedding and head, cache, working memory


def taken(placement: Placement) -> int:
    return sum(placement.device_bytes.values())


def smallest(shape: ModelShape, machine: Machine, workload: Workload) -> int:
    with pytest.raises(BudgetError) as refused:
        plan(shape, Budgets(1), machine, workload)
    return 1 + refused.value.shortfall_bytes


def check(placement: Placement, shape: ModelShape) -> None:
    """What holds for every placement."""
    assert sorted(placement.resident + placement.streamed) == list(range(len(shape.layer_bytes)))
    assert set(placement.pinned) <= set(placement.streamed)
    if shape.substitute_bytes:
        assert set(placement.streamed) <= set(placement.substituted)
    else:
        assert not placement.substituted
    assert placement.ring_slots == (SLOTS if placement.streamed else 0)
    assert placement.bytes_per_pass == sum(shape.layer_bytes[layer] for layer in placement.streamed)
    assert all(type(size) is int and size >= 0 for size in placement.device_bytes.values())


@pytest.mark.parametrize("budget", [Budgets(), Budgets(10**12), Budgets(FIXED + LAYERS * 50 * MB)])
def test_a_model_that_fits_is_resident(budget: Budgets) -> None:
    placement = plan(PLAIN, budget, CPU, RUN)
    check(placement, PLAIN)
    assert placement.tier == "resident"
    assert placement.resident == tuple(range(LAYERS))
    assert taken(placement) == FIXED + LAYERS * 50 * MB
    assert placement.predicted.bound_tokens_per_second is None


def test_one_byte_less_streams() -> None:
    placement = plan(PLAIN, Budgets(FIXED + LAYERS * 50 * MB - 1), CPU, RUN)
    assert placement.tier == "disk"
    assert len(placement.streamed) == SLOTS + 1  # a ring for fewer layers would be as large as those layers


def test_spare_bytes_become_resident_layers() -> None:
    for spare in range(0, 10):
        placement = plan(PLAIN, Budgets(FIXED + RING + spare * 50 * MB + 7), CPU, RUN)
        check(placement, PLAIN)
        assert len(placement.resident) == spare
        assert taken(placement) == FIXED + RING + spare * 50 * MB


def test_a_resident_layer_needs_no_substitute() -> None:
    """Each takes 36 MB net of the 14 MB that its substitute took."""
    least = FIXED + RING + LAYERS * 14 * MB
    for spare in (0, 35, 36, 100, 108, 400):
        placement = plan(SUBSPEC, Budgets(least + spare * MB), CPU, DRAFTED_ALIKE)
        check(placement, SUBSPEC)
        assert len(placement.resident) == spare // 36
        assert placement.substituted == placement.streamed


def test_resident_layers_keep_substitutes_where_a_cheap_draft_is_worth_more() -> None:
    placement = plan(SUBSPEC, Budgets(), CPU, DRAFTED)
    check(placement, SUBSPEC)
    assert placement.tier == "resident"
    assert placement.substituted == tuple(range(LAYERS))
    bare = plan(PLAIN, Budgets(), CPU, RUN)
    assert placement.predicted.tokens_per_second > 1.5 * bare.predicted.tokens_per_second


def test_of_nearly_equal_placements_the_cheapest_draft_is_taken() -> None:
    """A slow disk is worth layers that draft in full precision, a fast one is not, and between them either would do."""
    budget, chosen = Budgets(FIXED + RING + LAYERS * 14 * MB + 7 * 50 * MB), {}
    workload = replace(DRAFTED, levels=4, adaptive=False)
    for gbps in (0.5, 1.2, 2.0):
        placement = plan(SUBSPEC, budget, replace(CPU, disk_gbps=gbps), workload)
        passed_over = any(other.why == "not 2% faster, and its draft is slower" for other in placement.rejected)
        chosen[gbps] = len(placement.resident), len(placement.substituted), passed_over
    assert chosen == {0.5: (9, 12, True), 1.2: (7, 20, True), 2.0: (7, 20, False)}


def test_more_memory_is_never_slower() -> None:
    """But for the 2% within which the placement with the cheapest draft is taken."""
    for budget in range(520, 1600, 90):
        chosen = plan(SUBSPEC, Budgets(budget * MB), CPU, DRAFTED)
        assert taken(chosen) <= budget * MB
        for fewer in range(500, budget, 30):
            other = plan(SUBSPEC, Budgets(fewer * MB), CPU, DRAFTED)
            assert chosen.predicted.tokens_per_second >= other.predicted.tokens_per_second * 0.98


@pytest.mark.parametrize(
    ("shape", "workload"), [(PLAIN, RUN), (SUBSPEC, DRAFTED), (CLASSIC, DRAFTED)], ids=["plain", "subspec", "classic"]
)
def test_impossible_budgets_name_the_shortfall_and_the_cure(shape: ModelShape, workload: Workload) -> None:
    least = smallest(shape, CPU, workload)
    placement = plan(shape, Budgets(least), CPU, workload)
    check(placement, shape)
    assert taken(placement) == least
    assert placement.resident == ()
    with pytest.raises(BudgetError, match=r"RAM cannot work: .* 1 bytes more .*--device-memory \d+MiB") as refused:
        plan(shape, Budgets(least - 1), CPU, workload)
    assert refused.value.shortfall_bytes == 1
    advised = int(str(refused.value).split("--device-memory ")[1].split("MiB")[0]) * 2**20
    assert least <= advised < least + 2**20
    plan(shape, Budgets(advised), CPU, workload)


def test_what_a_method_needs_beside_the_target() -> None:
    plain, subspec, classic = (
        plan(shape, Budgets(2000 * MB), CPU, workload).device_bytes
        for shape, workload in ((PLAIN, RUN), (SUBSPEC, DRAFTED_ALIKE), (CLASSIC, DRAFTED))
    )
    assert plain["draft model"] == plain["draft's key-value cache"] == 0
    assert (classic["draft model"], classic["draft's key-value cache"]) == (80 * MB, 5 * MB)
    assert subspec["draft model"] == 0
    assert all(parts["key-value cache"] == 20 * MB for parts in (plain, subspec, classic))


def test_conversion_is_paid_only_when_layers_stream() -> None:
    shape = replace(PLAIN, conversion_bytes=50 * MB)
    assert smallest(shape, CPU, RUN) == smallest(PLAIN, CPU, RUN) + 50 * MB
    assert taken(plan(shape, Budgets(), CPU, RUN)) == taken(plan(PLAIN, Budgets(), CPU, RUN))


def test_the_largest_streamed_layer_sets_the_slots() -> None:
    sizes = tuple((10 + layer) * MB for layer in range(8))
    shape = replace(PLAIN, layer_bytes=sizes, slot_bytes=())
    placement = plan(shape, Budgets(smallest(shape, CPU, RUN)), CPU, RUN)
    slot = placement.device_bytes["ring of 2 slots"] // SLOTS
    assert 17 * MB <= slot < 17 * MB + 3 * 4096
    assert slot % 4096 == 0


def test_without_an_accelerator_the_smaller_budget_counts() -> None:
    both = plan(PLAIN, Budgets(900 * MB, 500 * MB), CPU, RUN)
    assert both.device_bytes == plan(PLAIN, Budgets(500 * MB), CPU, RUN).device_bytes
    assert both.device_bytes == plan(PLAIN, Budgets(None, 500 * MB), CPU, RUN).device_bytes
    assert both.host_bytes == {}


def test_an_accelerator_streams_from_the_host_what_the_host_holds() -> None:
    placement = plan(SUBSPEC, Budgets(900 * MB), GPU, DRAFTED)
    check(placement, SUBSPEC)
    assert placement.tier == "host"
    assert placement.pinned == placement.streamed
    assert placement.host_bytes[ring_of(STAGING)] == 0
    assert placement.predicted.link_gbps == pytest.approx(12.0)


def test_an_accelerator_whose_host_is_too_small_reads_the_rest_from_disk() -> None:
    host = RING + 3 * (50 * MB + 8192)
    placement = plan(SUBSPEC, Budgets(900 * MB, host), GPU, DRAFTED)
    check(placement, SUBSPEC)
    assert placement.tier == "disk"
    assert len(placement.pinned) == 3
    assert placement.host_bytes[ring_of(STAGING)] == RING
    assert sum(placement.host_bytes.values()) == host
    assert 2.0 < placement.predicted.link_gbps < 12.0
    with pytest.raises(BudgetError, match="host RAM cannot work") as refused:
        plan(SUBSPEC, Budgets(900 * MB, RING - 5), GPU, DRAFTED)
    assert refused.value.shortfall_bytes == 5
    with pytest.raises(BudgetError, match="device memory cannot work.*host RAM cannot work"):
        plan(SUBSPEC, Budgets(1, 1), GPU, DRAFTED)


def test_random_shapes_and_budgets_keep_the_rules() -> None:
    dice = random.Random(0)
    for _ in range(150):
        layers = dice.randrange(1, 9)
        shape = ModelShape(
            layer_bytes=tuple(dice.randrange(1, 100) * MB for _ in range(layers)),
            embedding_bytes=dice.randrange(50) * MB,
            kv_bytes_per_token=dice.randrange(10**5),
            substitute_bytes=dice.choice([(), tuple(dice.randrange(1, 30) * MB for _ in range(layers))]),
        )
        machine = dice.choice([CPU, GPU])
        workload = replace(dice.choice([DRAFTED, DRAFTED_ALIKE]), levels=5 if shape.substitute_bytes else 0)
        budgets = Budgets(
            dice.choice([None, dice.randrange(2000) * MB]), dice.choice([None, dice.randrange(2000) * MB])
        )
        try:
            placement = plan(shape, budgets, machine, workload)
        except BudgetError as refused:
            assert refused.shortfall_bytes > 0
            continue
        check(placement, shape)
        assert taken(placement) <= (10**15 if budgets.device is None else budgets.device)
        assert sum(placement.host_bytes.values()) <= (10**15 if budgets.host is None else budgets.host)


@pytest.mark.parametrize("total", [1, 2, 7, 24])
def test_spread_is_even(total: int) -> None:
    assert spread(0, total) == ()
    assert spread(total, total) == tuple(range(total))
    for count in range(1, total + 1):
        chosen = spread(count, total)
        assert len(set(chosen)) == count
        assert list(chosen) == sorted(chosen)
        assert chosen[0] >= 0 and chosen[-1] < total
        gaps = [after - before for before, after in zip(chosen, chosen[1:], strict=False)]
        assert not gaps or max(gaps) - min(gaps) <= 1


def test_one_of_a_thing_is_singular() -> None:
    assert [counted(number, "resident layer") for number in (0, 1, 2)] == [
        "0 resident layers",
        "1 resident layer",
        "2 resident layers",
    ]


def test_the_table_says_what_it_rests_on_and_what_no_budget_counts() -> None:
    placement = plan(SUBSPEC, Budgets(800 * MB), CPU, DRAFTED, kernel="int8", kernel_note="for many rows")
    rows = placement.rows()
    assert ("draft kernel", "for many rows", "int8") in rows
    assert ("step times", "timed", "") in rows
    assert ("draft acceptance", "assumed", "0.9 a level") in rows
    assert ("Python and torch", "RAM, not counted in a budget", "286 MiB now") in rows
    assert sum(placement.device_bytes.values()) <= 800 * MB
    free = plan(PLAIN, Budgets(800 * MB, source="nine tenths of what is free"), CPU, RUN)
    assert any(part == "total of a budget of 763 MiB (nine tenths of what is free)" for part, _, _ in free.rows())


def test_rejected_alternatives_are_slower_or_do_not_fit() -> None:
    placement = plan(SUBSPEC, Budgets(800 * MB), CPU, DRAFTED)
    speed = placement.predicted.tokens_per_second
    rejected = {other.what: other for other in placement.rejected}
    everything = rejected["20 of 20 layers resident, 0 substitutes"]
    assert everything.tokens_per_second is None and everything.why.endswith("over the budget")
    (none,) = [other for what, other in rejected.items() if what.startswith("0 of 20 layers resident, 20 substitutes")]
    assert none.tokens_per_second is not None and none.tokens_per_second < speed
    depths = [other for what, other in rejected.items() if "draft level" in what]
    assert depths and all(other.tokens_per_second <= speed for other in depths)
    assert f"{placement.predicted.levels} draft levels a round" not in rejected
    luck = [other.tokens_per_second for what, other in rejected.items() if what.startswith("acceptance")]
    assert luck == sorted(luck)


def test_rows_say_what_lives_where_and_what_to_expect() -> None:
    placement = plan(SUBSPEC, Budgets(800 * MB), CPU, DRAFTED, storage="ext4, read with O_DIRECT")
    table = {part: (where, size) for part, where, size in placement.rows()}
    assert table["embedding and head"] == ("RAM", "57.2 MiB")
    assert table["ring of 2 slots"][0] == "RAM"
    assert table["total of a budget of 763 MiB"][0] == "RAM"
    streamed = f"streamed a pass: {len(placement.streamed)} of 20 layers"
    assert table[streamed][0] == "disk: ext4, read with O_DIRECT"
    assert "draft levels of" in table["predicted round"][0]
    assert " tokens/s, most likely " in table["predicted speed"][1]
    assert "draft model" not in table
    assert all(isinstance(cell, str) for row in placement.rows() for cell in row)
    assert f"{len(placement.resident)} of 20 layers resident" in placement.summary()
    assert "from disk" in placement.summary()


def test_an_accelerators_embedding_is_in_host_memory_if_that_has_the_room() -> None:
    apart, ring = replace(PLAIN, table_bytes=25 * MB), STAGING * (50 * MB + 8192)
    device = FIXED + RING + 3 * 50 * MB
    plain, spared = plan(PLAIN, Budgets(device), GPU, RUN), plan(apart, Budgets(device), GPU, RUN)
    assert spared.rows_from_host and not plain.rows_from_host
    assert (spared.device_bytes["head"], spared.host_bytes["embedding"]) == (35 * MB, 25 * MB)
    assert smallest(apart, GPU, RUN) == smallest(PLAIN, GPU, RUN) - 25 * MB
    assert not plan(apart, Budgets(device), CPU, RUN).rows_from_host
    least = Budgets(device, 25 * MB + ring)
    host = plan(apart, least, GPU, RUN)
    assert host.rows_from_host and sum(host.host_bytes.values()) <= 25 * MB + ring
    assert plan(apart, replace(least, host=25 * MB + ring - 1), GPU, RUN).device_bytes["embedding and head"] == 60 * MB


def test_an_embedding_that_the_system_does_not_lock_goes_to_the_device_if_it_fits() -> None:
    apart, device = replace(PLAIN, table_bytes=25 * MB), FIXED + RING + 3 * 50 * MB
    roomy, tight = plan(apart, Budgets(device), GPU, RUN), plan(apart, Budgets(device - 25 * MB), GPU, RUN)
    moved = roomy.with_embedding_on_device()
    assert not moved.rows_from_host and moved.device_bytes == plan(PLAIN, Budgets(device), GPU, RUN).device_bytes
    with pytest.raises(BudgetError, match="refused to page-lock the embedding.*lacks 23.8 MiB.*ulimit -l"):
        tight.with_embedding_on_device()


def test_rows_of_a_resident_model_and_of_an_accelerator() -> None:
    resident = plan(PLAIN, Budgets(), CPU, RUN)
    assert not any("streamed" in part for part, _, _ in resident.rows())
    assert any(part == "total" for part, _, _ in resident.rows())
    accelerated = plan(PLAIN, Budgets(600 * MB), GPU, RUN)
    assert {where for _, where, _ in accelerated.rows()} >= {"device memory", "host RAM"}


def test_memory_that_was_not_page_locked_slows_the_expected_stream() -> None:
    before = plan(PLAIN, Budgets(500 * MB), GPU, RUN)
    assert before.tier == "host"
    after = before.unlocked(before.bytes_per_pass)
    assert after.predicted.stream_s == pytest.approx(2 * before.predicted.stream_s)
    assert after.predicted.tokens_per_second < before.predicted.tokens_per_second
    assert any("not page-locked" in part for part, *_ in after.rows())
    assert before.unlocked(0).predicted == before.predicted


def compressed(on_disk: bool = True, gbps: float = 10.0) -> ModelShape:
    sizes = (33 * MB,) * LAYERS
    return replace(PLAIN, compression=Compression(sizes, gbps, "AVX-512", on_disk, 3 * MB, "by a sample"))


def test_compressed_layers_are_fewer_bytes_and_take_a_buffer() -> None:
    budget = Budgets(smallest(compressed(), CPU, RUN))
    assert budget.device == smallest(PLAIN, CPU, RUN) + 3 * MB
    plain, fewer = plan(PLAIN, budget, CPU, RUN), plan(compressed(), budget, CPU, RUN)
    assert len(fewer.streamed) == LAYERS and fewer.bytes_per_pass == LAYERS * 33 * MB
    assert fewer.predicted.stream_s == pytest.approx(LAYERS * 33 * MB / 0.8e9)
    assert fewer.predicted.tokens_per_second > 1.3 * plain.predicted.tokens_per_second
    (row,) = [row for row in fewer.rows() if row[0].startswith("compressed from")]
    assert row[1:] == ("10 GB/s a core by AVX-512, by a sample", "66.0%")
    assert "compressed from" in fewer.summary() and "compressed" not in plain.summary()
    slow = plan(compressed(gbps=0.1), budget, CPU, RUN)
    assert slow.predicted.tokens_per_second < plain.predicted.tokens_per_second


def test_a_ring_of_compressed_slots_has_one_place_where_layers_are_restored() -> None:
    whole, stored = PLAIN.slot(0), 33 * MB + 4096 * 33
    offer = replace(compressed().compression, apart=True, keeps=True, buffer_bytes=0)  # type: ignore[type-var]
    shape = replace(PLAIN, compression=offer)
    (least,) = (one for one in candidates(shape, Budgets(), CPU, RUN) if not (one.resident or one.kept))
    assert (least.slots, least.ring_bytes, shape.restored(least)) == (2, 2 * stored, whole)
    (kept,) = (one for one in candidates(shape, Budgets(), CPU, RUN) if len(one.kept) == LAYERS)
    assert (kept.ring_bytes, shape.restored(kept)) == (0, whole)
    unwritten = replace(shape, compression=replace(offer, on_disk=False))
    assert (unwritten.ring_slot(least), unwritten.restored(least), unwritten.restored(kept)) == (whole, 0, whole)


def test_host_memory_holds_more_layers_when_they_are_compressed() -> None:
    budgets = Budgets(smallest(compressed(), GPU, RUN), 500 * MB)
    plain, fewer = plan(PLAIN, budgets, GPU, RUN), plan(compressed(on_disk=False), budgets, GPU, RUN)
    assert len(fewer.pinned) > len(plain.pinned)
    loose = len(fewer.streamed) - len(fewer.pinned)  # from disk, as they are
    assert fewer.bytes_per_pass == len(fewer.pinned) * 33 * MB + loose * 50 * MB


HALF = Compression((28 * MB,) * LAYERS, 10.0, "AVX-512", True, 3 * MB, "by a sample", BESIDE, keeps=True)


def keeping(machine: Machine, **changes: Any) -> ModelShape:
    """SubSpec's, with layers that may be kept compressed, where `machine` has them."""
    return replace(SUBSPEC, compression=replace(HALF, apart=not machine.has_accelerator, **changes))


def test_as_many_layers_stay_compressed_as_fit_and_the_rest_streams() -> None:
    """Beside a resident layer's 50 MB, which saves a substitute of 14, 28 MB bring nearly twice as many."""
    budget = Budgets(FIXED + RING + LAYERS * 14 * MB + 7 * 50 * MB)
    placement = plan(keeping(CPU), budget, CPU, DRAFTED_ALIKE)
    plain = plan(SUBSPEC, budget, CPU, DRAFTED_ALIKE)
    assert set(placement.kept) <= set(placement.streamed) and len(placement.kept) > len(plain.resident)
    assert placement.linked == len(placement.streamed) - len(placement.kept)
    assert placement.bytes_per_pass == placement.linked * 28 * MB
    assert placement.whole_bytes == placement.linked * 50 * MB
    assert placement.device_bytes[f"{len(placement.kept)} kept layers, compressed"] == len(placement.kept) * 28 * MB
    assert taken(placement) <= budget.device
    assert set(placement.streamed) <= set(placement.substituted)
    work, machine, _ = placement.basis
    restored = len(placement.streamed) * 50 * MB / 10e9
    assert (work.expand_s, work.kept_s) == (
        pytest.approx(restored),
        pytest.approx(len(placement.kept) * 50 * MB / 10e9),
    )
    assert placement.predicted.link_gbps == pytest.approx(machine.disk_gbps), "what is kept takes nothing of the link"


def test_where_no_copies_are_on_disk_layers_are_kept_all_the_same() -> None:
    budget = Budgets(FIXED + RING + LAYERS * 14 * MB + 7 * 50 * MB)
    placement = plan(keeping(CPU, on_disk=False), budget, CPU, DRAFTED_ALIKE)
    assert placement.kept and not placement.comes_as
    assert placement.bytes_per_pass == placement.whole_bytes == placement.linked * 50 * MB
    rows = {part: (where, size) for part, where, size in placement.rows()}
    where, _ = rows[f"restored a pass: {len(placement.kept)} kept layers"]
    assert where == "10 GB/s a core by AVX-512, beside substitutes, by a sample"
    assert f"{len(placement.kept)} kept compressed" in placement.summary()
    assert "compressed from" not in placement.summary()
    nothing = plan(keeping(CPU, on_disk=False, gbps=0.05), budget, CPU, DRAFTED_ALIKE)
    assert nothing.compression is None and not nothing.kept, "and nothing is where restoring takes too long"


def test_resident_layers_are_taken_where_restoring_is_slow_and_where_all_fit() -> None:
    budget = Budgets(FIXED + RING + LAYERS * 14 * MB + 7 * 50 * MB)
    kept = [len(plan(keeping(CPU, gbps=gbps), budget, CPU, DRAFTED_ALIKE).kept) for gbps in (20.0, 5.0, 0.3)]
    assert kept == sorted(kept, reverse=True) and kept[0] > kept[-1] == 0
    assert plan(keeping(CPU, gbps=0.3), budget, CPU, DRAFTED_ALIKE).resident
    for machine in (CPU, GPU):
        everything = plan(keeping(machine), Budgets(FIXED + LAYERS * 50 * MB), machine, DRAFTED_ALIKE)
        assert (everything.tier, everything.streamed, everything.compression) == ("resident", (), None)


def test_a_model_may_stay_in_memory_whole_because_it_is_compressed() -> None:
    """Which is then no link's, and takes no ring in host memory."""
    budget = Budgets(FIXED + RING + LAYERS * (14 + 28) * MB)
    for machine, ring in ((CPU, 0), (replace(GPU, host_gbps=2.0), RING)):
        placement = plan(keeping(machine, gbps=500.0), budget, machine, DRAFTED_ALIKE)
        assert placement.kept and not placement.linked and placement.tier == "resident"
        assert (placement.bytes_per_pass, placement.predicted.bound_tokens_per_second) == (0, None)
        assert placement.device_bytes[ring_of(SLOTS)] == ring
        assert not any(part.startswith("streamed a pass") for part, *_ in placement.rows())
        assert "a pass from" not in placement.summary()


def test_more_memory_is_never_slower_with_layers_kept() -> None:
    for machine in (CPU, replace(GPU, host_gbps=4.0)):
        before = 0.0
        for budget in range(520, 1500, 70):
            try:
                found = plan(keeping(machine), Budgets(budget * MB), machine, DRAFTED).predicted.tokens_per_second
            except BudgetError:
                continue
            assert found >= before * (1 - NEARLY)
            before = max(before, found)
        assert before


def test_an_accelerator_keeps_layers_and_pins_the_rest() -> None:
    slow = replace(GPU, host_gbps=2.0)
    placement = plan(keeping(slow, on_disk=False), Budgets(800 * MB), slow, DRAFTED_ALIKE)
    assert placement.kept and placement.tier == "host"
    assert set(placement.pinned) == set(placement.streamed) - set(placement.kept)
    assert placement.bytes_per_pass == len(placement.pinned) * 28 * MB
    (kept,) = [row for row in placement.rows() if row[0].startswith("restored a pass")]
    assert kept[1] == "likewise", "the rate is in the row above"


def test_what_else_could_be_kept_is_told() -> None:
    budget = Budgets(FIXED + RING + LAYERS * 14 * MB + 7 * 50 * MB)
    placement = plan(keeping(CPU), budget, CPU, DRAFTED_ALIKE)
    count = len(placement.resident)
    told = {other.what: other for other in placement.rejected}
    none = [other for what, other in told.items() if what.startswith(f"{count} of 20") and "kept" not in what]
    assert none and all(other.why == "slower" for other in none if other.tokens_per_second)
    fewer = [
        other for what, other in told.items() if what.startswith(f"{count + 1} of 20") and "kept compressed" in what
    ]
    assert fewer and all(other.tokens_per_second for other in fewer)


def test_random_budgets_hold_with_layers_kept() -> None:
    dice = random.Random(1)
    fitted = 0
    for _ in range(100):
        layers, machine = dice.randrange(4, 10), dice.choice([CPU, GPU])
        sizes = tuple(dice.randrange(10, 100) * MB for _ in range(layers))
        substitutes = dice.choice([(), tuple(dice.randrange(1, 30) * MB for _ in range(layers))])
        packed = Compression(
            tuple(int(size * dice.uniform(0.3, 0.8)) for size in sizes),
            dice.choice([0.5, 5.0, 50.0]),
            "AVX-512",
            dice.choice([True, False]),
            dice.choice([0, 20 * MB]),
            keeps=True,
            apart=not machine.has_accelerator,
        )
        shape = ModelShape(sizes, dice.randrange(50) * MB, 1000, substitute_bytes=substitutes, compression=packed)
        budgets = Budgets(dice.randrange(200, 700) * MB, dice.choice([None, dice.randrange(600) * MB]))
        workload = replace(DRAFTED, levels=5 if substitutes else 0)
        try:
            placement = plan(shape, budgets, machine, workload)
        except BudgetError:
            continue
        fitted += bool(placement.kept)
        assert taken(placement) <= budgets.device
        assert sum(placement.host_bytes.values()) <= (10**15 if budgets.host is None else budgets.host)
        assert set(placement.kept) <= set(placement.streamed) and not set(placement.kept) & set(placement.pinned)
        if substitutes:
            assert set(placement.streamed) <= set(placement.substituted)
    assert fitted > 10


def test_a_longer_ring_is_read_ahead_where_resident_layers_would_be() -> None:
    budget = Budgets(FIXED + RING + LAYERS * 14 * MB + 7 * 50 * MB)
    short = plan(SUBSPEC, budget, CPU, DRAFTED_ALIKE)
    long = plan(SUBSPEC, budget, CPU, replace(DRAFTED_ALIKE, ring=8))
    assert long.ring_slots == 8
    assert long.device_bytes["ring of 8 slots"] == 4 * short.device_bytes["ring of 2 slots"]
    assert len(long.resident) < len(short.resident)
    idle = plan(SUBSPEC, budget, CPU, replace(DRAFTED_ALIKE, ring=8, ahead=False))
    assert idle.predicted.round_s > long.predicted.round_s + 5 * 50 * MB / (CPU.disk_gbps * 1e9)
    assert plan(PLAIN, Budgets(), CPU, replace(RUN, ring=8)).ring_slots == 0


def test_the_ring_is_chosen_with_the_rest_and_the_others_are_told() -> None:
    budget = Budgets(FIXED + RING + LAYERS * 14 * MB + 7 * 50 * MB)
    chosen = plan(SUBSPEC, budget, CPU, DRAFTED_ALIKE)
    told = {other.what.partition(",")[0]: other for other in chosen.rejected}
    for slots in (3, 4, 8):
        forced = plan(SUBSPEC, budget, CPU, replace(DRAFTED_ALIKE, ring=slots))
        assert told[f"ring of {slots} slots"].tokens_per_second == forced.predicted.tokens_per_second
        assert forced.predicted.tokens_per_second <= chosen.predicted.tokens_per_second * (1 + NEARLY)
    assert chosen.ring_slots == SLOTS
    least = plan(SUBSPEC, Budgets(smallest(SUBSPEC, CPU, DRAFTED_ALIKE)), CPU, DRAFTED_ALIKE)
    assert any("ring of 3" in other.what and other.tokens_per_second is None for other in least.rejected)
