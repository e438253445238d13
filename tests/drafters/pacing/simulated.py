"""Rounds of a draft and a target that are made up: what the draft says of its tokens, what the target takes of them,
and the seconds of both, on a clock that only moves when told to."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch

from specdecodes.config import Tree
from specdecodes.drafters.pacing.pace import Pace
from specdecodes.drafters.pacing.seconds import Costs
from specdecodes.drafters.pacing.trust import Trust
from specdecodes.tree import TokenTree
from specdecodes.verify import Verdict

Dice = tuple[random.Random, random.Random]
CPU = torch.device("cpu")
REST = (0.6, 0.25, 0.1)  # of what is left of a node's chances beside its first child, what the next ones have


@dataclass
class Node:
    """`score`: log-chance as the draft has it; `right`: the target would come here."""

    score: float
    depth: int
    right: bool
    parent: Node | None = None
    ran: bool = False
    children: tuple[Node, ...] = ()

    def chances(self) -> list[float]:
        return [math.exp(child.score) for child in self.children]


@dataclass(frozen=True)
class Regime:
    """Seconds of a level by width and of a pass by rows (of one row: plain decoding); `says`: the chances of first
    children that a draft gives, `takes`: how often the target takes one of which it says so much."""

    levels: dict[int, float]
    passes: dict[int, float]
    says: tuple[float, ...]
    takes: Callable[[float], float] = lambda said: said
    exact: bool = False  # passes have one size

    def play(self, clock, rounds: int, tree: Tree, *, warm: int = 0, wrong: float = 1.0, first: int = 0) -> float:
        """Tokens a second of `rounds` rounds after `warm` ones, on the text that begins with round `first`. What a plan
        expects of steps is `wrong` times too long."""
        dice, noise = random.Random(7), random.Random(8)  # of what the target never reads, and of steps

        def spend(seconds: float) -> None:
            clock.now += seconds * noise.uniform(0.93, 1.07)

        widths = self.levels if tree.adaptive else [tree.width]
        chosen = tree.adaptive and not self.exact
        sizes = [rows for rows in self.passes if rows <= tree.nodes] if chosen else [tree.nodes]
        levels = {width: self.levels[width] * wrong for width in widths}
        pace = Pace(tree, Costs(levels, {rows: self.passes[rows] * wrong for rows in sizes}))
        trust = Trust(CPU) if tree.adaptive else None
        tokens, started = 0, clock.now
        for number in range(first, first + warm + rounds):  # every setting meets the same text
            if number == first + warm:
                tokens, started = 0, clock.now
            tokens += 1 + self._round(tree.width, pace, trust, (random.Random(number), dice), spend)
        return tokens / (clock.now - started)

    def _round(self, children: int, pace: Pace, trust: Trust | None, dice: Dice, spend: Callable[[float], None]) -> int:
        pace.start()
        if not pace.drafts:
            pace.plain()
            spend(self.passes[1])
            pace.learn(0)
            return 0
        root = Node(0.0, 0, True, ran=True)
        width, seen, nodes, more = pace.ready(), [], [root], True
        while more:
            born = self._children(nodes, children, trust, dice)
            seen += born
            nodes = sorted(born, key=lambda node: -node.score)[:width]
            for node in nodes:
                node.ran = True
            spend(self.levels[width])
            more = pace.more(sum(math.exp(node.score) for node in nodes))
        best = sorted(seen, key=lambda node: -node.score)
        line = [root]
        while (first := max(line[-1].children, key=lambda node: node.score)).children:
            line.append(first)
        rows = pace.verify([math.exp(node.score) for node in best], [node.chances() for node in line])
        spend(self.passes[rows])
        tree = sorted(best[: rows - 1], key=lambda node: node.depth)
        path = list(itertools.takewhile(lambda node: node.parent.ran, (node for node in tree if node.right)))
        if trust is not None:
            _learn(trust, tree, path)
        pace.learn(len(path))
        return len(path)

    def _children(self, nodes: list[Node], count: int, trust: Trust | None, dice: Dice) -> list[Node]:
        firsts = [dice[0 if node.right else 1].choice(self.says) for node in nodes]
        chances = torch.tensor([[first, *((1.0 - first) * share for share in REST)][:count] for first in firsts]).log()
        said = (chances if trust is None else trust.correct(chances)).tolist()
        for node, first, row in zip(nodes, firsts, said, strict=True):
            right = self._right(first, dice[0]) if node.right else None
            born = (Node(node.score + s, node.depth + 1, place == right, node) for place, s in enumerate(row))
            node.children = tuple(born)
        return [child for node in nodes for child in node.children]

    def _right(self, first: float, dice: random.Random) -> int | None:
        """Which child the target takes of a node whose first one is said to have the chance `first`, if any."""
        luck, taken = dice.random(), self.takes(first)
        edges = (taken, *(taken + (1.0 - taken) * share for share in itertools.accumulate(REST)))
        return next((place for place, edge in enumerate(edges) if luck < edge), None)


def _learn(trust: Trust, nodes: list[Node], path: list[Node]) -> None:
    """Token 1 is the target's own everywhere."""
    tree = TokenTree.rooted(torch.tensor(1), 1 + len(nodes))
    places = {id(node): place for place, node in enumerate(nodes, 1)}
    for node, place in ((node, places[id(node)]) for node in nodes):
        tree.parents[place] = places.get(id(node.parent), 0)
        tree.tokens[place], tree.scores[place] = int(node.right), node.score
    tree.size = 1 + len(nodes)
    trust.learn(tree, 1 + len(nodes), Verdict((0, *(places[id(node)] for node in path)), (1,) * (1 + len(path))))
