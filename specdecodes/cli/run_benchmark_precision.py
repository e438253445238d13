"""`run-benchmark-precision`: every draft precision against the pipeline's target, in one table."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from specdecodes.cli.options import Benchmarks, DataDir, pipeline_command, spoken
from specdecodes.cli.progress import plain_lines
from specdecodes.tables import ruled

if TYPE_CHECKING:
    from specdecodes.config import Pipeline


@pipeline_command()
def run_benchmark_precision(
    pipeline: "Pipeline",
    schemes: Annotated[
        str, typer.Option(metavar="SCHEME,...", help="Draft schemes.", show_default="all but the target's own")
    ] = "",
    benchmarks: Benchmarks = "mt-bench",
    max_samples: Annotated[int, typer.Option(min=1, help="Ask that many questions with each scheme.")] = 4,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text for KL and perplexity.", show_default="the questions")
    ] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of that text, in windows of the context.")] = 512,
    out_dir: Annotated[
        Path | None, typer.Option(help="Folder of the results.", show_default="results/precision-MODEL")
    ] = None,
    data_dir: DataDir = None,
    restart: Annotated[bool, typer.Option("--restart", help="Drop earlier answers instead of going on.")] = False,
) -> None:
    """Try every draft precision: acceptance, speed, bytes, bits per weight, perplexity, KL of draft to target.

    Plain decoding is the first row. The same command goes on where it was stopped. Writes precision.json, precision.md
    and a folder of results a scheme. A draft's KL and perplexity are its scheme's own, whatever kernel drafts.
    """
    from specdecodes.benchmark import environment
    from specdecodes.benchmark.perplexity import read_text
    from specdecodes.benchmark.questions import load_all
    from specdecodes.benchmark.results.journal import write_json
    from specdecodes.benchmark.sweeps.grid import sweep
    from specdecodes.benchmark.sweeps.precision import PAGE, TABLE, fidelities, markdown, precision_points, table_rows
    from specdecodes.cli.run_grid_search import measurer

    chosen = precision_points(pipeline, [name.strip() for name in schemes.split(",") if name.strip()])
    loaded = load_all(benchmarks, data_dir)
    asked = "\n\n".join(turn for one in loaded for sample in one.samples for turn in sample.turns)
    content = read_text(text) if text is not None else asked
    folder = out_dir or Path("results") / f"precision-{Path(pipeline.target.model).name}"
    notify, command = plain_lines(Console(stderr=True)), spoken(sys.argv)
    measure = measurer(loaded, benchmarks, data_dir, max_samples, command, restart=restart, notify=notify)
    rows = sweep(chosen, folder, measure, notify)
    table = table_rows(rows, fidelities(chosen, content, tokens, folder, notify))
    about = [
        f"target {pipeline.target.model}, {pipeline.target.quant}; {max_samples} questions of {benchmarks} a scheme",
        f"KL and perplexity over {table[0].get('tokens') or 0} tokens of {text or 'the questions'}",
        f"{environment.machine_name()}; revision {environment.revision()}",
        f"`{command}`",
    ]
    write_json(folder / TABLE, {"rows": table, "about": about, "environment": environment.describe()})
    (folder / PAGE).write_text(markdown(table, about), encoding="utf-8")
    Console().print(_table(table))
    notify(f"Table: {folder / PAGE}\nFigures: {folder / TABLE}")
    if any(row["error"] for row in table):
        raise typer.Exit(1)


def _table(rows: list[dict[str, Any]]) -> Table:
    from specdecodes.benchmark.sweeps.precision import HEAD, cells

    numbers = [title for title in HEAD if title not in ("draft", "kernel")]
    table = ruled("draft precisions, the most bits first", *HEAD, numbers=numbers)
    for row in rows:
        table.add_row(*cells(row))
    return table
