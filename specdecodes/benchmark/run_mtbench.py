"""MT-Bench in the words that people know from speculative decoding's own repositories.

    python -m specdecodes.benchmark.run_mtbench --dtype float16 -llm MODEL -ssm DRAFT --mode sd-classic --out-dir DIR

The same runner, questions and results as `run-benchmark --benchmarks mt-bench`. LOGLEVEL (INFO) says how much is told,
CUDA_VISIBLE_DEVICES which GPU is used.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from specdecodes.benchmark.questions import mt_bench
from specdecodes.benchmark.report import write_report
from specdecodes.benchmark.results.journal import SAMPLES, drop, parse
from specdecodes.benchmark.results.records import SampleRecord
from specdecodes.benchmark.results.table import category_table, figures_table
from specdecodes.benchmark.runner import finished, run
from specdecodes.config import Draft, Memory, Middle, Pipeline, Target, Tree
from specdecodes.errors import ConfigError, reported
from specdecodes.methods import build, learn, plan_for
from specdecodes.sampling import SamplingParams

ASSETS = Path(__file__).resolve().parents[2] / "assets"
DEMO = str(ASSETS / "demo")
METHODS_OF = {
    "naive": "vanilla",
    "sd-classic": "classic_sd",
    "sd-eagle": "eagle_sd",
    "sd-hierspec": "hierspec_sd",
    "subspec": "subspec_sd",
}
DEMO_DRAFTS = {
    "sd-classic": str(ASSETS / "demo-draft"),
    "sd-eagle": str(ASSETS / "demo-eagle"),
    "sd-hierspec": str(ASSETS / "demo-draft"),
}
DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "auto": "auto"}
DEMO_MEMORY = {"auto": "30.5MiB", "bf16": "30.5MiB", "fp16": "31.5MiB", "fp32": "54MiB"}
"""By dtype a budget in which every mode works and a head has to stream, and plain decoding too but in fp16."""

DEMO_PENALTY = 1.2
"""What keeps a model this small out of loops."""

WARMUP = 3
# Tree depth, width and nodes of each mode where none are given: the SubSpec paper's, and EAGLE-2's (60 below the root).
TREES = {
    "subspec": (48, 6, 256),
    "sd-classic": (16, 6, 64),
    "sd-eagle": (6, 10, 61),
    "sd-hierspec": (12, 1, 64),
    "naive": (1, 1, 64),
}
# The demo's are narrower: its budget would not hold larger ones.
DEMO_TREES = TREES | {"subspec": (16, 4, 64), "sd-classic": (16, 4, 64), "sd-eagle": (6, 4, 64)}

log = logging.getLogger("specdecodes.mtbench")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m specdecodes.benchmark.run_mtbench",
        description="Ask MT-Bench; answers and figures go to --out-dir, as run-benchmark writes them.",
    )
    add = options.add_argument
    add("--llm-path", "-llm", default=DEMO, help="target: hub id or folder (default: the demo model)")
    add("--ssm-path", "-ssm", help="draft model (sd-classic), EAGLE head (sd-eagle) or middle model (sd-hierspec)")
    add("--mode", default="naive", choices=METHODS_OF, help="who drafts; naive is plain decoding")
    add("--dtype", default="float16", choices=DTYPES, help="of the target; auto is the checkpoint's own")
    add("--do-sample", action="store_true", help="sample; without it the likeliest token is taken")
    add("--temp", type=float, default=1.0, help="temperature of --do-sample")
    add("--max-new-tokens", type=int, default=SamplingParams().max_tokens, help="of an answer")
    add("--max-length", type=int, default=2048, help="tokens of prompt and answer together")
    add("--max-depth", type=int, help="levels of a draft")
    add("--topk-len", type=int, help="draft tokens of a level")
    add("--max-verify-tokens", type=int, help="draft tokens that one pass of the target verifies")
    add("--max-samples", type=int, help="questions (default: all)")
    add("--data-dir", type=Path, help="folder with mt-bench/question.jsonl (default: the hub, else the bundled ones)")
    add("--device-memory", metavar="SIZE", help="budget of the model: 8GiB (the demo's: less than it takes)")
    add("--host-memory", metavar="SIZE", help="budget of RAM beside a GPU: 16GiB")
    add("--repetition-penalty", type=float, help=f"1 is none (the demo's: {DEMO_PENALTY}; others: 1)")
    add("--seed", type=int, default=0, help="of the dice and the order of the questions")
    add("--eager", action="store_true", help="do not compile: starts sooner, runs slower")
    add("--out-dir", type=Path, help="folder of the results (default: results/MODE-MODEL)")
    add("--log-dir", type=Path, help="folder that gets a folder of this run: its log, and queries with answers")
    add("--restart", action="store_true", help="drop what --out-dir holds; without it the run goes on from there")
    return options


def pipeline_of(given: argparse.Namespace) -> Pipeline:
    """The experiment that the options mean. Raises ConfigError when a draft is missing or not wanted."""
    demo = Path(given.llm_path).resolve() == Path(DEMO)
    draft = given.ssm_path or (DEMO_DRAFTS.get(given.mode) if demo else None)
    dtype = DTYPES[given.dtype]
    penalty, memory = (DEMO_PENALTY, DEMO_MEMORY[dtype]) if demo else (1.0, None)
    if given.mode in DEMO_DRAFTS and draft is None:
        raise ConfigError(f"--mode {given.mode} drafts with a model of its own; name it with -ssm.")
    if given.mode not in DEMO_DRAFTS and given.ssm_path:
        modes = ", ".join(DEMO_DRAFTS)
        raise ConfigError(f"--mode {given.mode} has no second model; leave out -ssm, or take one of {modes}.")
    depth, width, nodes = (DEMO_TREES if demo else TREES)[given.mode]
    verified = nodes if given.max_verify_tokens is None else given.max_verify_tokens + 1
    sampling = SamplingParams(
        temperature=given.temp if given.do_sample else 0.0,
        max_tokens=given.max_new_tokens,
        repetition_penalty=given.repetition_penalty or penalty,
        seed=given.seed,
    )
    middle = Middle(draft) if given.mode == "sd-hierspec" else Middle()  # the text drafts for it
    return Pipeline(
        method=METHODS_OF[given.mode],
        target=Target(given.llm_path, dtype),
        draft=Draft(draft, temperature=1.0) if draft and not middle.model else Draft(),
        middle=middle,
        tree=Tree(width=given.topk_len or width, depth=given.max_depth or depth, nodes=verified),
        memory=Memory(given.device_memory or memory, given.host_memory),
        sampling=sampling,
        max_length=given.max_length,
        compile=not given.eager,
        seed=given.seed,
        warmup=WARMUP,
    )


def ask(given: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark, or read what a finished run left; returns the summary."""
    pipeline, benchmark = pipeline_of(given), mt_bench.load(given.data_dir)
    folder = results_folder(given)
    if given.restart:
        drop(folder / benchmark.name)
    summary = finished(benchmark, pipeline, folder, max_samples=given.max_samples, notify=log.info)
    if summary is not None:
        log.info("nothing was asked: %s is complete (--restart asks again)", folder / benchmark.name)
    else:
        placement = plan_for(pipeline)
        log.info(placement.summary())
        with build(pipeline, placement, progress=log.info) as generator:
            summary = run(
                *(generator, benchmark, pipeline, folder),
                max_samples=given.max_samples,
                command=f"python -m {parser().prog.split()[-1]} {shlex.join(sys.argv[1:])}",
                notify=log.info,
                watch=lambda seen: log.log(logging.DEBUG if seen.event == "asking" else logging.INFO, "%s", seen),
            )
        learn(pipeline, placement, summary, generator.habits)
        log.info("answers and figures: %s", folder / benchmark.name)
        write_report([folder], folder / "report.html")
    return summary


