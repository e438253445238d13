"""Compressed layers on their way into a simulated device, both ways: from disk, from its host, and from itself."""

from __future__ import annotations

import random
import time
from pathlib import Path
from threading import Event

import pytest
import torch

from specdecodes.errors import StreamError
from specdecodes.offload.compression import compressed
from specdecodes.offload.compression.alone.packing import Alone
from specdecodes.offload.compression.compressed import write_layer
from specdecodes.offload.storage.store import ALIGNMENT
from specdecodes.offload.streaming.delivery import Delivery
from specdecodes.offload.streaming.landings import Landings
from specdecodes.offload.streaming.stream_cuda import CudaLayerStream
from tests.offload.compression.test_compressed import damage
from tests.offload.conftest import MakeGuessed, Simulate
from tests.offload.streaming.test_stream_cuda import BLOCK, CPU, differing

pytestmark = pytest.mark.usefixtures("small_compressed_blocks")


@pytest.fixture
def small_compressed_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks a layer."""
    for name in ("BLOCK_BYTES", "HOST_BLOCK_BYTES"):
        monkeypatch.setattr(compressed, name, 8 * ALIGNMENT)


@pytest.mark.parametrize(("pinned", "kept"), [((), ()), ((0, 3), (1, 4)), ((0, 2, 3), (1, 4))])
@pytest.mark.parametrize(("lockable", "files"), [("inf", False), ("inf", True), (0, True)])
@pytest.mark.parametrize("layout", ["alone", "halves"])
def test_compressed_layers_bring_their_bits(
    make_guessed: MakeGuessed,
    simulate: Simulate,
    tmp_path: Path,
    pinned: tuple[int, ...],
    kept: tuple[int, ...],
    lockable: str,
    files: bool,
    layout: str,
) -> None:
    """Compressed while they load, or from files of theirs, beside others that are not; copies and kernels late."""
    layers, spans, guesses = make_guessed(5, rows=512, layout="halves")
    given = {} if layout == "alone" else guesses
    written = {at: write_layer(tmp_path / f"{at}", spans[at], given.get(at)) for at in (0, 1, 2) if files}
    cuda = simulate(delay=0.001, lockable=float(lockable))
    with CudaLayerStream(
        spans,
        device=CPU,
        pinned=pinned,
        kept=kept,
        block_bytes=BLOCK,
        compressed=written,
        guesses=given,
        compress=True,
    ) as stream:
        assert differing(stream, layers, cuda, passes=2) == 0
        brought = stream.counters.bytes_read
        sizes = [sum(block.needed for block in blocks) for blocks in stream._blocks]
        assert stream.bytes_per_pass == sum(size for at, size in enumerate(sizes) if at not in kept)
        assert 2 * stream.bytes_per_pass <= brought <= 3 * stream.bytes_per_pass
        whole = [sum(block.needed for block in layout.ranges) for layout in stream._ring.layouts]
        fewer = {*pinned, *written, *kept}
        assert all((sizes[at] < 0.95 * whole[at]) == (at in fewer) for at in range(5))
        assert stream.nbytes >= stream._ring.nbytes + sum(sizes[at] for at in kept)
        if not cuda.registered:
            unlocked = sum(stream._pinned[at].memory.bytes.nbytes for at in pinned)
            assert stream.unlocked_bytes == unlocked + sum(sizes[at] for at in {*range(5)} - {*pinned, *kept})
    assert not cuda.registered


@pytest.mark.parametrize("kept", [(1, 3), (0, 1, 2, 3, 4)])
def test_a_jump_among_compressed_and_other_layers_shows_no_late_bits(
    make_guessed: MakeGuessed, simulate: Simulate, kept: tuple[int, ...]
) -> None:
    layers, spans, guesses = make_guessed(5, rows=384, layout="halves")
    cuda = simulate(delay=0.002)
    wrong: list[int] = []
    dice = random.Random(3)
    with CudaLayerStream(
        spans, device=CPU, pinned=(0, 2), kept=kept, slots=3, block_bytes=BLOCK, guesses=guesses, compress=True
    ) as stream:
        for _ in range(20):
            index = dice.randrange(len(layers))
            with stream.layer(index) as tensors:
                for name, value in layers[index].items():
                    cuda.compute.run(lambda found=tensors[name], value=value: found.equal(value) or wrong.append(1))
        cuda.synchronize()
    assert not wrong


@pytest.mark.parametrize("careless", ["copy", "compute"])
def test_the_simulation_sees_a_kept_layer_that_nobody_waits_for(
    make_guessed: MakeGuessed, simulate: Simulate, careless: str
) -> None:
    layers, spans, guesses = make_guessed(5, layout="halves")
    cuda = simulate(delay=0.005, careless=careless)
    with CudaLayerStream(spans, device=CPU, kept=range(5), guesses=guesses) as stream:
        assert differing(stream, layers, cuda, passes=2) > 0


def test_what_is_kept_goes_through_the_ring_without_a_copy(make_guessed: MakeGuessed, simulate: Simulate) -> None:
    layers, spans, guesses = make_guessed(3, layout="halves")
    cuda = simulate()
    with CudaLayerStream(spans, device=CPU, kept=(0, 1, 2), guesses=guesses) as stream:
        assert not stream._stagings and stream._delivery.nbytes == 0 and not cuda.registered
        assert differing(stream, layers, cuda) == 0
        counters = stream.counters
        assert counters.bytes_read == 0 and counters.read_seconds == 0 and counters.layers == 9
        assert stream.bytes_per_pass == 0 and stream.note == ""


def test_the_rings_memory_is_left_alone_while_kernels_of_its_last_owner_run(
    make_guessed: MakeGuessed, simulate: Simulate
) -> None:
    layers, spans, guesses = make_guessed(2, layout="halves")
    cuda = simulate()
    ended = Event()
    cuda.compute.run(ended.wait)
    with CudaLayerStream(spans, device=CPU, kept=(0, 1), guesses=guesses) as stream:
        stream._ring.bytes.zero_()
        with stream.layer(0) as tensors:
            time.sleep(0.02)
            early = bool(tensors["q"].any())
            ended.set()
            cuda.synchronize()
            assert not early and tensors["q"].equal(layers[0]["q"])


@pytest.mark.parametrize(("pinned", "kept"), [((), ()), ((0, 1, 2), ()), ((), (0,))])
@pytest.mark.parametrize("layout", ["alone", "halves"])
def test_a_damaged_file_is_told_before_a_kernel_sees_it(
    make_guessed: MakeGuessed,
    simulate: Simulate,
    tmp_path: Path,
    pinned: tuple[int, ...],
    kept: tuple[int, ...],
    layout: str,
) -> None:
    layers, spans, guesses = make_guessed(3, rows=640, layout="halves")
    given = {} if layout == "alone" else guesses
    written = {0: write_layer(tmp_path / "0", spans[0], given.get(0))}
    damage(written[0].path, written[0].blocks[1].start + 200)
    cuda = simulate()
    with (
        pytest.raises(StreamError, match="is damaged at byte"),
        CudaLayerStream(
            spans, device=CPU, pinned=pinned, kept=kept, compressed=written, guesses=given, compress=True
        ) as stream,
    ):
        differing(stream, layers, cuda)
    assert not cuda.registered


def test_what_expands_is_on_a_stream_that_nothing_is_recorded_on(simulate: Simulate) -> None:
    cuda = simulate()
    Landings(64, CPU)
    assert max(cuda.priorities) < 0


def test_pieces_begin_where_a_block_in_staging_says(make_guessed: MakeGuessed, simulate: Simulate) -> None:
    """The device is told, and cannot look them up."""
    _, spans, guesses = make_guessed(2, rows=640, layout="halves")
    simulate()
    with CudaLayerStream(spans, device=CPU, kept=(0,), pinned=(1,), guesses=guesses, compress=True) as stream:
        for block in stream._blocks[0]:
            packing, content, cuts = stream._supply.kept[0].held(block)
            out = torch.zeros(block.expands_to, dtype=torch.uint8)
            assert packing.expand(content, out) and cuts == packing.cuts(content) and len(cuts) > 1
        assert all(len(stream._pinned[1].cuts_of(block)) > 1 for block in stream._blocks[1])


def test_a_delivery_that_a_caller_gave_up_is_waited_for_by_the_next(simulate: Simulate) -> None:
    """An interrupt may come between asking for a delivery's end and waiting for it."""
    cuda, packing = simulate(), Alone(torch.bfloat16)
    raw = torch.zeros(4096, dtype=torch.uint8)
    content, delivery = packing.compress(raw), Delivery(CPU, 0)
    _, end = delivery.send(1, torch.empty_like(raw), raw)
    assert delivery.arrived(1) is end
    behind = cuda.copies[1].waited
    delivery.restore(1, torch.empty_like(raw), content, packing, packing.cuts(content))
    assert cuda.copies[1].waited == behind + 1 and delivery.arrived(1) is not end
