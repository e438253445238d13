"""How long the steps of a round take here, timed on fewer layers of the same shape: the plan predicts with them.

What is timed is what will run (the same runner, drafter and kernels, uncompiled), with weights of no meaning.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from specdecodes.cache import CacheShape, KVCache
from specdecodes.config import Tree
from specdecodes.drafters.level import LevelGrower, region_nodes
from specdecodes.drafters.pacing.pace import Pace
from specdecodes.drafters.pacing.seconds import Costs
from specdecodes.engine.compile import eager_steps
from specdecodes.engine.layers import ResidentLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.methods.measured.ledger import keep, key_of, recall
from specdecodes.models.decoder import Decoder, joined
from specdecodes.models.families import ModelSpec
from specdecodes.offload.planning.predict import Step
from specdecodes.quant import Execution, Rules, packed_bytes, specimen
from specdecodes.sampling import Sampler, SamplingParams
from specdecodes.tree import TokenTree

CONTEXT = 256  # committed rows that every step attends to
LEVELS = 4  # of a draft that is timed
NARROWER = (1, 8)
"""Rows of passes that are timed beside the widest: a CPU reads weights for these, and computes for more."""
COLD_BYTES = 64 * 2**20  # bytes of layers that no cache holds at once
_WIDEST = 32 * 2**20  # weights of a linear at most; the time of a larger one is scaled up
_FRESH = 3600.0  # seconds that figures are believed: a neighbour may have been busy
_REPEATS, _PATIENCE = 20, 0.15  # the best of so many runs, or of as many as these seconds hold


@dataclass(frozen=True)
class Timed:
    """A model to time: its layers, what the linears of one are quantized as (the others: full precision in `dtype`),
    where those run, on which `kernel`, bytes to spare for it, and whether its cache is in 8 bits."""

    spec: ModelSpec
    dtype: torch.dtype
    room: int
    device: torch.device
    rules: Rules = Rules(())
    execution: Execution = Execution()
    kernel: str = ""
    int8_cache: bool = False


def narrower(nodes: int) -> tuple[int, ...]:
    """Rows of the passes to time beside one of `nodes`."""
    return tuple(rows for rows in NARROWER if rows < nodes)


def time_pass(model: Timed, rows: int, exact: bool) -> Step:
    """Verifying a tree of `rows` nodes."""
    return _known(("pass", model, rows, exact), lambda: _time_pass(model, rows, exact))


def time_level(model: Timed, width: int, params: SamplingParams) -> Step:
    """Drafting one level of `width` nodes, the choice of its tokens by `params` included."""
    params = replace(params, seed=0, max_tokens=1, stop=())  # which take no time
    return _known(("level", model, width, params), lambda: _time_level(model, width, params))


def _known(what: tuple[object, ...], measure: Callable[[], Step]) -> Step:
    """A step timed here within the last hour, else timed now."""
    key = key_of(*what)
    figures = recall(key, ("layer", "rest"), max_age=_FRESH)
    if figures is None:
        step = measure()
        keep(key, {"layer": step.layer, "rest": step.rest})
        return step
    return Step(figures["layer"], figures["rest"])


def _time_pass(model: Timed, rows: int, exact: bool) -> Step:
    def work(runner: ModelRunner) -> Callable[[], object]:
        tree = TokenTree.rooted(torch.tensor(0, device=model.device), rows)
        return lambda: runner.score(tree)

    return _step(model, rows, exact, 0, work)


def _time_level(model: Timed, width: int, params: SamplingParams) -> Step:
    tree = Tree(width, LEVELS, nodes=max(2, width), adaptive=False)

    def work(runner: ModelRunner) -> Callable[[], object]:
        vocab = runner.decoder.spec.vocab_size
        pace = Pace(tree, Costs({tree.width: 1.0}, {tree.nodes: 1.0}))
        grower, sampler = LevelGrower(runner, tree, 1.0, vocab, pace), Sampler(params, vocab, runner.device)
        return lambda: grower.propose(0, sampler)

    step = _step(model, width, False, region_nodes(tree), work)
    return step.scaled(1 / LEVELS)


def _step(
    model: Timed, rows: int, exact: bool, draft_nodes: int, work: Callable[[ModelRunner], Callable[[], object]]
) -> Step:
    """Time with a few layers and with none: the difference is the layers'."""
    spec, small = model.spec, _small(model.spec)
    copies = _copies(model, small)
    with torch.no_grad():
        bare = _runner(model, replace(small, layers=0, windows=()), rows, exact, draft_nodes)
        runner = _runner(model, replace(small, layers=copies, windows=(None,) * copies), rows, exact, draft_nodes)
        rest = _seconds(work(bare), model.device)
        layer = max(_seconds(work(runner), model.device) - rest, 0.0) / copies
        if small.intermediate_size < spec.intermediate_size:
            layer += _feed_forward(runner, rows) * (spec.intermediate_size / small.intermediate_size - 1)
    return Step(layer, rest * spec.vocab_size / small.vocab_size)


