"""What a level of a draft is said to read."""

from __future__ import annotations

import torch

from benchmarks import draft_layer
from benchmarks.draft_layer import CONTEXT, draft_of, layer_of, llama, measure_level
from specdecodes.engine.compile import eager_steps


@torch.no_grad()
def test_a_level_reads_every_layer_the_head_and_the_cache(monkeypatch):
    monkeypatch.setattr(draft_layer, "compiled_steps", eager_steps)
    spec = llama(64, 128, 4, 2, 16)
    layers = [layer_of(spec), layer_of(spec)]
    draft = draft_of(spec, layers, 3, 96)
    assert draft.stack == [layers[0], layers[1], layers[0]]
    found = measure_level(draft, 2, torch.ones(1000), 1)
    layer, head, cached = sum(part.nbytes for part in layers[0].buffers()), 96 * 64 * 2, 3 * CONTEXT * 2 * 2 * 16 * 2
    assert found["bytes"] == 3 * layer + head + cached
    assert found["level_ms"] > 0
