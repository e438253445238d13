"""One model, one cache, its steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from specdecodes.cache import KVCache
from specdecodes.engine.compile import Steps
from specdecodes.engine.layers import LayerSource, Traffic
from specdecodes.engine.sight import Look, Sight, View
from specdecodes.models.decoder import Decoder, LayerStep, Rotary
from specdecodes.spans import span
from specdecodes.tree import TokenTree


@dataclass(frozen=True)
class Rows:
    """The rows of one step: `tokens`, `positions` [B, M], the cache `slots` [M] to write, and the `look` of a layer at
    the cache; for a head `features` [B, M, hidden] of the tokens before."""

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    look: Look
    features: Tensor | None = None


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
        kept: list[Tensor] = []
        for stretch in self._stretches(tokens.shape[0]):
            passes = [
                self._prompt_rows(tokens[part], None if features is None else features[part], part.start, rows)
                for part, rows in stretch
            ]
            hidden, states = self._run(passes)
            kept += states
            part, _ = stretch[-1]
        self.cache.commit(tokens.shape[0])
        last = part.stop - part.start - 1
        first = max(0, last + 1 - self.width)  # the head runs at one width, whatever the chunk's
        end, last = hidden[-1][:, first : first + self.width], last - first
        logits = self.steps.logits(self.decoder, end)[0, last : last + 1]
        tapped = torch.cat([rows[0] for rows in kept])[: tokens.shape[0]] if kept else None
        return Scores(logits, end[0, last : last + 1], tapped)

    def score(self, tree: TokenTree) -> Scores:
        """Scores of every node of `tree`, in a pass of its capacity. Its cache rows lie in the target's region,
        uncommitted."""
        slots = self.cache.end + self._index[: tree.capacity]
        positions = self.cache.length + tree.depths
        look = self._view.behind(self.cache.length, tree.ancestors, positions)
        hidden, states = self._run([Rows(tree.tokens[None], positions[None], slots, look)])
        return Scores(self.steps.logits(self.decoder, hidden[0])[0], hidden[0][0], states[0][0] if states else None)

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
        (hidden,), _ = self._run([step], "draft layer")
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
        for place, hidden in enumerate(self._run(passes)[0]):
            rows = slice(min(chunk, count - place * chunk))
            yield Scores(self.steps.logits(self.decoder, hidden)[0, rows], hidden[0, rows])

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

    def _prompt_rows(self, tokens: Tensor, features: Tensor | None, start: int, rows: int) -> Rows:
        """One prompt chunk, padded to `rows`; padding comes last, so no real row sees it."""
        first = self.cache.length + start
        padded = torch.zeros(1, rows, dtype=torch.int64, device=self._device)
        padded[0, : tokens.shape[0]] = tokens
        positions = first + self._index[:rows]
        if features is not None:
            features = F.pad(features, (0, 0, 0, rows - features.shape[0]))[None]
        look = self._view.chain(first, positions)
        return Rows(padded, positions[None], self.cache.start + positions, look, features)

    def _run(self, passes: list[Rows], kind: str = "layer") -> tuple[list[Tensor], list[Tensor]]:
        """Of each pass the hidden states [B, M, hidden] after the last layer, and before the tapped ones side by side
        (an empty list without taps). Layers are outermost, so each is fetched once; a profiler sees every layer as its
        `kind` and number."""
        hidden = [self.decoder.embed(rows.tokens, rows.features) for rows in passes]
        reaches = self.decoder.spec.windows
        sight = lru_cache(len(set(reaches)))(lambda place, reach: passes[place].look(reach))
        turns = [(self._rotary.cos[rows.positions], self._rotary.sin[rows.positions]) for rows in passes]
        entering: dict[int, list[Tensor]] = {}
        with contextlib.closing(self._layers.layers()) as layers:
            for index, layer in enumerate(layers):
                if index in self._taps:
                    entering[index] = list(hidden)
                keys, values = self.cache.keys[index], self.cache.values[index]
                with span(f"{kind} {index}"):
                    for place, rows in enumerate(passes):
                        seen = sight(place, reaches[index])
                        step = LayerStep(*turns[place], keys, values, rows.slots, seen.mask, seen.window, self.exact)
                        hidden[place] = self.steps.layer(layer, hidden[place], step)
        entering[len(reaches)] = hidden
        tapped = [entering[tap] for tap in self._taps]
        return hidden, [torch.cat(states, dim=-1) for states in zip(*tapped, strict=True)]
