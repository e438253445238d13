"""`run-tune`: which method, width and depth are fastest for this model on this machine; writes the pipeline."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from specdecodes.cli.arms import Arms
from specdecodes.cli.options import pipeline_command, spoken
from specdecodes.errors import ConfigError
from specdecodes.tables import ruled

if TYPE_CHECKING:
    from specdecodes.benchmark.sweeps.tuning import Contender
    from specdecodes.config import Pipeline, Tree
    from specdecodes.generator import Generation


@pipeline_command()
def run_tune(
    pipeline: "Pipeline",
    out: Annotated[Path, typer.Option(metavar="FILE.py", help="The pipeline module to write.")] = Path("tuned.py"),
    methods: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Methods to try.", show_default="vanilla, ngram_sd and the pipeline's"),
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(metavar="N,...", help="Widths of a draft level to try.", show_default="1 and tree.width"),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Questions to probe with; as many others check.")] = 2,
    tokens: Annotated[int, typer.Option(min=8, help="New tokens of an answer.")] = 96,
    check: Annotated[int, typer.Option(min=0, help="Further candidates to run, beside the best of each kind.")] = 2,
    receipt: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Where to write all figures, with machine and revision.")
    ] = None,
) -> None:
    """Probe each method at two depths, predict all depths from that, run the best, and keep the fastest.

    `tree.depth` is the deepest draft that is probed. What is compared answers in turns, question by question, where
    memory holds it all at once. Says so when plain decoding wins.
    """
    from specdecodes.benchmark.environment import describe, machine_name
    from specdecodes.benchmark.sweeps import tuning

    if out.suffix != ".py":
        raise ConfigError(f"{out} is no pipeline module; write --out NAME.py.")
    console = Console(stderr=True)
    tried = methods.split(",") if methods else list(dict.fromkeys((tuning.PLAIN, "ngram_sd", pipeline.method)))
    plain = replace(pipeline, sampling=replace(pipeline.sampling, max_tokens=tokens, ignore_eos=True))
    shapes = _shapes(tried, plain, _widths(widths, pipeline))
    with Arms(plain, console) as arms:
        probed = arms.answers(shapes, range(0, 2 * prompts, 2))
        groups = tuning.contenders([tuning.Probe.of(*shape, answers) for shape, answers in probed.items()])
        chosen = tuning.shortlist(groups, check)
        # Neighbours ask for things of one kind.
        checked = arms.answers([(one.method, one.tree) for one in chosen], range(1, 2 * prompts, 2))
    found = [_measured(one, checked[one.method, one.tree]) for one in chosen]
    winner, command = tuning.fastest(found), spoken(sys.argv)
    Console().print(_table(found, winner))
    if winner.method == tuning.PLAIN:
        console.print("Plain decoding wins here: no draft that was tried pays for itself.")
    _write(out, tuning.module(tuning.tuned(pipeline, winner), command, machine_name()))
    console.print(f"Pipeline: {out}", highlight=False, markup=False)
    if receipt is not None:
        figures = tuning.receipt(found, winner) | {"command": command, "environment": describe()}
        _write(receipt, json.dumps(figures, indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; choose another file.") from error


def _widths(text: str | None, pipeline: "Pipeline") -> list[int]:
    if text is None:
        return sorted({1, pipeline.tree.width})
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--widths {text} is no list of whole numbers; write --widths 1,4.") from error


def _shapes(methods: "Sequence[str]", pipeline: "Pipeline", widths: list[int]) -> "list[tuple[str, Tree]]":
    """What to probe. Trees keep their nodes where exact mode makes all passes alike, plain decoding's too."""
    from specdecodes.benchmark.sweeps.tuning import PLAIN, shapes
    from specdecodes.methods import UNDRAFTED, plan_for
    from specdecodes.methods.site import Site

    streams = bool(plan_for(replace(pipeline, method=PLAIN)).streamed)
    narrow = not Site.of(pipeline).exact(streamed=streams)
    return [
        one
        for method in methods
        for one in shapes(method, pipeline.tree, widths, drafts=method not in UNDRAFTED, narrow=narrow)
    ]


def _measured(candidate: "Contender", answers: "list[Generation]") -> "Contender":
    """`candidate` with its speed as measured, on other questions than it was predicted from."""
    from specdecodes.benchmark.sweeps.tuning import steady

    rounds = steady(answers)
    seconds = sum(sum(r.seconds.values()) for r in rounds)
    return replace(candidate, measured=sum(len(r.tokens) for r in rounds) / seconds)


def _table(candidates: "list[Contender]", winner: "Contender") -> Table:
    from specdecodes.benchmark.sweeps.tuning import PLAIN, speed_up

    heads = ("tree", "tokens", "ms", "tokens/s", "", "over plain", "", "error")
    title = "the fastest expected first: width x depth x nodes, a round's tokens and ms, then predicted and measured"
    table = ruled(title, "method", *heads, numbers=heads)
    for one in candidates:
        drafted = one.method != PLAIN
        shape = f"{one.tree.width}x{one.tree.depth}x{one.tree.nodes}" if drafted else ""
        gain = speed_up(one, candidates)
        table.add_row(
            one.method + (" (fastest)" if one is winner else ""),
            shape,
            f"{one.tokens_per_round:.2f}",
            f"{one.round_s * 1e3:.1f}",
            *(_figure(speed, ".2f") for speed in (one.predicted, one.measured)),
            *(_figure(ratio, ".2f") for ratio in (gain.predicted, gain.measured)),
            _figure(gain.error if drafted else one.error, "+.0%"),
        )
    return table


def _figure(number: float | None, form: str) -> str:
    return "" if number is None else format(number, form)
