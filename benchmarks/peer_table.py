"""The arms of `benchmarks/peers.py`, what each needs, and the table of what they did."""

from __future__ import annotations

import argparse
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.capped import has_module
from specdecodes import tables

HERE = Path(__file__).resolve().parent
BASE = "vanilla"
STREAMED, RESIDENT = "streamed", "resident"
PUBLISHED = {
    "tree.width": 6,
    "tree.depth": 48,
    "tree.nodes": 289,
    "tree.adaptive": False,
    "draft.temperature": 0.2,
    "draft.quant": "hqq4",  # not fewer bits, however small the budget
    "memory.compress": "off",
}


@dataclass(frozen=True)
class Side:
    """Whose program an arm runs: its script, the module it needs and how to get that."""

    script: str
    module: str
    install: str


SIDES = {
    "ours": Side("ours.py", "torch", "pip install -r requirements.txt"),
    "transformers": Side("with_transformers.py", "accelerate", "pip install accelerate"),
    "llama.cpp": Side("with_llama_cpp.py", "llama_cpp", "pip install llama-cpp-python"),
}


@dataclass(frozen=True)
class Rival:
    """`options` are for its script; `needs`: `draft` (a second model), `gpu`."""

    side: str
    options: Mapping[str, Any] = field(default_factory=dict)
    where: tuple[str, ...] = (STREAMED,)
    drafts: bool = True
    needs: tuple[str, ...] = ()


def _ours(method: str, *where: str, needs: tuple[str, ...] = (), **options: Any) -> Rival:
    """A baseline has its fastest setting: no exact mode, so no padding."""
    settings = {"method": method, "exact": False, **{key.replace("__", "."): value for key, value in options.items()}}
    return Rival("ours", settings, where, method != "vanilla", needs)


def _accelerate(offload: str, *where: str, needs: tuple[str, ...] = ()) -> dict[str, Rival]:
    name = f"accelerate-{offload}" if offload else "transformers"
    return {
        name: Rival("transformers", {"offload": offload}, where, False, needs),
        f"{name}-lookup": Rival("transformers", {"offload": offload, "draft": "lookup"}, where, True, needs),
        f"{name}-assistant": Rival(
            "transformers", {"offload": offload, "draft": "assistant"}, where, True, (*needs, "draft")
        ),
    }


ARMS: dict[str, Rival] = {
    "vanilla-blocking": _ours("vanilla", STREAMED, blocking=True, memory__compress="off"),
    BASE: _ours("vanilla", STREAMED, RESIDENT),
    "ngram": _ours("ngram_sd", STREAMED, RESIDENT),
    "classic": _ours("classic_sd", STREAMED, RESIDENT, needs=("draft",)),
    "subspec-published": Rival(
        "ours", {"method": "subspec_sd", "exact": False, "resident_layers": False, **PUBLISHED}, (STREAMED,)
    ),
    "subspec": _ours("subspec_sd", STREAMED, RESIDENT),
    "subspec-uncompressed": _ours("subspec_sd", STREAMED, memory__compress="off"),
    "subspec-exact": Rival("ours", {"method": "subspec_sd", "exact": True}),
    "subspec-ngram": _ours("subspec_sd", STREAMED, draft__ngram=8),
    **_accelerate("disk", STREAMED),
    **_accelerate("cpu", STREAMED, needs=("gpu",)),
    **_accelerate("", RESIDENT),
    "llama-bf16": Rival("llama.cpp", {}, (STREAMED, RESIDENT), drafts=False),
    "llama-q4": Rival("llama.cpp", {"q4": True}, (STREAMED, RESIDENT), drafts=False),
}


def tree_of(where: str, device: str) -> dict[str, int]:
    """The tree of our arms: as large as its pass is cheap there."""
    if where == RESIDENT and device == "cpu":
        return {"tree.width": 1, "tree.depth": 6, "tree.nodes": 8}
    if device == "cpu":
        return {"tree.width": 4, "tree.depth": 32, "tree.nodes": 64}
    return {"tree.width": 6, "tree.depth": 48, "tree.nodes": 256}


def q4_of(gguf: Path) -> Path:
    """Where the 4-bit copy of a GGUF is."""
    return gguf.with_name(f"{gguf.stem}-Q4_K_M.gguf")


