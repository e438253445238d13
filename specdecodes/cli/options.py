"""The options that every command shares, and the pipeline they resolve to.

Two layers only: the pipeline module, then what is said on the command line.
"""

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specdecodes.cli import pipelines
from specdecodes.errors import ConfigError

if TYPE_CHECKING:
    from specdecodes.config import Pipeline


def _option(*names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Pipeline", show_default=False)


def resolve(
    pipeline: Annotated[
        str | None,
        _option("--pipeline", metavar="NAME", help="Pipeline module or .py file; in a clone, the demo is the default."),
    ] = None,
    model: Annotated[
        str | None, _option("--model", metavar="ID|FOLDER", help="Target instead of the pipeline's: hub id or folder.")
    ] = None,
    draft_model: Annotated[
        str | None,
        _option("--draft-model", metavar="ID|FOLDER", help="Draft model instead of the pipeline's (classic_sd)."),
    ] = None,
    dtype: Annotated[
        str | None, _option("--dtype", metavar="TYPE", help="auto (the checkpoint's own), bf16, fp16 or fp32.")
    ] = None,
    device_memory: Annotated[
        str | None,
        _option("--device-memory", metavar="SIZE", help="Budget on the GPU, or of RAM where there is none: 8GiB."),
    ] = None,
    host_memory: Annotated[
        str | None, _option("--host-memory", metavar="SIZE", help="Budget of RAM beside a GPU: 16GiB.")
    ] = None,
    exact: Annotated[
        bool | None,
        _option("--exact/--no-exact", help="Bit-for-bit plain decoding; on by default when the target is streamed."),
    ] = None,
    seed: Annotated[int | None, _option("--seed", help="Seed of the dice and of the choice of samples.")] = None,
    temp: Annotated[float | None, _option("--temp", help="Sampling temperature; 0 is greedy.")] = None,
    max_tokens: Annotated[int | None, _option("--max-tokens", help="Most new tokens of an answer.")] = None,
    max_length: Annotated[
        int | None, _option("--max-length", help="Most tokens of prompt and answer together.")
    ] = None,
    eager: Annotated[bool, _option("--eager", help="Do not compile: slower, but starts sooner.")] = False,
    settings: Annotated[
        list[str] | None,
        _option("--set", metavar="KEY.PATH=VALUE", help="Any other setting, such as tree.depth=8. Repeatable."),
    ] = None,
) -> "Pipeline":
    """The pipeline that a command line means."""
    from specdecodes.config import apply_overrides

    chosen = _base(pipeline, model, draft_model)
    if draft_model is not None and chosen.draft.model is None:
        raise ConfigError(
            f"method {chosen.method} has no second model; leave out --draft-model, or take a classic_sd pipeline "
            "(without a pipeline, --model and --draft-model together mean one)."
        )
    flags = {
        "target.model": model,
        "draft.model": draft_model,
        "target.dtype": dtype,
        "memory.device": device_memory,
        "memory.host": host_memory,
        "exact": exact,
        "seed": seed,
        "sampling.seed": seed,
        "sampling.temperature": temp,
        "sampling.max_tokens": max_tokens,
        "max_length": max_length,
        "compile": False if eager else None,
    }
    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
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
        common = list(inspect.signature(resolve).parameters.values())
        own = list(inspect.signature(command).parameters.values())[1:]

        def run(**given: Any) -> None:
            named = {option.name: given.pop(option.name) for option in common}
            nothing = optional and not any(named.values()) and pipelines.clone_root() is None
            try:
                command(None if nothing else resolve(**named), **given)
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                raise typer.Exit(130) from None

        # typer reads a function's options from these; functools.wraps would lead it back to `command`.
        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        run.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]
        run.__annotations__ = {option.name: option.annotation for option in (*own, *common)}
        return run

    return decorate
