"""A layer of a draft on the CPU, and a level of its tree, beside the time that their bytes take.

    python benchmarks/draft_layer.py --rows 1,4,8 --out assets/results/NAME.json

Two shapes, that of the widened demo model and that of Qwen2.5-7B, with random codes. A layer runs in one call, and
compiled. A level is all that a substitute draft does for one: embedding, all layers, norm, a head in bf16, the choice
of its tokens, tree and mask; trees of four levels are grown, and their time is divided by four. Its layers are a few
that come again and again, but such that no cache holds them until they do.
The floor is the bytes read, for a level cached keys and values among them, over the speed at which the machine reads
memory with as many threads, measured just before each run. Arms alternate; quoted are medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import LlamaConfig

from benchmarks.receipt import write_receipt
from specdecodes.cache import CacheShape, KVCache
from specdecodes.config import Tree
from specdecodes.drafters.level import LevelGrower, region_nodes
from specdecodes.drafters.pacing.pace import Costs, Pace
from specdecodes.engine.compile import compiled_steps
from specdecodes.engine.layers import ResidentLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.models.decoder import Decoder, DecoderLayer, LayerStep, joined
from specdecodes.models.families import ModelSpec, spec_of
from specdecodes.models.fused.cpu_layer import LayersCall, fuse
from specdecodes.offload.storage.pages import side_by_side
from specdecodes.quant import Execution, specimen
from specdecodes.quant.spec import find_scheme
from specdecodes.sampling import Sampler, SamplingParams

SIZES = {"widened": (1280, 5184, 40, 5, 32, 12), "7B": (3584, 18944, 28, 4, 128, 2)}
"""Hidden size, that of the feed-forward part, heads, key heads, their size, and copies."""
MODELS = {"widened": (64, 4096), "7B": (28, 152064)}
"""Layers of a model of that shape, and tokens that it knows."""
LEVELS = 4  # of a tree
CONTEXT = 256  # committed rows that every step attends to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,4,8")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="the receipt, a JSON file")
    given = parser.parse_args()
    table = Table("shape", "rows", "memory GB/s", "compiled ms", "one call ms", "compiled / floor", "one call / floor")
    whole = Table("shape", "rows", "memory GB/s", "floor ms", "level ms", "level / floor")
    results, levels = [], []
    numbers = side_by_side({"numbers": torch.ones(64 * 2**20)})["numbers"]
    for name, sizes in SIZES.items():
        spec = llama(*sizes[:5])
        layers = [layer_of(spec) for _ in range(sizes[5])]
        for rows in map(int, given.rows.split(",")):
            found = {"shape": name, "rows": rows, **measure(spec, layers, rows, numbers, given.rounds)}
            results.append(found)
            floor = found["floor_ms"]
            arms = found["compiled_ms"], found["one_call_ms"]
            figures = [found["memory_gbps"], *arms, *(arm / floor for arm in arms)]
            table.add_row(name, str(rows), *(f"{figure:.2f}" for figure in figures))
        draft = draft_of(spec, layers, *MODELS[name])
        for rows in map(int, given.rows.split(",")):
            level = measure_level(draft, rows, numbers, given.rounds)
            levels.append({"shape": name, "rows": rows, **level})
            figures = [
                level["memory_gbps"],
                level["floor_ms"],
                level["level_ms"],
                level["level_ms"] / level["floor_ms"],
            ]
            whole.add_row(name, str(rows), *(f"{figure:.2f}" for figure in figures))
        del draft, layers
    Console().print(table, whole)
    if given.out is not None:
        write_receipt(given.out, {"context": CONTEXT, "results": results, "levels": levels})


def llama(hidden: int, ffn: int, heads: int, kv_heads: int, dim: int) -> ModelSpec:
    """A Llama of one layer."""
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=dim,
    )
    return spec_of(config)


def layer_of(spec: ModelSpec) -> DecoderLayer:
    """With random codes of hqq4, where a draft's weights lie."""
    scheme = find_scheme("hqq4")
    assert scheme is not None
    layer = DecoderLayer(spec, torch.bfloat16)
    execution = Execution(rows=8)
    layer.substitute({path: specimen(*shape, scheme, execution) for path, shape in joined(spec.linears()).items()})
    for name in ("input_layernorm.weight", "post_attention_layernorm.weight"):
        layer.put({name: torch.ones(spec.hidden_size, dtype=torch.bfloat16)})
    layer.put(side_by_side(dict(layer.named_buffers())))
    return layer


