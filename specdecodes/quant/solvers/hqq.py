"""Half-quadratic quantization (HQQ): the grid of a weight, found without data.

Every group of weights w gets a scale and a zero-point so that w ≈ (code - zero) * scale. Starting from the group's
smallest and largest weight, the zero-point is fitted by alternating two steps that each have a closed form: residuals
are shrunk towards zero as an l_p norm (p = 0.7) asks, and the zero-point moves to the mean of what remains.

The results are those of the hqq library's default solver. Three facts about the problem make it fast:
- A residual below `beta ** (-1 / (2 - p))` shrinks to exactly zero. Weights of trained models have none above it in
  nearly all groups, so the power is computed for the few groups that need it.
- A group whose zero-point did not move never moves again. Only a third is left after four iterations.
- The groups depend on each other only through one number, the mean error that decides when all of them stop. So each
  iteration runs in chunks that stay in the processor's cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specdecodes.errors import QuantError
from specdecodes.quant.codes import PLANES, Codes, check_group, check_weight, pack, row_blocks
from specdecodes.quant.parallel import Workers, piece, workers

ITERATIONS = 20
BETA = 10.0
NORM = 0.7
SHRINK_FROM = 0.1701  # just below BETA ** (-1 / (2 - NORM)): a smaller residual shrinks to zero
FLAT_SPAN = 1e-4  # a group whose weights differ by less gets scale 1
LARGEST_INVERSE_SCALE = 2e4
CHUNK_WEIGHTS = 1 << 19  # a few float buffers of this size stay in a processor's caches


def solve(weight: Tensor, *, bits: int = 4, group: int = 64, name: str = "weight") -> Codes:
    """The half-quadratic codes of `weight` [out, in], of any float dtype; computed in float32 on its device.

    Raises QuantError, with `name` in it, when the group does not divide `in` or a weight is not finite.
    """
    if bits not in PLANES:
        raise QuantError(f"{name}: there are no codes of {bits} bits; choose {', '.join(map(str, PLANES))}.")
    check_weight(weight, name=name)
    check_group(weight.shape[1], group, name=name)
    levels = 2**bits - 1
    groups = weight.detach().reshape(*weight.shape[:1], -1, group)
    with workers(weight.device) as pool:
        ends = pool.map(lambda rows: _ends(groups[rows]), row_blocks(weight.shape[0], weight.shape[1], weight.device))
        low, high = (torch.cat(end) for end in zip(*ends, strict=True))
        span = high - low
        inverse = torch.where(span <= FLAT_SPAN, 1.0, levels / span).clamp_(max=LARGEST_INVERSE_SCALE)
        zero = -low * inverse
        _settle(groups.flatten(0, 1), inverse.view(-1, 1), zero.view(-1, 1), levels, pool)

        def encode(rows: slice) -> Tensor:
            scaled = groups[rows].float() * inverse[rows, :, None]
            return pack(_nearest(scaled, zero[rows, :, None], levels).to(torch.uint8).flatten(1), bits)

        return Codes(
            torch.cat(pool.map(encode, row_blocks(weight.shape[0], weight.shape[1], weight.device))),
            1.0 / inverse,
            zero,
            bits,
        )


def _ends(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest weight of each group, [rows, groups] float32; groups [rows, groups, group]."""
    return groups.amin(2).float(), groups.amax(2).float()


def _settle(groups: Tensor, inverse: Tensor, zero: Tensor, levels: int, pool: Workers) -> None:
    """Move the zero-points, in place, through the iterations; groups [n, group], inverse and zero [n, 1]."""
    error = torch.empty_like(zero)
    moving = torch.arange(groups.shape[0], device=groups.device)
    best = torch.tensor(torch.inf, device=groups.device)

    def refit(rows: Tensor) -> Tensor:
        old = zero[rows]
        new, error[rows] = _refit(groups.index_select(0, rows).float(), inverse[rows], old, levels)
        zero[rows] = new
        return rows[(new != old).squeeze(1)]

    for _ in range(ITERATIONS):
        moving = torch.cat(pool.map(refit, moving.split(piece(CHUNK_WEIGHTS, groups.device) // groups.shape[1])))
        # Measured before this iteration's move, as in the library: the move that did not help is kept.
        mean_error = (error.sum(dtype=torch.float64) / groups.numel()).float()
        if not mean_error < best or not moving.numel():
            break
        best = mean_error


def _refit(weight: Tensor, inverse: Tensor, zero: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The next zero-points and the summed absolute error of the present ones, both [n, 1]; weight [n, group]."""
    scaled = weight * inverse
    codes = _nearest(scaled, zero, levels)
    offset = torch.sub(codes, scaled, out=scaled)
    new = offset.mean(1, keepdim=True)
    misfit = offset.sub_(zero).abs_()
    far = (misfit.amax(1, keepdim=True) > SHRINK_FROM * inverse).squeeze(1).nonzero().squeeze(1)
    if far.numel():
        new[far] = _refit_shrunk(weight[far], codes[far], inverse[far], zero[far])
    return new, misfit.sum(1, keepdim=True).div_(inverse)


def _refit_shrunk(weight: Tensor, codes: Tensor, inverse: Tensor, zero: Tensor) -> Tensor:
    """The next zero-points [n, 1] of groups with large residuals, of which only the l_p shrunk part is kept."""
    residual = weight - (codes - zero) / inverse
    size = residual.abs()
    kept = (size - (1.0 / BETA) * size.pow(NORM - 1.0)).clamp_(min=0.0) * residual.sign()
    return (codes - (weight - kept) * inverse).mean(1, keepdim=True)


def _nearest(scaled: Tensor, zero: Tensor, levels: int) -> Tensor:
    """Nearest codes, still floats: scaled [..., group] are weights divided by their scale, zero is [..., 1]."""
    return torch.add(scaled, zero).round_().clamp_(0, levels)
