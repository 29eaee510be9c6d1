"""Sums of clipped gradients as integers, and by how much one unit can change them.

Each unit's gradient g counts as c·g with c = min(1, C/‖g‖). In exact arithmetic a unit that is zeroed out changes the sum by at most C.
In floating point it changes the integers by at most C(1 + η)/q, where q is the grid's unit:

    C                       the unit's own c·g; c is `SLACK` smaller than C/‖g‖, more than norms and products are wrong by
    + 2·γ·m·C               the block of m units that it is in is summed twice, with and without it. Sums of m terms are
                            wrong by at most γ = m·u/(1 − m·u) times the sum of the terms' sizes, u = 2⁻²⁴ (Higham)
    + q·√P                  both sums are rounded to integers, each by at most 1/2 per parameter (P of them)

Sums over blocks are sums of integers below 2⁵³, which are exact: no other block's value changes, and neither n nor the order matters.
Units of several rows, which may cancel, are summed in float64 (u = 2⁻⁵³). All rows' sizes together are then at most
`CANCELLING`·C. Together that gives less than the bound above. Units that are summed by themselves have no second term.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from taft_ray.tangent.delta import Delta
from taft_ray.tangent.gradient_passes import Block
from taft_ray.tangent.unit_gradients import BLOCK, Layout, UnitGradients

GRID = 2.0**-28  # the grid's unit is at most this part of C
MOST_UNITS = 1 << 24  # whose sum of integers up to C/q is below 2⁵³
SLACK = 2.0**-20  # what c is smaller by: rounding of c and of c·b in float32 is 2⁻²³ at most
_U = 2.0**-24


def grid_unit(clip: float) -> float:
    """q: a power of two, so that products with it are exact; at most `GRID`·C, and more than half of that."""
    return 2.0 ** (math.frexp(clip)[1] - 1) * GRID


def margin(parameters: int) -> float:
    """η: the sensitivity of the integer sum is C(1 + η)/q. It depends on the number of trained parameters alone."""
    gamma = BLOCK * _U / (1 - BLOCK * _U)
    return 2 * gamma * BLOCK + GRID * math.sqrt(parameters)


class ClippedSum:
    """Σ of clipped gradients in units of the grid, over all blocks of `UnitPasses`.

    nonfinite: gradients that were not finite, which counted as zero.
    """

    def __init__(self, zero: Delta, clip: float) -> None:
        self.clip, self.unit = clip, grid_unit(clip)
        self._sum, self._sum_of = _flat_like(zero, torch.float64)
        self._one, self._one_of = _flat_like(zero, None)
        self._finite = True  # of the unit that is in pieces
        self.nonfinite = 0

    def clear(self) -> None:
        self._sum.zero_()

    def add(self, block: Block, gradients: UnitGradients, layout: Layout) -> None:
        whole = block.first and block.last
        if whole and block.size * layout.rows <= BLOCK:
            norms = gradients.norms()
            fine = norms.isfinite()
            factors = (self.clip * (1 - SLACK) / norms).clamp(max=1.0) / self.unit
            gradients.add_rounded(self._sum_of, torch.where(fine, factors, 0.0))
            self.nonfinite += len(fine) - int(fine.sum())
            return
        fine = gradients.fine.tolist()
        for number in range(len(gradients)):
            gradients.write(number, self._one_of, first=block.first)
            self._finite = fine[number] and (block.first or self._finite)
            if block.last:
                self._add_one()

    def _add_one(self) -> None:
        """Adds the gradient that was written out."""
        norm = float(torch.linalg.vector_norm(self._one, dtype=torch.float64))
        if not (self._finite and math.isfinite(norm)):
            self.nonfinite += 1
            return
        factor = min(1.0, self.clip * (1 - SLACK) / norm) if norm else 1.0
        self._sum += self._one.mul_(factor / self.unit).round_()

    def integers(self) -> Tensor:
        """(P,) int64, parameters in the order of `TangentModel.zero_delta`."""
        return self._sum.to(torch.int64)


def _flat_like(zero: Delta, dtype: torch.dtype | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Zeros (P,), and the same memory as parameters."""
    like = next(iter(zero.values()))
    flat = torch.zeros(zero.numel(), dtype=dtype or like.dtype, device=like.device)
    return flat, views(flat, zero)


def views(flat: Tensor, zero: Delta) -> dict[str, Tensor]:
    """Parts of ``flat`` (P,) in the shapes of the parameters, in their order."""
    parts = flat.split([value.numel() for value in zero.values()])
    return {name: part.view(value.shape) for (name, value), part in zip(zero.items(), parts, strict=True)}
