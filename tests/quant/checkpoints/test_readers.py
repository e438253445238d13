"""Every reader against the format's own dequantization, bit for bit, and what runs against that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from specdecodes.errors import CheckpointError, QuantError
from specdecodes.quant import Execution, Rules, assemble
from specdecodes.quant.checkpoints import find_layout
from specdecodes.quant.codes import Solved
from specdecodes.quant.kernels.cuda.w4a16 import W4A16Linear, w4a16_bytes
from tests.interpreted import need_triton
from tests.quantized_linears import awq, ct_packed, ct_plain, gptq, qoq, qqq, smoothquant

OUT, IN = 64, 256

FORMATS = {
    "gptq": gptq(),
    "gptq-act-order": gptq(act_order=True),
    "gptq-asymmetric": gptq(symmetric=False),
    "gptq-v2-asymmetric-act-order": gptq(symmetric=False, act_order=True, version=2),
    "gptq-whole-rows": gptq(group=0),
    "gptq-8": gptq(8),
    "gptq-8-asymmetric": gptq(8, symmetric=False, version=2),
    "awq": awq(),
    "awq-g64": awq(64),
    "ct-w4a16": ct_packed(),
    "ct-w4a16-channel": ct_packed(group=0),
    "ct-w4a16-asymmetric": ct_packed(symmetric=False),
    "ct-w4a16-act-order": ct_packed(act_order=True),
    "ct-w8a16-packed": ct_packed(8),
    "ct-w8a16": ct_plain(dynamic=None),
    "ct-w8a8": ct_plain(),
    "ct-w8a8-static": ct_plain(dynamic=False),
    "ct-fp8": ct_plain("float"),
    "ct-fp8-tensor-static": ct_plain("float", strategy="tensor", dynamic=False),
    "smoothquant-w8a8": smoothquant(),
    "qqq-w4a8": qqq(),
    "qqq-w4a8-g128": qqq(128),
    "qoq-w4a8": qoq(),
    "qoq-w4a8-g128": qoq(128),
    "qoq-w4a8-g128-deepcompressor": qoq(128, "deepcompressor-0.1"),
}


def read(form, out=OUT, width=IN, seed=0):
    """The layout, its scheme, the codes of a written linear and the weight that it stands for."""
    config, write = FORMATS[form]
    layout = find_layout({"quantization_config": config})
    tensors, weight = write(np.random.default_rng(seed), out, width)
    scheme = layout.scheme({name: tensor.dtype for name, tensor in tensors.items()})
    parts = layout.parts(out, width)
    assert tensors.keys() <= parts.keys()
    for name, tensor in tensors.items():
        assert tuple(tensor.shape) in (parts[name].shape, *parts[name].shapes) and tensor.dtype in parts[name].dtypes
    return scheme, layout.read(tensors, "linear"), torch.from_numpy(np.ascontiguousarray(weight))


def linear_of(scheme, codes):
    rules = Rules((("*", scheme),))
    return assemble({"linear": Solved(codes)}, rules, Execution("cpu", draft=False))["linear"]


@pytest.mark.parametrize("form", FORMATS)
def test_codes_are_the_weight_that_the_format_dequantizes_to(form):
    scheme, codes, weight = read(form)
    assert torch.equal(codes.weight(), weight)
    assert (codes.bits, codes.grid, codes.shape) == (scheme.bits, scheme.grid, (OUT, IN))
    assert scheme.group_of(IN) == codes.group


@pytest.mark.parametrize("form", [form for form in FORMATS if "a8" not in form and "fp8" not in form])
def test_what_runs_is_that_weight_to_the_last_bit(form):
    """Each column of an identity takes one weight alone through the kernel."""
    scheme, codes, weight = read(form)
    assert torch.equal(linear_of(scheme, codes)(torch.eye(IN)).t(), weight)


@pytest.mark.parametrize("form", ["gptq", "gptq-v2-asymmetric-act-order", "awq"])
def test_the_kernel_for_cuda_runs_that_weight_too(form):
    need_triton()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scheme, codes, weight = read(form)
    linear = W4A16Linear(codes, device=device, as_given=True)
    x = torch.eye(IN, device=device)[100:116]
    assert torch.equal(linear(x).cpu(), weight.t()[100:116])
    held = sum(buffer.nbytes for name, buffer in linear.named_buffers() if name != "order")
    assert held == w4a16_bytes(OUT, IN, scheme.group, as_given=True)


def rounded_inputs(form, x):
    """As the format defines it, in float64."""
    wide = x.double()
    if "fp8" in form:
        step = torch.tensor(0.03).double() if "static" in form else wide.abs().amax(1, keepdim=True) / 448
        return (wide / step).clamp(-448, 448).to(torch.float8_e4m3fn).double() * step
    whole = 127.5 if form.startswith("ct") else 127
    step = torch.tensor(0.03).double() if "static" in form else wide.abs().amax(1, keepdim=True) / whole
    return (wide / step).round().clamp(-128, 127) * step


@pytest.mark.parametrize("form", [form for form in FORMATS if "a8" in form or "fp8" in form])
def test_inputs_are_rounded_as_the_format_says(form):
    scheme, codes, weight = read(form)
    x = torch.randn(5, IN, generator=torch.Generator().manual_seed(1)) * torch.tensor([[0.1], [1], [1], [2], [9]])
    wanted = rounded_inputs(form, x) @ weight.double().t()
    got = linear_of(scheme, codes)(x).double()
    assert (got - wanted).abs().max() < 2e-5 * wanted.abs().max()


def test_linears_of_one_order_run_as_one_and_others_do_not():
    scheme, codes, weight = read("gptq-act-order")
    _, other, other_weight = read("gptq-act-order", out=32, seed=1)
    rules, joined = Rules((("*", scheme),)), {"whole": ("a", "b")}
    modules = assemble({"a": Solved(codes), "b": Solved(other)}, rules, Execution("cpu", draft=False), joined=joined)
    assert torch.equal(modules["whole"](torch.eye(IN)).t(), torch.cat([weight, other_weight]))
    plain = read("gptq", out=32)[1]
    modules = assemble({"a": Solved(codes), "b": Solved(plain)}, rules, Execution("cpu", draft=False), joined=joined)
    assert modules.keys() == {"a", "b"}


def test_a_scale_that_the_fast_kernel_cannot_hold_is_refused():
    scheme, codes, _ = read("awq")
    codes.scale[3, 1] = 1e-9
    with pytest.raises(QuantError, match="target.quant=@reference"):
        linear_of(scheme, codes)


def spinquant(*locations: str) -> dict[str, Any]:
    """The part of a config that llm-compressor's SpinQuantModifier writes."""
    applied = [{"targets": ["re:.*down_proj$"], "location": location, "inverse": False} for location in locations]
    return {"transform_config": {"config_groups": {"R4": {"type": "hadamard", "apply": applied}}}}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (qqq()[0] | {"wbits": 8}, "quantization_config.wbits"),
        (qoq()[0] | {"group_size": 64}, "quantization_config.group_size"),
        (qoq(128, "lmquant")[0], "quantization_config.packer"),
        (smoothquant()[0] | {"activation": "per-tensor"}, "quantization_config.activation"),
        ({"quant_method": "aqlm"}, "quantization_config.quant_method"),
        (gptq()[0] | {"bits": 3}, "quantization_config.bits"),
        (gptq()[0] | {"group_size": 100}, "quantization_config.group_size"),
        (gptq()[0] | {"checkpoint_format": "marlin"}, "quantization_config.checkpoint_format"),
        (gptq()[0] | {"dynamic": {"-:down": {}}}, "quantization_config.dynamic"),
        (gptq()[0] | {"lm_head": True}, "quantization_config.lm_head"),
        (gptq()[0] | {"rotation": "hadamard"}, "quantization_config.rotation"),
        (ct_packed()[0] | spinquant("weight_output", "input"), "transform_config.config_groups.R4.apply.location"),
        (ct_packed()[0] | {"sparsity_config": {"format": "sparse-24"}}, "quantization_config.sparsity_config.format"),
        (awq()[0] | {"version": "gemv"}, "quantization_config.version"),
        (awq()[0] | {"zero_point": False}, "quantization_config.zero_point"),
        (ct_packed()[0] | {"format": "marlin-24"}, "quantization_config.format"),
        (ct_packed()[0] | {"config_groups": {}}, "quantization_config.config_groups"),
        (ct_packed(bits=3)[0], "config_groups.group_0.weights.num_bits"),
        (ct_packed()[0] | {"kv_cache_scheme": {"num_bits": 8}}, "quantization_config.kv_cache_scheme"),
        (ct_plain(strategy="block")[0], "config_groups.group_0.weights.strategy"),
        ("gptq", "quantization_config"),
    ],
)
def test_what_is_not_understood_is_refused_by_the_name_of_its_field(config, field):
    with pytest.raises(CheckpointError) as refused:
        find_layout({"quantization_config": config})
    assert field in str(refused.value)


