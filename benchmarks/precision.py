"""Every scheme as the draft of small full-precision models: its bits, its distance from the target, its acceptance.

    python benchmarks/precision.py --models assets/demo,MODEL --text TEXT --out assets/results/NAME.json

For each model plain decoding and all schemes as Share-SD drafts (a chain of fixed depth, not exact, in groups that the
shapes allow) are open side by side and continue the same paragraphs of the text in turn, greedily; the first warms up.
A draft step is the median over the paragraphs, on the kernel that drafts. KL and perplexity are those of the scheme's
own rounding over the beginning of the text, whatever the kernel.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

import torch

from benchmarks.receipt import write_receipt
from specdecodes.benchmark.perplexity import read_text
from specdecodes.benchmark.sweeps.grid import Point, Row
from specdecodes.benchmark.sweeps.precision import fidelities, markdown, precision_points, table_rows
from specdecodes.config import Pipeline, Target, Tree
from specdecodes.errors import SpecDecodesError
from specdecodes.methods import build
from specdecodes.models.loading import read_spec
from specdecodes.sampling import SamplingParams
from specdecodes.stats import Generation, summarize

LENGTH = 512  # of the context at most
PROMPT = 24  # tokens of a paragraph that are given


def main() -> int:
    arguments = _arguments()
    text = read_text(arguments.text)[: 16 * arguments.tokens]  # few tokens are longer
    try:
        tables = {Path(model).name: measure(model, text, arguments) for model in arguments.models.split(",")}
    except SpecDecodesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, rows in tables.items():
        told = f"{name}, perplexity {rows[0]['target_perplexity']:.3f} over {rows[0]['tokens']} tokens"
        print(f"\n{markdown(rows, [told])}")
    write_receipt(arguments.out, {"models": tables})
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", required=True, help="checkpoint folders, separated by commas")
    parser.add_argument("--text", type=Path, required=True, help="paragraphs, with empty lines between them")
    parser.add_argument("--schemes", default="", help="separated by commas (default: all)")
    parser.add_argument("--tokens", type=int, default=2048, help="of the text, for KL and perplexity")
    parser.add_argument("--rounds", type=int, default=5, help="paragraphs, each continued with every scheme")
    parser.add_argument("--new-tokens", type=int, default=64, help="of a continuation")
    parser.add_argument("--depth", type=int, default=8, help="of the chain that is drafted")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, required=True, help="the receipt, a JSON file")
    return parser.parse_args()


def measure(model: str, text: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one model's table."""
    pipeline = Pipeline(
        "share_sd",
        Target(model),
        tree=Tree(1, arguments.depth, arguments.depth + 1, adaptive=False),
        max_length=min(LENGTH, read_spec(model).max_positions),
        exact=False,
        compile=arguments.compile,
    )
    points = precision_points(pipeline, [name for name in arguments.schemes.split(",") if name])
    rows = decoded(points, text, arguments)
    with TemporaryDirectory() as folder:
        return table_rows(rows, fidelities(points, text, arguments.tokens, Path(folder), tell))


def decoded(points: Sequence[Point], text: str, arguments: argparse.Namespace) -> list[Row]:
    """The figures of continuing the text's paragraphs, every point in turn."""
    paragraphs = [part for part in text.split("\n\n") if part.strip()]
    params = SamplingParams(max_tokens=arguments.new_tokens, ignore_eos=True)
    made: list[list[Generation]] = [[] for _ in points]
    with ExitStack() as opened:
        generators = [opened.enter_context(build(point.pipeline, progress=tell)) for point in points]
        for number, paragraph in enumerate(paragraphs[: arguments.rounds + 1]):
            prompt = generators[0].encode(paragraph[: 8 * PROMPT])[:PROMPT]
            answers = [generator.generate(prompt, params) for generator in generators]
            if number:
                for kept, answer in zip(made, answers, strict=True):
                    kept.append(answer)
    return [Row(point, _figures(answers)) for point, answers in zip(points, made, strict=True)]


def _figures(answers: Sequence[Generation]) -> dict[str, Any]:
    """Of all answers together; a draft step is the median of theirs, for a neighbour may have been busy."""
    steps = [summarize([answer])["draft_step_s"] for answer in answers]
    return summarize(answers) | {"draft_step_s": statistics.median(steps)}


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
