"""One row of options per checkpoint family. A new dense family is a new row.

A family says how its layers differ from Llama's; sizes come from the checkpoint's own config.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from specdecodes.errors import CheckpointError, UnsupportedModelError


@dataclass(frozen=True)
class Family:
    """How a family's layer differs from Llama's. `None` for a bias means: as the config's own flag says."""

    qkv_bias: bool | None = None
    o_bias: bool | None = None
    mlp_bias: bool | None = None
    qk_norm: bool = False
    sliding: bool = False  # config.sliding_window applies (to the layers that config.layer_types names, if it does)


FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(),
    "MistralForCausalLM": Family(qkv_bias=False, o_bias=False, mlp_bias=False, sliding=True),
    "Qwen2ForCausalLM": Family(qkv_bias=True, o_bias=False, mlp_bias=False, sliding=True),
    "Qwen3ForCausalLM": Family(o_bias=None, mlp_bias=False, qk_norm=True, sliding=True),
}


ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class ModelSpec:
    """Everything the decoder needs to know of a checkpoint; sizes in elements, `windows` one entry a layer,
    `max_positions` with its rope scaling counted."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied: bool
    windows: tuple[int | None, ...]
    max_positions: int
    rope_scale: float
    inv_freq: tuple[float, ...]

    def linears(self) -> dict[str, tuple[int, int]]:
        """Linears of one layer: name -> (out_features, in_features)."""
        q, kv, hidden, ffn = (
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
            self.hidden_size,
            self.intermediate_size,
        )
        return {
            "self_attn.q_proj": (q, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, q),
            "mlp.gate_proj": (ffn, hidden),
            "mlp.up_proj": (ffn, hidden),
            "mlp.down_proj": (hidden, ffn),
        }

    def has_bias(self, linear: str) -> bool:
        if linear.startswith("mlp."):
            return self.mlp_bias
        return self.o_bias if linear == "self_attn.o_proj" else self.qkv_bias

    def layer_tensors(self) -> dict[str, tuple[int, ...]]:
        """Tensors of one layer: name inside the layer -> shape."""
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (self.hidden_size,),
            "post_attention_layernorm.weight": (self.hidden_size,),
        }
        if self.qk_norm:
            shapes |= {"self_attn.q_norm.weight": (self.head_dim,), "self_attn.k_norm.weight": (self.head_dim,)}
        for name, (out_features, in_features) in self.linears().items():
            shapes[f"{name}.weight"] = (out_features, in_features)
            if self.has_bias(name):
                shapes[f"{name}.bias"] = (out_features,)
        return shapes


def spec_of(config: Any) -> ModelSpec:
    """The spec of a Transformers config. Raises UnsupportedModelError by name, CheckpointError on odd values."""
    architectures = config.architectures or []
    name = architectures[0] if architectures else type(config).__name__.replace("Config", "ForCausalLM")
    if name not in FAMILIES:
        raise UnsupportedModelError(
            f"architecture {name} is not supported; supported are {', '.join(sorted(FAMILIES))}."
        )
    family, fields = FAMILIES[name], config.to_dict()
    activation = fields.get("hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedModelError(f"{name} with hidden_act '{activation}' is not supported; only 'silu' is.")
    hidden, heads = fields["hidden_size"], fields["num_attention_heads"]
    attention_bias, mlp_bias = bool(fields.get("attention_bias")), bool(fields.get("mlp_bias"))
    head_dim = fields.get("head_dim") or hidden // heads
    kv_heads = fields.get("num_key_value_heads") or heads
    if heads % kv_heads:
        raise CheckpointError(
            f"config.json is inconsistent: {heads} attention heads are no multiple of {kv_heads} key heads."
        )
    inv_freq, rope_scale = rope_frequencies(config, head_dim)
    return ModelSpec(
        architecture=name,
        vocab_size=fields["vocab_size"],
        hidden_size=hidden,
        intermediate_size=fields["intermediate_size"],
        layers=fields["num_hidden_layers"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=fields["rms_norm_eps"],
        qkv_bias=attention_bias if family.qkv_bias is None else family.qkv_bias,
        o_bias=attention_bias if family.o_bias is None else family.o_bias,
        mlp_bias=mlp_bias if family.mlp_bias is None else family.mlp_bias,
        qk_norm=family.qk_norm,
        tied=bool(fields.get("tie_word_embeddings")),
        windows=_windows(fields, family),
        max_positions=_positions(fields["max_position_embeddings"], config.rope_parameters),
        rope_scale=rope_scale,
        inv_freq=tuple(inv_freq.tolist()),
    )


def _windows(fields: dict[str, Any], family: Family) -> tuple[int | None, ...]:
    layers, window = fields["num_hidden_layers"], fields.get("sliding_window")
    if not family.sliding or not window or fields.get("use_sliding_window") is False:
        return (None,) * layers
    kinds = fields.get("layer_types") or ["sliding_attention"] * layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _positions(configured: int, rope: dict[str, Any]) -> int:
    """Positions that a checkpoint is made for: `linear` and `yarn` stretch the original ones by their factor; of
    `llama3` the config gives those after stretching."""
    if rope.get("rope_type", "default") not in ("linear", "yarn"):
        return configured
    original = rope.get("original_max_position_embeddings") or configured
    return max(configured, int(original * rope["factor"]))


def rope_frequencies(config: Any, head_dim: int) -> tuple[Tensor, float]:
    """Rotary inverse frequencies [head_dim / 2] in fp32 and the factor on cos and sin, for the types listed in
    `ROPE_TYPES`.

    The scaled types are computed by Transformers from the config.
    """
    rope = config.rope_parameters
    kind = rope.get("rope_type", "default")
    if kind not in ROPE_TYPES:
        raise UnsupportedModelError(f"rope type '{kind}' is not supported; supported are {', '.join(ROPE_TYPES)}.")
    if kind == "default":
        return 1.0 / (rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim)), 1.0
    inverse, scale = ROPE_INIT_FUNCTIONS[kind](config, device=torch.device("cpu"))
    return inverse, float(scale)
