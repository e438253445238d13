"""The target's hidden states over whole conversations, its layers read once for as many conversations as the cache
holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdecodes.engine.sight import View
from specdecodes.engine.stack import Rows
from specdecodes.methods.assembly import LoadedTarget
from specdecodes.models.decoder import LayerStep, Rotary


@dataclass(frozen=True)
class Features:
    """What a head sees of one conversation of n tokens: `inputs` [n, k hidden], the states that enter the layers asked
    for, side by side; `last` [n, hidden], the last layer's output behind the final norm, which is all that the target's
    own head needs. Without layers (EAGLE-1/2) `inputs` is `last`."""

    inputs: Tensor
    last: Tensor


class FeatureReader:
    """Runs a target, resident or streamed, over several conversations in one pass of its layers."""

    def __init__(self, target: LoadedTarget, layers: Sequence[int]) -> None:
        self._runner, self._source, self._decoder = target.runner, target.layers, target.decoder
        self._wanted = tuple(layers)
        self._chunk = target.runner.chunk
        self._index = torch.arange(target.runner.cache.shape.slots, device=target.runner.device)
        spec = self._decoder.spec
        self._rotary = Rotary(spec, self.capacity + self._chunk, self._decoder.dtype, target.runner.device)

    @property
    def capacity(self) -> int:
        """Tokens of all conversations of one pass together."""
        return self._runner.cache.shape.max_length

    @torch.no_grad()
    def read(self, conversations: Sequence[Tensor]) -> list[Features]:
        """Features of each of `conversations` ([n] int64 each, not empty), in order, on the host.

        Raises ValueError when they are more than `capacity` tokens.
        """
        if sum(tokens.shape[0] for tokens in conversations) > self.capacity:
            raise ValueError(f"more than {self.capacity} tokens in one pass")
        passes: list[Rows] = []
        counts: list[int] = []
        base = self._runner.cache.start
        for tokens in conversations:
            rows = list(self._rows(tokens.to(self._runner.device), base))
            passes += rows
            counts.append(len(rows))
            base += tokens.shape[0]
        seen, last = self._run(passes)
        found: list[Features] = []
        for tokens, count in zip(conversations, counts, strict=True):
            first, length = sum(counts[: len(found)]), tokens.shape[0]
            final = torch.cat(last[first : first + count])[:length]
            inputs = [torch.cat(states[first : first + count])[:length] for states in seen]
            found.append(Features(torch.cat(inputs, dim=-1) if inputs else final, final))
        return found

    def _rows(self, tokens: Tensor, base: int) -> Iterator[Rows]:
        """The chunks of one conversation whose first row lies at slot `base`. Padding of its last chunk lies where the
        next conversation will write, in every layer, before it reads."""
        for start in range(0, tokens.shape[0], self._chunk):
            part = tokens[start : start + self._chunk]
            padded = torch.zeros(1, self._chunk, dtype=torch.int64, device=tokens.device)
            padded[0, : part.shape[0]] = part
            positions = start + self._index[: self._chunk]
            look = View(base, self._index.shape[0], self._runner.exact).chain(start, positions)
            yield Rows(padded, positions[None], base + positions, look)

    def _run(self, passes: list[Rows]) -> tuple[list[list[Tensor]], list[Tensor]]:
        """The states [rows, hidden] of every pass that enter each wanted layer, and those behind the final norm."""
        hidden = [self._decoder.embed(rows.tokens) for rows in passes]
        windows, cache = self._decoder.spec.windows, self._runner.cache
        turns = [(self._rotary.cos[rows.positions], self._rotary.sin[rows.positions]) for rows in passes]
        entering: dict[int, list[Tensor]] = {}
        with contextlib.closing(self._source.sections()) as sections:
            numbered = (pair for section in sections for pair in zip(section.numbers, section.layers, strict=True))
            for index, layer in numbered:
                if index in self._wanted:
                    entering[index] = [state[0].cpu() for state in hidden]
                keys, values = cache.keys[index], cache.values[index]
                for place, rows in enumerate(passes):
                    seen = rows.look(windows[index])
                    step = LayerStep(
                        *turns[place], keys, values, rows.slots, seen.mask, seen.window, self._runner.exact
                    )
                    hidden[place] = self._runner.steps.layer(layer, hidden[place], step)
        if self._decoder.spec.layers in self._wanted:
            entering[self._decoder.spec.layers] = [state[0].cpu() for state in hidden]
        return [entering[index] for index in self._wanted], [self._decoder.norm(state)[0].cpu() for state in hidden]
