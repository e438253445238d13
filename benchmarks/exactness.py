"""Exact mode, counted: logits of plain and speculative decoding, bit against bit, over many rows.

    python benchmarks/exactness.py --rows 100000 --out assets/results/exactness.json

Tiny random models of every family, streamed, in bf16, fp16 and fp32; greedy and sampled; prompts of random length;
every third request is a second turn on the kept cache. A row is one emitted token's logits. Two processes share the
work.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

import torch

from benchmarks.receipt import write_receipt
from specdecodes.methods import build
from specdecodes.sampling import SamplingParams
from tests.conftest import FAMILY_OPTIONS, write_tiny
from tests.test_lossless import differing_bits, pipeline_for

DTYPES = ("bf16", "fp16", "fp32")
METHODS = ("subspec_sd", "classic_sd")
TOKENS = 120


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="logit rows compared, over all cases")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="the receipt, a JSON file")
    arguments = parser.parse_args()
    cases = list(itertools.product(METHODS, FAMILY_OPTIONS, DTYPES))
    requests = -(-arguments.rows // (len(cases) * TOKENS))
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        results = []
        for result in pool.imap_unordered(compare, [(*case, requests) for case in cases]):
            results.append(result)
            print(*(f"{key} {value}" for key, value in result.items()), flush=True)
    totals = {
        key: sum(result[key] for result in results) for key in ("rows", "values", "differing_bits", "tokens_differ")
    }
    seconds = time.perf_counter() - started
    write_receipt(arguments.out, {"totals": totals, "cases": results, "seconds": seconds})
    print(totals)


def compare(case: tuple[str, str, str, int]) -> dict[str, Any]:
    """One method on one family in one dtype against plain decoding, request by request."""
    method, family, dtype, requests = case
    torch.set_num_threads(1)
    rng = random.Random(repr(case))
    with tempfile.TemporaryDirectory() as folder:
        target = write_tiny(Path(folder) / "target", family, dtype, 0, {})
        draft = write_tiny(Path(folder) / "draft", family, dtype, rng.choice((0, 1)), {})
        rows = values = bits = tokens_differ = 0
        speculative = build(pipeline_for(method, target, draft, exact=True, streamed=True), progress=lambda text: None)
        plain = build(pipeline_for("vanilla", target, None, exact=True), progress=lambda text: None)
        with speculative, plain:
            prompt: tuple[int, ...] = ()
            for number in range(requests):
                follows = number % 3 == 2 and len(prompt) < 100
                new = tuple(rng.randrange(3, 97) for _ in range(rng.randint(1, 100 if not follows else 20)))
                prompt = prompt + new if follows else new
                params = SamplingParams(
                    temperature=rng.choice((0.0, 0.9)), seed=number, max_tokens=TOKENS, ignore_eos=True
                )
                answers, logits = [], []
                for generator in (plain, speculative):
                    kept: list[torch.Tensor] = []
                    keep = kept.append
                    answer = generator.generate(prompt, params, reuse_cache=follows, on_logits=keep)
                    answers.append(answer.tokens)
                    logits.append(torch.cat(kept))
                if answers[0] != answers[1]:
                    tokens_differ += 1
                    break
                rows, values = rows + len(logits[0]), values + logits[0].numel()
                bits += differing_bits(*logits)
                prompt += answers[0]
    return {
        "method": method,
        "family": family,
        "dtype": dtype,
        "rows": rows,
        "values": values,
        "differing_bits": bits,
        "tokens_differ": tokens_differ,
    }


if __name__ == "__main__":
    main()
