"""Plain decoding of a streamed model with and without compression of its weights, alternating.

    python benchmarks/compression.py --make normal-0.9gb
    python benchmarks/compression.py --model normal-0.9gb --device-memory 300MB --out assets/results/NAME.json

`--make` writes a Llama-shaped checkpoint of normally distributed bf16 weights: their exponents are spread like those of
trained ones, and how much they compress is all that is asked of them. Both arms share budget, prompt and clock. The
compressed copy is written to the cache folder before anything is timed. Quoted are medians over the rounds, of the
ratio too. Measured on two Zen 4 cores: 1.23 times the tokens/s where plain streaming reads 2.1 GB/s, 1.39 times where a
cgroup (`blkio.throttle.read_bps_device`, 10**9 bytes a second) makes that 1.0 GB/s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

from benchmarks.receipt import write_receipt
from specdecodes.config import Memory, Pipeline, Target
from specdecodes.errors import reported
from specdecodes.methods import build
from specdecodes.offload import codec
from specdecodes.sampling import SamplingParams
from specdecodes.stats import summarize

SOURCE = Path(__file__).resolve().parents[1] / "assets" / "demo"  # of the tokenizer
HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 1536, 4096, 18, 12, 4
PROMPT = tuple(range(5, 37))
FIGURES = (
    "new_tokens decode_tokens_per_second rounds phase_seconds bytes_per_round bytes_streamed link_gbps link_utilization"
)


@reported()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path, metavar="DIR", help="write the checkpoint, and nothing else")
    parser.add_argument("--model", help="a checkpoint folder")
    parser.add_argument("--device-memory", default="300MB", help="budget of both arms")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=8, help="of each answer")
    parser.add_argument("--out", type=Path, help="the receipt, a JSON file")
    arguments = parser.parse_args()
    if arguments.make is not None:
        make(arguments.make)
        return
    if arguments.model is None or arguments.out is None:
        parser.error("give --model and --out, or --make")
    receipt = measure(arguments)
    write_receipt(arguments.out, receipt)
    print(json.dumps({name: receipt[name] for name in ("codec", "medians", "ratio")}, indent=1))


def make(folder: Path) -> None:
    """Writes the checkpoint: 0.9 GB."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(SOURCE)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        tie_word_embeddings=True,
        initializer_range=0.02,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both arms on the same prompt, in turn; raises RuntimeError when their tokens differ."""
    base = Pipeline("vanilla", Target(arguments.model), max_length=512, exact=False, compile=False)
    arms = {
        how: build(replace(base, memory=Memory(arguments.device_memory, compress=how)), progress=print)
        for how in ("off", "on")
    }
    params, rounds, answers = SamplingParams(max_tokens=arguments.tokens, ignore_eos=True), [], set()
    for number in range(arguments.rounds + 1):
        row = {}
        for how, generator in arms.items():
            answer = generator.generate(PROMPT, params)
            answers.add(answer.tokens)
            summary = summarize([answer])
            row[how] = {name: summary[name] for name in FIGURES.split()}
        print(", ".join(f"{how} {row[how]['decode_tokens_per_second']:.2f} tokens/s" for how in row), flush=True)
        if number:  # the first warms up
            rounds.append(row)
    if len(answers) != 1:
        raise RuntimeError("the arms gave different tokens")
    plans = {how: [list(line) for line in generator.placement.rows()] for how, generator in arms.items()}
    for generator in arms.values():
        generator.close()
    numbers = ("decode_tokens_per_second", "bytes_per_round", "link_gbps", "link_utilization")
    medians = {how: {name: statistics.median(row[how][name] for row in rounds) for name in numbers} for how in arms}
    ratios = [row["on"]["decode_tokens_per_second"] / row["off"]["decode_tokens_per_second"] for row in rounds]
    speed = {"way": codec.way(), "gbps_of_a_core": codec.core_gbps()}
    return {"codec": speed, "medians": medians, "ratio": statistics.median(ratios), "rounds": rounds, "plans": plans}


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
