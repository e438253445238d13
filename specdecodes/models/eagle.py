"""EAGLE heads: one decoder layer that drafts from the target's own hidden states.

EAGLE-1/2 (Li et al. 2024) fuse the embedding of the next token with the target's final hidden state, run one layer
without its first norm, and ask the target's own head. EAGLE-3 (Li et al. 2025) fuses the hidden states of three of the
target's layers, gives the layer embedding and feature side by side, and has a head of its own over a reduced
vocabulary. Beyond the target's rows both go on with what they computed themselves in place of the target's feature.

A head for a rotated target (see `rotation`) thinks in the basis of the model that it was trained on: it keeps that
model's embedding, and of EAGLE-1/2 the head, and what the target said is turned back before it is seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from specdecodes.errors import CheckpointError
from specdecodes.models.decoder import Decoder, DecoderLayer, LayerStep, Linear, RMSNorm
from specdecodes.models.families import ModelSpec, spec_of

EAGLE, EAGLE3 = "eagle", "eagle3"
ARCHITECTURES = (EAGLE, EAGLE3)
LAYER = "layers.0."
MAPS = ("d2t", "t2d")
"""Tensors that are no weights: a reduced token's offset to the target's id [draft vocab] int64, and which of the
target's tokens have one [vocab] bool."""

_BESIDE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")  # of EAGLE-3: they see embedding and feature
_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "rms_norm_eps", "vocab_size")


@dataclass(frozen=True)
class EagleSpec:
    """A head's shapes. `layer`: its decoder layer, with the target's vocabulary. `target_layers`: the target's hidden
    states that it is given, each by the number of layers before it: i is what enters layer i, and the number of all
    layers is what leaves the last one, before the final norm. `rotated`: the target is, and not the model that the head
    was trained on."""

    architecture: str
    layer: ModelSpec
    draft_vocab_size: int
    target_layers: tuple[int, ...]
    fusion_bias: bool
    rotated: bool = False

    @classmethod
    def of(cls, fields: Mapping[str, Any], target: ModelSpec, where: str = "config.json") -> EagleSpec:
        """The spec of a head's config: `architecture`, sizes and rope as in a Llama config, and for EAGLE-3
        `draft_vocab_size` and `target_layers`; `attention_bias` is that of q, k and v. `where` is for the errors."""
        architecture = fields.get("architecture")
        if architecture not in ARCHITECTURES:
            raise CheckpointError(
                f"{where}: architecture is {architecture!r}, not one of {', '.join(ARCHITECTURES)}; a head as its "
                "authors published it is made into one by run-convert-eagle."
            )
        layer = _layer_spec(fields, target, where)
        eagle3 = architecture == EAGLE3
        layers = tuple(fields.get("target_layers", ())) if eagle3 else (target.layers,)
        if not layers or not all(isinstance(index, int) and 0 <= index <= target.layers for index in layers):
            raise CheckpointError(
                f"{where}: target_layers is {list(layers)}; a target of {target.layers} layers has hidden states "
                f"0 to {target.layers}."
            )
        draft_vocab = fields.get("draft_vocab_size", target.vocab_size) if eagle3 else target.vocab_size
        if not 0 < draft_vocab <= target.vocab_size:
            raise CheckpointError(
                f"{where}: draft_vocab_size is {draft_vocab}; the target has {target.vocab_size} tokens."
            )
        fusion_bias, rotated = bool(fields.get("fusion_bias")), bool(fields.get("rotated"))
        return cls(architecture, layer, draft_vocab, layers, fusion_bias, rotated)

    @property
    def drafting(self) -> ModelSpec:
        """What a step of drafting runs: the layer, and a head of `draft_vocab_size` tokens."""
        return replace(self.layer, vocab_size=self.draft_vocab_size)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The tensors of a head: name -> shape."""
        hidden, layer = self.layer.hidden_size, self.layer.layer_tensors()
        shapes: dict[str, tuple[int, ...]] = {}
        if self.architecture == EAGLE:
            shapes["fusion.weight"] = (hidden, 2 * hidden)
            del layer["input_layernorm.weight"]
        else:
            shapes["fusion.weight"] = (hidden, len(self.target_layers) * hidden)
            layer |= {f"{name}.weight": (layer[f"{name}.weight"][0], 2 * hidden) for name in _BESIDE}
            layer["hidden_norm.weight"] = (hidden,)
            shapes |= {"norm.weight": (hidden,), "lm_head.weight": (self.draft_vocab_size, hidden)}
            shapes |= {"d2t": (self.draft_vocab_size,), "t2d": (self.layer.vocab_size,)}
        if self.rotated:
            shapes |= self._kept()
        if self.fusion_bias:
            shapes["fusion.bias"] = (hidden,)
        return shapes | {LAYER + name: shape for name, shape in layer.items()}

    def _kept(self) -> dict[str, tuple[int, ...]]:
        """What a head for a rotated target keeps of the original model, and the way back there from the target's final
        norm; the three hidden states of EAGLE-3 are turned back by its fusion."""
        hidden, table = self.layer.hidden_size, (self.layer.vocab_size, self.layer.hidden_size)
        if self.architecture == EAGLE3:
            return {"embed_tokens.weight": table}
        return {"embed_tokens.weight": table, "lm_head.weight": table, "rotation.weight": (hidden, hidden)}

    def elements(self) -> int:
        """Weights of the head's own."""
        return sum(math.prod(shape) for name, shape in self.tensors().items() if name not in MAPS)


