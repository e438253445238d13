"""Hierarchical drafting: what a draft proposes, a middle model verifies before the target sees it.

The middle model decodes as a target does, by the same loop, with any drafter, another hierarchical one included. The
tokens that it emits are offered to the target as one chain, so the target's pass stays narrow (HierSpec: Zhang et al.
2025). Rows that both agree on are never run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from operator import eq

import torch
from torch import Tensor

from specdecodes.drafters import Drafter
from specdecodes.drafters.pacing.stride import Stride
from specdecodes.engine.runner import ModelRunner, Scores
from specdecodes.errors import NumericsError
from specdecodes.sampling import Sampler
from specdecodes.stats import LevelWork, Round
from specdecodes.tree import TokenTree
from specdecodes.verify import Cut, Verdict

Rounds = Callable[[Sampler, int, Cut], Iterator[Round]]
"""Decoding from a root on, until the cut ends it."""


class HierarchicalDrafter:
    """Keeps one text, `_said`: what the target has emitted, and behind it what the middle model would say next.

    The middle model's cache holds the beginning of that text. Where the target says something else, text and cache end
    there, and its own word takes the place; where it agrees, what was not offered yet is offered next. The inner
    drafter hears of both as of a request that goes on (`Drafter.begin`), and so keeps what it knows of the rest.
    """

    def __init__(self, middle: ModelRunner, inner: Drafter, rounds: Rounds, stride: Stride) -> None:
        """`rounds`: the middle model's, with `inner`."""
        self._middle, self._inner, self._rounds, self._stride = middle, inner, rounds, stride
        self._said: list[int] = []
        self._known = 0  # of `_said`, committed by the target; its root comes after them
        self._offered = 0
        self._parted = True  # whether the inner drafter has yet to hear where the text goes on
        self._above: Sampler | None = None
        self._sampler: Sampler | None = None
        self._silent: Scores | None = None  # of no rows
        self._work: tuple[LevelWork, ...] = ()

    @property
    def levels(self) -> int:
        """Tokens of the last chain."""
        return self._offered

    @property
    def middles(self) -> tuple[LevelWork, ...]:
        return self._work

    def begin(self, prompt: Tensor, kept: int, sampler: Sampler, scores: Scores) -> None:
        if sampler is not self._above:  # the same dice over the middle model's vocabulary
            self._above = sampler
            self._sampler = Sampler(sampler.params, self._middle.decoder.spec.vocab_size, self._middle.device)
        cache = self._middle.cache
        cache.truncate(min(kept, cache.length))
        self._retell(prompt.tolist())
        self._known, self._parted = prompt.shape[0], True
        self._stride.start(self._missed)
        if self._stride.drafts and not self._stride.rests and self._run_missed():
            self._stride.ready()

    def propose(self, root: int) -> TokenTree:
        if len(self._said) == self._known:
            self._say((root,))
        self._stride.start(self._missed)
        self._work, self._offered = (LevelWork(),), 0
        if not self._stride.drafts:
            return TokenTree.of(root, self._stride.rows(1), self._middle.device)
        try:
            if self._run_missed():
                self._stride.ready()
            self._go_on()
        except NumericsError as error:
            self._middle.cache.clear()
            raise NumericsError(
                "the middle model's logits are NaN or infinite: its weights are broken, or its dtype overflows; name "
                "another one with --middle-model, or decode without one."
            ) from error
        chain = self._said[self._known : self._known + 1 + self._stride.most]
        self._offered = len(chain) - 1
        tokens = torch.tensor(chain, device=self._middle.device)
        self._stride.offer()
        return TokenTree.chain(tokens, self._stride.rows(len(chain)), self._stride.acceptance)

    def accept(self, tree: TokenTree, verdict: Verdict, scores: Scores) -> None:
        emitted, cache = verdict.tokens, self._middle.cache
        expected = self._said[self._known + 1 :]
        agreed = sum(takewhile(bool, map(eq, emitted, expected)))
        self._stride.learn(self._offered, min(agreed, self._offered))
        stands = self._known + 1 + agreed
        self._known += len(emitted)
        if agreed == len(emitted):
            return
        if cache.length > stands:
            cache.truncate(stands)
            self._parted = True
        if len(self._said) == stands:
            self._say(emitted[agreed:])
        else:
            self._retell([*self._said[:stands], *emitted[agreed:]])

    def _go_on(self) -> None:
        """Let the middle model decode until the chain is long enough."""
        assert self._sampler is not None, "begin() comes first"
        self._catch_up()
        room = self._middle.cache.shape.max_length - self._middle.cache.length
        if room <= 0 or not self._stride.more(self._length):
            return
        for round_ in self._rounds(self._sampler, self._said[-1], self._cut):
            self._stride.ran(sum(round_.seconds.values()), len(round_.tokens))
            work = LevelWork(1, round_.proposed, round_.accepted, len(round_.tokens))
            self._work = added(self._work, (work, *round_.middles))

    @property
    def _length(self) -> int:
        """Of the chain so far."""
        return len(self._said) - 1 - self._known

    def _cut(self, tokens: Sequence[int]) -> tuple[int, str | None]:
        """How many tokens of a round of the middle model to take, and whether that is enough."""
        cache = self._middle.cache
        taken = tokens[: cache.shape.max_length - cache.length]
        self._said += taken  # the loop itself tells the sampler
        full = cache.length + len(taken) >= cache.shape.max_length
        return len(taken), "full" if full else None if self._stride.more(self._length) else "long enough"

    @property
    def _missed(self) -> int:
        """Committed rows that the middle model has yet to run."""
        return max(self._known - self._middle.cache.length, 0)

    def _run_missed(self) -> bool:
        """Run those rows, if they are many: what is less runs along with the root."""
        if self._missed < self._middle.width:
            return False
        self._run(torch.tensor(self._said[self._middle.cache.length : self._known], device=self._middle.device))
        return True

    def _catch_up(self) -> None:
        """Run what the target said and the middle model did not, root included, and take its word on what follows; if
        nothing lacks but the root, that is the next round's."""
        assert self._sampler is not None, "begin() comes first"
        kept = self._middle.cache.length
        if kept < len(self._said) - 1:
            started = time.perf_counter()
            scores = self._run(torch.tensor(self._said[kept:], device=self._middle.device))
            place = torch.tensor([len(self._said)], device=self._middle.device)
            self._say((int(self._sampler.scores(scores.logits, place).argmax(-1)),))
            self._stride.ran(time.perf_counter() - started, 1)
            self._work = (LevelWork(rounds=1, tokens=1),)
        elif self._parted:
            assert self._silent is not None, "the cache holds rows that were run"
            self._tell(kept, self._silent)

    def _run(self, tokens: Tensor) -> Scores:
        """Commit `tokens` in the middle model's cache, and let the inner drafter know."""
        kept = self._middle.cache.length
        scores = self._middle.prefill(tokens)
        states = None if scores.states is None else scores.states[:0]
        self._silent = Scores(scores.logits[:0], scores.hidden[:0], states)
        self._tell(kept, scores)
        return scores

    def _tell(self, kept: int, scores: Scores) -> None:
        """The inner drafter's text is what the middle model's cache holds, of which the first `kept` stand."""
        assert self._sampler is not None, "begin() comes first"
        text = torch.tensor(self._said[: self._middle.cache.length], device=self._middle.device)
        self._inner.begin(text, kept, self._sampler, scores)
        self._parted = False

    def _say(self, tokens: Sequence[int]) -> None:
        assert self._sampler is not None, "begin() comes first"
        self._said += tokens
        self._sampler.observe(tokens)

    def _retell(self, said: list[int]) -> None:
        """The text is another now."""
        assert self._sampler is not None, "begin() comes first"
        self._said = []
        self._sampler.forget()
        self._say(said)


def added(done: tuple[LevelWork, ...], more: tuple[LevelWork, ...]) -> tuple[LevelWork, ...]:
    """The work of every level together; either may know of more levels."""
    shared = tuple(ours + theirs for ours, theirs in zip(done, more, strict=False))
    return (*shared, *done[len(shared) :], *more[len(shared) :])
