from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from specdecodes.errors import QuantError
from specdecodes.quant import (
    SCHEMES,
    Execution,
    KernelChoice,
    LayerDone,
    Rules,
    SubstituteCache,
    choose_kernels,
    packed_bytes,
    substitute,
)
from specdecodes.quant.codes import Codes
from specdecodes.quant.kernels.cpu.int4 import Int4Linear
from specdecodes.quant.kernels.cpu.int8 import Int8Linear
from specdecodes.quant.kernels.cpu.w4a8 import Support, support
from specdecodes.quant.solvers import specimen_codes
from specdecodes.quant.spec import Scheme

LayerLinears = dict[str, tuple[Tensor, Tensor | None]]
SIZES = {"q": 64, "k": 32, "v": 32}
HQQ4 = Rules.parse("hqq4")
KERNELS_HERE = [*(["w4a8"] if support().variant else []), "int4pack", "int8", "reference"]


def named(kernel: str) -> Rules:
    return Rules.parse(f"hqq4@{kernel}")


@pytest.fixture
def linears() -> LayerLinears:
    torch.manual_seed(0)
    return {
        "self_attn.q_proj": (torch.randn(64, 128) * 0.02, torch.randn(64)),
        "mlp.up_proj": (torch.randn(96, 128).bfloat16() * 0.02, None),
        "mlp.down_proj": (torch.randn(128, 64) * 0.02, None),
    }


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specdecodes.quant.kernels.choice.support", lambda: Support(0, "no C++ compiler"))


def chosen(scheme: str, execution: Execution) -> KernelChoice:
    return choose_kernels(Rules.parse(scheme), execution)


@pytest.mark.parametrize(("rows", "kind"), [(1, Int4Linear), (3, Int4Linear), (4, Int8Linear), (64, Int8Linear)])
@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_the_rows_choose(linears: LayerLinears, rows: int, kind: type) -> None:
    made = substitute(linears, HQQ4, Execution(rows=rows))
    assert list(made) == list(linears)
    assert {type(module) for module in made.values()} == {kind}
    choice = chosen("hqq4", Execution(rows=rows))
    assert choice.kernel == {Int4Linear: "int4pack", Int8Linear: "int8"}[kind]
    assert choice.note.startswith("no C++ compiler")
    assert chosen("hqq4", Execution(rows=rows, compact=True)).kernel == "int4pack"


