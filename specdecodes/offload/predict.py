"""What a round will cost and yield, from byte counts and measured speeds; and how far the truth was from it.

    round = levels * draft step + max(bytes still to arrive / link, target compute) + overhead

Bytes that arrive in the ring while drafting are not waited for, so they leave the second term. A round yields the
accepted tokens and one more. The bound is what the link alone would allow: tokens a round * link / bytes a pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Machine:
    """Measured speeds. `host_gbps` is host to accelerator; 0 says that there is no accelerator: its memory is RAM."""

    disk_gbps: float
    memory_gbps: float  # of the memory that computes: RAM, or the accelerator's own
    host_gbps: float = 0.0
    flops: float = 5e11  # of a matrix product in the model's dtype
    level_seconds: float = 1e-3  # of a draft level beyond its bytes: launches, attention, the tree
    round_seconds: float = 5e-3  # of a round beyond draft and pass: verification, text
    runtime_bytes: int = 0  # RAM of Python, torch and compiled code
    context_bytes: int = 0  # memory that an accelerator's runtime takes

    @property
    def has_accelerator(self) -> bool:
        return self.host_gbps > 0


@dataclass(frozen=True)
class Workload:
    """What is run: `levels` of drafting at most (0: plain), a pass of `rows`, caches of `cache_rows` each.

    `cache_rows` counts every row of the cache: the longest context and both tree regions. `acceptance` is the assumed
    chance that the tree holds the target's next token, level by level; `adaptive` stops where a further level costs
    more than it gains.
    """

    cache_rows: int
    rows: int = 64
    levels: int = 0
    acceptance: float = 0.9
    adaptive: bool = True
    draft_cache_rows: int = 0


@dataclass(frozen=True)
class Work:
    """Bytes and operations of one placement: what a draft level reads, what a pass streams, reads and computes."""

    draft_bytes: int
    disk_bytes: int  # read from disk in a pass
    link_bytes: int  # arriving in a pass over the last link: from disk, or from the host to an accelerator
    ahead_bytes: int  # of those, at most this many arrive while drafting: the ring
    pass_bytes: int  # of weights that a pass reads from memory
    pass_flops: float


@dataclass(frozen=True)
class Prediction:
    """Expected seconds and tokens of one round."""

    link_gbps: float  # what streamed bytes arrive at; 0 when nothing streams
    draft_step_s: float
    levels: int
    stream_s: float  # of the link for one pass
    compute_s: float
    round_s: float
    tokens_per_round: float
    tokens_per_second: float
    bound_tokens_per_second: float | None  # None when nothing streams

    @property
    def draft_s(self) -> float:
        return self.levels * self.draft_step_s


def predict(work: Work, machine: Machine, workload: Workload) -> Prediction:
    """The expected round, at the depth that serves best if the workload is adaptive."""
    depths = range(1 if workload.adaptive else workload.levels, workload.levels + 1) if workload.levels else (0,)
    return max((_at_depth(work, machine, workload, levels) for levels in depths), key=lambda p: p.tokens_per_second)


def _at_depth(work: Work, machine: Machine, workload: Workload, levels: int) -> Prediction:
    draft_step = work.draft_bytes / (machine.memory_gbps * 1e9) + machine.level_seconds if levels else 0.0
    stream = _stream_seconds(work, machine)
    compute = max(work.pass_bytes / (machine.memory_gbps * 1e9), work.pass_flops / machine.flops)
    ahead = min(levels * draft_step, stream * work.ahead_bytes / work.link_bytes) if work.link_bytes else 0.0
    seconds = levels * draft_step + max(stream - ahead, compute) + machine.round_seconds
    tokens = 1.0 + sum(workload.acceptance**level for level in range(1, levels + 1))
    return Prediction(
        link_gbps=work.link_bytes / stream / 1e9 if stream else 0.0,
        draft_step_s=draft_step,
        levels=levels,
        stream_s=stream,
        compute_s=compute,
        round_s=seconds,
        tokens_per_round=tokens,
        tokens_per_second=tokens / seconds,
        bound_tokens_per_second=tokens / stream if stream else None,
    )


def _stream_seconds(work: Work, machine: Machine) -> float:
    """Disk and accelerator link work at the same time; the slower sets the pace."""
    from_disk = work.disk_bytes / (machine.disk_gbps * 1e9) if work.disk_bytes else 0.0
    over_link = work.link_bytes / (machine.host_gbps * 1e9) if machine.has_accelerator else 0.0
    return max(from_disk, over_link)


@dataclass(frozen=True)
class TermCheck:
    """One term, predicted and measured, in the same unit."""

    term: str
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        """Measured over predicted; 0 when nothing was predicted."""
        return self.measured / self.predicted if self.predicted else 0.0


def compare(prediction: Prediction, summary: Mapping[str, Any]) -> list[TermCheck]:
    """The prediction beside a run's summary (by the names of the results format); terms that it lacks are left out."""
    predicted = {
        "link_gbps": prediction.link_gbps,
        "draft_step_s": prediction.draft_step_s,
        "tokens_per_round": prediction.tokens_per_round,
        "decode_tokens_per_second": prediction.tokens_per_second,
        "bound_tokens_per_second": prediction.bound_tokens_per_second,
    }
    return [
        TermCheck(term, value, float(summary[term])) for term, value in predicted.items() if value and summary.get(term)
    ]
