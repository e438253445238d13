"""A draft's layer as one call against the layer itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from specdecodes.models.decoder import DecoderLayer, LayerStep, joined
from specdecodes.models.families import FAMILIES, ModelSpec
from specdecodes.models.fused.cpu_layer import LayersCall, fuse
from specdecodes.models.kernels import cpu_linear
from specdecodes.models.kernels.cache_codes import decode, encode, turn
from specdecodes.quant import Execution, specimen
from specdecodes.quant.codes import Codes
from specdecodes.quant.kernels.cpu.w4a8 import W4A8Linear, support
from specdecodes.quant.solvers import solve
from specdecodes.quant.spec import find_scheme
from tests.conftest import tiny_spec

FULL = pytest.mark.skipif(
    not cpu_linear.takes(torch.zeros(1, 1).bfloat16()), reason="no AVX512-BF16 or no compiler here"
)
BUILT = pytest.mark.skipif(not support().variant, reason=support().note)
SPEC = replace(tiny_spec(hidden_size=128, intermediate_size=192, num_hidden_layers=1, head_dim=32), heads=6)
BOUND = {torch.float32: 2e-2, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Of what the layer adds: inputs of linears are rounded to 8 bits, now and then on the other side of a tie."""


def spec_like(family: str) -> ModelSpec:
    """The small shape with that family's options, biases wherever it may have them."""
    options = FAMILIES[family]
    biased = [bias is not False for bias in (options.qkv_bias, options.o_bias, options.mlp_bias)]
    return replace(SPEC, qkv_bias=biased[0], o_bias=biased[1], mlp_bias=biased[2], qk_norm=options.qk_norm)


def codes(out: int, width: int, scheme: str) -> Codes:
    found = find_scheme(scheme)
    assert found is not None
    return solve(torch.randn(out, width) * 0.1, found)


def quantized(spec: ModelSpec, dtype: torch.dtype, scheme: str = "hqq4:g32") -> DecoderLayer:
    """A layer of random weights on the integer kernel, its linears joined as they are when it drafts."""
    torch.manual_seed(0)
    layer = DecoderLayer(spec, dtype)
    for name, shape in spec.layer_tensors().items():
        layer.put({name: (1.0 + 0.1 * torch.randn(shape)).to(dtype)})
    made = {}
    for path, (out, width) in joined(spec.linears()).items():
        part = path.replace("qkv_proj", "q_proj").replace("gate_up_proj", "up_proj")
        bias = torch.randn(out).to(dtype) * 0.1 if spec.has_bias(part) else None
        made[path] = W4A8Linear(codes(out, width, scheme), bias)
    layer.substitute(made)
    return layer


def full(spec: ModelSpec) -> DecoderLayer:
    """A layer of random weights in bfloat16."""
    torch.manual_seed(0)
    layer = DecoderLayer(spec, torch.bfloat16)
    for name, shape in spec.layer_tensors().items():
        middle = 1.0 if len(shape) == 1 else 0.0
        layer.put({name: (middle + 0.1 * torch.randn(shape)).bfloat16()})
    return layer


