"""Kernels at the shapes of a 7B model, on the device: right, the same every time, and the same from a CUDA graph."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specdecodes.models.kernels.attention import attend
from specdecodes.models.kernels.cache_codes import decode, encode, turn
from specdecodes.offload.compression.beside import remainder
from specdecodes.offload.compression.beside.guess import HALVES
from specdecodes.quant.codes import Codes
from specdecodes.quant.kernels.cuda.gemlite import GemliteLinear
from specdecodes.quant.kernels.cuda.w4a16 import W4A16Linear
from specdecodes.quant.kernels.reference import ReferenceLinear

SHAPES = [(3584, 3584), (18944, 3584), (3584, 18944), (512, 3584)]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
PRODUCTS = [(*shape, 8, torch.bfloat16) for shape in SHAPES]
PRODUCTS += [(3584, 3584, rows, torch.bfloat16) for rows in (1, 6, 16, 33)]
PRODUCTS += [(3584, 3584, 6, dtype) for dtype in (torch.float16, torch.float32)]
ATTENTIONS = [(count, 128, torch.bfloat16) for count in (1, 8, 48, 512)]
ATTENTIONS += [(8, width, torch.bfloat16) for width in (32, 64, 256)]
ATTENTIONS += [(8, 128, dtype) for dtype in (torch.float16, torch.float32)]
# The reference rounds its weights and its products to the dtype; fp32 differs by scales in fp16 alone.
BOUND = {torch.bfloat16: 6e-3, torch.float16: 1.5e-3, torch.float32: 4e-4}


def random_codes(out: int, width: int, group: int = 64) -> Codes:
    torch.manual_seed(out + width)
    nibbles = torch.randint(0, 256, (out, width // 2), dtype=torch.uint8)
    scale = 0.002 + 0.004 * torch.rand(out, width // group)
    return Codes(nibbles, scale, 7.5 + torch.randn(out, width // group))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def recorded(step: nn.Module, x: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    step(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = step(x)
    return graph, y


@pytest.mark.parametrize(("out", "width", "rows", "dtype"), PRODUCTS)
def test_w4a16_agrees_with_the_reference(out: int, width: int, rows: int, dtype: torch.dtype) -> None:
    codes, bias = random_codes(out, width), torch.randn(out, device="cuda", dtype=dtype)
    x = torch.randn(rows, width, device="cuda", dtype=dtype)
    linear = W4A16Linear(codes, bias, device="cuda")
    y = linear(x)
    assert relative_error(y, ReferenceLinear(codes, bias).cuda()(x)) < BOUND[dtype]
    assert torch.equal(linear(x), y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_w4a16_from_a_graph_gives_the_same_bits(dtype: torch.dtype) -> None:
    linear = W4A16Linear(random_codes(3584, 3584), device="cuda")
    x = torch.randn(8, 3584, device="cuda", dtype=dtype)
    graph, y = recorded(linear, x)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(y, linear(x))


def test_w4a16_compiled_agrees() -> None:
    linear = W4A16Linear(random_codes(3584, 3584), device="cuda")
    x = torch.randn(8, 3584, device="cuda", dtype=torch.bfloat16)
    step = torch.compile(lambda linear, x: F.silu(linear(x)), fullgraph=True, dynamic=False)
    torch.testing.assert_close(step(linear, x), F.silu(linear(x)), rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(find_spec("gemlite") is None, reason="gemlite is not installed")
@pytest.mark.parametrize("rows", [1, 8])
def test_gemlite_agrees_with_the_reference(rows: int) -> None:
    codes = random_codes(3584, 3584)
    x = torch.randn(rows, 3584, device="cuda", dtype=torch.bfloat16)
    assert relative_error(GemliteLinear(codes)(x), ReferenceLinear(codes).cuda()(x)) < 2e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [64, 256, 289])
@pytest.mark.parametrize(("out", "width"), [*SHAPES, (32000, 3584)])
def test_a_row_of_a_product_depends_on_itself_alone(out: int, width: int, rows: int, dtype: torch.dtype) -> None:
    """What exact mode asks of the library's product of one width: neither the row's place nor its neighbours, nor where
    in a ring the weight lies, changes a bit."""
    x, weight = (
        torch.randn(rows, width, device="cuda", dtype=dtype),
        torch.randn(out, width, device="cuda", dtype=dtype),
    )
    y, order = F.linear(x, weight), torch.randperm(rows, device="cuda")
    assert torch.equal(F.linear(x[order], weight), y[order])
    in_ring = torch.empty(out * width + 128, device="cuda", dtype=dtype)[128:].view(out, width).copy_(weight)
    assert torch.equal(F.linear(x, in_ring), y)
    x[1:] = torch.randn_like(x[1:])
    assert torch.equal(F.linear(x, weight)[0], y[0])


def attention(count: int, dtype: torch.dtype, head_dim: int = 128, slots: int = 2600) -> list[Tensor]:
    torch.manual_seed(count)
    device = torch.device("cuda")
    heads = (1, count, 28, head_dim), (1, count, 4, head_dim), (1, count, 4, head_dim)
    cache = [torch.randn(1, 4, slots, head_dim, device=device, dtype=dtype) for _ in range(2)]
    mask = torch.rand(1, count, slots, device=device) < 0.7
    mask[:, :, 0] = True
    rows = [torch.randn(shape, device=device, dtype=dtype) for shape in heads]
    return [*rows, *cache, torch.arange(2000, 2000 + count, device=device), mask]


@pytest.mark.parametrize(("count", "head_dim", "dtype"), ATTENTIONS)
def test_tree_attention_agrees_with_fp64(count: int, head_dim: int, dtype: torch.dtype) -> None:
    given = attention(count, dtype, head_dim)
    window = torch.tensor([7, 2000 + count], device="cuda")
    wide = [part.double() if part.is_floating_point() else part.clone() for part in given]
    wanted = attend(*wide, window.cpu(), head_dim**-0.5, False)
    found = attend(*given, window, head_dim**-0.5, False)
    bound = {torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float32: 2e-6}[dtype]
    torch.testing.assert_close(found.double(), wanted, rtol=bound, atol=bound)
    assert torch.equal(given[3].double(), wide[3]) and torch.equal(given[4].double(), wide[4])
    assert torch.equal(attend(*given, window, head_dim**-0.5, False), found)


@pytest.mark.parametrize(("count", "head_dim", "dtype"), ATTENTIONS)
def test_exact_attention_is_fp64_rounded_once_whatever_the_order(count: int, head_dim: int, dtype: torch.dtype) -> None:
    given = attention(count, dtype, head_dim)
    window = torch.tensor([0, given[6].shape[2]], device="cuda")
    wide = [part.double() if part.is_floating_point() else part.clone() for part in given]
    wanted = attend(*wide, window.cpu(), head_dim**-0.5, False).to(dtype)
    found = attend(*given, window, head_dim**-0.5, True)
    assert (found != wanted).float().mean().item() < 1e-4  # ties of the rounding
    order = torch.randperm(given[6].shape[2], device="cuda")
    slots = torch.argsort(order)[given[5]]
    moved = [*given[:3], given[3][:, :, order], given[4][:, :, order], slots, given[6][:, :, order]]
    assert torch.equal(attend(*moved, window, head_dim**-0.5, True), found)


@pytest.mark.parametrize("exact", [False, True])
def test_one_graph_serves_a_moving_window(exact: bool) -> None:
    given, window = attention(8, torch.bfloat16), torch.tensor([0, 2008], device="cuda")
    attend(*given, window, 0.1, exact)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = attend(*given, window, 0.1, exact)
    for start, stop in ((0, 2008), (5, 2300), (0, 60), (1900, 2600)):
        window.copy_(torch.tensor([start, stop]))
        graph.replay()
        assert torch.equal(found, attend(*given, window.clone(), 0.1, exact))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cache_in_8_bits_agrees_and_is_recorded(dtype: torch.dtype) -> None:
    rows = attention(8, dtype)
    rows[3:5] = encode(turn(rows[3])), encode(rows[4])
    given, window = [part.clone() for part in rows], torch.tensor([7, 2008], device="cuda")
    wanted = attend(*rows, window.cpu(), 128**-0.5, False)
    found = attend(*given, window, 128**-0.5, False)
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)
    for mine, other in zip(given[3:5], rows[3:5], strict=True):
        mine, other = (decode(one, 128, torch.float32) for one in (mine, other))
        assert ((mine - other).abs() <= other.abs().amax(-1, keepdim=True) / 126).all()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again = attend(*given, window, 128**-0.5, False)
    graph.replay()
    assert torch.equal(again, found)


@pytest.mark.parametrize("fault", [0.0, 0.01])
@pytest.mark.parametrize(("rows", "width"), [(4096, 3584), (800, 18944), (70, 544)])
def test_weights_come_back_beside_a_substitute(rows: int, width: int, fault: float) -> None:
    """Bit for bit, also where a substitute is far off; once launched, and from a graph."""
    guess, raw = remainder.sample(rows, width, group=32 if width % 64 else 64, layout=HALVES)
    raw[torch.rand(raw.numel(), generator=torch.Generator().manual_seed(1)) < fault] ^= 0xA5
    block, out = remainder.compress(raw, guess).cuda(), torch.zeros_like(raw, device="cuda")
    buffers = {name: getattr(guess, name).cuda() for name in ("packed", "scale", "offset")}
    there, wanted = replace(guess, **buffers), raw.cuda()
    remainder.expand_on(block, there, out)
    assert torch.equal(out, wanted)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        remainder.expand_on(block, there, out)
    out.zero_()
    graph.replay()
    assert torch.equal(out, wanted)
