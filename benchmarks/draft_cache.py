"""A level of a small draft over a long context, its keys and values in bfloat16 and in 8 bits.

    python benchmarks/draft_cache.py --contexts 2048,8192,32768 --widths 1,4 --out assets/results/NAME.json

The shape of Qwen2.5-0.5B, its layers in hqq4, with weights and context of no meaning. Both caches are of one runner's
shape; levels alternate between them; quoted are medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.draft_layer import layer_of, llama
from benchmarks.receipt import write_receipt
from specdecodes.cache import CacheShape, KVCache
from specdecodes.engine.compile import eager_steps
from specdecodes.engine.layers import ResidentLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.models.decoder import Decoder
from specdecodes.models.kernels.cache_codes import encode, turn
from specdecodes.tree import TokenTree

QWEN = (896, 4864, 14, 2, 64)
"""Hidden size, that of the feed-forward part, heads, key heads and their size."""
LAYERS, WORDS = 24, 151936
BF16, INT8 = "bf16", "int8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", default="2048,8192,32768")
    parser.add_argument("--widths", default="1,4")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="the receipt, a JSON file")
    given = parser.parse_args()
    contexts, widths = ([int(number) for number in text.split(",")] for text in (given.contexts, given.widths))
    decoder, results = draft(max(contexts)), []
    table = Table("context", "width", "cache MB, bf16", "8 bits", "level ms, bf16", "8 bits", "8 bits / bf16")
    for context in contexts:
        for found in measure(decoder, context, widths, given.rounds):
            results.append(found)
            figures = [found[f"{kind}_mb"] for kind in (BF16, INT8)]
            figures += [found[f"{kind}_ms"] for kind in (BF16, INT8)]
            ratio = found["ratio"]
            table.add_row(str(context), str(found["width"]), *(f"{one:.1f}" for one in figures), f"{ratio:.2f}")
    Console().print(table)
    if given.out is not None:
        write_receipt(given.out, {"layers": LAYERS, "results": results})


def draft(positions: int) -> Decoder:
    """The model without meaning."""
    spec = replace(llama(*QWEN), layers=LAYERS, windows=(None,) * LAYERS, vocab_size=WORDS, max_positions=positions)
    decoder = Decoder(spec, torch.bfloat16)
    for index in range(LAYERS):
        decoder.layers[index] = layer_of(spec)
    decoder.embedding = decoder.head.weight = torch.randn(WORDS, spec.hidden_size, dtype=torch.bfloat16) / 30
    decoder.norm.weight = torch.ones(spec.hidden_size, dtype=torch.bfloat16)
    return decoder


def runner_of(decoder: Decoder, context: int, width: int, *, int8: bool) -> ModelRunner:
    """With `context` rows in its cache."""
    spec = decoder.spec
    shape = CacheShape(spec.layers, spec.kv_heads, spec.head_dim, context, 8 * width, 64, int8=int8)
    cache = KVCache(shape, decoder.dtype)
    rows = torch.randn(spec.kv_heads, shape.slots, spec.head_dim, dtype=decoder.dtype)
    cache.keys.copy_(encode(turn(rows)) if int8 else rows)
    cache.values.copy_(encode(rows) if int8 else rows)
    cache.commit(context)
    layers = ResidentLayers(decoder.stack)
    return ModelRunner(decoder, layers, cache, eager_steps(), width=width, chunk=64, exact=False)


def measure(decoder: Decoder, context: int, widths: list[int], rounds: int) -> list[dict[str, float]]:
    """Milliseconds of a level, and megabytes of the cache."""
    found = []
    for width in widths:
        runners = {kind: runner_of(decoder, context, width, int8=kind == INT8) for kind in (BF16, INT8)}
        tree, nodes = TokenTree.rooted(torch.tensor(0), 8 * width), torch.arange(width)
        seconds: dict[str, list[float]] = {kind: [] for kind in runners}
        for _ in range(rounds + 1):
            for kind, runner in runners.items():
                started = time.perf_counter()
                runner.level(tree, nodes)
                seconds[kind].append(time.perf_counter() - started)
        row: dict[str, float] = {"context": context, "width": width}
        for kind, runner in runners.items():
            row[f"{kind}_mb"] = (runner.cache.keys.nbytes + runner.cache.values.nbytes) / 1e6
            row[f"{kind}_ms"] = 1e3 * statistics.median(seconds[kind][1:])
        pairs = list(zip(seconds[INT8], seconds[BF16], strict=True))[1:]
        row["ratio"] = statistics.median(coded / whole for coded, whole in pairs)
        found.append(row)
    return found


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
