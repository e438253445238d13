"""A draft's layer on the CPU as one call (cpu_layer.cpp), where its linears run on the integer kernel.

For a few rows, what lies between the linears takes a compiled layer as long as the linears themselves: the guards of
its graph, five operators called one by one, threads woken for little. What is rounded is a draft's business: here
nothing is between the linears' inputs and the layer's own result, but for queries, keys and values. Where the kernels
cannot be built, and for any other layer, there is the layer itself.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from specdecodes.models import cpu_attention
from specdecodes.models.decoder import DecoderLayer, LayerStep, RMSNorm
from specdecodes.native import load_if_built
from specdecodes.quant.kernels.cpu.w4a8 import W4A8Linear, shares

_WIDEST_HEAD = 1024  # in the source
_ADDRESS, _NUMBER = ctypes.c_void_p, ctypes.c_int64


class _Linear(ctypes.Structure):
    _fields_ = [
        *((name, _ADDRESS) for name in ("packed", "scale", "offset", "table", "bias")),
        *((name, _NUMBER) for name in ("inputs", "outputs", "groups", "bits", "variant")),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _ADDRESS) for name in ("round", "multiply", "tile", "write", "attend")),
        *((name, _ADDRESS) for name in ("norm", "post_norm", "query_norm", "key_norm")),
        ("eps", ctypes.c_double),
        *((name, _NUMBER) for name in ("hidden", "heads", "kv_heads", "dim", "ffn")),
        *((name, _Linear) for name in ("qkv", "o", "gate_up", "down")),
    ]


class _Step(ctypes.Structure):
    _fields_ = [
        ("rows", _NUMBER),
        *((name, _ADDRESS) for name in ("cos", "sin", "keys", "values", "slots", "mask")),
        *((name, _NUMBER) for name in ("cache_slots", "start", "stop", "mask_stride", "eight_bits")),
    ]


class LayerCall:
    """One layer, on the tensors that it has now: [1, M, hidden] -> [1, M, hidden], as `DecoderLayer.forward`."""

    def __init__(self, layer: DecoderLayer, linears: list[W4A8Linear], dtype: torch.dtype) -> None:
        attention, norms = layer.self_attn, _norms(layer)
        self._function = _function(dtype)
        # Held as long as their addresses are.
        self._held: list[Tensor] = []
        self._linears = linears
        query, key, _ = attention.widths
        self._layer = _Layer(
            *shares(),
            *cpu_attention.shares(dtype),
            *(None if norm is None else self._hold(norm.weight) for norm in norms),
            next(norm.eps for norm in norms if norm is not None),
            linears[0].in_features,
            query // attention.head_dim,
            key // attention.head_dim,
            attention.head_dim,
            linears[3].in_features,
            *(self._linear(linear) for linear in linears),
        )

    def __call__(self, hidden: Tensor, step: LayerStep) -> Tensor:
        rows, (start, stop) = hidden.shape[1], step.window.tolist()
        hidden, mask, cos, sin = (part.contiguous() for part in (hidden, step.mask, step.cos, step.sin))
        out = torch.empty_like(hidden)
        given = _Step(
            rows,
            cos.data_ptr(),
            sin.data_ptr(),
            step.keys.data_ptr(),
            step.values.data_ptr(),
            step.slots.data_ptr(),
            mask.data_ptr(),
            step.keys.shape[2],
            start,
            stop,
            mask.shape[2],
            step.keys.dtype == torch.int8,
        )
        if self._function(self._layer, given, hidden.data_ptr(), out.data_ptr()):
            raise IndexError(f"cache slots {step.slots.tolist()} of {step.keys.shape[2]}")
        return out

    def _hold(self, tensor: Tensor) -> int:
        self._held.append(tensor.float().contiguous())
        return self._held[-1].data_ptr()

    def _linear(self, linear: W4A8Linear) -> _Linear:
        blocks, groups, lanes = linear.scale.shape
        bias = linear.bias
        if bias is not None:
            bias = nn.functional.pad(bias.float(), (0, blocks * lanes - linear.out_features))
        return _Linear(
            linear.packed.data_ptr(),
            linear.scale.data_ptr(),
            linear.offset.data_ptr(),
            None if linear.whole is None else linear.whole.data_ptr(),
            None if bias is None else self._hold(bias),
            linear.in_features,
            blocks * lanes,
            groups,
            linear.bits,
            linear.variant,
        )


def fuse(layer: DecoderLayer, keys: Tensor) -> LayerCall | None:
    """`layer`, whose cache rows are `keys` [B, kv_heads, slots, ...], as one call; None where it has to run as it
    is: on other linears, at full precision, on another device or for several requests."""
    attention, feed = layer.self_attn, layer.mlp
    parts = (attention.qkv_proj, attention.o_proj, feed.gate_up_proj, feed.down_proj)
    linears = [part for part in parts if isinstance(part, W4A8Linear) and _plain(part)]
    norms = [norm for norm in _norms(layer) if norm is not None]
    here = keys.device.type == "cpu" and keys.shape[0] == 1 and keys.is_contiguous()
    dtype = layer.post_attention_layernorm.weight.dtype
    known = dtype in (torch.bfloat16, torch.float16, torch.float32) and attention.head_dim <= _WIDEST_HEAD
    known = known and keys.dtype in (dtype, torch.int8)
    whole = type(layer) is DecoderLayer and len(linears) == len(parts) and len(norms) in (2, 4)
    if not (here and known and whole and cpu_attention.is_built() and _library() is not None):
        return None
    return LayerCall(layer, linears, dtype)


def _norms(layer: DecoderLayer) -> list[RMSNorm | None]:
    attention = layer.self_attn
    norms = (layer.input_layernorm, layer.post_attention_layernorm, attention.q_norm, attention.k_norm)
    return [norm if isinstance(norm, RMSNorm) else None for norm in norms]


def _plain(linear: W4A8Linear) -> bool:
    """Whether its inputs are taken as they come and rounded to 8 bits."""
    return linear.activations == "int8" and not linear.rotation and linear.order is None


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = load_if_built(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    layer = ctypes.POINTER(_Layer)
    for function in (library.layer_bfloat16, library.layer_float16, library.layer_float):
        function.argtypes = [layer, ctypes.POINTER(_Step), _ADDRESS, _ADDRESS]
        function.restype = ctypes.c_int
    return library


def _function(dtype: torch.dtype) -> Callable[..., int]:
    library = _library()
    assert library is not None, "fuse() comes first"
    halves = {torch.bfloat16: library.layer_bfloat16, torch.float16: library.layer_float16}
    chosen: Callable[..., int] = halves.get(dtype, library.layer_float)
    return chosen
