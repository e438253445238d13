"""The stream: the right bits in the right order whatever the timing."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from specdecodes.errors import StreamError
from specdecodes.offload.storage import files, store
from specdecodes.offload.storage.store import ALIGNMENT, Storage, TensorSpan
from specdecodes.offload.streaming.stream import LayerStream
from tests.offload.conftest import MakeLayers
from tests.offload.streaming.streamed import BLOCK, check_pass, intercept, same


@pytest.mark.parametrize(("slots", "readers", "count"), [(2, 1, 5), (2, 2, 5), (3, 4, 5), (4, 2, 2), (2, 3, 1)])
def test_passes_bring_the_files_bits(make_layers: MakeLayers, disk: str, slots: int, readers: int, count: int) -> None:
    layers, spans = make_layers(count)
    with LayerStream(spans, slots=slots, readers=readers, block_bytes=BLOCK) as stream:
        for _ in range(3):
            check_pass(stream, layers)
        assert all(storage.direct == (disk == "direct") for storage in stream.storage.values())


def test_random_delays_never_show_a_slot_too_early_or_too_late(
    make_layers: MakeLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, spans = make_layers(7, rows=150)
    dice = random.Random(0)
    intercept(monkeypatch, lambda: time.sleep(dice.choice([0, 0, 0.0005, 0.002])))
    for slots, readers in [(2, 1), (2, 3), (3, 2)]:
        with LayerStream(spans, slots=slots, readers=readers, block_bytes=ALIGNMENT) as stream:
            for _ in range(6):
                for index, expected in enumerate(layers):
                    with stream.layer(index) as tensors:
                        time.sleep(dice.choice([0, 0, 0.003]))
                        assert same(tensors, expected)


def test_a_held_layer_keeps_its_bits_while_others_pass_by(make_layers: MakeLayers) -> None:
    layers, spans = make_layers()
    with LayerStream(spans, slots=3, block_bytes=BLOCK) as stream, stream.layer(0) as kept:
        for index in (1, 2, 3, 4, 0, 1):
            with stream.layer(index) as tensors:
                assert same(tensors, layers[index])
                assert same(kept, layers[0])


def test_asking_out_of_order_starts_over(make_layers: MakeLayers) -> None:
    layers, spans = make_layers()
    dice = random.Random(1)
    with LayerStream(spans, readers=3, block_bytes=ALIGNMENT) as stream:
        for _ in range(60):
            index = dice.randrange(len(layers))
            with stream.layer(index) as tensors:
                assert same(tensors, layers[index])


def test_release_from_another_thread(make_layers: MakeLayers) -> None:
    layers, spans = make_layers()
    with LayerStream(spans, block_bytes=BLOCK) as stream:
        for index in (0, 1, 2, 3, 4, 0):
            layer = stream.layer(index)
            assert same(layer.__enter__(), layers[index])
            other = threading.Thread(target=layer.__exit__, args=(None, None, None))
            other.start()
            other.join()


def test_asking_with_every_slot_held_says_so(make_layers: MakeLayers) -> None:
    layers, spans = make_layers()
    with LayerStream(spans, block_bytes=BLOCK) as stream:
        with (
            stream.layer(0),
            stream.layer(1),
            pytest.raises(RuntimeError, match="end the `with` block"),
            stream.layer(2),
        ):
            pass
        check_pass(stream, layers)


def test_reading_runs_ahead_into_the_next_pass_and_stops_at_the_ring(
    make_layers: MakeLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, spans = make_layers(3)
    with LayerStream(spans, block_bytes=BLOCK) as stream:
        check_pass(stream, layers)
        deadline = time.monotonic() + 20
        while stream.counters.bytes_read < stream.bytes_per_pass and time.monotonic() < deadline:
            time.sleep(0.001)

        def fail() -> None:
            raise OSError(5, "Input/output error")

        while any(slot.state is not type(slot.state).READY for slot in stream._slots) and time.monotonic() < deadline:
            time.sleep(0.001)
        intercept(monkeypatch, fail)
        for index in (0, 1):  # in memory already: the dead disk is not noticed
            with stream.layer(index) as tensors:
                assert same(tensors, layers[index])
        with pytest.raises(StreamError), stream.layer(2):
            pass


def test_without_reading_ahead_a_pass_begins_with_an_empty_ring(make_layers: MakeLayers) -> None:
    layers, spans = make_layers(3)
    with LayerStream(spans, block_bytes=BLOCK, ahead=False) as stream:
        for passes in (1, 2):
            check_pass(stream, layers)
            time.sleep(0.05)  # time enough to read what should not be read
            assert stream.counters.bytes_read < (passes + 0.2) * stream.bytes_per_pass


def test_conversion(make_layers: MakeLayers) -> None:
    layers, spans = make_layers()
    wanted = [
        {name: value.float() if value.is_floating_point() else value for name, value in layer.items()}
        for layer in layers
    ]
    plain = LayerStream(spans)
    with LayerStream(spans, block_bytes=BLOCK, dtype=torch.float32) as stream:
        assert stream.nbytes > plain.nbytes
        for _ in range(2):
            check_pass(stream, wanted)
        with stream.layer(0), pytest.raises(RuntimeError), stream.layer(1):
            pass
    same_dtype = LayerStream([{"q": layer["q"]} for layer in spans], dtype=torch.bfloat16)
    assert same_dtype.nbytes == 2 * same_dtype._ring.slot_bytes


def test_a_tensor_at_an_odd_offset(tmp_path: Path, disk: str) -> None:
    values = torch.randn(1000)
    path = tmp_path / "odd"
    path.write_bytes(b"x" * 4099 + values.numpy().tobytes())
    span = TensorSpan("w", torch.float32, (1000,), path, 4099, 4000)
    with LayerStream([{"w": span}], block_bytes=ALIGNMENT) as stream:
        for _ in range(5):
            with stream.layer(0) as tensors:
                assert tensors["w"].equal(values)


def test_layers_spread_over_files(make_layers: MakeLayers, tmp_path: Path, disk: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    left, left_spans = make_layers(3, rows=90, folder=tmp_path / "a")
    right, right_spans = make_layers(4, rows=50, folder=tmp_path / "b")
    layers = [{"x": one["q"], "y": two["up"], "z": one["norm"]} for one, two in zip(left, right, strict=False)]
    spans = [
        {"x": one["q"], "y": two["up"], "z": one["norm"]} for one, two in zip(left_spans, right_spans, strict=False)
    ]
    with LayerStream(spans, block_bytes=ALIGNMENT) as stream:
        check_pass(stream, layers)
        check_pass(stream, layers)


def test_the_page_cache_is_not_filled(make_layers: MakeLayers, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = []
    real = os.posix_fadvise

    def advise(file: int, offset: int, length: int, advice: int) -> None:
        real(file, offset, length, advice)
        if advice == os.POSIX_FADV_DONTNEED:
            dropped.append((offset, length))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(files, "probe", lambda path: Storage(False, "as the test says"))
    layers, spans = make_layers(3)
    with LayerStream(spans, block_bytes=BLOCK) as stream:
        check_pass(stream, layers)
        assert {(b.start, b.length) for blocks in stream._blocks for b in blocks} == set(dropped)


def test_counters(make_layers: MakeLayers, monkeypatch: pytest.MonkeyPatch) -> None:
    layers, spans = make_layers(3)
    intercept(monkeypatch, lambda: time.sleep(0.001))
    with LayerStream(spans, block_bytes=BLOCK) as stream:
        assert stream.counters == stream.counters - stream.counters + stream.counters
        assert stream.counters.bytes_read == 0
        start = time.perf_counter()
        check_pass(stream, layers)
        first = stream.counters
        check_pass(stream, layers)
        taken = time.perf_counter() - start
        second = stream.counters - first
    for counters, passes in ((first, 1), (stream.counters, 2)):
        assert counters.layers == 3 * passes
        assert counters.bytes_read >= stream.bytes_per_pass * passes
        assert 0 < counters.read_seconds < taken + 1
        assert 0 < counters.wait_seconds <= taken
        assert counters.gbps == counters.bytes_read / counters.read_seconds / 1e9
    assert second.layers == 3
    assert stream.bytes_per_pass >= sum(span.nbytes for layer in spans for span in layer.values())


def test_two_streams_at_once(make_layers: MakeLayers) -> None:
    layers, spans = make_layers()
    with LayerStream(spans, block_bytes=BLOCK) as one, LayerStream(spans, block_bytes=BLOCK) as two:
        for _ in range(3):
            for index, expected in enumerate(layers):
                with one.layer(index) as left, two.layer(index) as right:
                    assert same(left, expected)
                    assert same(right, expected)


PEAK = """
import sys
from pathlib import Path
from specdecodes.offload.storage.store import read_index
from specdecodes.offload.streaming.stream import LayerStream

def status(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) * 1024

spans = read_index(Path(sys.argv[1]))
layers = [{"w": spans[name]} for name in sorted(spans)]
with LayerStream(layers[:1]) as warm, warm.layer(0) as tensors:
    tensors["w"].float().sum()
del warm, tensors
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = status("VmRSS")
with LayerStream(layers) as stream:
    for _ in range(2):
        for index in range(len(layers)):
            with stream.layer(index) as tensors:
                tensors["w"][::1024].sum()
    print(status("VmHWM") - before, stream.nbytes, stream.bytes_per_pass)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel does not tell the peak")
def test_memory_stays_at_the_ring(tmp_path: Path) -> None:
    """48 layers of 2 MiB through two slots: the process grows by the ring, not by the file."""
    one = 2 * 2**20
    names = {f"{n:02}": {"dtype": "U8", "shape": [one], "data_offsets": [n * one, (n + 1) * one]} for n in range(48)}
    header = str(names).replace("'", '"').encode()
    with (tmp_path / store.SINGLE).open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 48 * one)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, check=True, cwd=root, timeout=120
    )
    grown, ring, streamed = map(int, done.stdout.split())
    assert streamed >= 48 * one
    assert grown < ring + 6 * 2**20
