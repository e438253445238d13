"""Our own decoder: explicit cache slots, explicit mask, weights that may arrive late.

Module and tensor names are the checkpoint's. Weights are buffers, on the meta device until something is put there, so
a layer's tensors can be a view into a streaming ring for the length of one pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from specdecodes.models.families import ModelSpec
from specdecodes.models.kernels.attention import attend
from specdecodes.models.kernels.cpu_linear import linear
from specdecodes.models.kernels.host_rows import look_up


class Linear(nn.Module):
    """Full-precision linear: [..., in_features] -> [..., out_features]."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, out_features: int, in_features: int, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=dtype, device="meta"))
        self.register_buffer("bias", torch.empty(out_features, dtype=dtype, device="meta") if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, accumulated in fp32."""

    weight: Tensor

    def __init__(self, size: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.empty(size, dtype=dtype, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


JOINED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Linears of one input, which a layer also takes as one linear; see `DecoderLayer.substitute`."""


def joined(linears: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The (out, in) of each linear of a layer, by path, with one in place of those that can be joined."""
    shapes = dict(linears)
    for whole, parts in JOINED.items():
        if all(part in shapes for part in parts):
            inputs = shapes[parts[0]][1]
            shapes[whole] = (sum(shapes.pop(part)[0] for part in parts), inputs)
    return shapes


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    o_proj: nn.Module
    qkv_proj: nn.Module | None

    def __init__(self, spec: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        for name, (out_features, in_features) in spec.linears().items():
            if name.startswith("self_attn."):
                linear = Linear(out_features, in_features, spec.has_bias(name), dtype)
                self.add_module(name.removeprefix("self_attn."), linear)
        self.q_norm = RMSNorm(spec.head_dim, spec.norm_eps, dtype) if spec.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(spec.head_dim, spec.norm_eps, dtype) if spec.qk_norm else nn.Identity()
        self.register_module("qkv_proj", None)
        self.head_dim = spec.head_dim
        self.widths = [spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.kv_heads * spec.head_dim]

    def forward(self, x: Tensor, step: LayerStep) -> Tensor:
        heads = (*x.shape[:-1], -1, self.head_dim)
        if self.qkv_proj is None:
            query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        else:
            query, key, value = self.qkv_proj(x).split(self.widths, -1)
        query = rotate(self.q_norm(query.view(heads)), step.cos, step.sin)
        key = rotate(self.k_norm(key.view(heads)), step.cos, step.sin)
        value = value.view(heads)
        scale = self.head_dim**-0.5
        out = attend(query, key, value, step.keys, step.values, step.slots, step.mask, step.window, scale, step.exact)
        return self.o_proj(out.flatten(-2))


class FeedForward(nn.Module):
    """SwiGLU. A family with another feed-forward part fills this slot of the layer."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    gate_up_proj: nn.Module | None

    def __init__(self, spec: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        for name, (out_features, in_features) in spec.linears().items():
            if name.startswith("mlp."):
                self.add_module(
                    name.removeprefix("mlp."), Linear(out_features, in_features, spec.has_bias(name), dtype)
                )
        self.register_module("gate_up_proj", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_up_proj is None:
            gate, up = self.gate_proj(x), self.up_proj(x)
        else:
            gate, up = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


class LayerStep(NamedTuple):
    """What a layer needs besides its weights and the hidden state; tensors only, so that one graph serves all layers.

    `cos`, `sin` [B, M, 1, head_dim]; `keys`, `values` [B, kv_heads, slots, head_dim], this layer's cache; `slots`
    [M], `mask` [B, M, S] and `window` [2] as in `attend`.
    """

    cos: Tensor
    sin: Tensor
    keys: Tensor
    values: Tensor
    slots: Tensor
    mask: Tensor
    window: Tensor
    exact: bool


class DecoderLayer(nn.Module):
    """One pre-norm transformer layer: [B, M, hidden] -> [B, M, hidden]."""

    input_layernorm: nn.Module

    def __init__(self, spec: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(spec.hidden_size, spec.norm_eps, dtype)
        self.self_attn = Attention(spec, dtype)
        self.post_attention_layernorm = RMSNorm(spec.hidden_size, spec.norm_eps, dtype)
        self.mlp = FeedForward(spec, dtype)

    def forward(self, hidden: Tensor, step: LayerStep) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), step)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))

    def substitute(self, modules: Mapping[str, nn.Module]) -> None:
        """Put other linears in place of the layer's, by path; one of JOINED stands for all its parts."""
        for path, module in modules.items():
            parent, _, name = path.rpartition(".")
            for part in JOINED.get(path, ()):
                delattr(self.get_submodule(parent), part.rpartition(".")[2])
            self.get_submodule(parent).register_module(name, module)

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Set tensors by their name inside the layer."""
        for name, tensor in tensors.items():
            path, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(path), leaf, tensor)


class Decoder(nn.Module):
    """Embedding, layers, final norm and head. A draft may hold another decoder's parts as its own."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.spec = spec
        self.dtype = dtype
        self.register_buffer("embedding", torch.empty(spec.vocab_size, spec.hidden_size, dtype=dtype, device="meta"))
        self.layers = nn.ModuleList(DecoderLayer(spec, dtype) for _ in range(spec.layers))
        self.norm = RMSNorm(spec.hidden_size, spec.norm_eps, dtype)
        self.head = Linear(spec.vocab_size, spec.hidden_size, False, dtype)

    embedding: Tensor
    norm: nn.Module
    head: nn.Module

    @property
    def stack(self) -> list[DecoderLayer]:
        """The layers in order."""
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]

    @property
    def device(self) -> torch.device:
        """Where it runs; the embedding may lie in host memory."""
        return next(self.head.buffers()).device

    def embed(self, tokens: Tensor, features: Tensor | None = None) -> Tensor:
        """Token ids [B, M] -> what enters the first layer [B, M, hidden]; `features` are for heads, see `eagle`."""
        return look_up(tokens, self.embedding)

    def logits(self, hidden: Tensor) -> Tensor:
        """[B, M, hidden] -> [B, M, vocab]."""
        return self.head(self.norm(hidden))


class Rotary:
    """Tables of cos and sin, [positions, 1, head_dim], computed in fp32 and rounded to the model's dtype."""

    def __init__(self, spec: ModelSpec, positions: int, dtype: torch.dtype, device: torch.device) -> None:
        angles = torch.arange(positions, dtype=torch.float32)[:, None] * torch.tensor(spec.inv_freq)
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        self.cos = (angles.cos() * spec.rope_scale).to(dtype).to(device)
        self.sin = (angles.sin() * spec.rope_scale).to(dtype).to(device)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of `x` [B, M, heads, head_dim], halves layout."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin
