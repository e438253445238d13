"""What a request did, measured: one `Round` per loop turn, one `Generation` per request, one summary per benchmark.

Every method is measured by this code. `tau` leaves the bonus token out; rates are ratios of sums.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

PHASES = ("draft", "target", "wait", "overhead")
"""draft: proposing a tree. target: computing the verify pass. wait: that pass standing still for weights to arrive.
overhead: everything else. Prefill is kept apart."""


@dataclass(frozen=True)
class LevelWork:
    """What a model did that verifies a draft: its `rounds`, the tokens that it was offered in them, those of them that
    it took, and the `tokens` that came of the rounds, its own among them."""

    rounds: int = 0
    proposed: int = 0
    accepted: int = 0
    tokens: int = 0

    def __add__(self, other: LevelWork) -> LevelWork:
        return LevelWork(
            self.rounds + other.rounds,
            self.proposed + other.proposed,
            self.accepted + other.accepted,
            self.tokens + other.tokens,
        )


@dataclass(frozen=True)
class Round:
    """One turn of the loop: a proposed tree, one pass of the target, the tokens it yielded."""

    tokens: tuple[int, ...]  # emitted in this round, bonus last
    proposed: int  # nodes of the tree, root excluded
    accepted: int  # draft tokens among `tokens`
    proposed_by_depth: tuple[int, ...]  # nodes at depth 1, 2, ...
    levels: int  # draft steps run
    seconds: Mapping[str, float]  # by phase
    bytes_streamed: int
    read_seconds: float = 0.0  # of the round's wall clock, with a read under way
    committed: int = 0  # cache length before the round
    middles: tuple[LevelWork, ...] = ()  # of middle models for this round, the one next to the target first


@dataclass(frozen=True)
class Generation:
    """One answered request."""

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int  # prompt tokens whose cache rows were kept from an earlier turn
    rounds: tuple[Round, ...]
    prefill_seconds: Mapping[str, float]
    total_seconds: float
    time_to_first_token_s: float
    prefill_bytes: int
    finish_reason: str  # stop, stop_string, length, context, interrupted
    prefill_read_seconds: float = 0.0

    @property
    def decode_seconds(self) -> float:
        return self.total_seconds - sum(self.prefill_seconds.values())

    @property
    def tokens_per_second(self) -> float:
        """New tokens over the wall clock, prefill included."""
        return len(self.tokens) / self.total_seconds if self.total_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens of the rounds over their wall clock, prefill (and the token it yields) excluded."""
        return _decoded(self) / self.decode_seconds if self.decode_seconds > 0 else 0.0

    @property
    def tau(self) -> float:
        """Mean accepted draft tokens per round, bonus excluded."""
        return sum(r.accepted for r in self.rounds) / len(self.rounds) if self.rounds else 0.0

    @property
    def tokens_per_round(self) -> float:
        return sum(len(r.tokens) for r in self.rounds) / len(self.rounds) if self.rounds else 0.0

    @property
    def accepted_by_depth(self) -> tuple[float, ...]:
        return accepted_by_depth(self.rounds)

    @property
    def phase_seconds(self) -> dict[str, float]:
        """Seconds by phase; with `prefill` they add up to the wall clock."""
        phases = {phase: sum(r.seconds.get(phase, 0.0) for r in self.rounds) for phase in PHASES}
        phases["prefill"] = sum(self.prefill_seconds.values())
        phases["overhead"] = max(0.0, self.total_seconds - sum(phases.values()) + phases["overhead"])
        return phases


def _decoded(generation: Generation) -> int:
    return sum(len(r.tokens) for r in generation.rounds)


def accepted_by_depth(rounds: Sequence[Round]) -> tuple[float, ...]:
    """Share of the rounds that proposed depth d (1, 2, ...) in which a node of that depth was accepted."""
    deepest = max((len(r.proposed_by_depth) for r in rounds), default=0)
    shares = []
    for depth in range(1, deepest + 1):
        proposing = [r for r in rounds if len(r.proposed_by_depth) >= depth]
        shares.append(sum(r.accepted >= depth for r in proposing) / len(proposing))
    return tuple(shares)


