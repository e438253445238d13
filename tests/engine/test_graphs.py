"""Recording and replaying, by a recorder that notes operations in place of a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from specdecodes.engine.graphs import GraphPool, Recorded
from specdecodes.engine.recorded_pass import RecordedPass
from specdecodes.engine.sight import Sight
from specdecodes.methods import build
from specdecodes.offload.streaming.stream_cuda import CudaLayerStream
from tests.engine.recorder import SimulatedRecorder
from tests.offload.conftest import make_layers, simulate  # noqa: F401
from tests.test_lossless import GREEDY, answers, differing_bits, pipeline_for

CPU = torch.device("cpu")
SHORT = replace(GREEDY, max_tokens=20)


def test_a_recording_does_nothing_and_a_replay_reads_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = SimulatedRecorder(monkeypatch)
    value, total = torch.ones(2), torch.zeros(2)

    def add() -> None:
        total.add_(value * 2)

    step = Recorded(add, GraphPool(CPU))
    for turn in range(1, 5):
        value.fill_(turn)
        step()
    assert total.tolist() == [2.0 * (1 + 2 + 3 + 4)] * 2
    assert len(recorder.graphs) == 1 and recorder.graphs[0].replays == 3


def test_without_recording_every_call_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, calls = SimulatedRecorder(monkeypatch), []
    step = Recorded(lambda: calls.append(1), GraphPool(CPU, record=False))
    for _ in range(3):
        step()
    assert len(calls) == 3 and not recorder.graphs
    monkeypatch.undo()
    assert not GraphPool(CPU).records


def test_a_recording_that_fails_is_said_once_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder, pool, total = SimulatedRecorder(monkeypatch, fails=2), GraphPool(CPU), torch.zeros(())

    def add() -> None:
        total.add_(1)

    first, second, third = (Recorded(add, pool) for _ in range(3))
    for step in (first, second, third) * 4:
        step()
    assert total == 12 and recorder.asked == 2 and recorder.graphs[0].replays == 3
    (told,) = caplog.records
    assert "not permitted when stream is capturing); they are launched" in told.getMessage()
    assert "graphs=false" in told.getMessage() and "and more" not in told.getMessage()


class Scaled(nn.Module):
    """A layer that multiplies by its weight."""

    weight: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(3, device="meta"))


def scaled_through_slots(monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], int]:
    """Three layers that lie in either of two slots, in turn, over five passes; the passes' results, and the graphs."""
    recorder = SimulatedRecorder(monkeypatch)
    layers, slots = [Scaled() for _ in range(3)], torch.zeros(2, 3)
    run = RecordedPass(lambda layer, hidden, step: hidden * layer.weight + step.slots, GraphPool(CPU), exact=False)
    nothing, results = torch.zeros(1), []
    for number in range(5):
        sights = {None: Sight(nothing, nothing)}
        hidden = run.begin(torch.full((3,), 1.0), (nothing, nothing), torch.tensor(float(number)), sights)
        for index, layer in enumerate(layers):
            slot = slots[(3 * number + index) % 2].fill_(index + 2)
            layer.weight = slot
            run.layer(index, layer, nothing, nothing, None)  # type: ignore[arg-type]
        results.append(hidden[0].item())
    return results, len(recorder.graphs)


def by_hand(number: int) -> float:
    return ((2.0 + number) * 3 + number) * 4 + number


def test_a_layer_has_a_graph_for_every_slot_that_it_arrives_in(monkeypatch: pytest.MonkeyPatch) -> None:
    results, graphs = scaled_through_slots(monkeypatch)
    assert results == [by_hand(number) for number in range(5)]
    assert graphs == 6


