"""From one decoder layer's linears to quantized ones, a layer at a time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from specdecodes.quant.cache import SubstituteCache
from specdecodes.quant.codes import Solved, can_join, check_group, join
from specdecodes.quant.kernels.choice import Execution, KernelChoice, build_linear, kernel_bytes
from specdecodes.quant.solvers import solve, specimen_codes
from specdecodes.quant.spec import Rules, Scheme

Linears = Mapping[str, tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class LayerDone:
    """What `on_layer` is told: the layer, whether it came from the cache, and the seconds it took."""

    layer: str
    cached: bool
    seconds: float


def choose_kernels(rules: Rules, execution: Execution) -> KernelChoice:
    """The kernels of all that `rules` may ask for, as one choice: names and notes one after another."""
    choices = [execution.choose(scheme) for scheme in rules.schemes]
    kernels, notes = (dict.fromkeys(texts) for texts in ([c.kernel for c in choices], [c.note for c in choices]))
    return KernelChoice(", ".join(kernels), "; ".join(notes))


def packed_bytes(shapes: Mapping[str, tuple[int, int]], rules: Rules, execution: Execution, *, layer: str) -> int:
    """Bytes that the quantized linears of one layer hold, biases apart; shapes (out, in) by path inside it.

    Raises QuantError for groups that do not divide.
    """
    total = 0
    for path, (out_features, in_features) in shapes.items():
        scheme = rules.scheme_of(f"{layer}.{path}")
        if scheme is not None:
            check_group(in_features, scheme.group_of(in_features), name=f"{layer}.{path}")
            total += kernel_bytes(out_features, in_features, scheme, execution.choose(scheme).kernel)
    return total


def substitute(
    linears: Linears | Callable[[], Linears],
    rules: Rules,
    execution: Execution,
    *,
    cache: SubstituteCache | None = None,
    layer: str = "layer",
    joined: Mapping[str, Sequence[str]] | None = None,
    on_layer: Callable[[LayerDone], None] | None = None,
) -> dict[str, nn.Module]:
    """One layer's linears quantized: from (weight [out, in], bias [out] or None) by path such as `mlp.up_proj`.

    Given as a function, the weights are read only when the cache does not have the layer. Linears that the rules keep
    in full precision are left out of the result. `joined` names linears of one input that run as one, by the path of
    the whole, where all parts have one scheme. Raises QuantError for groups that do not divide and weights that are
    not finite.
    """
    started = time.perf_counter()
    solved = cache.load(layer, rules) if cache is not None else None
    cached = solved is not None
    if solved is None:
        solved = _solve_layer(linears() if callable(linears) else linears, rules, execution, layer)
        if cache is not None:
            cache.store(layer, rules, solved)
    modules = assemble(solved, rules, execution, layer=layer, joined=joined)
    if on_layer is not None:
        on_layer(LayerDone(layer, cached, time.perf_counter() - started))
    return modules


def assemble(
    linears: Mapping[str, Solved],
    rules: Rules,
    execution: Execution,
    *,
    layer: str = "layer",
    joined: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, nn.Module]:
    """One layer's linears from their codes, which are solved or a checkpoint's own; `joined` as in `substitute`."""
    solved = dict(linears)
    schemes = {path: scheme for path in solved if (scheme := rules.scheme_of(f"{layer}.{path}")) is not None}
    for whole, parts in (joined or {}).items():
        alike = all(part in solved for part in parts) and len({schemes[part] for part in parts}) == 1
        if alike and can_join([solved[part] for part in parts]):
            schemes[whole] = schemes[parts[0]]
            solved[whole] = join([solved.pop(part) for part in parts])
    return {path: _build(one, schemes[path], execution, f"{layer}.{path}") for path, one in solved.items()}


def specimen(out_features: int, in_features: int, scheme: Scheme, execution: Execution) -> nn.Module:
    """A linear of random codes: as fast as any other of its shape, and nothing has to be solved to time it."""
    codes = specimen_codes(out_features, in_features, scheme, torch.device(execution.device))
    return _build(Solved(codes), scheme, execution, "specimen")


def typical(rules: Rules, paths: Iterable[str], layers: int) -> Rules:
    """The rules of one layer that is like most of `layers.0`, `layers.1` and so on: each of its linears, by path, in
    the scheme in which most of them have it. Empty where those all stay in full precision."""
    found = {}
    for path in paths:
        schemes = Counter(rules.scheme_of(f"layers.{index}.{path}") for index in range(layers))
        found[path] = schemes.most_common(1)[0][0]
    return Rules(tuple(found.items())) if any(found.values()) else Rules(())


def _solve_layer(linears: Linears, rules: Rules, execution: Execution, layer: str) -> dict[str, Solved]:
    """Where they will run, one weight after another: a device has no room for a whole layer beside all that stays."""
    solved = {}
    for path, (weight, bias) in linears.items():
        scheme = rules.scheme_of(f"{layer}.{path}")
        if scheme is not None:
            codes = solve(weight.to(execution.device), scheme, name=f"{layer}.{path}")
            # A clone: the weights may lie in a buffer that is about to be reused.
            solved[path] = Solved(codes, None if bias is None else bias.detach().clone())
    return solved


def _build(solved: Solved, scheme: Scheme, execution: Execution, name: str) -> nn.Module:
    return build_linear(solved, scheme, execution.choose(scheme).kernel, name, execution.device)
