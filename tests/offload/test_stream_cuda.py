"""The stream into a device. Its bookkeeping runs here with CUDA's calls replaced; the `gpu` tests need a real one."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from specdecodes.errors import CheckpointError, StreamError
from specdecodes.offload.ring import Ring
from specdecodes.offload.store import ALIGNMENT
from specdecodes.offload.stream_cuda import CudaLayerStream
from tests.offload.conftest import Layers, MakeLayers

CPU = torch.device("cpu")


class FakeCuda:
    """Counts what is registered; orders nothing, since a CPU's copies are done when they return."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, registers: bool = True) -> None:
        self.registered: dict[int, int] = {}
        self.waited = 0
        cudart = SimpleNamespace(
            cudaHostRegister=lambda pointer, nbytes, flags: self._register(pointer, nbytes) if registers else 2,
            cudaHostUnregister=lambda pointer: self.registered.pop(pointer),
        )
        stream = SimpleNamespace(wait_event=lambda event: self._wait(), synchronize=lambda: None)
        monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
        monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda stream: None))
        for name in ("set_device", "synchronize"):
            monkeypatch.setattr(torch.cuda, name, lambda device: None)

    def _register(self, pointer: int, nbytes: int) -> int:
        self.registered[pointer] = nbytes
        return 0

    def _wait(self) -> None:
        self.waited += 1


def check(stream: CudaLayerStream, layers: Layers, passes: int = 3) -> None:
    for _ in range(passes):
        for index, expected in enumerate(layers):
            with stream.layer(index) as tensors:
                assert tensors.keys() == expected.keys()
                assert all(tensors[name].cpu().equal(value) for name, value in expected.items())


@pytest.mark.parametrize("pinned", [(), (0, 3), (0, 1, 2, 3, 4)])
def test_bits_from_disk_and_from_pinned_memory(
    make_layers: MakeLayers, monkeypatch: pytest.MonkeyPatch, pinned: tuple[int, ...]
) -> None:
    cuda = FakeCuda(monkeypatch)
    layers, spans = make_layers()
    with CudaLayerStream(spans, device=CPU, pinned=pinned, block_bytes=4 * ALIGNMENT) as stream:
        check(stream, layers)
        assert cuda.waited > 0  # a slot that was used is not overwritten without waiting for its kernels
        pinned_bytes = sum(stream._ring.layouts[layer].nbytes for layer in pinned)
        assert sum(cuda.registered.values()) == pinned_bytes + 2 * 4 * ALIGNMENT
    stream.close()
    assert not cuda.registered


def test_conversion_on_the_device(make_layers: MakeLayers, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)
    layers, spans = make_layers(2)
    wanted = [{"up": layer["up"].float()} for layer in layers]
    with CudaLayerStream([{"up": layer["up"]} for layer in spans], device=CPU, dtype=torch.float32) as stream:
        check(stream, wanted)


def test_memory_that_cannot_be_pinned(make_layers: MakeLayers, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, registers=False)
    _, spans = make_layers(2)
    with pytest.raises(StreamError, match="could not be pinned"):
        CudaLayerStream(spans, device=CPU, pinned=(0,))


def test_odd_offsets_are_refused(make_layers: MakeLayers, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)
    _, spans = make_layers(1)
    odd = SimpleNamespace(
        **{**vars(spans[0]["norm"]), "offset": spans[0]["norm"].offset + 1, "nbytes": 4, "shape": (1,)}
    )
    with pytest.raises(CheckpointError, match="odd offsets"):
        CudaLayerStream([{"norm": odd}], device=CPU)  # type: ignore[dict-item]


def test_a_device_ring_aligns_each_layers_first_tensor(make_layers: MakeLayers) -> None:
    _, spans = make_layers()
    ring = Ring(spans, 2, None, CPU)
    for slot in range(2):
        for layer, named in enumerate(spans):
            first = min(named, key=lambda name: ring.layouts[layer].offsets[name])
            address = ring.tensors(slot, layer)[first].data_ptr() - ring.bytes.data_ptr()
            assert (address - slot * ring.slot_bytes) % 256 == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("pinned", [(), (0, 3), (0, 1, 2, 3, 4)])
def test_on_a_device(make_layers: MakeLayers, pinned: tuple[int, ...]) -> None:
    layers, spans = make_layers(5, rows=5000)
    device = torch.device("cuda")
    with CudaLayerStream(spans, device=device, pinned=pinned, block_bytes=16 * ALIGNMENT) as stream:
        check(stream, layers, passes=10)
        for _ in range(20):  # slow kernels on a slot that the readers want back
            for index, expected in enumerate(layers):
                with stream.layer(index) as tensors:
                    torch.cuda._sleep(2_000_000)
                    total = tensors["q"].float().sum()
                assert torch.allclose(total.cpu(), expected["q"].float().sum(), rtol=1e-3, atol=1e-1)
