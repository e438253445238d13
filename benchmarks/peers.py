"""Plain streamed decoding beside two peers, each in a memory cgroup of the same size, cold page cache, alternating.

    python benchmarks/peers.py --model DIR --cap 1GB --out assets/results/NAME.json [--llama-python PYTHON --gguf FILE]

Arms: this project (`vanilla`, streamed), Transformers with accelerate's disk offload, and llama.cpp on a BF16 GGUF
through mmap (needs llama-cpp-python in the interpreter named; `benchmarks/to_gguf.py` writes the file). Every arm
decodes the same prompt tokens greedily, one token a step; the first step is left out. Needs root: the cgroup limits
the page cache too, and caches are dropped before every run. The disk's own speed is read before each arm.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

from specdecodes.benchmark.environment import describe
from specdecodes.offload.store import measure_read, probe, read_index
from specdecodes.units import parse_bytes

CGROUP = Path("/sys/fs/cgroup/memory/specdecodes-peers")
PROMPT = [1, *range(300, 330)]  # any tokens will do: what is timed does not depend on them

OURS = """
import json, sys, time
from specdecodes.config import Memory, Pipeline, Target
from specdecodes.methods import build
from specdecodes.sampling import SamplingParams
folder, tokens, budget, prompt = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
pipeline = Pipeline("vanilla", Target(folder), memory=Memory(budget), max_length=256)
with build(pipeline, progress=lambda text: None) as made:
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    made.generate(prompt, SamplingParams(max_tokens=2, ignore_eos=True))  # compiles
    times = [time.perf_counter() for chunk in made.stream(prompt, params) if chunk.tokens]
print(json.dumps([b - a for a, b in zip(times, times[1:])]))
"""

TRANSFORMERS = """
import json, sys, tempfile, time, torch
from transformers import AutoConfig, AutoModelForCausalLM
folder, tokens, budget, prompt = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
layers = AutoConfig.from_pretrained(folder).num_hidden_layers
places = {f"model.layers.{i}": "disk" for i in range(layers)}
places |= {name: "cpu" for name in ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")}
model = AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.bfloat16, device_map=places, offload_folder=tempfile.mkdtemp(dir=sys.argv[5]))
times, ids, cache = [], torch.tensor([prompt]), None
with torch.no_grad():
    for _ in range(tokens):
        out = model(input_ids=ids, past_key_values=cache, use_cache=True)
        ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
        times.append(time.perf_counter())
print(json.dumps([b - a for a, b in zip(times, times[1:])]))
"""

LLAMA_CPP = """
import json, sys, time
from llama_cpp import Llama
path, tokens, budget, prompt = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
model = Llama(path, n_ctx=256, n_threads=2, n_threads_batch=2, use_mmap=True, verbose=False, logits_all=False)
times, step = [], prompt
for _ in range(tokens):
    model.eval(step)
    step = [int(model.scores[model.n_tokens - 1].argmax()) if model.scores.shape[0] >= model.n_tokens else 300]
    times.append(time.perf_counter())
print(json.dumps([b - a for a, b in zip(times, times[1:])]))
"""


def main() -> None:
    arguments = _arguments()
    paths = sorted({span.path for span in read_index(arguments.model).values()})
    direct = probe(paths[0]).direct
    arms = {
        "specdecodes": (sys.executable, OURS, arguments.model),
        "transformers": (sys.executable, TRANSFORMERS, arguments.model),
    }
    if arguments.gguf:
        arms["llama.cpp"] = (arguments.llama_python, LLAMA_CPP, arguments.gguf)
    rounds: list[dict[str, Any]] = []
    for number in range(arguments.rounds):
        row: dict[str, Any] = {}
        for name, (python, script, model) in arms.items():
            disk = measure_read(paths, direct=direct, max_bytes=512 * 10**6)
            seconds = in_cgroup(python, script, str(model), arguments)
            row[name] = {"disk_gbps": disk, "seconds_per_token": statistics.median(seconds), "steps": seconds}
            print(
                f"round {number}: {name} {row[name]['seconds_per_token']:.2f} s/token, disk {disk:.2f} GB/s", flush=True
            )
        rounds.append(row)
    base = "specdecodes"
    medians = {name: statistics.median(row[name]["seconds_per_token"] for row in rounds) for name in arms}
    ratios = {
        name: statistics.median(row[name]["seconds_per_token"] / row[base]["seconds_per_token"] for row in rounds)
        for name in arms
    }
    receipt = {
        "cap_bytes": parse_bytes(arguments.cap),
        "seconds_per_token": medians,
        "times_as_fast_as": ratios,
        "rounds": rounds,
        "command": " ".join(["python", *sys.argv]),
        "environment": describe(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(receipt, indent=1) + "\n")
    print(json.dumps({"seconds_per_token": medians, "times_as_fast_as": ratios}, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint folder")
    parser.add_argument("--cap", required=True, help="memory limit of every arm, page cache included, like 1GB")
    parser.add_argument("--device-memory", help="budget of our arm; half the cap when not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=6)
    parser.add_argument("--llama-python", default=sys.executable, help="interpreter that has llama-cpp-python")
    parser.add_argument("--gguf", type=Path, help="adds the llama.cpp arm")
    parser.add_argument("--out", type=Path, required=True, help="the receipt, a JSON file")
    arguments = parser.parse_args()
    arguments.device_memory = arguments.device_memory or str(parse_bytes(arguments.cap) // 2)
    return arguments


def in_cgroup(python: str, script: str, model: str, arguments: argparse.Namespace) -> list[float]:
    """Seconds of each step after the first, run by `script` in a fresh, capped, cold process."""
    CGROUP.mkdir(exist_ok=True)
    (CGROUP / "memory.limit_in_bytes").write_text(str(parse_bytes(arguments.cap)))
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    enter = f'echo $$ > {CGROUP}/cgroup.procs; exec "$@"'
    scratch = str(arguments.out.parent)
    options = [model, str(arguments.tokens), arguments.device_memory, json.dumps(PROMPT), scratch]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        ["bash", "-c", enter, "bash", python, "-c", script, *options], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(f"an arm failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