def _layer_spec(fields: Mapping[str, Any], target: ModelSpec, where: str) -> ModelSpec:
    from transformers import LlamaConfig

    missing = [name for name in _SIZES if name not in fields]
    if missing:
        raise CheckpointError(f"{where} lacks the field {missing[0]}.")
    for name, wanted in (("hidden_size", target.hidden_size), ("vocab_size", target.vocab_size)):
        if fields[name] != wanted:
            raise CheckpointError(
                f"{where}: {name} is {fields[name]} and the target's is {wanted}; this head is for another model, "
                "which --model names."
            )
    taken = (*_SIZES, "num_key_value_heads", "head_dim", "rope_parameters", "hidden_act", "max_position_embeddings")
    config = LlamaConfig(num_hidden_layers=1, **{name: fields[name] for name in taken if name in fields})
    return replace(spec_of(config), qkv_bias=bool(fields.get("attention_bias")), o_bias=False, mlp_bias=False)


class FusedLayer(DecoderLayer):
    """EAGLE-1/2: embedding and feature become one vector, and the layer has no first norm.

    [B, M, 2 hidden] -> [B, M, hidden].
    """

    def __init__(self, spec: EagleSpec, dtype: torch.dtype) -> None:
        super().__init__(spec.layer, dtype)
        self.input_layernorm = nn.Identity()
        hidden = spec.layer.hidden_size
        self.fusion = Linear(hidden, 2 * hidden, spec.fusion_bias, dtype)

    def forward(self, hidden: Tensor, step: LayerStep) -> Tensor:
        return super().forward(self.fusion(hidden), step)


class PairedLayer(DecoderLayer):
    """EAGLE-3: attention sees the embedding and the feature side by side, each after a norm of its own.

    [B, M, 2 hidden] -> [B, M, hidden].
    """

    def __init__(self, spec: EagleSpec, dtype: torch.dtype) -> None:
        super().__init__(spec.layer, dtype)
        layer = spec.layer
        self.hidden_norm = RMSNorm(layer.hidden_size, layer.norm_eps, dtype)
        rows = layer.linears()
        self.substitute({name: Linear(rows[name][0], 2 * layer.hidden_size, layer.qkv_bias, dtype) for name in _BESIDE})

    def forward(self, hidden: Tensor, step: LayerStep) -> Tensor:
        embedding, feature = hidden.chunk(2, dim=-1)
        pair = torch.cat((self.input_layernorm(embedding), self.hidden_norm(feature)), dim=-1)
        out = feature + self.self_attn(pair, step)
        return out + self.mlp(self.post_attention_layernorm(out))


