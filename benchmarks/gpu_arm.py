"""One arm of `benchmarks/gpu.py`: a method of ours or a peer, in this process, under the cap."""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from benchmarks.alternating import figures, link_used
from benchmarks.baselines import blocking_streams, without_resident_layers
from specdecodes.benchmark.questions.mt_bench import BUNDLED
from specdecodes.benchmark.questions.sources import question, read_samples
from specdecodes.config import Draft, Memory, Pipeline, Target, Tree
from specdecodes.methods import build
from specdecodes.methods.measured.machine import link_gbps
from specdecodes.native import missing_triton
from specdecodes.offload.planning.candidates import DRAFT, EMBEDDING_AND_HEAD, HEAD, counted
from specdecodes.offload.planning.plan import Placement
from specdecodes.sampling import SamplingParams
from specdecodes.units import parse_bytes

ACCELERATE, LLAMA_CPP = "transformers + accelerate", "llama.cpp"
OURS = Tree(width=6, depth=48, nodes=256)
PIECE, PATIENCE = 2**29, 10.0  # bytes that host memory is taken by, and seconds that more of it is waited for


@dataclass(frozen=True)
class GpuArm:
    """A method of ours. Baselines have their fastest setting; `published` ones have what the published system has of
    theirs: nothing compressed, for a draft no layer resident, for plain decoding none fetched ahead. `ring`: slots, in
    place of as many resident layers as a plan would choose, so that the link is busy while a draft runs. The others
    are ours without one of its parts (layers compressed, beside the substitute or at all, or `ahead` of their pass,
    `graphs`), or on another `kernel`."""

    method: str
    tree: Tree = Tree(nodes=2)
    exact: bool = False
    published: bool = False
    ring: int | None = None
    compress: str = "auto"
    ahead: bool = True
    graphs: bool = True
    kernel: str = ""  # of the substitutes, also the name of the package that it needs; empty: ours


PUBLISHED = "subspec, published settings"
ARMS: dict[str, GpuArm] = {  # those that matter most come first, in case that time runs out
    "plain": GpuArm("vanilla"),
    "subspec": GpuArm("subspec_sd", OURS),
    PUBLISHED: GpuArm("subspec_sd", Tree(width=6, depth=48, nodes=289, adaptive=False), published=True),
    "subspec, reading ahead": GpuArm("subspec_sd", OURS, ring=6, compress="off"),
    "subspec, compressed alone": GpuArm("subspec_sd", OURS, compress="alone"),
    "subspec, not compressed": GpuArm("subspec_sd", OURS, compress="off"),
    "subspec, gemlite": GpuArm("subspec_sd", OURS, kernel="gemlite"),  # whose buffers we do not read: compressed alone
    "subspec, always 24 levels": GpuArm("subspec_sd", replace(OURS, depth=24, adaptive=False)),
    "plain, blocking": GpuArm("vanilla", published=True),
    "subspec, exact": GpuArm("subspec_sd", OURS, exact=True),
    "classic": GpuArm("classic_sd", replace(OURS, depth=32)),
    "subspec, waiting while drafting": GpuArm("subspec_sd", OURS, ahead=False),
    "subspec, no graphs": GpuArm("subspec_sd", OURS, graphs=False),
}


def run_arm(arguments: argparse.Namespace) -> dict[str, Any]:
    """The medians of one arm's answers."""
    if not arguments.dry_run:
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, parse_bytes(arguments.cap) / total))
    if arguments.host_memory:
        await_memory(parse_bytes(arguments.host_memory))
    prompts = [sample.turns[0] for sample in read_samples(BUNDLED, question)][: arguments.prompts + 1]
    answer = {ACCELERATE: with_accelerate, LLAMA_CPP: with_llama_cpp}.get(arguments.arm, with_ours)
    rows = list(answer(arguments, prompts))[1:]  # the first compiles and warms up
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0] if _is_number(rows[0][name])}
    if not arguments.dry_run:
        medians["peak_gib"] = torch.cuda.max_memory_reserved() / 2**30
    return {"plan": rows[0]["plan"], **medians} if "plan" in rows[0] else medians


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def await_memory(wanted: int) -> None:
    """Take host memory until `wanted` bytes are there, and give it back: a virtual machine may be given its memory as
    it is used, and a plan counts what is free. Ends when for some seconds there was no more."""
    taken: list[torch.Tensor] = []
    since = time.monotonic()
    while (free := psutil.virtual_memory().available) + len(taken) * PIECE < wanted:
        if free > 2 * PIECE:
            taken.append(torch.ones(PIECE, dtype=torch.uint8))
            since = time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            break
        else:
            time.sleep(0.1)


def pipeline_of(arguments: argparse.Namespace) -> Pipeline:
    """The arm's settings: the same target, cap and length for all."""
    arm, dry = ARMS[arguments.arm], arguments.dry_run
    budget = parse_bytes(arguments.cap) - (0 if dry else parse_bytes(arguments.reserve))
    ring = 3 if dry and arm.ring else arm.ring
    compress = "off" if arm.published else arm.compress
    if dry and compress == "auto":  # so small a model would not be compressed, nor that way tried
        compress = "on"
    substitutes = Draft(quant=f"hqq4@{arm.kernel}" if arm.kernel and not dry else "hqq4")
    pipeline = Pipeline(
        method=arm.method,
        target=Target(str(arguments.model), device="cpu" if dry else "cuda"),
        draft=Draft(model=str(arguments.draft_model)) if arm.method == "classic_sd" else substitutes,
        tree=replace(arm.tree, depth=4, nodes=min(arm.tree.nodes, 16)) if dry else arm.tree,
        memory=Memory(device=budget, host=arguments.host_memory, compress=compress, ring=ring, ahead=arm.ahead),
        max_length=512 if dry else 2048,
        exact=arm.exact,
        compile=compiles(arguments),
        graphs=arm.graphs,
    )
    return without_resident_layers(pipeline) if arm.published and arm.method != "vanilla" else pipeline