def test_rotations_that_are_in_the_weights_already_ask_for_nothing():
    plain = ct_packed()[0]
    assert find_layout({"quantization_config": plain | spinquant("weight_output", "weight_input")}) == find_layout(
        {"quantization_config": plain}
    )


def test_a_config_without_quantization_has_no_layout():
    assert find_layout({"hidden_size": 64}) is None
    assert find_layout({"compression_config": ct_packed()[0]}) is not None


@pytest.mark.parametrize("form", ["qoq-w4a8", "qoq-w4a8-g128", "smoothquant-w8a8"])
def test_what_qserve_s_config_does_not_say_its_tensors_do(form):
    config, write = FORMATS[form]
    names = [f"model.layers.0.mlp.up_proj.{name}" for name in write(np.random.default_rng(0), OUT, IN)[0]]
    assert find_layout({}, names) == find_layout({"quantization_config": config})
    assert find_layout({}, ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]) is None


def test_tensors_that_contradict_the_config_are_refused():
    config, write = gptq(symmetric=False)
    tensors, _ = write(np.random.default_rng(0), OUT, IN)
    with pytest.raises(CheckpointError, match=r"quantization_config\.sym .* checkpoint_format"):
        find_layout({"quantization_config": config | {"sym": True}}).read(tensors, "linear")
    tensors["g_idx"][0] = 1
    with pytest.raises(CheckpointError, match="g_idx does not put 32 inputs into every group"):
        find_layout({"quantization_config": config}).read(tensors, "linear")
    with pytest.raises(CheckpointError, match="group_size in config.json is 32, which does not divide 80"):
        find_layout({"quantization_config": config}).parts(OUT, 80)
    for odd in (qqq, qoq):
        with pytest.raises(CheckpointError, match="quantization_config.quant_method .* not 40 and 128"):
            find_layout({"quantization_config": odd()[0]}).parts(40, 128)
