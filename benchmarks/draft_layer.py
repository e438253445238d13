"""A layer of a draft on the CPU beside the time that its bytes take: in one call, and compiled.

    python benchmarks/draft_layer.py --rows 1,4,8 --out assets/results/NAME.json

Two shapes, that of the widened demo model and that of a 7B, each with copies enough that no cache holds their weights.
The floor is those bytes over the speed at which the machine reads memory, measured beside every figure. Arms alternate;
quoted are medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import LlamaConfig

from benchmarks.receipt import write_receipt
from specdecodes.engine.compile import compiled_steps
from specdecodes.models.decoder import DecoderLayer, LayerStep, joined
from specdecodes.models.families import ModelSpec, spec_of
from specdecodes.models.fused.cpu_layer import LayersCall, fuse
from specdecodes.offload.storage.pages import side_by_side
from specdecodes.quant import Execution, specimen
from specdecodes.quant.spec import find_scheme

SIZES = {"widened": (1280, 5184, 40, 5, 32, 12), "7B": (3584, 18944, 28, 4, 128, 2)}
"""Hidden size, that of the feed-forward part, heads, key heads, their size, and copies."""
CONTEXT = 256  # committed rows that every step attends to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,4,8")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="the receipt, a JSON file")
    given = parser.parse_args()
    table = Table("shape", "rows", "memory GB/s", "compiled ms", "one call ms", "compiled / floor", "one call / floor")
    results = []
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
    Console().print(table)
    if given.out is not None:
        write_receipt(given.out, {"context": CONTEXT, "results": results})


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


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
