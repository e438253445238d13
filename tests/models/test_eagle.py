"""A head says what an implementation of its own in plain torch says, row by row and down a tree."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from specdecodes.cache import CacheShape, KVCache
from specdecodes.engine.compile import eager_steps
from specdecodes.engine.layers import ResidentLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.errors import CheckpointError
from specdecodes.models.decoder import Decoder
from specdecodes.models.eagle import EagleHead, EagleSpec
from specdecodes.models.eagle_files import open_head
from specdecodes.models.loading import load_layers, load_outer, open_checkpoint
from specdecodes.tree import TokenTree
from tests.heads import fields_for, write_head

CPU = torch.device("cpu")


def load(target: Path, folder: Path) -> tuple[Decoder, EagleHead, dict[str, Tensor]]:
    checkpoint = open_checkpoint(str(target))
    decoder = Decoder(checkpoint.spec, torch.float32)
    load_outer(decoder, checkpoint, CPU)
    load_layers(decoder, checkpoint, range(checkpoint.spec.layers), CPU)
    files = open_head(str(folder), checkpoint.spec)
    head = EagleHead(files.spec, decoder)
    tensors = files.load()
    head.put(tensors)
    return decoder, head, tensors


def runner_of(head: EagleHead, nodes: int = 12) -> ModelRunner:
    spec = head.spec
    shape = CacheShape(1, spec.kv_heads, spec.head_dim, 64, draft_nodes=nodes, target_nodes=16)
    layers = ResidentLayers(head.stack)
    cache = KVCache(shape, torch.float32)
    return ModelRunner(head, layers, cache, eager_steps(), width=4, chunk=16, exact=False)


class Plain:
    """The papers' forward in plain torch: rows of a sequence, causal, rotary by complex numbers, no cache."""

    def __init__(self, head: EagleHead, decoder: Decoder, tensors: dict[str, Tensor], eps: float) -> None:
        self.t, self.decoder, self.eps = tensors, decoder, eps
        self.heads, self.kv_heads, self.dim = head.spec.heads, head.spec.kv_heads, head.spec.head_dim
        self.eagle3 = "norm.weight" in tensors

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * weight

    def turned(self, x: Tensor) -> Tensor:
        """[rows, heads, dim], the row's number is its position."""
        rates = 1e4 ** (-torch.arange(0, self.dim, 2) / self.dim)
        turns = torch.polar(torch.ones(()), torch.arange(x.shape[0])[:, None] * rates)[:, None]
        low, high = x.chunk(2, -1)
        turned = torch.complex(low.contiguous(), high.contiguous()) * turns
        return torch.cat((turned.real, turned.imag), -1)

    def project(self, x: Tensor, name: str, heads: int) -> Tensor:
        out = x @ self.t[f"layers.0.self_attn.{name}.weight"].T + self.t.get(f"layers.0.self_attn.{name}.bias", 0)
        return out.view(x.shape[0], heads, self.dim)

    def layer(self, x: Tensor, residual: Tensor) -> Tensor:
        query = self.turned(self.project(x, "q_proj", self.heads))
        group = self.heads // self.kv_heads
        key = self.turned(self.project(x, "k_proj", self.kv_heads)).repeat_interleave(group, 1)
        value = self.project(x, "v_proj", self.kv_heads).repeat_interleave(group, 1)
        scores = torch.einsum("ihd,jhd->hij", query, key) / math.sqrt(self.dim)
        scores = scores + torch.full_like(scores[0], float("-inf")).triu(1)
        seen = torch.einsum("hij,jhd->ihd", scores.softmax(-1), value).flatten(1)
        out = residual + seen @ self.t["layers.0.self_attn.o_proj.weight"].T
        inner = self.norm(out, self.t["layers.0.post_attention_layernorm.weight"])
        gate, up = (inner @ self.t[f"layers.0.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        return out + (gate / (1 + (-gate).exp()) * up) @ self.t["layers.0.mlp.down_proj.weight"].T

    def hidden(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Of every row: a token, and the feature of the token before it."""
        embedding = self.decoder.embedding[tokens]
        if not self.eagle3:
            fused = torch.cat((embedding, features), -1) @ self.t["fusion.weight"].T + self.t.get("fusion.bias", 0)
            return self.layer(fused, fused)
        sides = (("input_layernorm", embedding), ("hidden_norm", features))
        pair = torch.cat([self.norm(x, self.t[f"layers.0.{name}.weight"]) for name, x in sides], -1)
        return self.layer(pair, features)

    def entry(self, states: Tensor) -> Tensor:
        if self.eagle3:
            return states @ self.t["fusion.weight"].T
        return self.norm(states, self.decoder.norm.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        if not self.eagle3:
            return hidden @ self.decoder.head.weight.T
        reduced = self.norm(hidden, self.t["norm.weight"]) @ self.t["lm_head.weight"].T
        everything = torch.full((hidden.shape[0], 97), float("-inf"))
        for place, offset in enumerate(self.t["d2t"].tolist()):
            everything[:, place + offset] = reduced[:, place]
        return everything


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "fields"),
    [("eagle", {}), ("eagle", {"fusion_bias": True, "attention_bias": True}), ("eagle3", {})],
    ids=["eagle", "biased", "eagle3"],
)
def test_the_forward_is_that_of_the_papers(kind, fields, tiny_checkpoint, tmp_path):
    """22 rows in chunks of 16; then a tree. Its root is the last row that has the target's feature: what is below goes
    on from what the head itself computed."""
    decoder, head, tensors = load(tiny_checkpoint(), write_head(tmp_path / "head", tiny_checkpoint(), kind, **fields))
    plain, runner = Plain(head, decoder, tensors, head.spec.norm_eps), runner_of(head)
    dice = torch.Generator().manual_seed(3)
    tokens = torch.randint(3, 97, (23,), generator=dice)
    states = torch.randn(23, 64 * (3 if kind == "eagle3" else 1), generator=dice)
    features = plain.entry(states)
    assert close(head.features(states), features)
    scores = runner.prefill(tokens[:-1], features[:-1])
    hidden = plain.hidden(tokens, features)
    assert close(scores.hidden, hidden[-2:-1]) and close(scores.logits, plain.logits(hidden[-2:-1]))

    tree = TokenTree.rooted(tokens[-1], 12)
    root = runner.level(tree, torch.tensor([0]), features[-1:])
    assert close(root.hidden, hidden[-1:]) and close(root.logits, plain.logits(hidden[-1:]))
    tree.extend(torch.zeros(2, dtype=torch.int64), torch.tensor([7, 9]), torch.tensor([-1.0, -2.0]))
    first = runner.level(tree, torch.tensor([1, 2]), root.hidden.expand(2, -1))
    tree.extend(torch.tensor([2]), torch.tensor([5]), torch.tensor([-3.0]))
    second = runner.level(tree, torch.tensor([3]), first.hidden[1:])
    below = plain.hidden(torch.cat((tokens, torch.tensor([9]))), torch.cat((features, hidden[-1:])))
    assert close(first.hidden[1], below[-1]) and close(first.logits[1:], plain.logits(below[-1:]))
    path = torch.cat((features, hidden[-1:], below[-1:]))
    deepest = plain.hidden(torch.cat((tokens, torch.tensor([9, 5]))), path)
    assert close(second.logits, plain.logits(deepest[-1:]))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"hidden_size": 128}, "hidden_size is 128 and the target's is 64"),
        ({"vocab_size": 96}, "vocab_size is 96"),
        ({"architecture": "eagle2"}, "eagle2.*run-convert-eagle"),
        ({"target_layers": [1, 2, 5]}, "target_layers.*4 layers"),
        ({"draft_vocab_size": 98}, "draft_vocab_size is 98"),
    ],
)
def test_a_head_for_another_target_is_refused_by_field(changed, words, tiny_checkpoint):
    fields = fields_for(tiny_checkpoint(), "eagle3") | changed
    with pytest.raises(CheckpointError, match=words):
        EagleSpec.of(fields, open_checkpoint(str(tiny_checkpoint())).spec)


def test_a_config_without_a_size_is_refused_by_field(tiny_checkpoint):
    fields = fields_for(tiny_checkpoint(), "eagle")
    del fields["intermediate_size"]
    with pytest.raises(CheckpointError, match="lacks the field intermediate_size"):
        EagleSpec.of(fields, open_checkpoint(str(tiny_checkpoint())).spec)