def test_the_simulation_sees_a_graph_of_another_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one graph a layer, wherever it lies, results are wrong."""
    monkeypatch.setattr(Scaled, "buffers", lambda layer: iter(()))
    results, graphs = scaled_through_slots(monkeypatch)
    assert graphs == 3 and results != [by_hand(number) for number in range(5)]


@pytest.mark.parametrize(("method", "exact"), [("vanilla", False), ("subspec_sd", True), ("eagle_sd", False)])
@pytest.mark.usefixtures("untimed")
def test_replayed_passes_have_the_bits_of_launched_ones(method, exact, tiny_checkpoint, monkeypatch):
    """Streamed through two slots, an odd number of layers, two kinds of reach; the draft's levels are replayed too."""
    monkeypatch.setattr("specdecodes.engine.stack.fuse", lambda *given: None)  # as on a GPU
    folder = tiny_checkpoint("qwen2-sliding", "bf16", num_hidden_layers=5)
    pipeline = pipeline_for(method, folder, folder, exact=exact, streamed=True)
    wanted, wanted_logits = answers(pipeline, SHORT)
    recorder = SimulatedRecorder(monkeypatch)
    tokens, logits = answers(pipeline, SHORT)
    assert tokens == wanted and differing_bits(logits, wanted_logits) == 0
    assert 5 <= len(recorder.graphs) <= 2 * 5 + 1  # and a level
    assert sum(graph.replays for graph in recorder.graphs) > 20
    made = len(recorder.graphs)
    assert answers(replace(pipeline, graphs=False), SHORT)[0] == wanted and len(recorder.graphs) == made


@pytest.mark.usefixtures("untimed")
def test_an_answer_goes_on_when_recording_fails_within_a_pass(tiny_checkpoint, monkeypatch):
    folder = tiny_checkpoint("llama")
    pipeline = pipeline_for("vanilla", folder, None, exact=True)
    with build(pipeline, progress=lambda text: None) as generator:
        wanted = generator.generate((5, 9, 11), replace(GREEDY, max_tokens=8)).tokens
    recorder = SimulatedRecorder(monkeypatch, fails=3)
    with build(pipeline, progress=lambda text: None) as generator:
        assert generator.generate((5, 9, 11), replace(GREEDY, max_tokens=8)).tokens == wanted
    assert recorder.asked == 3 and len(recorder.graphs) == 2


class LaunchedGraph:
    """What a step launched on the simulated device, and launches again."""

    def __init__(self, cuda, step) -> None:
        self.cuda, self.kernels = cuda, []
        launch, cuda.compute.run = cuda.compute.run, self.kernels.append
        cuda.compute.wait_event = lambda event: pytest.fail("a wait was recorded")
        try:
            step()
        finally:
            cuda.compute.run = launch
            del cuda.compute.wait_event

    def pool(self) -> None:
        return None

    def replay(self) -> None:
        for kernel in self.kernels:
            self.cuda.compute.run(kernel)


@pytest.mark.parametrize("careless", ["", "compute"])
def test_a_replayed_layer_waits_for_its_bytes_and_its_slot_for_the_replay(make_layers, simulate, monkeypatch, careless):  # noqa: F811
    """Copies and kernels are late; a device that does not wait shows wrong weights."""
    cuda, wrong = simulate(delay=0.002, careless=careless), []
    layers, spans = make_layers(3)
    monkeypatch.setattr("specdecodes.engine.graphs.can_record", lambda device: True)
    monkeypatch.setattr("specdecodes.engine.graphs.capture", lambda step, device, sharing: LaunchedGraph(cuda, step))

    def run(layer, hidden, step):
        found, expected = layer.q, layer.expected
        cuda.compute.run(lambda: found.equal(expected) or wrong.append(1))
        return hidden

    modules = []
    for tensors in layers:
        modules.append(nn.Module())
        modules[-1].register_buffer("q", torch.empty_like(tensors["q"], device="meta"))
        modules[-1].expected = tensors["q"]
    replayed, nothing = RecordedPass(run, GraphPool(CPU), exact=False), torch.zeros(1)
    with CudaLayerStream(spans, device=CPU, pinned=range(3)) as stream:
        for _ in range(12):
            replayed.begin(nothing, (nothing, nothing), nothing, {None: Sight(nothing, nothing)})
            for index, module in enumerate(modules):
                with stream.layer(index) as tensors:
                    module.q = tensors["q"]
                    replayed.layer(index, module, nothing, nothing, None)
        cuda.synchronize()
    assert bool(wrong) == bool(careless)
    assert 3 <= len(replayed._layers) <= 6