def inputs(spec: ModelSpec, rows: int, dtype: torch.dtype, seen: int = 70) -> tuple[torch.Tensor, LayerStep]:
    torch.manual_seed(1)
    slots, dim = seen + 20, spec.head_dim
    keys, values = torch.randn(2, 1, spec.kv_heads, slots, dim).to(dtype)
    mask = torch.rand(1, rows, slots) < 0.6
    written = 5 + torch.randperm(seen)[:rows]
    mask[0, torch.arange(rows), written - 5] = True
    angles = torch.rand(1, rows, 1, dim // 2).repeat(1, 1, 1, 2) * 6
    step = LayerStep(
        angles.cos().to(dtype), angles.sin().to(dtype), keys, values, written, mask, torch.tensor([5, 5 + seen]), False
    )
    return torch.randn(1, rows, spec.hidden_size).to(dtype), step


def called(layers: Sequence[DecoderLayer], hidden: torch.Tensor, *steps: LayerStep) -> torch.Tensor:
    """`layers` as one call, each on the cache and with the sight of its own of `steps`."""
    fused = [fuse(layer, step.keys, step.values) for layer, step in zip(layers, steps, strict=True)]
    assert all(fused)
    sights = [(step.mask, step.window) for step in steps]
    return LayersCall([layer for layer in fused if layer])(hidden, *steps[0][:2], steps[0].slots, sights)


@BUILT
@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_call_is_the_layer(family: str, dtype: torch.dtype) -> None:
    spec = spec_like(family)
    layer = quantized(spec, dtype)
    for rows in (1, 4, 9):
        hidden, ours = inputs(spec, rows, dtype)
        _, theirs = inputs(spec, rows, dtype)
        got, wanted = called([layer], hidden, ours), layer(hidden, theirs)
        assert got.dtype == dtype and got.shape == wanted.shape
        added = (wanted - hidden).float().norm()
        assert (got - wanted).float().norm() < BOUND[dtype] * added
        for mine, reference in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
            assert (mine - reference).float().norm() < BOUND[dtype] * reference[:, :, ours.slots].float().norm()
            untouched = torch.ones(mine.shape[2], dtype=torch.bool)
            untouched[ours.slots] = False
            assert mine[:, :, untouched].equal(reference[:, :, untouched])


@FULL
@pytest.mark.parametrize("family", FAMILIES)
def test_full_precision_loses_less_than_the_layer_does(family: str) -> None:
    """Both in bfloat16, against the same numbers in fp32."""
    spec = spec_like(family)
    layer, wide = full(spec), DecoderLayer(spec, torch.float32)
    wide.put({name: tensor.float() for name, tensor in layer.named_buffers()})
    for rows in (1, 3, 9, 64):
        (hidden, ours), (_, theirs) = inputs(spec, rows, torch.bfloat16), inputs(spec, rows, torch.bfloat16)
        wanted = wide(hidden.float(), LayerStep(*(part.float() for part in theirs[:4]), *theirs[4:]))
        got, eager = called([layer], hidden, ours), layer(hidden, theirs)
        assert got.dtype == torch.bfloat16
        lost, bound = (got.float() - wanted).norm(), (eager.float() - wanted).norm()
        assert lost < 1.05 * bound and lost < 1e-2 * (wanted - hidden.float()).norm()
        assert (ours.keys.float() - theirs.keys.float()).norm() < 1e-2 * theirs.keys.float().norm()
        assert (ours.values.float() - theirs.values.float()).norm() < 1e-2 * theirs.values.float().norm()


@FULL
@pytest.mark.parametrize("kind", ["full", "low"])
def test_a_row_does_not_depend_on_its_neighbours(kind: str) -> None:
    layer = full(SPEC) if kind == "full" else quantized(SPEC, torch.bfloat16)
    hidden, step = inputs(SPEC, 13, torch.bfloat16)
    together = called([layer], hidden, step)
    for row in (0, 5, 12):
        alone = LayerStep(
            *(part[:, row : row + 1] for part in step[:2]),
            step.keys,
            step.values,
            step.slots[row : row + 1],
            step.mask[:, row : row + 1],
            *step[6:],
        )
        assert called([layer], hidden[:, row : row + 1], alone).equal(together[:, row : row + 1])


@FULL
def test_layers_together_are_the_layers_one_by_one() -> None:
    """Of both kinds, and a width of the hidden state that fills no unit; what they see of their caches differs."""
    spec = replace(SPEC, hidden_size=104, intermediate_size=168, head_dim=24)
    layers = [full(spec), quantized(spec, torch.bfloat16, "hqq4:g8"), full(spec)]
    hidden, base = inputs(spec, 5, torch.bfloat16)
    steps = []
    for start, share in ((5, 0.0), (5, 0.5), (2, 0.3)):
        mask = base.mask | (torch.rand(base.mask.shape) < share)
        caches = torch.randn(2, *base.keys.shape).bfloat16()
        steps.append(base._replace(keys=caches[0], values=caches[1], mask=mask, window=base.window - 5 + start))
    wanted = hidden
    for layer, step in zip(layers, steps, strict=True):
        wanted = called([layer], wanted, step._replace(keys=step.keys.clone(), values=step.values.clone()))
    assert called(layers, hidden, *steps).equal(wanted)


@BUILT
@pytest.mark.parametrize(
    ("scheme", "hidden_size", "intermediate_size", "head_dim"), [("hqq4:g8", 104, 168, 24), ("mxfp4", 160, 96, 32)]
)
def test_shapes_that_fill_no_unit_and_values_from_a_table(
    scheme: str, hidden_size: int, intermediate_size: int, head_dim: int
) -> None:
    sizes = {"hidden_size": hidden_size, "intermediate_size": intermediate_size, "head_dim": head_dim}
    spec = replace(SPEC, qkv_bias=True, heads=5, kv_heads=1, **sizes)
    layer = quantized(spec, torch.float32, scheme)
    hidden, ours = inputs(spec, 3, torch.float32)
    got, wanted = called([layer], hidden, ours), layer(hidden, inputs(spec, 3, torch.float32)[1])
    assert (got - wanted).norm() < 2e-2 * (wanted - hidden).norm()


@BUILT
@pytest.mark.parametrize("dtype", BOUND)
def test_a_cache_in_8_bits(dtype: torch.dtype) -> None:
    layer, steps = quantized(SPEC, dtype), []
    for _ in range(2):
        hidden, step = inputs(SPEC, 4, dtype)
        steps.append(step._replace(keys=encode(turn(step.keys)), values=encode(step.values)))
    ours, theirs = steps
    got, wanted = called([layer], hidden, ours), layer(hidden, theirs)
    assert got.dtype == dtype and (got - wanted).float().norm() < BOUND[dtype] * (wanted - hidden).float().norm()
    for mine, other in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
        stored, reference = (decode(rows[:, :, ours.slots], SPEC.head_dim, torch.float32) for rows in (mine, other))
        assert (stored - reference).norm() < BOUND[dtype] * reference.norm()


@BUILT
def test_a_slot_outside_the_cache_is_refused() -> None:
    hidden, step = inputs(SPEC, 2, torch.float32)
    layer = quantized(SPEC, torch.float32)
    with pytest.raises(IndexError, match="of 90"):
        called([layer], hidden, step._replace(slots=torch.tensor([3, 90])))


@BUILT
def test_other_layers_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = torch.zeros(1, 2, 8, 32)
    plain = DecoderLayer(SPEC, torch.float32)
    assert fuse(plain, keys, keys) is None
    layer = quantized(SPEC, torch.float32)
    assert fuse(layer, keys, keys) is not None
    assert fuse(layer, keys.repeat(2, 1, 1, 1), keys) is None
    assert fuse(layer, keys.double(), keys.double()) is None
    monkeypatch.setattr(cpu_linear, "_library", lambda: None)
    assert fuse(full(SPEC), keys.bfloat16(), keys.bfloat16()) is None
    layer.mlp.down_proj.activations = "int4"  # type: ignore[assignment]
    assert fuse(layer, keys, keys) is None
    scheme = find_scheme("hqq4@w4a32")
    assert scheme is not None
    layer = quantized(SPEC, torch.float32)
    layer.substitute({"mlp.down_proj": specimen(128, 192, scheme, Execution())})
    assert fuse(layer, keys, keys) is None


@BUILT
def test_threads_do_not_change_it() -> None:
    layer = quantized(SPEC, torch.float32)
    hidden, step = inputs(SPEC, 4, torch.float32)
    alone = called([layer], hidden, step)
    torch.set_num_threads(2)
    try:
        assert called([layer], hidden, inputs(SPEC, 4, torch.float32)[1]).equal(alone)
    finally:
        torch.set_num_threads(1)
