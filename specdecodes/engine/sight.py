"""What the rows of a step see of the cache, made anew for each layer or kept for the next, as memory allows: the masks
of a long prompt would together grow with the square of its length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from specdecodes.models.kernels.attention import reads_there


@dataclass(frozen=True)
class Sight:
    """The slots that a layer looks at: `window` [2], from the first to behind the last, through the first columns of
    `mask` [B, M, all slots]; the columns behind them mean nothing."""

    mask: Tensor
    window: Tensor


Look = Callable[[int | None], Sight]
"""What a layer looks at that sees only so many of the last positions (None: all)."""


@dataclass(frozen=True)
class View:
    """The slots of a cache, as rows see them that lie behind committed ones.

    `base`: the slot of the first committed row; `slots`: of the cache, all together; `exact`: as attention is.
    """

    base: int
    slots: int
    exact: bool

    def behind(self, length: int, ancestors: Tensor, positions: Tensor) -> Look:
        """The last M of K rows at `positions` [K] behind `length` committed ones see those, and each other as
        `ancestors` [M, K] says; a layer of limited reach starts with the first committed row that any of them sees."""
        return lambda reach: self._sight(length, ancestors, positions, reach)

    def forest(self, length: int, ends: Tensor, positions: Tensor, first: int) -> Look:
        """The same of the rows from `first` on, where a row's descendants follow it: those before `ends` [K] see it."""

        def look(reach: int | None) -> Sight:
            order = torch.arange(ends.shape[0], device=ends.device)
            rows = order[first:, None]
            return self._sight(length, (order <= rows) & (rows < ends), positions, reach)

        return look

    def chain(self, length: int, positions: Tensor) -> Look:
        """Rows at `positions` [M] of which each sees those before it, such as a chunk of a prompt."""
        order = torch.arange(positions.shape[0], device=positions.device)
        return self.behind(length, order <= order[:, None], positions)

    def _sight(self, length: int, ancestors: Tensor, positions: Tensor, reach: int | None) -> Sight:
        rows, columns = ancestors.shape
        device = ancestors.device
        first = 0 if reach is None else max(0, length - reach + 1)
        stop = length - first + columns
        # As wide as the cache whatever the window, so that its shape never changes.
        mask = torch.empty(1, rows, self.slots, dtype=torch.bool, device=device)
        mask[0, :, : length - first] = True
        mask[0, :, length - first : stop] = ancestors
        if reach is not None:
            committed = torch.arange(first, length, device=device)
            mask[0, :, :stop] &= torch.cat((committed, positions)) > (positions[-rows:] - reach)[:, None]
        begin = self.base + first
        where = "cpu" if device.type == "cuda" and not reads_there(self.exact, self.slots) else device
        # Filled, not made of host numbers: those would wait for all that the device still has to do.
        window = torch.full((2,), begin, dtype=torch.int64, device=where)
        window[1:] += stop
        return Sight(mask, window)