def compiles(arguments: argparse.Namespace) -> bool:
    """Whether steps are compiled; what that lacks is said."""
    if missing_triton() and not arguments.dry_run:
        print(f"steps are not compiled: {missing_triton()}", file=sys.stderr)
    return not arguments.dry_run and not missing_triton()


def with_ours(arguments: argparse.Namespace, prompts: list[str]) -> Iterator[dict[str, Any]]:
    """One row of figures a prompt."""
    pipeline = pipeline_of(arguments)
    plain = pipeline.method == "vanilla"
    tokens = arguments.plain_tokens if plain else arguments.tokens
    # 1.2: no loops in a small model
    params = SamplingParams(max_tokens=tokens, ignore_eos=True, repetition_penalty=1.2)
    link, memory = (0.0, 0.0) if arguments.dry_run else (link_gbps(torch.device("cuda")), memory_gbps())
    torch.cuda.empty_cache()
    streams = blocking_streams() if plain and ARMS[arguments.arm].published else contextlib.nullcontext()
    with streams, build(pipeline, progress=lambda text: print(text, file=sys.stderr)) as generator:
        plan, least = [list(row) for row in generator.placement.rows()], draft_bytes(generator.placement)
        expected = generator.placement.predicted.tokens_per_second
        for prompt in prompts:
            row = figures([generator.generate([{"role": "user", "content": prompt}], params)])
            row |= {"draft_step_ms": 1000 * row["draft_step_s"], "draft_bytes": least, "plan": plan}
            row |= {"link_bare_gbps": link, "link_used": link_used(row, link), "memory_gbps": memory}
            row |= {"gb_per_round": row["bytes_per_round"] / 1e9, "expected_tokens_per_second": expected}
            yield row | {"times_its_bytes": row["draft_step_s"] * memory * 1e9 / least if least else 0.0}


def draft_bytes(placement: Placement) -> int:
    """What a draft level reads, its cache apart: a model of its own; or substitutes, the layers that have none, and the
    head. 0 where nothing is drafted."""
    sizes, resident = placement.device_bytes, placement.resident
    if not placement.predicted.draft_step_s or sizes[DRAFT]:
        return sizes[DRAFT]
    kept = len(set(resident) - set(placement.substituted))
    whole = sizes[counted(len(resident), "resident layer")] * kept // max(len(resident), 1)
    head = sizes[HEAD if placement.rows_from_host else EMBEDDING_AND_HEAD]
    return sizes[counted(len(placement.substituted), "substitute")] + whole + head


def memory_gbps() -> float:
    """GB/s of the device's own memory, reads and writes counted, the best of five copies."""
    source = torch.randint(0, 256, (2**28,), dtype=torch.uint8, device="cuda")
    target, best = torch.empty_like(source), float("inf")
    for _ in range(5):
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        target.copy_(source)
        ended.record()
        ended.synchronize()
        best = min(best, began.elapsed_time(ended))
    return 2 * source.nbytes / best / 1e6


def with_accelerate(arguments: argparse.Namespace, prompts: list[str]) -> Iterator[dict[str, Any]]:
    """Transformers, the layers that do not fit offloaded by accelerate; in a dry run to disk. Its copies are slow: few
    tokens of one prompt behind the first."""
    tokens, prompts = max(2, arguments.plain_tokens // 4), prompts[:2]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    budget = parse_bytes(arguments.cap) - (0 if arguments.dry_run else parse_bytes(arguments.reserve))
    places: dict[int | str, int | str] = {"cpu": budget} if arguments.dry_run else {0: budget, "cpu": "1000GiB"}
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        model = AutoModelForCausalLM.from_pretrained(
            arguments.model, dtype=torch.bfloat16, device_map="auto", max_memory=places, offload_folder=folder
        )
        device = "cpu" if arguments.dry_run else "cuda"
        for prompt in prompts:
            ids = torch.tensor([tokenizer(prompt).input_ids], device=device)
            yield _timed(lambda ids=ids: model(input_ids=ids), model, tokens)


def _timed(first: Any, model: Any, tokens: int) -> dict[str, Any]:
    """Greedy decoding of `tokens` tokens after `first`, the pass over the prompt; the clock starts behind that."""
    out = first()
    ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
    ids.item()
    started = time.perf_counter()
    for _ in range(tokens):
        out = model(input_ids=ids, past_key_values=cache)
        ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
        ids.item()
    return {"decode_tokens_per_second": tokens / (time.perf_counter() - started)}


def with_llama_cpp(arguments: argparse.Namespace, prompts: list[str]) -> Iterator[dict[str, Any]]:
    """llama.cpp on a BF16 file, with as many layers on the device as the budget holds."""
    from llama_cpp import Llama

    layers = json.loads((arguments.model / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    fit = layers * (parse_bytes(arguments.cap) - parse_bytes(arguments.reserve)) // arguments.gguf.stat().st_size
    on_device = 0 if arguments.dry_run else min(layers, fit)
    model = Llama(str(arguments.gguf), n_ctx=2048, n_gpu_layers=on_device, verbose=False)
    for prompt in prompts:
        model.reset()
        model.eval(model.tokenize(prompt.encode()))
        started = time.perf_counter()
        for _ in range(arguments.plain_tokens):
            model.eval([model.sample(temp=0.0)])
        yield {"decode_tokens_per_second": arguments.plain_tokens / (time.perf_counter() - started)}