def measure(spec: ModelSpec, layers: list[DecoderLayer], rows: int, numbers: Tensor, rounds: int) -> dict[str, float]:
    """Milliseconds a layer of both arms and of the floor, and GB/s of the memory."""
    slots, dim = CONTEXT + 64, spec.head_dim
    keys, values = (torch.zeros(1, spec.kv_heads, slots, dim, dtype=torch.bfloat16) for _ in range(2))
    mask = torch.ones(1, rows, slots, dtype=torch.bool)
    turn = torch.ones(1, rows, 1, dim, dtype=torch.bfloat16)
    window = torch.tensor([0, CONTEXT + rows])
    step = LayerStep(turn, turn, keys, values, torch.arange(rows) + CONTEXT, mask, window, False)
    hidden = torch.randn(1, rows, spec.hidden_size, dtype=torch.bfloat16)
    fused = [made for made in (fuse(layer, keys, values) for layer in layers) if made is not None]
    assert len(fused) == len(layers), "the kernels are built, and the processor runs them"
    call = LayersCall(fused)

    def one_call() -> None:
        call(hidden, turn, turn, step.slots, [(mask, window)] * len(layers))

    def compiled() -> None:
        for layer in layers:
            compiled_steps().layer(layer, hidden, step)

    arms: dict[str, Callable[[], object]] = {"compiled": compiled, "one_call": one_call}
    seconds: dict[str, list[float]] = {"memory": [], **{arm: [] for arm in arms}}
    for work in (*arms.values(), *arms.values()):
        work()
    for _ in range(rounds):
        for arm, work in {"memory": partial(torch.sum, numbers), **arms}.items():
            started = time.perf_counter()
            work()
            seconds[arm].append(time.perf_counter() - started)
    speed = numbers.nbytes / statistics.median(seconds["memory"]) / 1e9
    size = sum(tensor.nbytes for tensor in layers[0].buffers())
    figures = {f"{arm}_ms": 1e3 * statistics.median(seconds[arm]) / len(layers) for arm in arms}
    return {"bytes": size, "memory_gbps": speed, "floor_ms": size / speed / 1e6, **figures}


def draft_of(spec: ModelSpec, layers: list[DecoderLayer], count: int, vocab: int) -> Decoder:
    """A model of `count` layers, these in turn, with one table for embedding and head."""
    spec = replace(spec, layers=count, windows=(None,) * count, vocab_size=vocab)
    draft = Decoder(replace(spec, layers=0, windows=()), torch.bfloat16)
    draft.spec = spec
    draft.layers.extend(layers[place % len(layers)] for place in range(count))
    table = torch.empty(vocab, spec.hidden_size, dtype=torch.bfloat16).normal_(std=0.02)
    draft.embedding = draft.head.weight = side_by_side({"table": table})["table"]
    draft.norm.weight = torch.ones(spec.hidden_size, dtype=torch.bfloat16)
    return draft


def measure_level(draft: Decoder, rows: int, numbers: Tensor, rounds: int) -> dict[str, float]:
    """Milliseconds a level of `rows` nodes and its floor, and GB/s of the memory."""
    spec, tree = draft.spec, Tree(rows, LEVELS, nodes=max(2, rows), adaptive=False)
    cache = KVCache(
        CacheShape(spec.layers, spec.kv_heads, spec.head_dim, CONTEXT, region_nodes(tree), rows), draft.dtype
    )
    cache.commit(CONTEXT)
    layers = ResidentLayers(draft.stack)
    runner = ModelRunner(draft, layers, cache, compiled_steps(), width=rows, chunk=rows, exact=False)
    pace = Pace(tree, Costs({rows: 1.0}, {tree.nodes: 1.0}))
    grower = LevelGrower(runner, tree, 1.0, spec.vocab_size, pace)
    sampler = Sampler(SamplingParams(temperature=0.0), spec.vocab_size, runner.device)
    seconds: dict[str, list[float]] = {"memory": [], "tree": []}
    for _ in range(2):
        grower.propose(0, sampler)
    for _ in range(rounds):
        for arm, work in {"memory": partial(torch.sum, numbers), "tree": partial(grower.propose, 0, sampler)}.items():
            started = time.perf_counter()
            work()
            seconds[arm].append(time.perf_counter() - started)
    speed = numbers.nbytes / statistics.median(seconds["memory"]) / 1e9
    size = sum(tensor.nbytes for layer in draft.stack for tensor in layer.buffers()) + draft.head.weight.nbytes
    size += 2 * CONTEXT * spec.layers * spec.kv_heads * spec.head_dim * draft.dtype.itemsize
    level = 1e3 * statistics.median(seconds["tree"]) / LEVELS
    return {"bytes": size, "memory_gbps": speed, "floor_ms": size / speed / 1e6, "level_ms": level}


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
