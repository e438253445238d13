"""A model's layers as few calls: what cuts a call, and that the cuts change no bit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from specdecodes.cache import CacheShape, KVCache
from specdecodes.engine import stack as module
from specdecodes.engine.compile import eager_steps
from specdecodes.engine.layers import Counters, LayerSource, ResidentLayers, StreamedLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.models.decoder import Decoder
from specdecodes.models.fused.cpu_layer import LayersCall
from specdecodes.models.kernels import cpu_linear
from specdecodes.models.loading import load_layers, load_outer, open_checkpoint
from specdecodes.tree import TokenTree

CPU = torch.device("cpu")
LAYERS, NODES = 4, 8
FULL = cpu_linear.takes(torch.zeros(1, 1).bfloat16())
pytestmark = [
    pytest.mark.skipif(not FULL, reason="no AVX512-BF16 or no compiler here"),
    pytest.mark.usefixtures("without_gradients"),
]


@pytest.fixture
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Arriving:
    """Every layer's tensors come anew, somewhere else, and are no numbers any more when its turn is over."""

    counters: Counters

    def __init__(self, layers: Sequence[Mapping[str, Tensor]]) -> None:
        self._layers = layers

    @contextlib.contextmanager
    def layer(self, index: int) -> Iterator[Mapping[str, Tensor]]:
        tensors = {name: tensor.clone() for name, tensor in self._layers[index].items()}
        yield tensors
        for tensor in tensors.values():
            tensor.fill_(torch.nan)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many layers each call was."""
    made: list[int] = []

    class Counted(LayersCall):
        def __call__(self, *given: Tensor) -> Tensor:  # type: ignore[override]
            made.append(len(self._layers))
            return super().__call__(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "LayersCall", Counted)
    return made


@pytest.fixture
def scored(tiny_checkpoint: Callable[..., str]) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """`scored(streamed, taps, exact)`: logits and states of a tree behind a prompt."""

    def run(
        streamed: Sequence[int] = (), taps: Sequence[int] = (), *, exact: bool = False, prompt: int = 9
    ) -> tuple[Tensor, Tensor | None]:
        checkpoint = open_checkpoint(str(tiny_checkpoint("qwen2-sliding", "bf16")))
        spec, decoder = checkpoint.spec, Decoder(checkpoint.spec, torch.bfloat16)
        load_outer(decoder, checkpoint, CPU)
        load_layers(decoder, checkpoint, range(spec.layers), CPU)
        source: LayerSource = ResidentLayers(decoder.stack)
        if streamed:
            stream = Arriving([dict(decoder.stack[index].named_buffers()) for index in streamed])
            source = StreamedLayers(decoder.stack, streamed, stream)
        shape = CacheShape(spec.layers, spec.kv_heads, spec.head_dim, 256, 0, 128)
        cache = KVCache(shape, torch.bfloat16)
        runner = ModelRunner(decoder, source, cache, eager_steps(), width=NODES, chunk=128, exact=exact, taps=taps)
        runner.prefill(3 + torch.arange(prompt) % 90)
        tree = TokenTree.rooted(torch.tensor(5), NODES)
        tree.extend(torch.tensor([0, 0]), torch.tensor([7, 8]), torch.tensor([-1.0, -2.0]))
        scores = runner.score(tree)
        return scores.logits, scores.states

    return run


def test_a_resident_model_is_one_call(scored, calls):
    scored(prompt=6)
    assert calls == [LAYERS, LAYERS]


def test_what_streams_is_called_as_it_comes_with_the_same_bits(scored, calls):
    wanted = scored()[0]
    calls.clear()
    assert scored(streamed=(1, 3))[0].equal(wanted)
    assert calls[-4:] == [1, 1, 1, 1]
    assert scored(streamed=(2,))[0].equal(wanted)
    assert calls[-3:] == [2, 1, 1]


def test_a_tapped_layer_is_no_end_of_a_call(scored, calls):
    wanted, nothing = scored()
    assert nothing is None
    taps = (1, 3, 3, LAYERS)
    logits, states = scored(taps=taps)
    assert calls[-1:] == [LAYERS]
    assert logits.equal(wanted)
    one_by_one = scored(streamed=range(LAYERS), taps=taps)[1]
    assert states.equal(one_by_one) and all(part.any() for part in states.chunk(len(taps), 1))


def test_a_profiler_sees_every_layer(scored, calls):
    wanted = scored()[0]
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        assert scored()[0].equal(wanted)
    names = [event.name for event in seen.events()]
    assert [names.count(f"layer {index}") for index in range(LAYERS)] == [2] * LAYERS
    assert calls[-LAYERS:] == [1] * LAYERS


def test_exact_passes_and_long_ones_are_run_layer_by_layer(scored, calls):
    scored(exact=True)
    assert not calls
    scored(prompt=100)
    assert calls == [LAYERS]  # the tree, not the prompt