def obstacle(name: str, arguments: argparse.Namespace) -> str:
    """Why an arm cannot run here, with the cure; empty when it can. Writes the 4-bit GGUF where it is missing."""
    arm = ARMS[name]
    side = SIDES[arm.side]
    if "gpu" in arm.needs and not torch.cuda.is_available():
        return "it needs a GPU beside the host's memory"
    if "draft" in arm.needs and arguments.draft_model is None:
        return "it needs a second model: --draft-model DIR"
    python = python_of(name, arguments)
    if not has_module(python, side.module):
        return f"not installed: {side.install}"
    if arm.side != "llama.cpp":
        return ""
    if arguments.gguf is None or not arguments.gguf.is_file():
        return f"no GGUF: python benchmarks/to_gguf.py --model {arguments.model} --out BF16.gguf, then --gguf BF16.gguf"
    target = q4_of(arguments.gguf)
    if arm.options.get("q4") and not target.is_file():
        command = [python, str(HERE / "arms" / side.script), "--quantize", str(arguments.gguf), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            target.unlink(missing_ok=True)
            return f"llama.cpp could not quantize {arguments.gguf.name}: {(done.stderr.splitlines() or ['?'])[-1]}"
    return ""


def python_of(name: str, arguments: argparse.Namespace) -> str:
    """The interpreter that runs an arm."""
    return arguments.llama_python if ARMS[name].side == "llama.cpp" else arguments.python


def figures(answer: Mapping[str, Any]) -> dict[str, float]:
    """Of one answer: the rate of all tokens behind the first that came, and when that was; what the arm told."""
    stamps = answer["stamps"]
    found = {name: value for name, value in answer.items() if isinstance(value, int | float)}
    if stamps:
        found["first_token_s"] = stamps[0][0]
    if len(stamps) > 1:
        tokens = sum(count for _, count in stamps[1:])
        found["tokens_per_second"] = tokens / (stamps[-1][0] - stamps[0][0])
        found["tokens_per_pass"] = tokens / (len(stamps) - 1)
    return found


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By arm the medians over its answers, its speed in those of plain decoding on the same prompt in the same round,
    and how many tokens are plain decoding's, as far as the shorter answer goes."""
    plain = {(run["round"], place): answer for run in runs if run["arm"] == BASE for place, answer in _placed(run)}
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(run["arm"] for run in runs):
        mine = [run for run in runs if run["arm"] == name]
        rows = [figures(answer) for run in mine for answer in run["answers"]]
        row: dict[str, Any] = {key: _median(rows, key) for key in dict.fromkeys(key for one in rows for key in one)}
        row["answers"], row["peak_bytes"] = len(rows), _median(mine, "peak_bytes")
        row["error"] = next((run["error"] for run in mine if "error" in run), None)
        pairs = [
            (answer, plain[run["round"], place])
            for run in mine
            for place, answer in _placed(run)
            if (run["round"], place) in plain
        ]
        ratios = [
            {"ratio": figures(answer)["tokens_per_second"] / figures(base)["tokens_per_second"]}
            for answer, base in pairs
            if len(answer["stamps"]) > 1 and len(base["stamps"]) > 1
        ]
        row["times_plain"] = _median(ratios, "ratio")
        row["alike"] = sum(alike(answer["tokens"], base["tokens"]) for answer, base in pairs)
        row["comparable"] = sum(min(len(answer["tokens"]), len(base["tokens"])) for answer, base in pairs)
        found[name] = row
    return found


def alike(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Tokens until the first that differs."""
    pairs = list(zip(ours, theirs, strict=False))
    return next((place for place, (one, other) in enumerate(pairs) if one != other), len(pairs))


def markdown(runs: Sequence[Mapping[str, Any]], left_out: Mapping[str, str], notes: Sequence[str]) -> str:
    """The table, what was left out, and the notes."""
    heads = ("arm", "tokens/s", f"times {BASE}", "tokens a pass", "first token", "peak memory", f"as {BASE}")
    rows = [
        (
            name,
            _cell(row.get("tokens_per_second"), "{:.2f}") or f"failed: {row['error']}",
            _cell(row["times_plain"], "{:.2f}"),
            _cell(row.get("tokens_per_pass"), "{:.1f}"),
            _cell(row.get("first_token_s"), "{:.1f} s"),
            _cell(row["peak_bytes"] and row["peak_bytes"] / 2**20, "{:.0f} MiB"),
            f"{row['alike']}/{row['comparable']}" if row["comparable"] else "",
        )
        for name, row in summary(runs).items()
    ]
    told = dict.fromkeys(f"{run['arm']}: {run['note']}" for run in runs if "note" in run)
    more = [*told, *(f"{name}: left out, {reason}" for name, reason in left_out.items()), *notes]
    return tables.markdown(heads, rows) + "\n" + "".join(f"- {line}\n" for line in more)


def _placed(run: Mapping[str, Any]) -> list[tuple[int, Any]]:
    return list(enumerate(run["answers"]))


def _median(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return statistics.median(values) if values else None


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