def results_folder(given: argparse.Namespace) -> Path:
    """Where the results go: as `run-benchmark`, a folder with one of each benchmark in it."""
    return given.out_dir or Path("results") / f"{given.mode}-{Path(given.llm_path).name}"


def start_log(folder: Path | None) -> Path | None:
    """Tell the log to standard error at the level that LOGLEVEL names, and to a folder of this run in `folder`."""
    level = os.environ.get("LOGLEVEL", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise ConfigError(f"LOGLEVEL is '{level}'; write DEBUG, INFO, WARNING or ERROR.")
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    mine = None
    if folder is not None:
        mine = folder / time.strftime("%Y%m%d-%H%M%S")
        mine.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(mine / "run.log", encoding="utf-8"))
    log.setLevel(level)
    log.propagate = False
    log.handlers = handlers
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return mine


def write_queries(samples: Path, path: Path) -> None:
    """One line a question turn, as logs of this command have it: query, response, tokens/s, tokens of a round."""
    records, _ = parse(samples.read_bytes(), samples)
    lines = [json.dumps(entry, ensure_ascii=False) for record in records.values() for entry in _queries(record)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _queries(record: SampleRecord) -> list[dict[str, Any]]:
    return [
        {
            "question_id": record.id,
            "query": turn,
            "response": answer.text,
            "n_tokens": len(answer.tokens),
            "tput": len(answer.tokens) / answer.total_seconds,
            "avg_sampled": len(answer.tokens) / (len(answer.rounds) + 1),
        }
        for turn, answer in zip(record.turns, record.answers, strict=False)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, ask, show the figures."""
    given = parser().parse_args(arguments)
    with reported():
        mine = start_log(given.log_dir)
        summary = ask(given)
    if mine is not None:
        write_queries(results_folder(given) / mt_bench.NAME / SAMPLES, mine / "0.jsonl")
    out = Console()
    out.print(figures_table(summary, f"mt-bench: {summary['method']} on {summary['model']}"))
    if (categories := category_table(summary)) is not None:
        out.print(categories)
    sys.exit(1 if summary["failed"] else 0)


if __name__ == "__main__":
    main()
