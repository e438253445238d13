"""`run-chat`: a conversation in the terminal. The cache of earlier turns is kept, so only new words are read."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from specdecodes.cli.options import pipeline_command
from specdecodes.cli.report import measured, metrics_table, one_line
from specdecodes.cli.session import answer, opened
from specdecodes.errors import ContextOverflowError, SpecDecodesError, suggest

if TYPE_CHECKING:
    from specdecodes.config import Pipeline
    from specdecodes.generator import Generator
    from specdecodes.sampling import SamplingParams
    from specdecodes.stats import Generation

HELP = """\
/stats  what the last answer and the whole chat took
/reset  forget the conversation
/exit   leave (Ctrl-D does too)
/help   this list
Ctrl-C stops an answer; the chat goes on."""


@pipeline_command()
def run_chat(
    pipeline: "Pipeline",
    system: Annotated[str | None, typer.Option(help="System message to begin with.", show_default="none")] = None,
) -> None:
    """Talk with the model. Answers stream; /stats, /reset, /help and /exit are commands."""
    from specdecodes.methods import learn

    console = Console(stderr=True)
    with opened(pipeline, console) as generator:
        console.print("[dim]/help lists the commands; Ctrl-C stops an answer; /exit leaves.[/dim]")
        chat = Chat(generator, pipeline.sampling, console, system)
        for line in _lines():
            if not chat.turn(line):
                break
        if chat.answers:
            learn(pipeline, generator.placement, measured(chat.answers), generator.habits)


def _lines() -> Iterator[str]:
    """The user's lines until end of input. Ctrl-C clears the line; two in a row leave with 130."""
    if sys.stdin is None:  # closed by who started us
        return
    if not sys.stdin.isatty():
        for line in sys.stdin:
            print(f"> {line.rstrip()}", flush=True)
            yield line
        return
    import readline  # noqa: F401  (input() then has history and line editing)

    interrupted = False
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            print("\n(Ctrl-C again or /exit leaves)")
            continue
        interrupted = False
        yield line


@dataclass
class Chat:
    """One conversation and what it took."""

    generator: "Generator"
    params: "SamplingParams"
    console: Console
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    answers: "list[Generation]" = field(default_factory=list)

    def __post_init__(self) -> None:
        self._forget()

    def turn(self, line: str) -> bool:
        """Obey a command or answer a message; False when the user leaves."""
        text = line.strip()
        if text.startswith("/"):
            return self._command(text)
        if text:
            self._answer(text)
        return True

    def _command(self, name: str) -> bool:
        commands: dict[str, Callable[[], None]] = {"/stats": self._stats, "/reset": self._reset, "/help": self._help}
        if name in ("/exit", "/quit"):
            return False
        if name in commands:
            commands[name]()
        else:
            self.console.print(suggest("command", name, (*commands, "/exit")), highlight=False)
        return True

    def _answer(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})
        try:
            generation = answer(self.generator, self.messages, self.params, reuse_cache=True)
        except SpecDecodesError as error:
            self.messages.pop()
            cure = " /reset begins a new conversation." if isinstance(error, ContextOverflowError) else ""
            self.console.print(f"error: {error}{cure}", style="red", highlight=False, markup=False)
            return
        self.answers.append(generation)
        if not generation.text:  # stopped before the first word: as if it had not been asked
            self.messages.pop()
            return
        self.messages.append({"role": "assistant", "content": generation.text})
        self.console.print(f"[dim]{one_line(generation)}[/dim]", highlight=False)

    def _stats(self) -> None:
        if not self.answers:
            self.console.print("Nothing has been answered yet.")
            return
        self.console.print(metrics_table(self.answers[-1:], "the last answer"))
        if len(self.answers) > 1:
            self.console.print(metrics_table(self.answers, f"all {len(self.answers)} answers"))

    def _reset(self) -> None:
        self._forget()
        self.console.print("The conversation is forgotten.")

    def _help(self) -> None:
        self.console.print(HELP, highlight=False)

    def _forget(self) -> None:
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]
