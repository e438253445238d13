"""One model, one cache, its steps."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F

from specdecodes.cache import KVCache
from specdecodes.engine.compile import Steps
from specdecodes.engine.graphs import GraphPool
from specdecodes.engine.layers import LayerSource, Traffic
from specdecodes.engine.recorded_pass import RecordedPass
from specdecodes.engine.sight import Look, Sight, View
from specdecodes.models.attention import reads_there
from specdecodes.models.cpu_layer import LayerCall, fuse
from specdecodes.models.decoder import Decoder, DecoderLayer, LayerStep, Rotary
from specdecodes.spans import span
from specdecodes.tree import TokenTree


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


@dataclass(frozen=True)
class Scores:
    """What a pass says of its rows: raw `logits` [n, vocab] and the last layer's `hidden` [n, hidden]; and `states`
    [rows, taps x hidden], what entered the layers that the runner taps, of *all* rows of a prompt."""

    logits: Tensor
    hidden: Tensor
    states: Tensor | None = None


class ModelRunner:
    """`prefill` commits a prompt; `score` runs a whole tree, padding included; `level` runs one level of a draft tree;
    `branches` scores texts that begin alike.

    A prompt is cut into chunks of `wide` rows and a rest in chunks of `chunk`, or one of `width` where that holds it
    all: the cut depends on its length alone, as exactness asks. A model that streams is read once for `stretch` rows of
    it, at least for a chunk; for any other call once.

    `taps`: layers before which the hidden state is kept for a drafter (the number of all layers: behind the last).
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: LayerSource,
        cache: KVCache,
        steps: Steps,
        *,
        width: int,
        chunk: int,
        exact: bool,
        wide: int = 0,
        stretch: int = 0,
        taps: Sequence[int] = (),
    ) -> None:
        self.decoder, self.cache, self.steps = decoder, cache, steps
        self.width, self.chunk, self.exact = width, chunk, exact
        self._wide, self._stretch = max(wide, chunk), stretch
        self._layers, self._taps = layers, tuple(taps)
        self._device = decoder.device
        positions = cache.shape.max_length + cache.shape.target_nodes + cache.shape.draft_nodes
        self._rotary = Rotary(decoder.spec, positions, decoder.dtype, self._device)
        self._index = torch.arange(cache.shape.slots, device=self._device)
        self._view = View(cache.start, cache.shape.slots, exact)
        # Windows that the host must know are no part of a graph.
        records = steps.graphs and (self._device.type != "cuda" or reads_there(exact, cache.shape.slots))
        self._graphs = GraphPool(self._device, record=records)
        self._recorded: dict[int, RecordedPass] = {}  # by width
        self._fused: dict[int, LayerCall | None] = {}  # of a draft, by layer

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def position(self) -> Tensor:
        """Where a tree's root lies in the text, [1] on the device."""
        return self.cache.count

    @property
    def traffic(self) -> Traffic:
        return self._layers.traffic

    def prefill(self, tokens: Tensor, features: Tensor | None = None) -> Scores:
        """Commit `tokens` [n] after the cached rows; scores of the last one (one row). `features` [n, hidden]: a
        head's."""
        *_, (part, rows) = self._chunks(tokens.shape[0])
        states = self._room(part.start + rows)
        hidden = self._commit(tokens, features, states)
        last = part.stop - part.start - 1
        width = self.width if self.exact else 1  # of the head: one width, whatever the chunk's
        first = max(0, last + 1 - width)
        end, last = hidden[:, first : first + width], last - first
        logits = self.steps.logits(self.decoder, end)[0, last : last + 1]
        return Scores(logits, end[0, last : last + 1], None if states is None else states[: tokens.shape[0]])

    def follow(self, tokens: Tensor, features: Tensor | None = None) -> None:
        """Commit `tokens` [n] as `prefill` does, where nobody asks what the model says of them: no head is run."""
        self._commit(tokens, features, None)

    def score(self, tree: TokenTree) -> Scores:
        """Scores of every node of `tree`, in a pass of its capacity. Its cache rows lie in the target's region,
        uncommitted."""
        states, recorded = self._room(tree.capacity), self._recording(tree.capacity)
        rows = self._tree_rows(tree, states)
        hidden = self._run([rows])[0] if recorded is None else self._replay(rows, recorded)
        return Scores(self.steps.logits(self.decoder, hidden)[0], hidden[0], states)

    @torch.no_grad()
    def rehearse(self, sizes: Sequence[int], layers: Collection[int]) -> None:
        """Run trees of so many rows, of no consequence, through `layers`, one of each kind that is compiled: then no
        answer waits in its middle for a compiler. A model that streams is read once at most."""
        root = torch.zeros(1, dtype=torch.int64, device=self._device)
        passes = [self._tree_rows(TokenTree.rooted(root, rows), None) for rows in sizes]
        for hidden in self._run(passes, layers=layers):
            self.steps.logits(self.decoder, hidden)

    def level(self, tree: TokenTree, nodes: Tensor, features: Tensor | None = None) -> Scores:
        """Scores of the `nodes` [n] of a draft tree, whose capacity is the draft's region. Its rows lie there.
        `features` [n, hidden]: a head's.

        Made of tensors that stay where they are and of shapes that never change: a step to record and replay.
        """
        region, count = self.cache.start, self.cache.count
        positions = count + tree.depths
        window = torch.cat((torch.zeros_like(count), region + count))

        def look(reach: int | None) -> Sight:
            mask = (self._index < region + count).repeat(1, nodes.shape[0], 1)
            mask[0, :, :region] = tree.ancestors[nodes]
            if reach is not None:
                seen = torch.cat((positions, self._index[: self._index.shape[0] - region]))
                mask &= seen > (positions[nodes] - reach)[:, None]
            return Sight(mask, window)

        given = None if features is None else features[None]
        step = Rows(tree.tokens[None, nodes], positions[None, nodes], nodes, look, given)
        (hidden,) = self._run([step], "draft layer", fused=True)
        return Scores(self.steps.logits(self.decoder, hidden)[0], hidden[0])

    def branches(self, tokens: Tensor, depths: Tensor, ends: Tensor) -> Iterator[Scores]:
        """Scores of all `tokens` [n], chunk by chunk. Each lies `depths` [n] behind the committed rows and sees those,
        itself, and its ancestors; its descendants are those that follow it before its own of `ends` [n]. Rows lie
        behind the committed ones, uncommitted."""
        count, length = tokens.shape[0], self.cache.length
        chunk = self.width if count <= self.width else self.chunk
        extra = -count % chunk
        tokens, positions = F.pad(tokens, (0, extra)), length + F.pad(depths, (0, extra))
        ends = torch.cat((ends, self._index[count : count + extra] + 1))  # padding sees itself, and nobody else
        passes = []
        for start in range(0, count, chunk):
            rows, stop = slice(start, start + chunk), start + chunk
            look = self._view.forest(length, ends[:stop], positions[:stop], start)
            slots = self.cache.end + self._index[rows]
            passes.append(Rows(tokens[None, rows], positions[None, rows], slots, look))
        for place, hidden in enumerate(self._run(passes)):
            rows = slice(min(chunk, count - place * chunk))
            yield Scores(self.steps.logits(self.decoder, hidden)[0, rows], hidden[0, rows])

    def _commit(self, tokens: Tensor, features: Tensor | None, states: Tensor | None) -> Tensor:
        """Run `tokens` [n] behind the cached rows; the last chunk's hidden state [1, rows, hidden]."""
        for stretch in self._stretches(tokens.shape[0]):
            hidden = self._run([self._prompt_rows(tokens, features, states, *chunk) for chunk in stretch])
        self.cache.commit(tokens.shape[0])
        return hidden[-1]

    def _stretches(self, count: int) -> Iterator[list[tuple[slice, int]]]:
        """The chunks of a prompt of `count` tokens, each with its rows, in as many lists as there are passes of the
        weights."""
        taken: list[tuple[slice, int]] = []
        for part, rows in self._chunks(count):
            if taken and part.start + rows > taken[0][0].start + self._stretch:
                yield taken
                taken = []
            taken.append((part, rows))
        yield taken

    def _chunks(self, count: int) -> Iterator[tuple[slice, int]]:
        begin = 0
        while begin < count:
            left = -(-(count - begin) // self.chunk) * self.chunk
            rows = self.width if count <= self.width else self._wide if left >= self._wide else self.chunk
            yield slice(begin, min(begin + rows, count)), rows
            begin += rows

    def _tree_rows(self, tree: TokenTree, states: Tensor | None) -> Rows:
        slots = self.cache.end + self._index[: tree.capacity]
        positions = self.cache.length + tree.depths
        look = self._view.behind(self.cache.length, tree.ancestors, positions)
        return Rows(tree.tokens[None], positions[None], slots, look, states=states)

    def _room(self, rows: int) -> Tensor | None:
        """Where passes of `rows` rows together leave what enters the tapped layers."""
        width = len(self._taps) * self.decoder.spec.hidden_size
        return torch.empty(rows, width, dtype=self.decoder.dtype, device=self._device) if self._taps else None

    def _prompt_rows(
        self, tokens: Tensor, features: Tensor | None, states: Tensor | None, part: slice, rows: int
    ) -> Rows:
        """The chunk `part` of a prompt, padded to `rows`; padding comes last, so no real row sees it."""
        first, tokens = self.cache.length + part.start, tokens[part]
        padded = torch.zeros(1, rows, dtype=torch.int64, device=self._device)
        padded[0, : tokens.shape[0]] = tokens
        positions = first + self._index[:rows]
        if features is not None:
            features = F.pad(features[part], (0, 0, 0, rows - tokens.shape[0]))[None]
        if states is not None:
            states = states[part.start : part.start + rows]
        look = self._view.chain(first, positions)
        return Rows(padded, positions[None], self.cache.start + positions, look, features, states)

    def _run(
        self, passes: list[Rows], kind: str = "layer", layers: Collection[int] | None = None, *, fused: bool = False
    ) -> list[Tensor]:
        """Of each pass the hidden states [B, M, hidden] after the last layer; those before the tapped ones go side by
        side to its `states`. Layers are outermost, so each is fetched once; a profiler sees every layer as its `kind`
        and number. `layers`: which, if not all. `fused`: each in one call if it can be, in a draft's arithmetic."""
        hidden = [self.decoder.embed(rows.tokens, rows.features) for rows in passes]
        reaches = self.decoder.spec.windows
        sight = lru_cache(len(set(reaches)))(lambda place, reach: passes[place].look(reach))
        turns = [(self._rotary.cos[rows.positions], self._rotary.sin[rows.positions]) for rows in passes]
        chosen = range(len(reaches)) if layers is None else layers
        with contextlib.closing(self._layers.layers()) as source:
            for index, layer in enumerate(islice(source, max(chosen, default=-1) + 1)):
                if index not in chosen:
                    continue
                self._tap(index, passes, hidden)
                keys, values = self.cache.keys[index], self.cache.values[index]
                run = (self._fused_layer(index, layer) if fused else None) or partial(self.steps.layer, layer)
                with span(f"{kind} {index}"):
                    for place, rows in enumerate(passes):
                        seen = sight(place, reaches[index])
                        step = LayerStep(*turns[place], keys, values, rows.slots, seen.mask, seen.window, self.exact)
                        hidden[place] = run(hidden[place], step)
        self._tap(len(reaches), passes, hidden)
        return hidden

    def _fused_layer(self, index: int, layer: DecoderLayer) -> LayerCall | None:
        if index not in self._fused:
            self._fused[index] = None if self.exact else fuse(layer, self.cache.keys[index])
        return self._fused[index]

    def _tap(self, index: int, passes: list[Rows], hidden: list[Tensor]) -> None:
        """Keep what enters layer `index`, if it is tapped."""
        size = self.decoder.spec.hidden_size
        for place, tap in enumerate(self._taps):
            for rows, state in zip(passes, hidden, strict=True):
                if tap == index and rows.states is not None:
                    rows.states[:, place * size : (place + 1) * size] = state[0]

    def _recording(self, rows: int) -> RecordedPass | None:
        """For the widths that come again and again: the usual one, and that of a plain pass."""
        if not self._graphs.records or rows not in (self.width, 1):
            return None
        if rows not in self._recorded:
            self._recorded[rows] = RecordedPass(self.steps.layer, self._graphs, exact=self.exact)
        return self._recorded[rows]

    def _replay(self, rows: Rows, recorded: RecordedPass) -> Tensor:
        """`_run` of one pass, its layers replayed."""
        reaches = self.decoder.spec.windows
        turn = self._rotary.cos[rows.positions], self._rotary.sin[rows.positions]
        sights = {reach: rows.look(reach) for reach in dict.fromkeys(reaches)}
        hidden = recorded.begin(self.decoder.embed(rows.tokens, rows.features), turn, rows.slots, sights)
        with contextlib.closing(self._layers.layers()) as layers:
            for index, layer in enumerate(layers):
                self._tap(index, [rows], [hidden])
                with span(f"layer {index}"):
                    recorded.layer(index, layer, self.cache.keys[index], self.cache.values[index], reaches[index])
        self._tap(len(reaches), [rows], [hidden])
        return hidden.clone()  # the next pass overwrites it
