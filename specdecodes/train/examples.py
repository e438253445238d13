"""Which conversations a head learns from, which judge it, and in what order they come."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from specdecodes.errors import ConfigError
from specdecodes.train.data_gen.shards import Stored, StoredConversations
from specdecodes.train.losses import HeadBatch

SORTED = 16  # batches sorted by length together, so that little is padding


@dataclass(frozen=True)
class Split:
    """Indices of conversations to learn from and of those held out."""

    learn: tuple[int, ...]
    held: tuple[int, ...]

    @classmethod
    def of(cls, count: int, share: float, most: int) -> Split:
        """Every so many-th is held out: `share` of all, at most `most`, at least one."""
        if count < 2:
            raise ConfigError("a head needs two conversations at least: one to learn from and one to judge it by.")
        wanted = min(most, max(1, round(count * share)))
        held = {round((place + 0.5) * count / wanted - 0.5) for place in range(wanted)}
        return cls(tuple(index for index in range(count) if index not in held), tuple(sorted(held)))


def epoch_batches(indices: Sequence[int], lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch, a pure function of its arguments; conversations of a batch are about equally long."""
    dice = random.Random(f"{seed} {epoch}")
    order = list(indices)
    dice.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), size * SORTED):
        together = sorted(order[start : start + size * SORTED], key=lambda index: lengths[index])
        batches += [together[place : place + size] for place in range(0, len(together), size)]
    dice.shuffle(batches)
    return batches


class _Conversations(Dataset[Stored]):
    def __init__(self, stored: StoredConversations) -> None:
        self._stored = stored

    def __getitem__(self, index: int) -> Stored:
        return self._stored[index]


def loaded(stored: StoredConversations, batches: Sequence[Sequence[int]], workers: int) -> Iterator[HeadBatch]:
    """`batches` of indices as batches of tensors, read ahead by `workers` processes (0: as they are asked for)."""
    loader: DataLoader[Stored] = DataLoader(
        _Conversations(stored), batch_sampler=[list(b) for b in batches], collate_fn=HeadBatch.of, num_workers=workers
    )
    yield from loader


def draft_vocabulary(stored: StoredConversations, indices: Sequence[int], size: int, vocab_size: int) -> Tensor:
    """The `size` tokens [size] int64, ascending, that the answers of `indices` use most; ties go to the lower id."""
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for index in indices:
        found = stored[index]
        counts += torch.bincount(found.tokens[found.mask], minlength=vocab_size)
    return counts.sort(descending=True, stable=True).indices[:size].sort().values
