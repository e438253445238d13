"""How much of a draft the target would accept, measured along conversations as they are.

At every row a chain is drafted; a token counts when it and all before it are the target's likeliest. No tree, no dice:
a figure of the head, not of a setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from specdecodes.drafters.ngram import continuations
from specdecodes.train.data_gen.shards import StoredConversations
from specdecodes.train.examples import loaded
from specdecodes.train.losses import HeadLoss

if TYPE_CHECKING:
    from accelerate import Accelerator

ROWS = 4096


def head_acceptance(
    loss: HeadLoss,
    stored: StoredConversations,
    batches: Sequence[Sequence[int]],
    depth: int,
    accelerator: Accelerator,
) -> list[float]:
    """Share of a head's chains that are accepted to depth 1, 2, ..., `depth`; see `HeadLoss.agreement`. Each process
    looks at its share of the batches."""
    counts = torch.zeros(2, depth, device=accelerator.device)
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    for batch in loaded(stored, mine, 0):
        with accelerator.autocast():
            counts += torch.stack(loss.agreement(batch.to(accelerator.device), depth)).to(counts.device)
    accepted, possible = accelerator.reduce(counts, "sum")
    return (accepted / possible.clamp(min=1)).tolist()


@torch.no_grad()
def ngram_acceptance(stored: StoredConversations, held: Sequence[int], output: Tensor, depth: int) -> list[float]:
    """The same of chains that repeat what followed the same words before, over the first ROWS rows or so; `output`
    [vocab, hidden] is the target's head."""
    accepted, possible = torch.zeros(depth), torch.zeros(depth)
    for index in held:
        if possible[0] >= ROWS:
            break
        found = stored[index]
        choices = (found.last.to(output.device, torch.float32) @ output.T).argmax(-1).cpu()
        for row in range(len(found.tokens) - 2):
            length = int(found.mask[row + 2 : row + 2 + depth].long().cumprod(0).sum())
            if not length:
                continue
            possible[:length] += 1
            branches = continuations(found.tokens[: row + 2], length)
            if branches is not None:
                right = branches.tokens[0, 1:] == choices[row + 1 : row + 1 + length]
                accepted[:length] += right.long().cumprod(0)
    return (accepted / possible.clamp(min=1)).tolist()


def spoken(rates: Sequence[float]) -> str:
    """Acceptance by depth as percentages."""
    return " ".join(f"{rate:.1%}" for rate in rates)
