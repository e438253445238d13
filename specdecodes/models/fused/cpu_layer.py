"""Consecutive layers on the CPU as one call (cpu_layer.cpp), where their linears run on the integer kernel, or at full
precision on that of cpu_linear.

For a few rows, what lies between the linears takes a compiled layer as long as a draft's linears themselves, and a
fourth of the time of full ones: the guards of its graph, five operators called one by one, threads woken for little.
Nothing is rounded here between the linears' inputs and a layer's own result, but for queries, keys and values. A row's
bits are the same whatever rows stand beside it, and whichever layers are called together. Where the kernels cannot be
built, and for any other layer, there is the layer itself.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from specdecodes.models.decoder import DecoderLayer, Linear, RMSNorm
from specdecodes.models.kernels import cpu_attention, cpu_linear
from specdecodes.native import load_if_built
from specdecodes.quant.kernels.cpu import w4a8
from specdecodes.quant.kernels.cpu.w4a8 import W4A8Linear

SOURCE = Path(__file__).with_suffix(".cpp")
_WIDEST_HEAD = 1024  # in the source
_PLACES = (3, 1, 2, 1)  # there, for the linears of each input
_ADDRESS, _NUMBER = ctypes.c_void_p, ctypes.c_int64


class _Linear(ctypes.Structure):
    _fields_ = [
        *((name, _ADDRESS) for name in ("weights", "scale", "offset", "table", "bias")),
        *((name, _NUMBER) for name in ("inputs", "outputs", "groups", "bits", "variant")),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _ADDRESS) for name in ("round", "multiply", "multiply_full", "tile", "write", "attend")),
        *((name, _ADDRESS) for name in ("norm", "post_norm", "query_norm", "key_norm")),
        ("eps", ctypes.c_double),
        *((name, _NUMBER) for name in ("hidden", "heads", "kv_heads", "dim", "ffn")),
        *((name, _ADDRESS) for name in ("keys", "values")),
        *((name, _Linear) for name in ("q", "k", "v", "o", "gate", "up", "down")),
    ]


class _Sight(ctypes.Structure):
    _fields_ = [("mask", _ADDRESS), *((name, _NUMBER) for name in ("start", "stop", "mask_stride"))]


class _Kept(ctypes.Structure):
    _fields_ = [("state", _ADDRESS), ("apart", _NUMBER)]


class _Step(ctypes.Structure):
    _fields_ = [
        ("rows", _NUMBER),
        *((name, _ADDRESS) for name in ("cos", "sin", "slots")),
        *((name, _NUMBER) for name in ("cache_slots", "eight_bits")),
        ("sights", ctypes.POINTER(_Sight)),
        ("kept", ctypes.POINTER(_Kept)),
    ]


class Fused:
    """One layer on the tensors that it has now, and on its `keys` and `values`, ready to be called with others."""

    def __init__(self, layer: DecoderLayer, keys: Tensor, values: Tensor) -> None:
        attention = layer.self_attn
        query, key, _ = attention.widths
        dtype = layer.post_attention_layernorm.weight.dtype
        norms = _norms(layer)
        # Held as long as their addresses are.
        self._held: list[Tensor] = [keys, values]
        linears = [*itertools.chain.from_iterable(map(self._put, _linears(layer), _PLACES))]
        self.function, self.keys = _function(dtype), keys
        self.structure = _Layer(
            *_kernels(layer),
            *cpu_attention.shares(dtype),
            *(None if norm is None else self._hold(norm.weight.float()) for norm in norms),
            next(norm.eps for norm in norms if norm is not None),
            layer.post_attention_layernorm.weight.shape[0],
            query // attention.head_dim,
            key // attention.head_dim,
            attention.head_dim,
            linears[-1].inputs,
            keys.data_ptr(),
            values.data_ptr(),
            *linears,
        )

    def _hold(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._held.append(tensor.contiguous())
        return self._held[-1].data_ptr()

    def _put(self, linears: list[nn.Module], places: int) -> list[_Linear]:
        return [*map(self._linear, linears), *(_Linear() for _ in range(places - len(linears)))]

    def _linear(self, linear: nn.Module) -> _Linear:
        if isinstance(linear, Linear):
            out, width = linear.weight.shape
            return _Linear(self._hold(linear.weight), None, None, None, self._hold(linear.bias), width, out, 0, 16, 0)
        assert isinstance(linear, W4A8Linear)
        blocks, groups, lanes = linear.scale.shape
        bias = linear.bias
        if bias is not None:
            bias = nn.functional.pad(bias.float(), (0, blocks * lanes - linear.out_features))
        parts = (linear.packed, linear.scale, linear.offset, linear.whole, bias)
        sizes = (linear.in_features, blocks * lanes, groups, linear.bits, linear.variant)
        return _Linear(*map(self._hold, parts), *sizes)


class LayersCall:
    """Consecutive layers: hidden states [1, M, hidden] that enter the first -> those that leave the last."""

    def __init__(self, layers: Sequence[Fused]) -> None:
        self._layers, first = layers, layers[0]
        self._function, self._cache = first.function, first.keys
        pointers = [ctypes.pointer(layer.structure) for layer in layers]
        self._pointers = (ctypes.POINTER(_Layer) * len(layers))(*pointers)

    def __call__(
        self,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        slots: Tensor,
        sights: Sequence[tuple[Tensor, Tensor]],
        inside: Mapping[int, Tensor] = MappingProxyType({}),
    ) -> Tensor:
        """`cos`, `sin` and `slots` as in `LayerStep`; `sights`: mask and window of each layer, which may have them in
        common. `inside`: by the place of a layer that is not the first, where to write what enters it, [M, hidden],
        of which a row's numbers lie side by side."""
        hidden, cos, sin = hidden.contiguous(), cos.contiguous(), sin.contiguous()
        given = {id(mask): (mask.contiguous(), window) for mask, window in sights}
        seen = {key: _Sight(mask.data_ptr(), *window.tolist(), mask.shape[2]) for key, (mask, window) in given.items()}
        out, places = torch.empty_like(hidden), self._cache.shape[2]
        step = _Step(
            hidden.shape[1],
            cos.data_ptr(),
            sin.data_ptr(),
            slots.data_ptr(),
            places,
            self._cache.dtype == torch.int8,
            (_Sight * len(sights))(*(seen[id(mask)] for mask, _ in sights)),
            (_Kept * len(sights))() if inside else None,
        )
        for place, state in inside.items():
            step.kept[place - 1] = _Kept(state.data_ptr(), state.stride(0))
        if self._function(self._pointers, len(self._layers), step, hidden.data_ptr(), out.data_ptr()):
            raise IndexError(f"cache slots {slots.tolist()} of {places}")
        return out


