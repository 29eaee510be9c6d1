"""Sums that do not depend on order and subtract exactly: integers on power-of-two grids (tangent.md §4)."""

from __future__ import annotations

import torch
from torch import Tensor

from taft_ray.errors import FixedPointOverflow
from taft_ray.sums.totals import rounded_up

DELTA_BITS = 40  # a delta is a multiple of 2^-40; int64 holds sums up to ±8.4e6 in units of 1
GRAM_BITS = 24  # Gram statistics are multiples of 2^-24; sums up to ±5.5e11
_LIMIT = float(2**63)


def to_grid(values: Tensor, bits: int, *, what: str = "tensor") -> Tensor:
    """Round to the nearest multiple of 2^-bits; int64 of the same shape. FixedPointOverflow for what does not fit."""
    scaled = values.detach().double() * float(2**bits)
    if not bool(torch.isfinite(scaled).all()):
        raise FixedPointOverflow(f"{what}: values that are not finite; the fit diverged or its input is broken")
    if scaled.numel() and float(scaled.abs().max()) >= _LIMIT / 2:
        raise FixedPointOverflow(
            f"{what}: |value| {float(values.abs().max()):.3g} does not fit a 2^-{bits} grid in int64"
        )
    return scaled.round().to(torch.int64)


def from_grid(grid: Tensor, bits: int) -> Tensor:
    """The float64 values of a grid (exact while |grid| < 2^53)."""
    return grid.double().mul_(2.0**-bits)


def largest(grid: Tensor) -> int:
    """max |value|, exactly; 0 for an empty tensor."""
    if grid.numel() == 0:
        return 0
    least, most = (int(value) for value in grid.aminmax())
    return max(-least, most)


def reach(total: Tensor, term: Tensor, factor: int) -> int:
    """No value of total + factor·term is larger in size: value by value, rounded up by more than float64 errs."""
    return rounded_up(float((total.double() + float(factor) * term.double()).abs().max()))
