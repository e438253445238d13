"""What is said where no placement fits: how much is short, of what, and which budget would do."""

from __future__ import annotations

import math

from specdecodes.errors import BudgetError
from specdecodes.offload.planning.candidates import Candidate, over
from specdecodes.offload.planning.shape import Budgets
from specdecodes.offload.planning.work import Machine
from specdecodes.units import format_bytes


def refusal(candidate: Candidate, budgets: Budgets, machine: Machine) -> BudgetError:
    """`candidate`, the one that is short of least, does not fit."""
    short = [
        (name, flag, part, limit)
        for name, flag, part, limit in (
            (machine.memory, "--device-memory", candidate.device, budgets.device),
            ("host RAM", "--host-memory", candidate.host, budgets.host),
        )
        if limit is not None and over(part, limit)
    ]
    causes, cures = [], []
    for name, flag, parts, limit in short:
        total = sum(parts.values())
        largest = sorted(parts.items(), key=lambda item: -item[1])[:4]
        listed = ", ".join(f"{part} {format_bytes(size)}" for part, size in largest if size)
        causes.append(
            f"{format_bytes(limit)} of {name} cannot work: the smallest placement takes {format_bytes(total)}, "
            f"{total - limit} bytes more ({listed})"
        )
        cures.append(f"{flag} {math.ceil(total / 2**20)}MiB")
    cure = f"Give at least {' and '.join(cures)}, or a shorter --max-length."
    return BudgetError(f"{'; '.join(causes)}. {cure}", candidate.shortfall(budgets))