class ReducedLinear(Linear):
    """A head over some of the target's tokens: [..., hidden] -> [..., vocab], -inf for the tokens that it lacks."""

    ids: Tensor

    def __init__(self, spec: EagleSpec, dtype: torch.dtype) -> None:
        super().__init__(spec.draft_vocab_size, spec.layer.hidden_size, False, dtype)
        self._vocab_size = spec.layer.vocab_size
        self.register_buffer("ids", torch.empty(spec.draft_vocab_size, dtype=torch.int64, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        everything = logits.new_full((*logits.shape[:-1], self._vocab_size), float("-inf"))
        return everything.index_copy(-1, self.ids, logits)


class EagleHead(Decoder):
    """A decoder of one layer that takes a feature with every token; embedding and, for EAGLE-1/2, head and last norm
    are the target's own, shared, so load those first. Of a rotated target it shares the norm alone."""

    def __init__(self, spec: EagleSpec, target: Decoder) -> None:
        nn.Module.__init__(self)
        self.spec, self.dtype, self.architecture = spec.layer, target.dtype, spec.architecture
        self.register_buffer("embedding", target.embedding)
        self._device = target.device
        hidden = spec.layer.hidden_size
        self.rotation: Linear | None = None
        if spec.architecture == EAGLE:
            self.layers = nn.ModuleList([FusedLayer(spec, target.dtype)])
            self.entry, self.norm, self.head = target.norm, nn.Identity(), target.head
            if spec.rotated:
                self.rotation = Linear(hidden, hidden, False, target.dtype)
                self.head = Linear(spec.layer.vocab_size, hidden, False, target.dtype)
        else:
            self.layers = nn.ModuleList([PairedLayer(spec, target.dtype)])
            self.entry = Linear(hidden, len(spec.target_layers) * hidden, spec.fusion_bias, target.dtype)
            self.norm = RMSNorm(hidden, spec.layer.norm_eps, target.dtype)
            self.head = ReducedLinear(spec, target.dtype)

    @property
    def device(self) -> torch.device:
        """The target's, before any tensor of the head's own is there."""
        return self._device

    def features(self, states: Tensor) -> Tensor:
        """The target's hidden states of `target_layers`, side by side [..., k hidden] -> features [..., hidden]."""
        seen = self.entry(states)
        return seen if self.rotation is None else self.rotation(seen)

    def embed(self, tokens: Tensor, features: Tensor | None = None) -> Tensor:
        """Ids [B, M], and for each the feature of the token before it [B, M, hidden]: -> [B, M, 2 hidden]."""
        assert features is not None, "a head drafts from features"
        return torch.cat((super().embed(tokens), features), dim=-1)

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the head's own tensors, named and shaped as `EagleSpec.tensors` says, on its device."""
        (layer,) = self.stack
        weights = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        weights |= {name: tensor.to(self.dtype) for name, tensor in weights.items() if name not in MAPS}
        layer.put({name.removeprefix(LAYER): tensor for name, tensor in weights.items() if name.startswith(LAYER)})
        fusion = {name: tensor for name, tensor in weights.items() if name.startswith("fusion.")}
        if "embed_tokens.weight" in weights:
            self.embedding = weights["embed_tokens.weight"]
        if self.architecture == EAGLE:
            layer.put(fusion)
            if self.rotation is not None:
                self.rotation.weight, self.head.weight = weights["rotation.weight"], weights["lm_head.weight"]
            return
        for name, tensor in fusion.items():
            setattr(self.entry, name.removeprefix("fusion."), tensor)
        self.norm.weight, self.head.weight = weights["norm.weight"], weights["lm_head.weight"]
        offsets = weights["d2t"]
        self.head.ids = torch.arange(offsets.shape[0], device=offsets.device) + offsets
