"""What a machine can do, what a placement asks of it, and the seconds that streaming takes. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """Measured speeds. `host_gbps` is host to accelerator; 0 says that there is no accelerator: its memory is RAM."""

    disk_gbps: float
    host_gbps: float = 0.0
    round_seconds: float = 2e-3  # of a round beyond draft and pass: choosing tokens, text
    process_bytes: int = 0  # RAM of Python and torch, which no budget counts
    threads: int = 1  # that compute, and restore what is compressed; an accelerator counts as one

    @property
    def has_accelerator(self) -> bool:
        return self.host_gbps > 0

    @property
    def memory(self) -> str:
        """What a plan calls the memory that the model runs in."""
        return "device memory" if self.has_accelerator else "RAM"


@dataclass(frozen=True)
class Work:
    """One placement's share of a round: seconds of a draft level and of a pass's computing, bytes that arrive."""

    draft_step_s: float
    compute_s: float
    disk_bytes: int  # read from disk in a pass
    link_bytes: int  # arriving in a pass over the last link: from disk, or from the host to an accelerator
    ahead_bytes: int  # of those, at most this many arrive while drafting: the ring
    unlocked_bytes: int = 0  # of the link's: copied once more on the host, because the system locked no pages for them
    expand_s: float = 0.0  # of one core, or of the accelerator, in a pass
    kept_s: float = 0.0  # of those, what the layers take that no link brings


def link_seconds(work: Work, machine: Machine) -> float:
    """Of a pass, in which bytes are on their way: disk and accelerator link work at the same time, and so does an
    accelerator that expands; the slowest sets the pace."""
    from_disk = work.disk_bytes / (machine.disk_gbps * 1e9) if work.disk_bytes else 0.0
    if not machine.has_accelerator:
        return from_disk
    copied = work.link_bytes + work.unlocked_bytes  # the copy on the host is about as fast as the link
    return max(from_disk, copied / (machine.host_gbps * 1e9), work.expand_s - work.kept_s)


def stream_seconds(work: Work, machine: Machine) -> float:
    """Until all streamed layers of a pass have been in the ring; an accelerator restores them there, beside the
    copies."""
    return max(link_seconds(work, machine), work.expand_s if machine.has_accelerator else 0.0)


def crowded_seconds(work: Work, machine: Machine) -> float:
    """Of a pass that does not wait for the link: what computes, restores, too."""
    return work.compute_s + work.expand_s / machine.threads