def acceptance_per_level(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Of the target, then of each middle model below it: the fields of LevelWork, and `tau`, accepted a round."""
    levels = [sum((LevelWork(1, r.proposed, r.accepted, len(r.tokens)) for r in rounds), LevelWork())]
    for depth in range(max((len(r.middles) for r in rounds), default=0)):
        levels.append(sum((r.middles[depth] for r in rounds if depth < len(r.middles)), LevelWork()))
    return [
        {"level": _level_name(depth), **asdict(level), "tau": level.accepted / max(level.rounds, 1)}
        for depth, level in enumerate(levels)
    ]


def _level_name(depth: int) -> str:
    return "target" if depth == 0 else "middle's " * (depth - 1) + "middle"


def _speed_spread(generations: Sequence[Generation]) -> float | None:
    """Standard deviation of the logarithm of an answer's decode tokens/s; None for fewer than two answers."""
    speeds = [math.log(g.decode_tokens_per_second) for g in generations if g.rounds and g.decode_seconds > 0]
    return statistics.stdev(speeds) if len(speeds) > 1 else None


def summarize(generations: Sequence[Generation]) -> dict[str, Any]:
    """The metrics of a benchmark over its requests, by the names of the results format. Raises ValueError on none."""
    if not generations:
        raise ValueError("nothing to summarize: no generation was given")
    rounds = [r for g in generations for r in g.rounds]
    count = max(len(rounds), 1)
    total = sum(g.total_seconds for g in generations)
    decode = sum(g.decode_seconds for g in generations)
    phases = {phase: sum(g.phase_seconds[phase] for g in generations) for phase in ("prefill", *PHASES)}
    levels = sum(r.levels for r in rounds)
    round_bytes = sum(r.bytes_streamed for r in rounds)
    streamed = round_bytes + sum(g.prefill_bytes for g in generations)
    reading = sum(r.read_seconds for r in rounds) + sum(g.prefill_read_seconds for g in generations)
    link = streamed / reading if reading else 0.0
    tokens = sum(len(g.tokens) for g in generations)
    decoded = sum(len(r.tokens) for r in rounds)
    return {
        "samples": len(generations),
        "new_tokens": tokens,
        "prompt_tokens": sum(g.prompt_tokens for g in generations),
        "cached_tokens": sum(g.cached_tokens for g in generations),
        "tokens_per_second": tokens / total if total else 0.0,
        "decode_tokens_per_second": decoded / decode if decode else 0.0,
        "tau": sum(r.accepted for r in rounds) / count,
        "tokens_per_round": decoded / count,
        "accepted_by_depth": list(accepted_by_depth(rounds)),
        "acceptance_per_level": acceptance_per_level(rounds),
        "time_to_first_token_s": sum(g.time_to_first_token_s for g in generations) / len(generations),
        "speed_spread": _speed_spread(generations),
        "draft_step_s": phases["draft"] / levels if levels else 0.0,
        "draft_levels": levels,
        "rounds": len(rounds),
        "plain_rounds": sum(not r.proposed for r in rounds),
        "phase_seconds": phases,
        "wall_seconds": total,
        "bytes_streamed": streamed,
        "phase_bytes": {"prefill": streamed - round_bytes, "rounds": round_bytes},
        "bytes_per_round": round_bytes / count,
        "link_gbps": link / 1e9,
        "link_utilization": reading / total if total else 0.0,
        "bound_tokens_per_second": decoded / round_bytes * link if round_bytes else None,
        "finish_reasons": {
            reason: sum(g.finish_reason == reason for g in generations)
            for reason in sorted({g.finish_reason for g in generations})
        },
    }
