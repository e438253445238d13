"""`run-verify`: the same prompts, plain and speculative, on your model; says whether and where the answers part."""

from collections.abc import Callable
from dataclasses import replace
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from specdecodes.cli.options import pipeline_command
from specdecodes.cli.session import opened
from specdecodes.errors import ConfigError
from specdecodes.tables import ruled

if TYPE_CHECKING:
    from specdecodes.cli.divergence import Comparison, Divergence, Trace
    from specdecodes.config import Pipeline
    from specdecodes.generator import Generator
    from specdecodes.sampling import SamplingParams

PROMPTS = (
    "Write a short story about a lighthouse keeper who befriends a whale.",
    "Explain to a child why the sky is blue.",
    "List five things to check before a long journey, with one reason for each.",
    "A farmer has 17 sheep and buys 3 more than he has. How many does he have now? Show the steps.",
)


@pipeline_command()
def run_verify(
    pipeline: "Pipeline",
    prompt: Annotated[
        list[str] | None, typer.Option(help="Prompt to compare on. Repeatable.", show_default="four of ours")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Most new tokens a prompt; --max-tokens may lower it.")] = 128,
) -> None:
    """Run plain and speculative decoding on the same prompts and compare every token.

    In exact mode every bit of the logits is compared too. Exit code 1 when anything differs.
    """
    if pipeline.method == "vanilla":
        raise ConfigError("method vanilla is plain decoding itself; verify a speculative pipeline, such as subspec_sd.")
    console = Console(stderr=True)
    questions = tuple(prompt or PROMPTS)
    params = replace(pipeline.sampling, max_tokens=min(tokens, pipeline.sampling.max_tokens))
    with opened(pipeline, console) as generator:
        exact, tokenizer = generator.exact, generator.tokenizer
        speculative = _traces(generator, questions, params, console)
    # The plain run keeps to the same rules even where its own, smaller plan would have chosen others. It reads weights
    # as they are: so what restores compressed ones is verified too, and no copy is written for it.
    as_they_are = replace(pipeline.memory, compress="off")
    with opened(replace(pipeline, method="vanilla", exact=exact, memory=as_they_are), console) as generator:
        plain = _traces(generator, questions, params, console)

    from specdecodes.cli.divergence import compare

    results = [compare(left, right) for left, right in zip(plain, speculative, strict=True)]
    out = Console()
    out.print(_table(questions, results, exact))
    for number, result in enumerate(results, start=1):
        if result.divergence is not None:
            out.print(f"prompt {number}: {describe(result.divergence, tokenizer.decode)}", highlight=False)
    if not _verdict(results, exact, pipeline.method, out):
        raise typer.Exit(1)


def _traces(
    generator: "Generator", questions: tuple[str, ...], params: "SamplingParams", console: Console
) -> "list[Trace]":
    return [_trace(generator, number, question, params, console) for number, question in enumerate(questions, start=1)]


def _trace(generator: "Generator", number: int, question: str, params: "SamplingParams", console: Console) -> "Trace":
    import torch

    from specdecodes.cli.divergence import Trace

    rows: list[torch.Tensor] = []
    with console.status(f"{generator.method}: prompt {number}") as status:
        count = 0
        for chunk in generator.stream(
            [{"role": "user", "content": question}], params, on_logits=lambda given: rows.append(given.cpu().clone())
        ):
            count += len(chunk.tokens)
            status.update(f"{generator.method}: prompt {number}, {count} tokens")
            if chunk.generation is not None:
                return Trace(chunk.generation.tokens, torch.cat(rows)[: len(chunk.generation.tokens)])
    raise AssertionError("a stream ends with its generation")


def describe(divergence: "Divergence", decode: Callable[[list[int]], str]) -> str:
    """One line: where the runs part, what each said, and how close the plain run's choice was."""

    def name(token: int | None) -> str:
        return "the end" if token is None else f"{token} {decode([token])!r}"

    margin = "unknown" if divergence.margin is None else f"{divergence.margin:.4g}"
    return (
        f"first divergence at new token {divergence.index}: plain {name(divergence.plain)}, "
        f"speculative {name(divergence.speculative)}; the plain run's two best logits are {margin} apart"
    )


def _table(questions: tuple[str, ...], results: "list[Comparison]", exact: bool) -> Table:
    counts = ("tokens", "rows", "rows differ", "bits differ", "parts at")
    table = ruled(
        f"plain against speculative, exact mode {'on' if exact else 'off'}", "prompt", *counts, numbers=counts
    )
    for question, result in zip(questions, results, strict=True):
        where = "" if result.divergence is None else f"token {result.divergence.index}"
        found = (result.tokens, result.rows, result.differing_rows, result.differing_bits)
        table.add_row(shorten(question, 30, placeholder=" ..."), *(f"{count:,}" for count in found), where)
    return table


def _verdict(results: "list[Comparison]", exact: bool, method: str, out: Console) -> bool:
    """Say what was shown; False when a promise was broken."""
    tokens, rows = sum(result.tokens for result in results), sum(result.rows for result in results)
    parted = sum(result.divergence is not None for result in results)
    bits = sum(result.differing_bits for result in results)
    if parted:
        out.print(f"[red]{parted} of {len(results)} answers differ from plain decoding.[/red]")
        if not exact:
            out.print("Without exact mode rounding may decide near ties; --exact makes the two equal in every bit.")
    elif exact and bits:
        out.print(f"[red]The {tokens:,} tokens are equal, but {bits:,} bits of their logits are not.[/red]")
    else:
        proof = f", and all {rows:,} rows of logits in every bit" if exact else ""
        out.print(f"[green]No divergence: the {tokens:,} tokens of {method} equal plain decoding's{proof}.[/green]")
    return not parted and not (exact and bits)
