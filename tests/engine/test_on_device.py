"""What a CUDA graph records touches nothing but its device: run on the meta device, whose tensors have no numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from specdecodes.cache import CacheShape, KVCache
from specdecodes.config import Tree
from specdecodes.drafters import level
from specdecodes.drafters.eagle import FeatureLevels
from specdecodes.drafters.level import LevelGrower, Levels, region_nodes
from specdecodes.drafters.pacing.pace import Pace
from specdecodes.drafters.pacing.seconds import Costs
from specdecodes.engine.compile import eager_steps
from specdecodes.engine.layers import ResidentLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.models.decoder import Decoder, LayerStep
from specdecodes.models.eagle import EagleHead, EagleSpec
from specdecodes.models.kernels.attention import _attend_everywhere
from specdecodes.quant.codes import Solved
from specdecodes.quant.kernels.choice import build_linear
from specdecodes.quant.kernels.twins import twin
from specdecodes.quant.solvers import specimen_codes
from specdecodes.quant.spec import find_scheme
from specdecodes.sampling import Sampler, SamplingParams
from specdecodes.tree import TokenTree
from tests.conftest import tiny_spec

DEVICE = torch.device("meta")
TREE = Tree(width=3, depth=2, nodes=8)
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, top_k=20, top_p=0.9, min_p=0.05, repetition_penalty=1.2)
SPEC = tiny_spec("qwen2-sliding", hidden_size=128, num_hidden_layers=2)
LENGTH, CHUNK = 40, 16


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of several devices; a host number (a tensor without axes) may be one of them. That
    numbers are read, or make a shape, is refused by tensors that have none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.ndim or tensor.device.type != "cpu"}
        assert len(devices) <= 1, f"{func} copies between {' and '.join(sorted(devices))}"
        return out


@pytest.fixture(autouse=True)
def no_readback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers go to the host between levels, not within one."""
    monkeypatch.setattr(level, "Readback", lambda capacity, device: None)


def to_device(module: nn.Module) -> None:
    """Give all of it tensors of the same shapes there."""
    for part in module.modules():
        for name, tensor in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE))


def target(scheme: str = "", kernel: str = "", activations: str = "") -> Decoder:
    """With `scheme`, all linears are of it and on `kernel`."""
    made, found = Decoder(SPEC, torch.bfloat16), find_scheme(scheme or "none")
    for layer in made.stack if found else ():
        for path, shape in SPEC.linears().items():
            codes = specimen_codes(*shape, found, torch.device("cpu"))
            linear = build_linear(Solved(codes), found, kernel, path, "cpu")
            layer.substitute({path: (twin(linear, activations) or linear) if activations else linear})
    return made


def runner(model: Decoder, *, exact: bool = False) -> ModelRunner:
    spec = model.spec
    shape = CacheShape(spec.layers, spec.kv_heads, spec.head_dim, LENGTH, region_nodes(TREE), CHUNK)
    cache = KVCache(shape, model.dtype, DEVICE)
    cache.commit(LENGTH // 2)
    layers = ResidentLayers(model.stack)
    return ModelRunner(model, layers, cache, eager_steps(), width=TREE.width, chunk=CHUNK, exact=exact)


def run_level(levels: Levels, params: SamplingParams) -> None:
    """A level, as it is recorded."""
    grower = LevelGrower(levels, TREE, 0.7, SPEC.vocab_size, Pace(TREE, Costs({TREE.width: 1.0}, {TREE.nodes: 1.0})))
    step = grower._begin(5, Sampler(params, SPEC.vocab_size, DEVICE), TREE.width)
    with OneDevice():
        step._step()


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_level_of_a_model(params: SamplingParams) -> None:
    model = target()
    to_device(model)
    run_level(runner(model), params)


@pytest.mark.parametrize(
    ("scheme", "kernel", "activations"),
    [
        ("hqq4", "w4a16", ""),
        ("higgs3", "lookup", ""),
        ("w4a16", "lookup", "int4"),
        ("fp8", "fp8", ""),
        *((scheme, "reference", "") for scheme in ("mxfp4", "nvfp4", "w4a4", "w8a8")),
    ],
)
def test_a_level_of_few_bits(scheme: str, kernel: str, activations: str) -> None:
    model = target(scheme, kernel, activations)
    to_device(model)
    run_level(runner(model), GREEDY)


@pytest.mark.parametrize("architecture", ["eagle", "eagle3"])
def test_a_level_of_a_head(architecture: str) -> None:
    model = target()
    layers = (0, 1, 2) if architecture == "eagle3" else (2,)
    alone = replace(SPEC, layers=1, windows=(None,))
    head = EagleHead(EagleSpec(architecture, alone, 40 if len(layers) > 1 else 97, layers, False), model)
    to_device(model)
    to_device(head)
    run_level(FeatureLevels(head, runner(head)), GREEDY)


def test_a_layer_of_a_pass() -> None:
    model = target()
    to_device(model)
    running = runner(model)
    rows = running._tree_rows(TokenTree.rooted(torch.zeros(1, dtype=torch.int64, device=DEVICE), TREE.nodes), None)
    turn, sight = (running.stack.rotary.cos[rows.positions], running.stack.rotary.sin[rows.positions]), rows.look(12)
    keys, values = running.cache.keys[1], running.cache.values[1]
    hidden = model.embed(rows.tokens)
    with OneDevice():
        step = LayerStep(*turn, keys, values, rows.slots, sight.mask, sight.window, False)
        assert running.steps.layer(model.stack[1], hidden, step).shape == hidden.shape
        rows_of = torch.empty(1, TREE.nodes, 4, 32, device=DEVICE, dtype=torch.bfloat16)
        assert _attend_everywhere(rows_of, keys, values, sight.mask, sight.window, 0.2).shape == rows_of.shape


def test_what_a_graph_cannot_hold_is_seen() -> None:
    tensor = torch.zeros(3, device=DEVICE)
    with OneDevice():
        tensor + torch.tensor(2.0)  # a number, which travels with the launch
        for forbidden in (
            lambda: tensor + torch.ones(3).to(DEVICE),
            lambda: tensor[torch.tensor([1])],
            lambda: tensor.sum().item(),
            lambda: tensor.nonzero(),
        ):
            with pytest.raises((AssertionError, RuntimeError)):
                forbidden()
