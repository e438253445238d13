"""One model, one memory budget, one clock: this project beside Transformers with accelerate and llama.cpp; one table.

    python benchmarks/peers.py --model DIR --draft-model DIR --cap 2GiB --out assets/results/NAME.json \\
        [--gguf BF16.gguf --llama-python PYTHON] [--arms vanilla,subspec] [--rounds 2]
    python benchmarks/peers.py --resident --model DIR --draft-model DIR --out assets/results/NAME.json [...]

Every arm answers the same prompts, token ids of the same checkpoint, greedily, in a process of its own; arms alternate,
round after round. Where a control group can be had (Linux, root), each process has the cap's memory, page cache
included, and finds the cache empty; else the receipt says that there was no cap. Of the cap, `--reserve` is for Python
and torch, which no budget counts. A GPU's memory is capped by the budget alone. The clock of an answer starts with its
first token. `--resident` gives every arm all memory there is. An arm that cannot run is listed with the reason; Ctrl-C
keeps what was measured, and so does every finished arm.

Time: on two cores and a 3 GB model about 20 minutes a round, resident 1.2 GB about 6; `--arms` and `--rounds` choose.
The GGUF is written by `benchmarks/to_gguf.py`; its Q4_K_M copy is made beside it when there is none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

import torch
from transformers import AutoTokenizer

from benchmarks.arms.job import Job
from benchmarks.capped import Cap, drop_caches
from benchmarks.peer_table import (
    ARMS,
    RESIDENT,
    SIDES,
    STREAMED,
    figures,
    markdown,
    obstacle,
    python_of,
    q4_of,
    summary,
    tree_of,
)
from specdecodes.benchmark.environment import describe
from specdecodes.benchmark.questions.mt_bench import BUNDLED
from specdecodes.benchmark.questions.sources import question, read_samples
from specdecodes.folders import replacing
from specdecodes.offload.storage.store import measure_read, probe, read_index
from specdecodes.units import parse_bytes

HERE = Path(__file__).resolve().parent


def main() -> int:
    arguments = _arguments()
    known = [name for name, arm in ARMS.items() if where_of(arguments) in arm.where]
    asked = arguments.arms.split(",") if arguments.arms else known
    if unknown := sorted(set(asked) - set(known)):
        print(f"error: no such arm here: {', '.join(unknown)}; there are {', '.join(known)}.", file=sys.stderr)
        return 2
    left_out = {name: reason for name in asked if (reason := obstacle(name, arguments))}
    for name, reason in left_out.items():
        print(f"{name}: left out, {reason}", flush=True)
    return compare(arguments, [name for name in asked if name not in left_out], left_out)


def where_of(arguments: argparse.Namespace) -> str:
    return RESIDENT if arguments.resident else STREAMED


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint folder")
    parser.add_argument("--draft-model", type=Path, help="a small one of the same tokenizer: classic and assisted arms")
    parser.add_argument("--gguf", type=Path, help="the model for llama.cpp, in BF16")
    parser.add_argument("--llama-python", default=sys.executable, help="interpreter that has llama-cpp-python")
    parser.add_argument("--cap", help="memory of every arm, like 2GiB; needed unless --resident")
    parser.add_argument(
        "--reserve", default="800MB", help="of the cap, for Python, torch and the compiler (default: 800MB)"
    )
    parser.add_argument("--resident", action="store_true", help="the model fits: no cap, no streaming")
    parser.add_argument("--arms", help=f"some of: {', '.join(ARMS)}")
    parser.add_argument("--rounds", type=int, default=2, help="runs of every arm, in turn (default: 2)")
    parser.add_argument("--prompts", type=int, default=2, help="answers of an arm in a round (default: 2)")
    parser.add_argument("--tokens", type=int, default=48, help="an answer's, of arms that draft (default: 48)")
    parser.add_argument("--plain-tokens", type=int, default=8, help="an answer's, of all other arms (default: 8)")
    parser.add_argument("--repetition-penalty", type=float, default=1.2, help="keeps a small model out of loops")
    parser.add_argument("--max-length", type=int, default=1024, help="of prompt and answer (default: 1024)")
    parser.add_argument("--limit-minutes", type=float, default=15.0, help="an arm that runs longer is stopped")
    parser.add_argument("--out", type=Path, required=True, help="the receipt, a JSON file; the table is beside it")
    arguments = parser.parse_args()
    arguments.python = sys.executable
    if not (arguments.cap or arguments.resident):
        parser.error("--cap is needed, unless the model is to be --resident")
    return arguments


def compare(arguments: argparse.Namespace, arms: list[str], left_out: dict[str, str]) -> int:
    """Runs the arms in turn; writes receipt and table after every one. 1 when an arm failed, 130 after Ctrl-C."""
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    cap = None if arguments.resident else Cap.find()
    receipt = Receipt(arguments, left_out, [] if arguments.resident else doubts(cap))
    paths = sorted({span.path for span in read_index(arguments.model).values()})
    code = 0
    try:
        direct, prompts = probe(paths[0]).direct, prompts_of(arguments)
        for number in range(arguments.rounds):
            for arm in arms:
                disk = measure_read(paths, direct=direct, max_bytes=512 * 10**6)
                result = run_safely(arm, job_of(arm, arguments, prompts), arguments, cap)
                receipt.add({"arm": arm, "round": number, "disk_gbps": disk, **result})
                print(f"round {number + 1}: {arm}: {in_words(result)}, {result['seconds']:.0f} s", flush=True)
                code = max(code, int("error" in result))
    except KeyboardInterrupt:
        print("stopped; what was measured is kept", file=sys.stderr)
        code = 130
    print(f"\n{receipt.write()}\nwritten to {arguments.out} and {arguments.out.with_suffix('.md')}")
    return code


def doubts(cap: Cap | None) -> list[str]:
    """What keeps the arms from equal terms here."""
    found = []
    if cap is None:
        found.append("no control group was to be had (Linux, root): arms ran without a cap")
    if not drop_caches():
        found.append("the page cache could not be emptied (root): an arm may have found there what another had read")
    for note in found:
        print(f"note: {note}", flush=True)
    return found


class Receipt:
    """What was measured, kept as a JSON file and a table, both whole at any time."""

    def __init__(self, arguments: argparse.Namespace, left_out: dict[str, str], notes: list[str]) -> None:
        self._path, self._cap = arguments.out, arguments.cap
        self._left_out, self._notes = left_out, notes
        self._runs: list[dict[str, Any]] = []
        self._started = time.monotonic()
        self._command = " ".join(["python", *sys.argv])
        self._environment = describe()

    def add(self, run: dict[str, Any]) -> None:
        self._runs.append(run)
        self.write()

    def write(self) -> str:
        """Returns the table."""
        text = markdown(self._runs, self._left_out, self._notes)
        receipt = {"cap": self._cap, "arms": summary(self._runs), "left_out": self._left_out, "notes": self._notes}
        receipt |= {"seconds": time.monotonic() - self._started, "runs": self._runs}
        receipt |= {"command": self._command, "environment": self._environment}
        table = f"{text}\n`{self._command}`\n"
        for path, content in ((self._path, f"{json.dumps(receipt)}\n"), (self._path.with_suffix(".md"), table)):
            with replacing(path) as file:
                file.write(content.encode())
        return text


def in_words(result: dict[str, Any]) -> str:
    rates = [rate for answer in result["answers"] if (rate := figures(answer).get("tokens_per_second"))]
    speed = f"{statistics.median(rates):.2f} tokens/s" if rates else "no speed"
    return f"{speed}, {result['error']}" if "error" in result else speed


def prompts_of(arguments: argparse.Namespace) -> tuple[tuple[int, ...], ...]:
    """Token ids of the first bundled questions, as a chat."""
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    texts = [sample.turns[0] for sample in read_samples(BUNDLED, question)][: arguments.prompts]
    asked = [[{"role": "user", "content": text}] for text in texts]
    encoded = [tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True) for turn in asked]
    return tuple(tuple(one["input_ids"]) for one in encoded)


def job_of(name: str, arguments: argparse.Namespace, prompts: tuple[tuple[int, ...], ...]) -> Job:
    arm, device = ARMS[name], "cuda" if torch.cuda.is_available() else "cpu"
    tokens = arguments.tokens if arm.drafts else arguments.plain_tokens
    reserve = 0 if device == "cuda" or arm.side == "llama.cpp" else parse_bytes(arguments.reserve)
    model, options = arguments.model, dict(arm.options)
    if arm.side == "ours":
        options = tree_of(where_of(arguments), device) | options
    if arm.side == "llama.cpp":
        model = q4_of(arguments.gguf) if arm.options.get("q4") else arguments.gguf
        options["layers"] = json.loads((arguments.model / "config.json").read_text())["num_hidden_layers"]
    return Job(
        model=str(model),
        prompts=prompts,
        tokens=tokens,
        warmup=max(2, tokens // 4) if arm.side == "ours" else 2,
        penalty=arguments.repetition_penalty,
        budget=None if arguments.resident else parse_bytes(arguments.cap) - reserve,
        max_length=arguments.max_length,
        threads=len(os.sched_getaffinity(0)),
        scratch="",  # made for each run
        device=device,
        draft_model=str(arguments.draft_model) if arguments.draft_model else None,
        options=options,
    )


def run_safely(name: str, job: Job, arguments: argparse.Namespace, cap: Cap | None) -> dict[str, Any]:
    """`run_arm`; llama.cpp a second time, without its repacked weights, if they crashed it or were too large."""
    result = run_arm(name, job, arguments, cap)
    if ARMS[name].side != "llama.cpp" or not result.get("killed"):
        return result
    plainer = replace(job, options={**job.options, "repack": False})
    return run_arm(name, plainer, arguments, cap) | {"note": f"weights as in the file; repacked: {result['error']}"}


def run_arm(name: str, job: Job, arguments: argparse.Namespace, cap: Cap | None) -> dict[str, Any]:
    """The arm's answers, from a fresh, capped, cold process; `error` and as many answers as it gave when it fails."""
    script = HERE / "arms" / SIDES[ARMS[name].side].script
    settings = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    settings["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # compilers at work side by side would count against the cap
    if not arguments.resident:
        drop_caches()
    with tempfile.TemporaryDirectory(dir=arguments.out.parent) as scratch:
        command = [python_of(name, arguments), str(script), replace(job, scratch=scratch).written()]
        if cap is not None:
            command = cap.command(parse_bytes(arguments.cap), command)
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started, stopped = time.monotonic(), ""
        process = subprocess.Popen(command, env=os.environ | settings, start_new_session=True, **pipes)
        try:
            out, told = process.communicate(timeout=60 * arguments.limit_minutes)
        except subprocess.TimeoutExpired:
            end(process)
            out, told = process.communicate()
            stopped = f"stopped after {arguments.limit_minutes:g} minutes"
        finally:  # after Ctrl-C too
            end(process)
            process.wait()
    answers = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    peak = cap.peak_bytes if cap else None
    result: dict[str, Any] = {"answers": answers, "seconds": time.monotonic() - started, "peak_bytes": peak}
    if process.returncode:
        result["killed"] = process.returncode < 0 and not stopped
        last = (told.strip().splitlines() or ["no word of why"])[-1]
        killed = f"killed by signal {-process.returncode}: the cap may be too small for it"
        result |= {"error": stopped or (killed if process.returncode < 0 else last), "stderr": told[-4000:]}
    return result


def end(process: subprocess.Popen[str]) -> None:
    """Kill an arm and whatever it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
