"""An EAGLE head that learns: the same tensors and the same forward as `models.eagle`, over whole sequences.

Row i takes the target's feature of token i and the embedding of token i + 1, and predicts what follows that. A head
that drafts goes on from its own output; `HeadState` lets a sequence do so at every row at once, as EAGLE-3 trains
("training-time test"): at step k, row i stands for the k-th drafted token behind it, and sees the real rows up to its
own and what was drafted in its own row before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from specdecodes.models.decoder import rotate
from specdecodes.models.eagle import EAGLE, EagleSpec
from specdecodes.models.families import ModelSpec
from specdecodes.models.loading import Checkpoint


def head_fields(
    target: Checkpoint, architecture: str, target_layers: Sequence[int] = (), draft_vocab_size: int | None = None
) -> dict[str, Any]:
    """The config of a new head for `target`: its shapes are those of one of the target's layers."""
    from transformers import AutoConfig

    spec = target.spec
    fields: dict[str, Any] = {
        "architecture": architecture,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "rms_norm_eps": spec.norm_eps,
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": spec.max_positions,
        "rope_parameters": AutoConfig.from_pretrained(target.folder).rope_parameters,
        "fusion_bias": architecture == EAGLE,
    }
    if architecture != EAGLE:
        fields |= {"target_layers": list(target_layers), "draft_vocab_size": draft_vocab_size or spec.vocab_size}
    return fields


@dataclass
class HeadState:
    """Keys and values [B, heads, N, head_dim] of each step so far."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


class LearningNorm(nn.Module):
    """Root-mean-square norm over the last axis, accumulated in fp32, as the decoder's."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class LearningAttention(nn.Module):
    """Grouped-query attention of the rows of one step; projections may see more than the hidden size."""

    def __init__(self, spec: ModelSpec, inputs: int) -> None:
        super().__init__()
        for name, (out_features, in_features) in spec.linears().items():
            if name.startswith("self_attn."):
                leaf = name.removeprefix("self_attn.")
                width = in_features if leaf == "o_proj" else inputs
                self.add_module(leaf, nn.Linear(width, out_features, bias=spec.has_bias(name)))
        self.head_dim, self.groups = spec.head_dim, spec.heads // spec.kv_heads

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, state: HeadState) -> Tensor:
        heads = (*x.shape[:-1], -1, self.head_dim)
        query = rotate(self.q_proj(x).view(heads), cos, sin).transpose(1, 2)
        key = rotate(self.k_proj(x).view(heads), cos, sin).transpose(1, 2)
        state.keys.append(key.repeat_interleave(self.groups, 1))
        state.values.append(self.v_proj(x).view(heads).transpose(1, 2).repeat_interleave(self.groups, 1))
        return self.o_proj(self._attend(query, state).transpose(1, 2).flatten(-2))

    def _attend(self, query: Tensor, state: HeadState) -> Tensor:
        """`query` [B, heads, N, D] on the real rows up to its own, and on its own row of every later step."""
        keys, values = state.keys, state.values
        if len(keys) == 1:
            return F.scaled_dot_product_attention(query, keys[0], values[0], is_causal=True)
        query = query * self.head_dim**-0.5
        rows = query.shape[2]
        ahead = torch.ones(rows, rows, dtype=torch.bool, device=query.device).triu(1)
        real = (query @ keys[0].transpose(-1, -2)).masked_fill(ahead, float("-inf"))
        own = torch.stack([(query * key).sum(-1) for key in keys[1:]], dim=-1)
        weights = torch.cat((real, own), dim=-1).float().softmax(-1).to(query.dtype)
        out = weights[..., :rows] @ values[0]
        for step, value in enumerate(values[1:]):
            out = out + weights[..., rows + step, None] * value
        return out


class LearningFeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        for name, (out_features, in_features) in spec.linears().items():
            if name.startswith("mlp."):
                self.add_module(
                    name.removeprefix("mlp."), nn.Linear(in_features, out_features, bias=spec.has_bias(name))
                )

    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LearningLayer(nn.Module):
    """The head's decoder layer. With `paired` (EAGLE-3) attention sees the embedding and the feature side by side,
    each after a norm; without, one fused vector and no norm."""

    def __init__(self, spec: ModelSpec, paired: bool) -> None:
        super().__init__()
        hidden = spec.hidden_size
        self.paired = paired
        if paired:
            self.input_layernorm = LearningNorm(hidden, spec.norm_eps)
            self.hidden_norm = LearningNorm(hidden, spec.norm_eps)
        self.self_attn = LearningAttention(spec, 2 * hidden if paired else hidden)
        self.post_attention_layernorm = LearningNorm(hidden, spec.norm_eps)
        self.mlp = LearningFeedForward(spec)

    def forward(self, embedding: Tensor, feature: Tensor, cos: Tensor, sin: Tensor, state: HeadState) -> Tensor:
        seen = feature
        if self.paired:
            seen = torch.cat((self.input_layernorm(embedding), self.hidden_norm(feature)), dim=-1)
        feature = feature + self.self_attn(seen, cos, sin, state)
        return feature + self.mlp(self.post_attention_layernorm(feature))


class LearningHead(nn.Module):
    """The head's tensors under the names of `EagleSpec.tensors`, so that its state dict is what a head folder holds.

    `ids` [draft vocab] int64: the target's tokens that an EAGLE-3 head knows, ascending; None: all of them.
    """

    def __init__(self, spec: EagleSpec, ids: Tensor | None = None) -> None:
        super().__init__()
        layer = spec.layer
        hidden, inputs = layer.hidden_size, 2 if spec.architecture == EAGLE else len(spec.target_layers)
        self.spec = spec
        self.fusion = nn.Linear(inputs * hidden, hidden, bias=spec.fusion_bias)
        self.layers = nn.ModuleList([LearningLayer(layer, spec.architecture != EAGLE)])
        if spec.architecture != EAGLE:
            self.norm = LearningNorm(hidden, layer.norm_eps)
            self.lm_head = nn.Linear(hidden, spec.draft_vocab_size, bias=False)
            ids = torch.arange(spec.draft_vocab_size) if ids is None else ids
            self.register_buffer("d2t", ids - torch.arange(spec.draft_vocab_size))
            self.register_buffer("t2d", torch.zeros(layer.vocab_size, dtype=torch.bool).index_fill(0, ids, True))
        self.register_buffer("inv_freq", torch.tensor(layer.inv_freq), persistent=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    d2t: Tensor
    t2d: Tensor
    inv_freq: Tensor

    def forward(self, embedding: Tensor, feature: Tensor, state: HeadState) -> Tensor:
        """One step: `embedding` [B, N, hidden] of the tokens that the rows stand for; `feature` the target's
        [B, N, k hidden] at the first step, the last step's output [B, N, hidden] at later ones. -> [B, N, hidden]."""
        step = len(state.keys)
        positions = step + torch.arange(embedding.shape[1], device=embedding.device)
        angles = positions[:, None] * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        scale = self.spec.layer.rope_scale
        cos, sin = ((turn * scale).to(embedding.dtype) for turn in (angles.cos(), angles.sin()))
        if self.spec.architecture == EAGLE:
            feature = self.fusion(torch.cat((embedding, feature), dim=-1))
        elif step == 0:
            feature = self.fusion(feature)
        (layer,) = self.layers
        return layer(embedding, feature, cos, sin, state)

    def tensors(self, dtype: torch.dtype) -> Mapping[str, Tensor]:
        """What a head folder holds, weights in `dtype`, on the host."""
        kept = {name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}
        return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in kept.items()}
