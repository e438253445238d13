"""One model, one cache, its steps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from specdecodes.cache import KVCache
from specdecodes.engine.compile import Steps
from specdecodes.engine.layers import LayerSource, Traffic
from specdecodes.engine.sight import Sight, View
from specdecodes.engine.stack import Rows, Stack
from specdecodes.models.decoder import Decoder, Linear, RMSNorm
from specdecodes.models.kernels import cpu_linear
from specdecodes.tree import TokenTree


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
        self._wide, self._stretch, self._taps = max(wide, chunk), stretch, len(taps)
        # Recorded: the usual pass, and a plain one.
        self.stack = Stack(decoder, layers, cache, steps, exact=exact, taps=taps, recorded=(width, 1))
        self._device = decoder.device
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
        return self.stack.traffic

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
        logits = self._logits(end)[0, last : last + 1]
        return Scores(logits, end[0, last : last + 1], None if states is None else states[: tokens.shape[0]])

    def follow(self, tokens: Tensor, features: Tensor | None = None) -> None:
        """Commit `tokens` [n] as `prefill` does, where nobody asks what the model says of them: no head is run."""
        self._commit(tokens, features, None)

    def score(self, tree: TokenTree) -> Scores:
        """Scores of every node of `tree`, in a pass of its capacity. Its cache rows lie in the target's region,
        uncommitted."""
        states = self._room(tree.capacity)
        hidden = self.stack.once(self._tree_rows(tree, states))
        return Scores(self._logits(hidden)[0], hidden[0], states)

    @torch.no_grad()
    def rehearse(self, sizes: Sequence[int], layers: Collection[int]) -> None:
        """Run trees of so many rows, of no consequence, through `layers`, one of each kind that is compiled: then no
        answer waits in its middle for a compiler. A model that streams is read once at most."""
        root = torch.zeros(1, dtype=torch.int64, device=self._device)
        passes = [self._tree_rows(TokenTree.rooted(root, rows), None) for rows in sizes]
        for hidden in self.stack.run(passes, layers=layers):
            self._logits(hidden)

    def level(self, tree: TokenTree, nodes: Tensor, features: Tensor | None = None) -> Scores:
        """Scores of the `nodes` [n] of a draft tree, whose capacity is the draft's region. Its rows lie there.
        `features` [n, hidden]: a head's.

        Made of tensors that stay where they are and of shapes that never change: a step to record and replay.
        """
        region, count = self.cache.start, self.cache.count
        positions = count + tree.depths
        window = torch.cat((torch.zeros_like(count), region + count))

        def look(reach: int | None) -> Sight:
            mask = torch.empty(1, nodes.shape[0], self._index.shape[0], dtype=torch.bool, device=self._device)
            mask.copy_(self._index < region + count)
            mask[0, :, :region] = tree.ancestors[nodes]
            if reach is not None:
                seen = torch.cat((positions, self._index[: self._index.shape[0] - region]))
                mask &= seen > (positions[nodes] - reach)[:, None]
            return Sight(mask, window)

        given = None if features is None else features[None]
        step = Rows(tree.tokens[None, nodes], positions[None, nodes], nodes, look, given)
        (hidden,) = self.stack.run([step], "draft layer")
        return Scores(self._logits(hidden)[0], hidden[0])

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
        for place, hidden in enumerate(self.stack.run(passes)):
            rows = slice(min(chunk, count - place * chunk))
            yield Scores(self._logits(hidden)[0, rows], hidden[0, rows])

    def _logits(self, hidden: Tensor) -> Tensor:
        """Of `hidden` [B, M, hidden]: [B, M, vocab]. As with layers, few rows that need not be exact are one call."""
        norm, head = self.decoder.norm, self.decoder.head
        if self.exact or hidden.dtype != torch.bfloat16 or not cpu_linear.few(hidden):
            return self.steps.logits(self.decoder, hidden)
        if isinstance(norm, RMSNorm) and isinstance(head, Linear) and cpu_linear.takes(head.weight):
            return cpu_linear.normalized_linear(hidden, norm.weight, norm.eps, head.weight)
        return self.steps.logits(self.decoder, hidden)

    def _commit(self, tokens: Tensor, features: Tensor | None, states: Tensor | None) -> Tensor:
        """Run `tokens` [n] behind the cached rows; the last chunk's hidden state [1, rows, hidden]."""
        for stretch in self._stretches(tokens.shape[0]):
            hidden = self.stack.run([self._prompt_rows(tokens, features, states, *chunk) for chunk in stretch])
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
        width = self._taps * self.decoder.spec.hidden_size
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