def fuse(layer: DecoderLayer, keys: Tensor, values: Tensor) -> Fused | None:
    """`layer`, whose cache rows are `keys`, `values` [B, kv_heads, slots, ...], as part of a call; None where it has to
    run as it is: on other linears or processors, on another device or for several requests."""
    norms = [norm for norm in _norms(layer) if norm is not None]
    here = keys.device.type == "cpu" and keys.shape[0] == 1 and keys.is_contiguous() and values.is_contiguous()
    dtype = layer.post_attention_layernorm.weight.dtype
    known = dtype in (torch.bfloat16, torch.float16, torch.float32) and layer.self_attn.head_dim <= _WIDEST_HEAD
    known = known and keys.dtype in (dtype, torch.int8)
    whole = type(layer) is DecoderLayer and len(norms) in (2, 4) and all(map(_has_kernel, _linears(layer)))
    if not (here and known and whole and cpu_attention.is_built() and _library() is not None):
        return None
    return Fused(layer, keys, values)


def _norms(layer: DecoderLayer) -> list[RMSNorm | None]:
    attention = layer.self_attn
    norms = (layer.input_layernorm, layer.post_attention_layernorm, attention.q_norm, attention.k_norm)
    return [norm if isinstance(norm, RMSNorm) else None for norm in norms]


def _linears(layer: DecoderLayer) -> list[list[nn.Module]]:
    """Those of each input: q, k and v, output, gate and up, down; a joined one stands for its parts."""
    attention, feed = layer.self_attn, layer.mlp
    joined, both = attention.qkv_proj, feed.gate_up_proj
    sides = [attention.q_proj, attention.k_proj, attention.v_proj] if joined is None else [joined]
    return [sides, [attention.o_proj], [feed.gate_proj, feed.up_proj] if both is None else [both], [feed.down_proj]]


def _has_kernel(linears: list[nn.Module]) -> bool:
    """Whether those of one input can be multiplied together. Of few bits they have to be joined."""
    return all(map(_is_full, linears)) or (len(linears) == 1 and _is_low(linears[0]))


def _is_full(linear: nn.Module) -> bool:
    return isinstance(linear, Linear) and cpu_linear.takes(linear.weight)


def _is_low(linear: nn.Module) -> bool:
    """Whether its inputs are taken as they come and rounded to 8 bits."""
    plain = isinstance(linear, W4A8Linear) and linear.activations == "int8"
    return plain and not linear.rotation and linear.order is None


def _kernels(layer: DecoderLayer) -> tuple[int, int, int]:
    """Where the linears' parts lie; those of kernels that it does not use may not be built."""
    full = [isinstance(linears[0], Linear) for linears in _linears(layer)]
    return *((0, 0) if all(full) else w4a8.shares()), cpu_linear.share() if any(full) else 0


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = load_if_built(SOURCE).library
    if library is None:
        return None
    layers = ctypes.POINTER(ctypes.POINTER(_Layer))
    for function in (library.layers_bfloat16, library.layers_float16, library.layers_float):
        function.argtypes = [layers, _NUMBER, ctypes.POINTER(_Step), _ADDRESS, _ADDRESS]
        function.restype = ctypes.c_int
    return library


def _function(dtype: torch.dtype) -> Callable[..., int]:
    library = _library()
    assert library is not None, "fuse() comes first"
    halves = {torch.bfloat16: library.layers_bfloat16, torch.float16: library.layers_float16}
    chosen: Callable[..., int] = halves.get(dtype, library.layers_float)
    return chosen
