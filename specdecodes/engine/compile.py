"""The steps of a pass, eager and compiled.

Both are plain functions of modules and tensors. The compiled ones have static shapes and take weights as arguments,
so one layer graph serves every layer of its kind; a new shape or kind is a new graph, anything else is an error,
never a slow path.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from specdecodes.errors import UNWRITABLE, CompileError
from specdecodes.folders import cache_folder
from specdecodes.models.decoder import Decoder, DecoderLayer, LayerStep
from specdecodes.native import missing_triton


def layer_step(layer: DecoderLayer, hidden: Tensor, step: LayerStep) -> Tensor:
    """One layer: [B, M, hidden] -> [B, M, hidden]; writes the layer's cache rows."""
    return layer(hidden, step)


def head_step(norm: torch.nn.Module, head: torch.nn.Module, hidden: Tensor) -> Tensor:
    """[B, M, hidden] -> logits [B, M, vocab]."""
    return head(norm(hidden))


@dataclass
class CompileLog:
    """How long compiled steps took to build in this process, and how many graphs that made."""

    seconds: float = 0.0
    graphs: int = 0


@dataclass(frozen=True)
class Steps:
    """The functions a runner calls; `compiled` says which kind they are, `graphs` whether a GPU records them."""

    layer: Callable[[DecoderLayer, Tensor, LayerStep], Tensor]
    head: Callable[[torch.nn.Module, torch.nn.Module, Tensor], Tensor]
    compiled: bool
    log: CompileLog
    graphs: bool = True

    def logits(self, decoder: Decoder, hidden: Tensor) -> Tensor:
        return self.head(decoder.norm, decoder.head, hidden)


def eager_steps() -> Steps:
    return Steps(layer_step, head_step, False, CompileLog())


@cache
def compiled_steps() -> Steps:
    """Compiled steps of this process. Built once; graphs appear at the first call with each shape."""
    if shutil.which(os.environ.get("CXX", "g++")) is None and not torch.cuda.is_available():
        raise CompileError("compiled steps need a C++ compiler (g++), and none was found; install one or pass --eager.")
    if torch.cuda.is_available() and missing_triton():
        raise CompileError(f"compiled steps need Triton on a GPU: {missing_triton()}; or pass --eager.")
    keep_compiled()
    # One graph per (kind of layer, shape); a dozen pairs of draft and target in one process stay below this.
    torch._dynamo.config.recompile_limit = 64
    log = CompileLog()
    return Steps(_timed(_compile(layer_step), log), _timed(_compile(head_step), log), True, log)


def keep_compiled() -> None:
    """Keep what is compiled in our cache folder, unless the user has named another one.

    Torch's own default, a temporary folder, may be named by now: a library that compiles at import leaves it behind.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get("TORCHINDUCTOR_CACHE_DIR") in (None, "", default_cache_dir()):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder() / "inductor")


def _compile(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, fullgraph=True, dynamic=False)


def _timed(function: Callable[..., Tensor], log: CompileLog) -> Callable[..., Tensor]:
    """Count graphs and their build time, and turn a failed build into one clear error."""

    def step(*arguments: Any) -> Tensor:
        before, started = _graphs(), time.perf_counter()
        with _clear_errors():
            result = function(*arguments)
        made = _graphs() - before
        if made:
            log.graphs += made
            log.seconds += time.perf_counter() - started
        return result

    return step


def _graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
    from torch._inductor.exc import CppCompileError, InductorError

    try:
        yield
    except (TorchDynamoException, FailOnRecompileLimitHit, InductorError, CppCompileError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        full = any(os.strerror(number) in str(error) for number in UNWRITABLE)
        cure = "Set SPECDECODES_CACHE to a folder with room" if full else "Run again with --eager"
        raise CompileError(f"torch.compile could not build a step ({reason}). {cure}.") from error
