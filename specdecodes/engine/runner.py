"""One model, one cache, its steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from specdecodes.cache import KVCache
from specdecodes.engine.compile import Steps
from specdecodes.engine.layers import LayerSource, Traffic
from specdecodes.models.decoder import Decoder, LayerStep, Rotary
from specdecodes.spans import span
from specdecodes.tree import TokenTree


@dataclass(frozen=True)
class Rows:
    """The rows of one step: `tokens`, `positions` [B, M], cache `slots` [M] to write, `window` [2] of slots, from the
    first to behind the last, to see through the first columns of `mask` [B, M, all slots], and the position that each
    seen slot holds, `seen` [S]; for a head `features` [B, M, hidden] of the tokens before."""

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    mask: Tensor
    window: Tensor
    seen: Tensor
    features: Tensor | None = None

    def narrowed(self, window: int | None) -> Tensor:
        """The mask of a layer that sees only the last `window` positions (None: all)."""
        if window is None:
            return self.mask
        mask = self.mask.clone()
        mask[..., : self.seen.shape[0]] &= self.positions[..., None] - self.seen < window
        return mask


@dataclass(frozen=True)
class Scores:
    """What a pass says of its rows: raw `logits` [n, vocab] and the last layer's `hidden` [n, hidden]; and `states`
    [rows, taps x hidden], what entered the layers that the runner taps, of *all* rows of a prompt."""

    logits: Tensor
    hidden: Tensor
    states: Tensor | None = None


class ModelRunner:
    """`prefill` commits a prompt in chunks of `chunk` rows; `score` runs a whole tree, padding included;
    `level` runs one level of a draft tree; `branches` scores texts that begin alike. A model that streams is read once
    per call, however many chunks there are.

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
        taps: Sequence[int] = (),
    ) -> None:
        self.decoder, self.cache, self.steps = decoder, cache, steps
        self.width, self.chunk, self.exact = width, chunk, exact
        self._layers, self._taps = layers, tuple(taps)
        self._device = decoder.device
        positions = cache.shape.max_length + cache.shape.target_nodes + cache.shape.draft_nodes
        self._rotary = Rotary(decoder.spec, positions, decoder.dtype, self._device)
        self._index = torch.arange(cache.shape.slots, device=self._device)

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
        count = tokens.shape[0]
        chunk = self.width if count <= self.width else self.chunk
        passes = []
        for start in range(0, count, chunk):
            part = slice(start, start + chunk)
            passes.append(self._prompt_rows(tokens[part], None if features is None else features[part], start, chunk))
        hidden, states = self._run(passes)
        self.cache.commit(count)
        last = (count - 1) % chunk
        logits = self.steps.logits(self.decoder, hidden[-1])[0, last : last + 1]
        kept = torch.cat([rows[0] for rows in states])[:count] if states else None
        return Scores(logits, hidden[-1][0, last : last + 1], kept)

    def score(self, tree: TokenTree) -> Scores:
        """Scores of every node of `tree`, in a pass of its capacity. Its cache rows lie in the target's region,
        uncommitted."""
        length, width = self.cache.length, tree.capacity
        mask = self._mask(width)
        mask[0, :, :length] = True
        mask[0, :, length : length + width] = tree.ancestors
        window = self._window(self.cache.end + width)
        slots = self.cache.end + self._index[:width]
        positions = length + tree.depths
        seen = torch.cat((self._index[:length], positions))
        rows = Rows(tree.tokens[None], positions[None], slots, mask, window, seen)
        hidden, states = self._run([rows])
        return Scores(self.steps.logits(self.decoder, hidden[0])[0], hidden[0][0], states[0][0] if states else None)

    def level(self, tree: TokenTree, nodes: Tensor, features: Tensor | None = None) -> Scores:
        """Scores of the `nodes` [n] of a draft tree, whose capacity is the draft's region. Its rows lie there.
        `features` [n, hidden]: a head's.

        Made of tensors that stay where they are and of shapes that never change: a step to record and replay.
        """
        region, count = self.cache.start, self.cache.count
        mask = (self._index < region + count).repeat(1, nodes.shape[0], 1)
        mask[0, :, :region] = tree.ancestors[nodes]
        positions = count + tree.depths
        seen = torch.cat((positions, self._index[: self._index.shape[0] - region]))
        window = torch.cat((torch.zeros_like(count), region + count))
        given = None if features is None else features[None]
        step = Rows(tree.tokens[None, nodes], positions[None, nodes], nodes, mask, window, seen, given)
        (hidden,), _ = self._run([step], "draft layer")
        return Scores(self.steps.logits(self.decoder, hidden)[0], hidden[0])

    def branches(self, tokens: Tensor, depths: Tensor, ancestors: Tensor) -> Iterator[Scores]:
        """Scores of all `tokens` [n], chunk by chunk. Each lies `depths` [n] behind the committed rows and sees those
        and its `ancestors` [n, n] bool, which come before it. Rows lie behind the committed ones, uncommitted."""
        count, length = tokens.shape[0], self.cache.length
        chunk = self.width if count <= self.width else self.chunk
        extra = -count % chunk
        tokens, positions = F.pad(tokens, (0, extra)), length + F.pad(depths, (0, extra))
        own = torch.eye(count + extra, dtype=torch.bool, device=self._device)  # padding sees itself, and nobody else
        own[:count, :count] |= ancestors
        seen = torch.cat((self._index[:length], positions))
        passes = []
        for start in range(0, count, chunk):
            rows, stop = slice(start, start + chunk), self.cache.end + start + chunk
            mask = self._mask(chunk)
            mask[0, :, :length] = True
            mask[0, :, length : length + count + extra] = own[rows]
            slots = self._index[self.cache.end + start : stop]
            passes.append(Rows(tokens[None, rows], positions[None, rows], slots, mask, self._window(stop), seen))
        for place, hidden in enumerate(self._run(passes)[0]):
            rows = slice(min(chunk, count - place * chunk))
            yield Scores(self.steps.logits(self.decoder, hidden)[0, rows], hidden[0, rows])

    def _prompt_rows(self, tokens: Tensor, features: Tensor | None, start: int, chunk: int) -> Rows:
        """Rows of one prompt chunk, padded to `chunk`; padding comes last, so no real row sees it."""
        first = self.cache.length + start
        padded = torch.zeros(1, chunk, dtype=torch.int64, device=self._device)
        padded[0, : tokens.shape[0]] = tokens
        positions = first + self._index[None, :chunk]
        mask = self._index <= positions[..., None]
        slots = self.cache.start + first + self._index[:chunk]
        window = self._window(self.cache.start + first + chunk)
        if features is not None:
            features = F.pad(features, (0, 0, 0, chunk - features.shape[0]))[None]
        return Rows(padded, positions, slots, mask, window, self._index[: first + chunk], features)

    def _window(self, stop: int) -> Tensor:
        """From the first committed slot to `stop`, where attention wants it: on the host when exact or on a CPU."""
        return torch.tensor((self.cache.start, stop), device="cpu" if self.exact else self._device)

    def _mask(self, rows: int) -> Tensor:
        """As wide as the cache whatever the window, so that its shape never changes."""
        return torch.zeros(1, rows, self.cache.shape.slots, dtype=torch.bool, device=self._device)

    def _run(self, passes: list[Rows], kind: str = "layer") -> tuple[list[Tensor], list[Tensor]]:
        """Of each pass the hidden states [B, M, hidden] after the last layer, and before the tapped ones side by side
        (an empty list without taps). Layers are outermost, so each is fetched once; a profiler sees every layer as its
        `kind` and number."""
        hidden = [self.decoder.embed(rows.tokens, rows.features) for rows in passes]
        windows = self.decoder.spec.windows
        masks = [{window: rows.narrowed(window) for window in set(windows)} for rows in passes]
        turns = [(self._rotary.cos[rows.positions], self._rotary.sin[rows.positions]) for rows in passes]
        entering: dict[int, list[Tensor]] = {}
        with contextlib.closing(self._layers.layers()) as layers:
            for index, layer in enumerate(layers):
                if index in self._taps:
                    entering[index] = list(hidden)
                keys, values = self.cache.keys[index], self.cache.values[index]
                with span(f"{kind} {index}"):
                    for place, rows in enumerate(passes):
                        mask = masks[place][windows[index]]
                        step = LayerStep(*turns[place], keys, values, rows.slots, mask, rows.window, self.exact)
                        hidden[place] = self.steps.layer(layer, hidden[place], step)
        entering[len(windows)] = hidden
        tapped = [entering[tap] for tap in self._taps]
        return hidden, [torch.cat(states, dim=-1) for states in zip(*tapped, strict=True)]
