"""The stream into a device. What orders copies and kernels is tested with a simulated one; `gpu` tests need a real."""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
import torch

from specdecodes.errors import CheckpointError, StreamError
from specdecodes.offload.storage.store import ALIGNMENT, TensorSpan
from specdecodes.offload.streaming.landings import Landings
from specdecodes.offload.streaming.ring import Ring
from specdecodes.offload.streaming.stream_cuda import CudaLayerStream
from tests.offload.conftest import Layers, MakeLayers, Simulate
from tests.offload.streaming.device import SimulatedCuda

CPU = torch.device("cpu")
BLOCK = 4 * ALIGNMENT


def differing(stream: CudaLayerStream, layers: Layers, cuda: SimulatedCuda, passes: int = 3) -> int:
    """Tensors that a kernel found wrong; kernels run late, long after the caller has gone on."""
    wrong = []
    for _ in range(passes):
        for index, expected in enumerate(layers):
            with stream.layer(index) as tensors:
                assert tensors.keys() == expected.keys()
                for name, value in expected.items():
                    cuda.compute.run(lambda found=tensors[name], value=value: found.equal(value) or wrong.append(1))
    cuda.synchronize()
    return len(wrong)


@pytest.mark.parametrize("pinned", [(), (0, 3), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("slots", [2, 4])
def test_bits_while_copies_and_kernels_are_late(
    make_layers: MakeLayers, simulate: Simulate, pinned: tuple[int, ...], slots: int
) -> None:
    cuda = simulate(delay=0.001)
    layers, spans = make_layers()
    with CudaLayerStream(spans, device=CPU, pinned=pinned, slots=slots, block_bytes=BLOCK) as stream:
        assert differing(stream, layers, cuda) == 0
        assert stream.note == ""
        pinned_bytes = sum(stream._ring.layouts[layer].nbytes for layer in pinned)
        stagings = 0 if len(pinned) == len(layers) else 2
        assert sum(cuda.registered.values()) == pinned_bytes + stagings * BLOCK
    assert not cuda.registered


@pytest.mark.parametrize("careless", ["copy", "compute"])
def test_the_simulation_sees_a_missing_wait(make_layers: MakeLayers, simulate: Simulate, careless: str) -> None:
    cuda = simulate(delay=0.005, careless=careless)
    layers, spans = make_layers()
    with CudaLayerStream(spans, device=CPU, pinned=range(5)) as stream:
        assert differing(stream, layers, cuda, passes=2) > 0


def test_a_layer_in_locked_memory_is_one_copy(make_layers: MakeLayers, simulate: Simulate) -> None:
    cuda = simulate()
    layers, spans = make_layers()
    layers, spans = ([{name: layer[name] for name in ("q", "up")} for layer in these] for these in (layers, spans))
    with CudaLayerStream(spans, device=CPU, pinned=(1,), block_bytes=ALIGNMENT) as stream:
        assert [len(blocks) == 1 for blocks in stream._blocks] == [False, True, False, False, False]
        assert differing(stream, layers, cuda) == 0
        assert stream._blocks[1][0].needed == stream._ring.layouts[1].ranges[0].needed


def test_time_is_the_devices(make_layers: MakeLayers, simulate: Simulate) -> None:
    """Everything is enqueued in a moment; the seconds of copies and stalls come from events."""
    cuda = simulate(delay=0.004)
    layers, spans = make_layers()
    with CudaLayerStream(spans, device=CPU, pinned=range(5)) as stream:
        differing(stream, layers, cuda, passes=1)
        counters = stream.counters
        assert counters.read_seconds > 0.005 and counters.wait_seconds > 0
        assert counters.bytes_read >= stream.bytes_per_pass
        assert stream.counters.read_seconds >= counters.read_seconds


def test_jumping_to_another_layer_drops_copies_under_way(make_layers: MakeLayers, simulate: Simulate) -> None:
    cuda = simulate(delay=0.001)
    layers, spans = make_layers()
    wrong = []
    with CudaLayerStream(spans, device=CPU, pinned=(0, 1, 3), slots=3, block_bytes=BLOCK) as stream:
        for index in (0, 3, 4, 1, 1, 0, 2, 0, 4, 3):
            with stream.layer(index) as tensors:
                value = layers[index]["q"]
                cuda.compute.run(lambda found=tensors["q"], value=value: found.equal(value) or wrong.append(1))
        cuda.synchronize()
    assert not wrong


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_memory_that_cannot_be_locked_goes_through_staging(
    make_layers: MakeLayers, simulate: Simulate, allowed: int
) -> None:
    layers, spans = make_layers()
    bytes_of = [layout.nbytes for layout in Ring(spans, 2, None, CPU).layouts]
    cuda = simulate(lockable=sum(bytes_of[:allowed]) + 2 * BLOCK, delay=0.0005)
    with CudaLayerStream(spans, device=CPU, pinned=range(4), block_bytes=BLOCK) as stream:
        assert differing(stream, layers, cuda) == 0
        assert f"{4 - allowed} of 4 layers" in stream.note and "--host-memory" in stream.note
        assert stream.unlocked_bytes == sum(bytes_of[allowed:4])
    assert not cuda.registered


def test_no_locked_memory_at_all_still_streams(make_layers: MakeLayers, simulate: Simulate) -> None:
    cuda = simulate(lockable=0)
    layers, spans = make_layers()
    with CudaLayerStream(spans, device=CPU, block_bytes=BLOCK) as stream:
        assert differing(stream, layers, cuda) == 0
        assert "refused" in stream.note and "what comes from disk" in stream.note and "0 of 0" not in stream.note
        assert stream.unlocked_bytes == stream.bytes_per_pass


def test_an_error_while_loading_gives_locked_memory_back(
    make_layers: MakeLayers, simulate: Simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = simulate()
    _, spans = make_layers()

    def fails_at_the_end(files: object, block: object, memory: memoryview) -> int:
        if len(cuda.registered) == 3:
            raise StreamError("the disk is gone")
        return len(memory)

    monkeypatch.setattr("specdecodes.offload.storage.files.WeightFiles.read", fails_at_the_end)
    with pytest.raises(StreamError, match="the disk is gone"):
        CudaLayerStream(spans, device=CPU, pinned=range(5))
    assert not cuda.registered


def test_conversion_on_the_device(make_layers: MakeLayers, simulate: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions are kernels, which the simulation runs at once; so its streams are waited for first."""
    cuda = simulate()
    layers, spans = make_layers(2)
    tensors_of = Ring.tensors
    monkeypatch.setattr(
        Ring, "tensors", lambda ring, slot, layer: (cuda.synchronize(), tensors_of(ring, slot, layer))[1]
    )
    with CudaLayerStream([{"up": layer["up"]} for layer in spans], device=CPU, dtype=torch.float32) as stream:
        for index in (0, 1, 0, 1):
            with stream.layer(index) as tensors:
                assert tensors["up"].equal(layers[index]["up"].float())


def test_odd_offsets_are_refused(make_layers: MakeLayers, simulate: Simulate) -> None:
    simulate()
    _, spans = make_layers(1)
    odd = SimpleNamespace(
        **{**vars(spans[0]["norm"]), "offset": spans[0]["norm"].offset + 1, "nbytes": 4, "shape": (1,)}
    )
    with pytest.raises(CheckpointError, match="odd offsets"):
        CudaLayerStream([{"norm": odd}], device=CPU)  # type: ignore[dict-item]


def in_two_files(make_layers: MakeLayers, folder: Path) -> tuple[Layers, list[dict[str, TensorSpan]]]:
    """Layers of which a part lies in one file and a part in another, at other offsets."""
    layers, spans = [{}, {}, {}], [{}, {}, {}]
    for part, rows in (("one", 700), ("two", 350)):
        (folder / part).mkdir()
        for index, (tensors, named) in enumerate(zip(*make_layers(3, rows, folder / part), strict=True)):
            layers[index] |= {f"{part}.{name}": tensor for name, tensor in tensors.items()}
            spans[index] |= {f"{part}.{name}": span for name, span in named.items()}
    return layers, spans


def test_a_device_ring_aligns_the_first_tensor_of_each_read(make_layers: MakeLayers, tmp_path: Path) -> None:
    """Kernels, and with them the bits of a product, may differ for weights at odd addresses."""
    for spans in (make_layers()[1], in_two_files(make_layers, tmp_path)[1]):
        ring = Ring(spans, 2, None, CPU)
        for slot, layer in product(range(2), range(len(spans))):
            layout, tensors = ring.layouts[layer], ring.tensors(slot, layer)
            for block in layout.ranges:
                within = [name for name, at in layout.offsets.items() if 0 <= at - block.slot_offset < block.length]
                first = min(within, key=layout.offsets.__getitem__)
                assert (tensors[first].data_ptr() - ring.bytes.data_ptr()) % 256 < 4  # beside fp32 tensors


@pytest.mark.parametrize("pinned", [(), (0, 2), (0, 1, 2)])
def test_layers_in_two_files(
    make_layers: MakeLayers, simulate: Simulate, tmp_path: Path, pinned: tuple[int, ...]
) -> None:
    cuda = simulate(delay=0.0005)
    layers, spans = in_two_files(make_layers, tmp_path)
    with CudaLayerStream(spans, device=CPU, pinned=pinned, block_bytes=BLOCK) as stream:
        assert all(len(stream._blocks[layer]) == len(stream._ring.layouts[layer].ranges) > 1 for layer in pinned)
        assert differing(stream, layers, cuda) == 0


def test_the_rings_memory_is_left_alone_while_kernels_of_its_last_owner_run(
    make_layers: MakeLayers, simulate: Simulate
) -> None:
    cuda, ended = simulate(), Event()
    cuda.compute.run(ended.wait)
    layers, spans = make_layers(2)
    with CudaLayerStream(spans, device=CPU, pinned=(0, 1)) as stream:
        stream._ring.bytes.zero_()
        with stream.layer(0) as tensors:
            time.sleep(0.02)
            early = bool(tensors["q"].any())
            ended.set()
            cuda.synchronize()
            assert not early and tensors["q"].equal(layers[0]["q"])


def test_copies_are_on_streams_that_nothing_is_recorded_on(make_layers: MakeLayers, simulate: Simulate) -> None:
    """Recordings have a stream of the usual priority, of which torch hands out the same 32 again and again."""
    cuda = simulate()
    Landings(64, CPU)
    with CudaLayerStream(make_layers(2)[1], device=CPU, pinned=(0, 1)):
        assert len(cuda.priorities) == 3 and max(cuda.priorities) < 0
