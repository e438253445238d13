"""A model's layers at work on the rows of passes."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from specdecodes.cache import KVCache
from specdecodes.engine.compile import Steps
from specdecodes.engine.graphs import GraphPool
from specdecodes.engine.layers import LayerSource, Section, Traffic
from specdecodes.engine.recorded_pass import RecordedPass
from specdecodes.engine.sight import Look, Sight
from specdecodes.models.decoder import Decoder, LayerStep, Rotary
from specdecodes.models.fused.cpu_layer import Fused, LayersCall, fuse
from specdecodes.models.kernels.attention import reads_there
from specdecodes.spans import profiled, span

FUSED_ROWS = 64
"""At most, of a pass whose layers run as one call; of more, torch's linears are as fast."""


@dataclass(frozen=True)
class Rows:
    """The rows of one step: `tokens`, `positions` [B, M], the cache `slots` [M] to write, and the `look` of a layer at
    the cache; for a head `features` [B, M, hidden] of the tokens before; `states` [M, taps x hidden] are written."""

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    look: Look
    features: Tensor | None = None
    states: Tensor | None = None


class Stack:
    """The layers of `decoder`, which `source` brings, on the rows of `cache`.

    Consecutive layers at hand that can be fused (see `models.fused`) run as one call, where a pass is not exact and
    has few rows; others one by one, as `steps` has it. `taps`: layers before which the hidden state is kept.
    `recorded`: the rows of passes that come again and again.
    """

    def __init__(
        self,
        decoder: Decoder,
        source: LayerSource,
        cache: KVCache,
        steps: Steps,
        *,
        exact: bool,
        taps: Sequence[int],
        recorded: Collection[int],
    ) -> None:
        self.decoder, self.cache, self.steps = decoder, cache, steps
        self._source, self._taps, self._exact = source, tuple(taps), exact
        positions = cache.shape.max_length + cache.shape.target_nodes + cache.shape.draft_nodes
        self.rotary = Rotary(decoder.spec, positions, decoder.dtype, decoder.device)
        # Windows that the host must know are no part of a graph.
        records = steps.graphs and (decoder.device.type != "cuda" or reads_there(exact, cache.shape.slots))
        self._graphs, self._often = GraphPool(decoder.device, record=records), recorded
        self._recorded: dict[int, RecordedPass] = {}  # by rows
        self._fused: dict[int, Fused | None] = {}  # of the layers that stay, by number
        self._calls: dict[range, LayersCall | None] = {}  # of those, by their numbers
        self._cuts: dict[range, list[Section]] = {}  # of sections that stay

    @property
    def traffic(self) -> Traffic:
        return self._source.traffic

    def once(self, rows: Rows) -> Tensor:
        """One pass: its hidden state [B, M, hidden] after the last layer; replayed if it is of those recorded."""
        count = rows.slots.shape[0]
        if not self._graphs.records or count not in self._often:
            return self.run([rows])[0]
        if count not in self._recorded:
            self._recorded[count] = RecordedPass(self.steps.layer, self._graphs, exact=self._exact)
        return self._replay(rows, self._recorded[count])

    def run(self, passes: list[Rows], kind: str = "layer", layers: Collection[int] | None = None) -> list[Tensor]:
        """Of each pass the hidden states [B, M, hidden] after the last layer; those before the tapped ones go side by
        side to its `states`. What comes is outermost, so each layer is fetched once; a profiler sees every layer as its
        `kind` and number. `layers`: which, if not all."""
        hidden = [self.decoder.embed(rows.tokens, rows.features) for rows in passes]
        reaches = self.decoder.spec.windows
        sight = lru_cache(len(set(reaches)))(lambda place, reach: passes[place].look(reach))
        turns = [self._turn(rows) for rows in passes]
        chosen = range(len(reaches)) if layers is None else layers
        last = max(chosen, default=-1)
        with contextlib.closing(self._source.sections()) as source:
            for section in source if last >= 0 else ():
                for part in self._whole(section) if layers is None else self._parts(section, chosen):
                    call = self._call(part)
                    with span(f"{kind} {part.first}"):
                        for place, rows in enumerate(passes):
                            seen = [sight(place, reaches[index]) for index in part.numbers]
                            hidden[place] = self._advance(part, call, hidden[place], rows, turns[place], seen)
                if section.numbers[-1] >= last:
                    break
        for rows, state in zip(passes, hidden, strict=True):
            self._tap(len(reaches), rows, state)
        return hidden

    def _advance(
        self,
        part: Section,
        call: LayersCall | None,
        hidden: Tensor,
        rows: Rows,
        turn: tuple[Tensor, Tensor],
        seen: Sequence[Sight],
    ) -> Tensor:
        """One pass through the layers of `part`, each of which sees its own of `seen`."""
        if call is not None and hidden.shape[1] <= FUSED_ROWS:
            return self._at_once(part, call, hidden, rows, turn, seen)
        for index, layer, sight in zip(part.numbers, part.layers, seen, strict=True):
            keys, values = self.cache.keys[index], self.cache.values[index]
            self._tap(index, rows, hidden)
            step = LayerStep(*turn, keys, values, rows.slots, sight.mask, sight.window, self._exact)
            hidden = self.steps.layer(layer, hidden, step)
        return hidden

    def _at_once(
        self,
        part: Section,
        call: LayersCall,
        hidden: Tensor,
        rows: Rows,
        turn: tuple[Tensor, Tensor],
        seen: Sequence[Sight],
    ) -> Tensor:
        """The same as one call."""
        self._tap(part.first, rows, hidden)
        tapped = self._tapped(part.numbers[1:], rows)
        inside = {index - part.first: state for index, state in tapped}
        hidden = call(hidden, *turn, rows.slots, [(sight.mask, sight.window) for sight in seen], inside)
        for index, state in tapped:
            if state is not inside[index - part.first]:  # a layer that is tapped twice is written once
                state.copy_(inside[index - part.first])
        return hidden

    def _whole(self, section: Section) -> Sequence[Section]:
        """All layers of `section` as `_parts` cuts them, which is found out once where they stay."""
        if profiled() or not section.stays:
            return list(self._parts(section, section.numbers))
        if section.numbers not in self._cuts:
            self._cuts[section.numbers] = list(self._parts(section, section.numbers))
        return self._cuts[section.numbers]

    def _parts(self, section: Section, chosen: Collection[int]) -> Iterator[Section]:
        """The chosen layers of `section`, cut where somebody looks between two, or where they are called otherwise."""
        first = section.first
        for index in section.numbers:
            if index not in chosen:
                first = index + 1
            elif index == section.numbers[-1] or self._cut(section, index, chosen):
                yield section.part(first, index + 1)
                first = index + 1

    def _cut(self, section: Section, index: int, chosen: Collection[int]) -> bool:
        """Whether layer `index` and the next one do not belong together."""
        alike = (self._fuse(section, index) is None) == (self._fuse(section, index + 1) is None)
        return profiled() or index + 1 not in chosen or not alike

    def _call(self, part: Section) -> LayersCall | None:
        """The layers of `part` as one call, if they can be one."""
        if part.stays and part.numbers in self._calls:
            return self._calls[part.numbers]
        fused = [layer for layer in (self._fuse(part, index) for index in part.numbers) if layer is not None]
        call = LayersCall(fused) if len(fused) == len(part.numbers) else None
        if part.stays:
            self._calls[part.numbers] = call
        return call

    def _fuse(self, section: Section, index: int) -> Fused | None:
        if self._exact:
            return None
        if not section.stays:  # lies elsewhere when it comes again
            return fuse(section.layer(index), self.cache.keys[index], self.cache.values[index])
        if index not in self._fused:
            self._fused[index] = fuse(section.layer(index), self.cache.keys[index], self.cache.values[index])
        return self._fused[index]

    def _turn(self, rows: Rows) -> tuple[Tensor, Tensor]:
        return self.rotary.cos[rows.positions], self.rotary.sin[rows.positions]

    def _tap(self, index: int, rows: Rows, hidden: Tensor) -> None:
        """Keep what enters layer `index`, if it is tapped."""
        for _, state in self._tapped(range(index, index + 1), rows):
            state.copy_(hidden[0])

    def _tapped(self, numbers: range, rows: Rows) -> list[tuple[int, Tensor]]:
        """Those of `numbers` that are tapped, each with where what enters the layer is kept, [M, hidden]."""
        if rows.states is None:
            return []
        size, taps = self.decoder.spec.hidden_size, enumerate(self._taps)
        return [(tap, rows.states[:, place * size : (place + 1) * size]) for place, tap in taps if tap in numbers]

    def _replay(self, rows: Rows, recorded: RecordedPass) -> Tensor:
        """`run` of one pass, its layers replayed."""
        reaches = self.decoder.spec.windows
        sights = {reach: rows.look(reach) for reach in dict.fromkeys(reaches)}
        entering = self.decoder.embed(rows.tokens, rows.features)
        hidden = recorded.begin(entering, self._turn(rows), rows.slots, sights)
        with contextlib.closing(self._source.sections()) as source:
            for section in source:
                for index, layer in zip(section.numbers, section.layers, strict=True):
                    self._tap(index, rows, hidden)
                    with span(f"layer {index}"):
                        recorded.layer(index, layer, self.cache.keys[index], self.cache.values[index], reaches[index])
        self._tap(len(reaches), rows, hidden)
        return hidden.clone()  # the next pass overwrites it
