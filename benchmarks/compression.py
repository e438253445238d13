"""Streamed weights as they are and losslessly compressed in both ways, in plain decoding and under SubSpec, in turn.

    python benchmarks/compression.py --make DIR
    python benchmarks/compression.py --model DIR --out assets/results/NAME.json

The checkpoint that --make writes has normally distributed bf16 weights, which compress as trained ones do (alone to
67.1% of their bytes; a model that was widened with zeros would compress better than any real one). Such weights say
nothing that a draft would guess, and which layers it drafts as they are changes what it guesses: what is compared are
rounds. Compressed copies are written to the cache folder before anything is timed. The receipt has the terms of a mean
round, how many times as fast one is than with the switch off, within a prompt, what each arm's plan expected before it
ran, and what `auto` chooses by the rates that the runs showed, with the rounds that it then expects. A slower disk is
had by a control group, as root:

    mkdir /sys/fs/cgroup/blkio/slow
    echo "$(lsblk -no MAJ:MIN DEVICE | xargs) 1000000000" > /sys/fs/cgroup/blkio/slow/blkio.throttle.read_bps_device
    echo $$ > /sys/fs/cgroup/blkio/slow/cgroup.procs
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

from benchmarks.alternating import paired
from benchmarks.receipt import write_receipt
from benchmarks.settings import in_turn, table
from specdecodes.config import Memory, Pipeline, Target, Tree
from specdecodes.errors import reported
from specdecodes.methods import plan_for
from specdecodes.methods.measured.outcome import learn_stream
from specdecodes.offload.compression.alone import codec
from specdecodes.sampling import SamplingParams

SOURCE = Path(__file__).resolve().parents[1] / "assets" / "demo"  # of the tokenizer
HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 1536, 4096, 18, 12, 4
TREE = Tree(width=4, depth=4, nodes=16, adaptive=False)
WAYS = {"vanilla": ("off", "alone"), "subspec_sd": ("off", "alone", "on")}
"""Values of memory.compress by method; `on` leaves out what the substitutes say, where there are any."""


@reported()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path, metavar="DIR", help="write the checkpoint, and nothing else")
    parser.add_argument("--model", help="a checkpoint folder")
    parser.add_argument("--device-memory", default="500MB", help="budget of all arms (default: 500MB)")
    parser.add_argument("--rounds", type=int, default=5, help="prompts that count")
    parser.add_argument("--tokens", type=int, default=16, help="of an answer")
    parser.add_argument("--plain-tokens", type=int, default=8, help="of an answer of plain decoding")
    parser.add_argument("--out", type=Path, help="the receipt, a JSON file")
    arguments = parser.parse_args()
    if arguments.make is not None:
        make(arguments.make)
        return
    if arguments.model is None or arguments.out is None:
        parser.error("give --model and --out, or --make")
    receipt = measure(arguments)
    write_receipt(arguments.out, receipt)
    print(table(receipt))
    print(json.dumps({name: receipt[name] for name in ("codec", "rounds_faster", "auto")}, indent=1))


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
    """All arms on the same prompts, in turn. Raises RuntimeError where their tokens differ."""
    pipelines = arms(arguments.model, arguments.device_memory)
    plain = dict.fromkeys((name for name in pipelines if name.startswith("vanilla")), arguments.plain_tokens)
    params = SamplingParams(max_tokens=arguments.tokens, ignore_eos=True)
    found = in_turn(pipelines, params, rounds=arguments.rounds, warm=1, tokens=plain)
    speed = {"way": codec.way(), "gbps_of_a_core": codec.core_gbps()}
    if not all(found["same_tokens"]):
        raise RuntimeError("the arms gave different tokens")
    for name, pipeline in pipelines.items():
        learn_stream(pipeline, plan_for(pipeline), found["medians"][name]["link_gbps"])
    ratios = {name: faster(found["rounds"], name) for name in pipelines if not name.endswith(" off")}
    auto = {method: choice(pipelines[f"{method} off"]) for method in WAYS}
    return {"codec": speed, "rounds_faster": ratios, "auto": auto} | found


def arms(model: str, device_memory: str) -> dict[str, Pipeline]:
    """By name: each method in each of its ways."""
    base = Pipeline("vanilla", Target(model), tree=TREE, max_length=512, exact=False)
    return {
        f"{method} {how}": replace(base, method=method, memory=Memory(device_memory, compress=how))
        for method, ways in WAYS.items()
        for how in ways
    }


def faster(rounds: Sequence[Mapping[str, Mapping[str, float]]], name: str) -> dict[str, Any]:
    """How many times as fast a round of arm `name` is as one with weights as they are, within a prompt."""
    off = f"{name.rpartition(' ')[0]} off"
    return paired([row[off]["round_s"] for row in rounds], [row[name]["round_s"] for row in rounds])


def choice(pipeline: Pipeline) -> dict[str, Any]:
    """What the planner makes of memory.compress=auto: the way that it takes, and the speeds that it weighed."""
    placement = plan_for(replace(pipeline, memory=replace(pipeline.memory, compress="auto")))
    other = [one for one in placement.rejected if one.what.startswith("streamed layers")]
    return {
        "compresses": placement.compression.kind if placement.compression else "",
        "kept": len(placement.kept),
        "link_gbps": placement.predicted.link_gbps,
        "predicted": placement.predicted.tokens_per_second,
        "predicted_round_s": placement.predicted.round_s,
        "other": {one.what: one.tokens_per_second for one in other},
    }


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
