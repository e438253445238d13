"""Growing a tree level by level with a draft model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from specdecodes.config import Tree
from specdecodes.drafters.next_level import NextLevel
from specdecodes.drafters.offspring import Offspring
from specdecodes.drafters.pacing.pace import Pace
from specdecodes.drafters.pacing.trust import Trust
from specdecodes.engine.graphs import GraphPool, Readback, Recorded
from specdecodes.engine.runner import Scores
from specdecodes.sampling import Sampler
from specdecodes.spans import span
from specdecodes.tree import TokenTree
from specdecodes.verify import Verdict


class Levels(Protocol):
    """What grows: a model that runs a level of a tree, whose root lies at `position` [1] of the text."""

    @property
    def device(self) -> torch.device: ...

    @property
    def position(self) -> Tensor: ...

    def level(self, tree: TokenTree, nodes: Tensor) -> Scores: ...


class Missed(NamedTuple):
    """Committed `rows` that a draft with a cache of its own has yet to run, and what runs them."""

    rows: int
    run: Callable[[], None]


class LevelGrower:
    """Grows trees of `tree.width` nodes a level, or fewer if `pace` says so, and proposes the best of all that it saw.

    A level's nodes are the likeliest continuations of the level before, by cumulative log-probability at the draft
    `temperature`; where rounds adapt, as far as that was to be trusted so far. A narrower level has as many children to
    verify as a wide one: its pass may have rows to spare. Sampled requests rank by the same dice as the target's
    choice, so they are accepted nearly as often as greedy ones. A level works on tensors that never move, so a GPU
    replays it; there the host decides whether to go on one level late, and the device never waits for it.
    """

    def __init__(
        self,
        runner: Levels,
        tree: Tree,
        temperature: float,
        vocab_size: int,
        pace: Pace,
        *,
        spare: int = 0,
        graphs: bool = True,
    ) -> None:
        """`spare` nodes of a tree are left to other drafters; `graphs`: a GPU records its levels."""
        device = runner.device
        self.pace = pace
        self.levels = 0
        self._runner, self._shape, self._spare = runner, tree, spare
        self._vocab_size = vocab_size
        self._tree = TokenTree.rooted(torch.zeros(1, dtype=torch.int64, device=device), region_nodes(tree))
        self._offspring = Offspring(region_nodes(tree), tree.width, device)
        self._trust = Trust(device) if tree.adaptive else None
        self._choice = NextLevel(self._tree, self._offspring, temperature, self._trust)
        self._proposed = self._tree
        self._nodes: dict[int, Tensor] = {}  # by width: of the level to run next
        self._steps: dict[int, Recorded] = {}  # by width: made with the sampler whose tensors they read
        self._graphs = GraphPool(device, record=graphs)
        self._reach = torch.zeros((), device=device)
        self._late = 1 if device.type == "cuda" else 0
        self._reaches = Readback(self._late + 1, device)
        self._sampler: Sampler | None = None
        self.slots = torch.zeros(1, dtype=torch.int64, device=device)  # of the last tree's nodes

    @property
    def habits(self) -> dict[str, float]:
        """What rounds showed of the draft, by names of its own; nothing where trees are fixed."""
        if self._trust is None:
            return {}
        return {f"habit {n}": figure for n, figure in enumerate((*self._trust.habits, *self.pace.habits))}

    def resume(self, habits: Mapping[str, float]) -> None:
        """Go on from what an earlier run's `habits` were, which have the names of this one's."""
        if self._trust is not None:
            figures, own = [habits[name] for name in self.habits], len(self._trust.habits)
            self._trust.resume(figures[:own])
            self.pace.resume(figures[own:])

    def begin(self, missed: Missed) -> None:
        """A request starts, or goes on elsewhere. A draft that rests runs what it missed when it is tried again."""
        self.pace.start(missed.rows)
        if self.pace.drafts and not self.pace.rests:
            self._catch_up(missed)
            self.pace.ready()

    def propose(self, root: int, sampler: Sampler, missed: Missed | None = None) -> TokenTree:
        """A tree, which is its root alone when drafting does not pay; what was `missed` is run before the draft is."""
        self.pace.start(0 if missed is None else missed.rows)
        if not self.pace.drafts:
            self.levels, self.slots = 0, self.slots[:1]
            return TokenTree.of(root, self.pace.plain(), self._runner.device)
        if missed is not None:
            self._catch_up(missed)
        return self.grow(root, sampler)

    def grow(self, root: int, sampler: Sampler) -> TokenTree:
        """A tree; `slots` then tells where the draft's region holds its nodes, or would have (those of the last level),
        and has -1 for those from which the draft did not go on."""
        width = self.pace.ready()
        step = self._begin(root, sampler, width)
        more = True
        while more and self.levels < self._shape.depth:
            with span(f"draft level {self.levels + 1}"):
                step()
            self._reaches.push(self._reach)
            self.levels += 1
            if len(self._reaches) > self._late:
                more = self.pace.more(self._reaches.pop())
        while len(self._reaches):
            self.pace.more(self._reaches.pop())
        ran = width * self.levels
        rows, known = self._choose(ran)
        spare = min(self._spare, rows // 2)
        self._proposed, self.slots = self._offspring.best(self._tree, ran, rows - spare, room=spare, known=known)
        return self._proposed

    def learn(self, verdict: Verdict) -> None:
        """What became of the last tree; nodes that others added to it tell nothing."""
        if not self.levels:
            return self.pace.learn(0)
        own = [node for node in verdict.path[1:] if node < self.slots.shape[0]]
        if self._trust is not None:
            self._trust.learn(self._proposed, self.slots.shape[0], verdict)
        self.pace.learn(len(own))

    def _catch_up(self, missed: Missed) -> None:
        missed.run()
        if missed.rows > region_nodes(self._shape) and self._runner.device.type == "cuda":
            # Or the first level would seem to take as long as a prompt.
            torch.cuda.current_stream(self._runner.device).synchronize()

    def _begin(self, root: int, sampler: Sampler, width: int) -> Recorded:
        """Set the tree to its root; the step of a level of `width`."""
        if sampler is not self._sampler:
            self._sampler, self._steps = sampler, {}
        if width not in self._steps:
            self._nodes.setdefault(width, torch.arange(width, device=self._runner.device))
            self._steps[width] = Recorded(partial(self._level, width), self._graphs)
        self.levels = 0
        self._tree.tokens[:1] = root  # a slice is filled; a number in a place would be copied there, and waited for
        # Every level runs `width` rows; at the root all but one are padding that no path goes through.
        self._tree.scores[1:width] = float("-inf")
        self._nodes[width].copy_(torch.arange(width, device=self._runner.device))
        return self._steps[width]

    def _level(self, width: int) -> None:
        """Runs the level `self._nodes[width]` and writes the next one behind it."""
        assert self._sampler is not None, "grow() comes first"
        tree, nodes = self._tree, self._nodes[width]
        logits = self._fit(self._runner.level(tree, nodes).logits)
        scores = self._sampler.node_scores(logits, tree, nodes, self._runner.position)
        self._choice.grow(scores, nodes, self._reach)

    def _choose(self, ran: int) -> tuple[int, int | None]:
        """Rows to verify of a draft that ran so many nodes; and how many children may be among them, if that is
        known."""
        if not self.pace.chooses:
            return self.pace.verify(()), None
        seen = self._offspring.chances(ran, self._shape.nodes - 1, chain=self.pace.compares)
        return self.pace.verify(seen.best, seen.chain), seen.count

    def _fit(self, logits: Tensor) -> Tensor:
        """Logits over the target's vocabulary; padded vocabularies of one tokenizer differ in length."""
        missing = self._vocab_size - logits.shape[-1]
        return logits if missing == 0 else F.pad(logits, (0, missing), value=float("-inf"))


def region_nodes(tree: Tree) -> int:
    """Rows of the cache's draft region: every level before pruning, the root's padding included."""
    return tree.width * (tree.depth + 1)