def _small(spec: ModelSpec) -> ModelSpec:
    """The same layer with a feed-forward part and a head of bearable size."""
    unit = 256  # any group divides it
    widest = max(_WIDEST // spec.hidden_size // unit * unit, unit)
    return replace(spec, intermediate_size=min(spec.intermediate_size, widest), vocab_size=min(spec.vocab_size, widest))


def _copies(model: Timed, spec: ModelSpec) -> int:
    """Layers enough that weights come from memory, not from a cache, as they will; as the room allows."""
    nbytes = packed_bytes(spec.linears(), model.rules, model.execution, layer="layer")
    for path, (out, width) in spec.linears().items():
        nbytes += 0 if model.rules.scheme_of(path) else out * width * model.dtype.itemsize
    return max(1, min(spec.layers, -(-COLD_BYTES // nbytes), model.room // nbytes))


def _runner(model: Timed, spec: ModelSpec, rows: int, exact: bool, draft_nodes: int) -> ModelRunner:
    """A runner of `spec` with `CONTEXT` rows in its cache."""
    decoder = Decoder(spec, model.dtype)
    decoder.embedding = _weight(model, spec.vocab_size, spec.hidden_size)
    decoder.norm.weight, decoder.head.weight = _weight(model, spec.hidden_size), decoder.embedding
    for layer in decoder.stack:  # every one has weights of its own, which no cache holds
        layer.substitute(_specimens(model, spec))
        for name, shape in spec.layer_tensors().items():
            if not model.rules.scheme_of(name.rpartition(".")[0]):
                layer.put({name: _weight(model, *shape)})
    sizes = (spec.layers, spec.kv_heads, spec.head_dim, CONTEXT, draft_nodes, rows)
    cache = KVCache(CacheShape(*sizes, int8=model.int8_cache), model.dtype, model.device)
    cache.commit(CONTEXT)
    layers = ResidentLayers(decoder.stack)
    return ModelRunner(decoder, layers, cache, eager_steps(), width=rows, chunk=rows, exact=exact)


def _specimens(model: Timed, spec: ModelSpec) -> dict[str, nn.Module]:
    """The quantized linears of a layer; those of one input and one scheme are one, as when they run."""
    made: dict[str, nn.Module] = {}
    for scheme in model.rules.schemes:
        alike = {path: shape for path, shape in spec.linears().items() if model.rules.scheme_of(path) == scheme}
        made |= {path: specimen(*shape, scheme, model.execution) for path, shape in joined(alike).items()}
    return made


def _weight(model: Timed, *shape: int) -> torch.Tensor:
    return torch.full(shape, 0.01, dtype=model.dtype, device=model.device)


def _feed_forward(runner: ModelRunner, rows: int) -> float:
    """Of one layer."""
    layers, spec = runner.decoder.stack, runner.decoder.spec
    hidden = torch.full((1, rows, spec.hidden_size), 0.01, dtype=runner.decoder.dtype, device=runner.device)
    return _seconds(lambda: [layer.mlp(hidden) for layer in layers], runner.device) / len(layers)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The median of a few runs, after one that fills caches and pools: what the machine is like as a rule."""
    runs: list[float] = []
    while len(runs) <= _REPEATS and sum(runs[1:]) < _PATIENCE:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        runs.append(time.perf_counter() - started)
    return statistics.median(runs[1:])
