"""`run-tune`: which method, width and depth are fastest for this model on this machine; writes the pipeline."""

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from specdecodes.cli.options import pipeline_command, spoken
from specdecodes.cli.session import opened
from specdecodes.errors import ConfigError, SpecDecodesError

if TYPE_CHECKING:
    from specdecodes.benchmark.tuning import Contender, Probe
    from specdecodes.config import Pipeline
    from specdecodes.generator import Generation, Generator


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
    """Probe each method with a few deep rounds, predict every depth from them, run the best, and keep the fastest.

    `tree.depth` is the deepest draft that is probed. Says so when plain decoding wins.
    """
    from specdecodes.benchmark import tuning
    from specdecodes.benchmark.environment import describe, machine_name

    if out.suffix != ".py":
        raise ConfigError(f"{out} is no pipeline module; write --out NAME.py.")
    console = Console(stderr=True)
    tried = methods.split(",") if methods else list(dict.fromkeys((tuning.PLAIN, "ngram_sd", pipeline.method)))
    plain = replace(pipeline, sampling=replace(pipeline.sampling, max_tokens=tokens, ignore_eos=True))
    probes = list(_probes(plain, tried, _widths(widths, pipeline), prompts, console))
    found = [_checked(candidate, plain, prompts, console) for candidate in tuning.shortlist(probes, check)]
    winner, command = tuning.fastest(found), spoken(sys.argv)
    Console().print(_table(found, winner))
    if winner.method == tuning.PLAIN:
        console.print("Plain decoding wins here: no draft that was tried pays for itself.")
    _write(out, tuning.module(tuning.tuned(pipeline, winner), command, machine_name()))
    console.print(f"Pipeline: {out}", highlight=False)
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


def _probes(
    pipeline: "Pipeline", methods: Iterable[str], widths: list[int], prompts: int, console: Console
) -> "Iterable[Probe]":
    """One probe of each method and width; a method that cannot run here is told and left out."""
    from specdecodes.benchmark.tuning import Probe
    from specdecodes.methods import UNDRAFTED

    for method in methods:
        for width in widths[:1] if method in UNDRAFTED else widths:
            shape = replace(pipeline.tree, width=width, adaptive=False)
            one = replace(pipeline, method=method, tree=shape)
            try:
                with opened(one, console) as generator:
                    answers = _answers(generator, one, range(prompts), console)
                    yield Probe.of(one, generator.placement, generator.exact, answers)
            except SpecDecodesError as error:
                console.print(f"{method} is left out: {error}", style="yellow", markup=False)


def _checked(candidate: "Contender", pipeline: "Pipeline", prompts: int, console: Console) -> "Contender":
    """`candidate` with its speed as measured, on other questions than it was predicted from."""
    from specdecodes.benchmark.tuning import steady

    one = replace(pipeline, method=candidate.method, tree=candidate.tree)
    with opened(one, console) as generator:
        rounds = steady(_answers(generator, one, range(prompts, 2 * prompts), console))
    seconds = sum(sum(r.seconds.values()) for r in rounds)
    return replace(candidate, measured=sum(len(r.tokens) for r in rounds) / seconds)


def _answers(generator: "Generator", pipeline: "Pipeline", places: range, console: Console) -> "list[Generation]":
    from specdecodes.benchmark.mt_bench import BUNDLED
    from specdecodes.benchmark.sources import question, read_samples

    questions = [sample.turns[0] for sample in read_samples(BUNDLED, question)]
    answers = []
    for place in places:
        with console.status(f"{pipeline.method}: question {place + 1}"):
            asked = [{"role": "user", "content": questions[place % len(questions)]}]
            answers.append(generator.generate(asked, pipeline.sampling))
    return answers


def _table(candidates: "list[Contender]", winner: "Contender") -> Table:
    from specdecodes.benchmark.tuning import PLAIN, speed_up

    table = Table(
        title="the fastest expected first: width x depth x nodes, a round's tokens and ms, then predicted and measured",
        title_justify="left",
    )
    table.add_column("method")
    for title in ("tree", "tokens", "ms", "tokens/s", "", "over plain", "", "error"):
        table.add_column(title, justify="right")
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
