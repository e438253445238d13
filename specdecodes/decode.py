"""The loop: draft a tree, verify it in one pass of the target, keep what the target would have said itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from specdecodes.drafters import Drafter
from specdecodes.engine.layers import Traffic
from specdecodes.engine.runner import ModelRunner, Scores
from specdecodes.engine.timing import PhaseClock
from specdecodes.errors import NumericsError
from specdecodes.sampling import Sampler
from specdecodes.stats import Round
from specdecodes.verify import Cut, Verdict, verify

LogitsHook = Callable[[torch.Tensor], None]


def decode(
    target: ModelRunner, drafter: Drafter, sampler: Sampler, root: int, cut: Cut, on_logits: LogitsHook | None = None
) -> Iterator[Round]:
    """Rounds of a request whose prompt is committed and whose first token is `root`, until `cut` gives a reason to
    stop.

    After every round the cache holds all tokens but the last emitted one. Raises NumericsError on NaN logits.
    """
    clock, reason = PhaseClock(target.device), None
    while reason is None:
        length, traffic = target.cache.length, target.traffic
        with clock("draft"):
            tree = drafter.propose(root)
        with clock("target"):
            scores = target.score(tree)
        with clock("verify"):
            choices = sampler.choices(scores.logits, tree, length)
            verdict = verify(tree, choices)
            count, reason = cut(verdict.tokens)
            verdict = verdict.cut(count)
            path = torch.tensor(verdict.path, device=target.device)
            finite(scores, path)
        with clock("commit"):
            target.cache.keep(path)
            sampler.observe(verdict.tokens)
            drafter.accept(tree, verdict, scores)
        if on_logits is not None:
            on_logits(scores.logits[path])
        root = verdict.tokens[-1]
        yield _round(verdict, tree.count_by_depth(), drafter, length, clock.lap(), target.traffic - traffic)


def finite(scores: Scores, rows: torch.Tensor) -> None:
    """Raise NumericsError when the logits of `rows` are not numbers."""
    if not bool(scores.logits[rows].isfinite().all()):
        raise NumericsError(
            "the target's logits are NaN or infinite: the checkpoint's weights are broken, or its dtype overflows; "
            "try --dtype bf16 or fp32, or download the checkpoint again."
        )


def _round(
    verdict: Verdict,
    proposed: tuple[int, ...],
    drafter: Drafter,
    length: int,
    seconds: dict[str, float],
    traffic: Traffic,
) -> Round:
    draft, target = seconds.get("draft", 0.0), seconds.get("target", 0.0)
    phases = {
        "draft": draft,
        "target": max(0.0, target - traffic.wait_seconds),
        "wait": min(target, traffic.wait_seconds),
        "overhead": max(0.0, seconds["total"] - draft - target),
    }
    return Round(
        tokens=verdict.tokens,
        proposed=sum(proposed),
        accepted=verdict.accepted,
        proposed_by_depth=proposed,
        levels=drafter.levels,
        seconds=phases,
        bytes_streamed=traffic.bytes_read,
        read_seconds=traffic.read_seconds,
        committed=length,
        middles=drafter.middles,
    )
