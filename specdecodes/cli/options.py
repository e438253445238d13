"""The options that commands share, and the pipeline they resolve to.

Two layers only: the pipeline module, then what is said on the command line.
"""

import inspect
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specdecodes import pipelines
from specdecodes.errors import ConfigError

if TYPE_CHECKING:
    from specdecodes.config import Pipeline

PANEL = "Pipeline (what is not given is as the pipeline says)"


@dataclass(frozen=True)
class Flag:
    """A short name on the command line for `settings` of a pipeline."""

    declared: str
    kind: Any
    settings: tuple[str, ...]
    help: str
    metavar: str | None = None

    @property
    def name(self) -> str:
        """As a Python parameter: `--exact/--no-exact` is `exact`."""
        return self.declared.partition("/")[0].removeprefix("--").replace("-", "_")


FLAGS = (
    Flag("--model", str, ("target.model",), "Target instead of the pipeline's: hub id or folder.", "ID|FOLDER"),
    Flag(
        "--draft-model",
        str,
        ("draft.model",),
        "Draft model (classic_sd) or EAGLE head (eagle_sd) instead of the pipeline's.",
        "ID|FOLDER",
    ),
    Flag(
        "--middle-model",
        str,
        ("middle.model",),
        "Model between draft and target (hierspec_sd) instead of the pipeline's.",
        "ID|FOLDER",
    ),
    Flag("--dtype", str, ("target.dtype",), "auto (the checkpoint's own), bf16, fp16 or fp32.", "TYPE"),
    Flag(
        "--device-memory",
        str,
        ("memory.device",),
        "Budget of the model on the GPU, or of RAM where there is none: 8GiB. Python and torch come on top.",
        "SIZE",
    ),
    Flag("--host-memory", str, ("memory.host",), "Budget of RAM beside a GPU: 16GiB.", "SIZE"),
    Flag("--disk-space", str, ("memory.disk",), "Budget of disk for quantized and compressed copies: 20GiB.", "SIZE"),
    Flag(
        "--exact/--no-exact", bool, ("exact",), "Bit-for-bit plain decoding; on by default when the target is streamed."
    ),
    Flag("--seed", int, ("seed", "sampling.seed"), "Seed of the dice and of the choice of samples."),
    Flag("--temp", float, ("sampling.temperature",), "Sampling temperature; 0 is greedy."),
    Flag("--max-tokens", int, ("sampling.max_tokens",), "Most new tokens of an answer."),
    Flag("--max-length", int, ("max_length",), "Most tokens of prompt and answer together."),
    Flag("--compile/--eager", bool, ("compile",), "Compile the steps, or start sooner and run slower."),
)
PIPELINE = typer.Option(
    "--pipeline",
    metavar="NAME",
    rich_help_panel=PANEL,
    show_default=False,
    help="Pipeline module or .py file; in a clone, the demo is the default.",
)
SETTINGS = typer.Option(
    "--set",
    metavar="KEY.PATH=VALUE",
    rich_help_panel=PANEL,
    show_default=False,
    help="Any other setting, such as tree.depth=8. Repeatable.",
)
Benchmarks = Annotated[str, typer.Option(metavar="NAME,...", help="Benchmarks, separated by commas, or all.")]
MaxSamples = Annotated[
    int | None, typer.Option(min=1, help="Ask that many questions of each.", show_default="all of them")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder with the questions.", show_default="the hub, else the bundled ones")
]


def common_parameters() -> list[inspect.Parameter]:
    """What every command takes beside its own options, as parameters that typer reads."""
    flags = {flag.name: (flag.kind | None, _option(flag)) for flag in FLAGS}
    options = {"pipeline": (str | None, PIPELINE), **flags, "settings": (list[str] | None, SETTINGS)}
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])
        for name, (kind, option) in options.items()
    ]


def _option(flag: Flag) -> Any:
    return typer.Option(flag.declared, metavar=flag.metavar, help=flag.help, rich_help_panel=PANEL, show_default=False)


def resolve(pipeline: str | None = None, settings: list[str] | None = None, **flags: Any) -> "Pipeline":
    """The pipeline that a command line means: `flags` by their names in FLAGS, None where not said."""
    from specdecodes.config import apply_overrides

    model, draft_model = flags.get("model"), flags.get("draft_model")
    chosen = _base(pipeline, model, draft_model)
    if draft_model is not None and chosen.draft.model is None:
        raise ConfigError(
            f"method {chosen.method} has no second model; leave out --draft-model, or take a pipeline of "
            "classic_sd or eagle_sd (without a pipeline, --model and --draft-model together mean one)."
        )
    if flags.get("middle_model") is not None and chosen.middle.model is None:
        raise ConfigError(
            f"method {chosen.method} has no middle model; leave out --middle-model, or take a pipeline of hierspec_sd."
        )
    said = ((flag, flags[flag.name]) for flag in FLAGS if flags.get(flag.name) is not None)
    given = [f"{setting}={value}" for flag, value in said for setting in flag.settings]
    return apply_overrides(chosen, [*given, *(settings or [])])


def _base(name: str | None, model: str | None, draft_model: str | None) -> "Pipeline":
    """The named pipeline; without a name a general one for `model`; without either the clone's demo."""
    from specdecodes.config import Draft, Pipeline, Target

    if name is not None:
        return pipelines.load(name)
    if model is not None:
        method = "subspec_sd" if draft_model is None else "classic_sd"
        return Pipeline(method, Target(model), Draft(draft_model))
    if pipelines.clone_root() is None:
        raise ConfigError("no model was named; add --model with a hub id or a checkpoint folder, or --pipeline.")
    return pipelines.load(pipelines.DEMO)


def pipeline_command(*, optional: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`command(pipeline, own options)` as the command line calls it: with its own options, then the common ones.

    With `optional` the command also runs where no pipeline can be meant, and gets None.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        common = common_parameters()
        own = list(inspect.signature(command).parameters.values())[1:]

        def run(**given: Any) -> None:
            named = {option.name: given.pop(option.name) for option in common}
            nothing = optional and not any(named.values()) and pipelines.clone_root() is None
            command(None if nothing else resolve(**named), **given)

        # typer reads a function's options from these; functools.wraps would lead it back to `command`.
        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        run.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]
        run.__annotations__ = {option.name: option.annotation for option in (*own, *common)}
        return run

    return decorate


def spoken(arguments: list[str]) -> str:
    """The command as the user can say it again."""
    program = Path(arguments[0])
    words = ["bash", "run.sh"] if program.parts[-2:] == ("run", "main.py") else [program.name]
    return shlex.join([*words, *arguments[1:]])