@pytest.mark.parametrize("rows", [1, 4, 64])
def test_the_own_kernel_is_taken_where_it_builds(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specdecodes.quant.kernels.choice.support", lambda: Support(2, "built for AVX2"))
    assert chosen("hqq4", Execution(rows=rows)) == KernelChoice("w4a8", "built for AVX2")


@pytest.mark.parametrize(("found", "kernel"), [(True, "w4a16"), (False, "reference")])
def test_on_cuda_triton_decides(monkeypatch: pytest.MonkeyPatch, found: bool, kernel: str) -> None:
    monkeypatch.setattr(
        "specdecodes.quant.kernels.choice.missing_triton", lambda: "" if found else "there is no triton"
    )
    assert chosen("hqq4", Execution("cuda", 8)).kernel == kernel
    assert chosen("hqq4", Execution("xpu", 8)).kernel == "reference"


def test_a_plan_says_reference_where_no_kernel_is_fused() -> None:
    choice = chosen("hqq4@reference+down_proj=nvfp4", Execution("xpu"))
    assert choice.kernel == "reference" and "as asked" in choice.note and "no fused kernel for nvfp4" in choice.note


@pytest.mark.parametrize("kernel", KERNELS_HERE)
def test_a_named_kernel_computes_the_layer(linears: LayerLinears, kernel: str) -> None:
    made = substitute(linears, named(kernel), Execution(rows=8))
    for path, (weight, bias) in linears.items():
        x = torch.randn(8, weight.shape[1])
        expected = F.linear(x, weight.float(), bias)
        assert ((made[path](x) - expected).norm() / expected.norm()).item() < 0.15


def test_rules_leave_linears_in_full_precision(linears: LayerLinears) -> None:
    made = substitute(linears, Rules.parse("none+mlp=hqq4"), Execution())
    assert list(made) == ["mlp.up_proj", "mlp.down_proj"]


@pytest.mark.parametrize("scheme", [*(f"hqq4@{kernel}" for kernel in KERNELS_HERE), *SCHEMES])
@pytest.mark.parametrize("draft", [True, False])
def test_planned_bytes_are_held_bytes(linears: LayerLinears, scheme: str, draft: bool) -> None:
    rules, execution = Rules.parse(scheme), Execution(draft=draft)
    for path, module in substitute(linears, rules, execution).items():
        weight, bias = linears[path]
        held = sum(b.numel() * b.element_size() for b in module.buffers()) - (0 if bias is None else bias.nbytes)
        assert packed_bytes({path: (weight.shape[0], weight.shape[1])}, rules, execution, layer="layers.0") == held
    assert packed_bytes({"up": (64, 128)}, Rules.parse("none"), execution, layer="layers.0") == 0


def test_the_result_does_not_share_the_given_memory(linears: LayerLinears) -> None:
    made = substitute(linears, HQQ4, Execution())
    x = torch.randn(1, 128)
    before = made["self_attn.q_proj"](x)
    for weight, bias in linears.values():
        weight.zero_()
        if bias is not None:
            bias.zero_()
    assert torch.equal(made["self_attn.q_proj"](x), before)


def test_a_cached_layer_is_not_read_again(linears: LayerLinears, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(bytes(range(256)) * 64)
    cache = SubstituteCache([checkpoint], folder=tmp_path)
    done: list[LayerDone] = []
    x = {path: torch.randn(2, weight.shape[1]) for path, (weight, _) in linears.items()}

    def must_not_be_read() -> LayerLinears:
        raise AssertionError("the weights were read although the layer is cached")

    for kernel in ("int4pack", "int8", "reference"):
        fresh = substitute(linears, named(kernel), Execution())
        first = substitute(
            lambda: linears, named(kernel), Execution(), cache=cache, layer="layers.0", on_layer=done.append
        )
        again = substitute(
            must_not_be_read, named(kernel), Execution(), cache=cache, layer="layers.0", on_layer=done.append
        )
        for path in linears:
            assert torch.equal(fresh[path](x[path]), first[path](x[path]))
            assert torch.equal(fresh[path](x[path]), again[path](x[path]))
    assert [event.cached for event in done] == [False, True, True, True, True, True]
    assert done[0].layer == "layers.0" and done[0].seconds > 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bad_weights_are_one_clear_error_in_every_scheme(linears: LayerLinears, scheme: str) -> None:
    rules = Rules.parse(scheme)
    with pytest.raises(QuantError, match=r"layers\.7\.up: 100 input features.*groups of"):
        substitute({"up": (torch.zeros(64, 100), None)}, rules, Execution(), layer="layers.7")
    broken = torch.randn(64, 128)
    broken[3, 5] = float("nan")
    with pytest.raises(QuantError, match=r"layers\.7\.up: it holds NaN or infinite weights"):
        substitute({"up": (broken, None)}, rules, Execution(), layer="layers.7")
    with pytest.raises(QuantError, match=r"layers\.7\.up: .*not 2 axes of int8; take the model's unquantized"):
        substitute({"up": (torch.zeros(64, 128, dtype=torch.int8), None)}, rules, Execution(), layer="layers.7")


def test_errors_name_the_layer_and_what_is_known(linears: LayerLinears) -> None:
    rules = Rules.parse("hqq4:g128")
    with pytest.raises(QuantError, match=r"layers\.7\.mlp\.down_proj: 64 input.*groups of 128"):
        substitute(linears, rules, Execution(), layer="layers.7")
    with pytest.raises(QuantError, match=r"layers\.7\.down_proj: 64 input.*groups of 128"):
        packed_bytes({"down_proj": (128, 64)}, rules, Execution(), layer="layers.7")
    with pytest.raises(QuantError, match="did you mean 'int4pack'"):
        choose_kernels(named("int4pak"), Execution())
    with pytest.raises(QuantError, match="the gemlite kernel does not run fp8; write fp8 alone"):
        choose_kernels(Rules.parse("fp8@gemlite"), Execution())


@pytest.mark.parametrize("kernel", KERNELS_HERE)
@pytest.mark.parametrize("bias", [True, False])
def test_joined_linears_say_what_their_parts_say(kernel: str, bias: bool) -> None:
    torch.manual_seed(0)
    parts = {name: (torch.randn(out, 128) * 0.02, torch.randn(out) if bias else None) for name, out in SIZES.items()}
    x = torch.randn(3, 128)
    apart = substitute(parts, named(kernel), Execution())
    joined = {"qkv": ("q", "k", "v"), "other": ("q", "missing")}
    whole = substitute(parts, named(kernel), Execution(), joined=joined)
    assert list(whole) == ["qkv"]
    torch.testing.assert_close(whole["qkv"](x), torch.cat([apart[name](x) for name in SIZES], -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_joined_linears_of_every_scheme(scheme: str) -> None:
    torch.manual_seed(0)
    parts = {name: (torch.randn(out, 128) * 0.02, None) for name, out in SIZES.items()}
    x = torch.randn(3, 128)
    apart = substitute(parts, Rules.parse(scheme), Execution())
    whole = substitute(parts, Rules.parse(scheme), Execution(), joined={"qkv": ("q", "k", "v")})
    torch.testing.assert_close(whole["qkv"](x), torch.cat([apart[name](x) for name in SIZES], -1), rtol=1e-5, atol=1e-5)


def test_parts_of_different_schemes_stay_apart() -> None:
    parts = {name: (torch.randn(out, 128), None) for name, out in SIZES.items()}
    made = substitute(parts, Rules.parse("hqq4+v=hqq8"), Execution(), joined={"qkv": ("q", "k", "v")})
    assert sorted(made) == ["k", "q", "v"]


def test_a_part_in_full_precision_keeps_the_others_apart(linears: LayerLinears) -> None:
    rules = Rules.parse("hqq4+q_proj=none")
    made = substitute(linears, rules, Execution(), joined={"both": ("self_attn.q_proj", "mlp.up_proj")})
    assert sorted(made) == ["mlp.down_proj", "mlp.up_proj"]


def test_weights_go_to_the_device_one_after_another(linears: LayerLinears, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole layer in full precision beside all that stays would be too much for it."""
    there: list[weakref.ref[Tensor]] = []

    def solve(weight: Tensor, scheme: Scheme, *, name: str) -> Codes:
        assert weight.device.type == "meta" and not any(earlier() is not None for earlier in there)
        there.append(weakref.ref(weight))
        return specimen_codes(*weight.shape, scheme, weight.device)

    monkeypatch.setattr("specdecodes.quant.apply.solve", solve)
    monkeypatch.setattr("specdecodes.quant.apply.assemble", lambda solved, *rest, **named: dict(solved))
    substitute(linears, HQQ4, Execution("meta"))
    assert len(there) == len(linears)
