"""The mean of private rows, released once with noise, so that descent spends no noise on what all pictures have in common.

    m = f·m̂,   m̂ = (Σ_u a_u + σ_m·N(0, I)) / n,   f = max(0, 1 − v/|m̂|²),   v = S·(σ_m/n)²

a_u is a unit's row, or the mean of an owner's rows, shortened to length one where it is longer. So the sum has sensitivity 1, and m̂ is
1/σ_m-Gaussian private (Dong, Roth & Su 2022). All else is post-processing. f is the positive-part factor of James and Stein. It shrinks
a mean that is mostly noise to nothing.

Rows a become s·(a − m), with s = 1/√(1 − |m|²) as far as |m|² can be told from its noise. Rows of length one so keep it on average.

Sums are whole numbers, in units of the rows' grid. A unit is rounded by itself, and changes the sum by 1 + √S/2 units of the grid at most.

Legend: n the public divisor, S numbers of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from taft_ray.additive.grid import BITS, UNIT, check_rows
from taft_ray.errors import UsageError

LONGEST = 4.0  # s at most
SLACK = 2.0**-40  # what a factor is smaller by: more than norms and products are wrong by

Noise = Callable[[int, int, float], np.ndarray]
"""(step, count, scale) -> int64 (count,): round(scale · N(0, 1)); each step has its own draws, as of `privacy.GaussianStream`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Centre:
    """A release. mean: m (S,) float64. scale: s."""

    mean: np.ndarray
    scale: float


def released(
    rows: np.ndarray,
    noise: Noise,
    *,
    step: int,
    noise_multiplier: float,
    divisor: int,
    units: np.ndarray | None = None,
) -> Centre:
    """A 1/σ_m-Gaussian private release of the mean of rows int16 (n, S), n >= 0. step: of the noise, used for nothing else.

    noise_multiplier: σ_m. units: (n,) the number of each row's unit; each row is one by default.

    Raises UsageError for numbers out of range, DataError for rows that are none.
    """
    if not 0 < noise_multiplier < math.inf or divisor < 1:
        raise UsageError(
            f"noise_multiplier={noise_multiplier}, divisor={divisor}: expected a finite number > 0, and >= 1"
        )
    size = rows.shape[1]
    check_rows(rows, size)
    total = np.zeros(size, np.int64)
    for start in range(0, len(rows), 4096) if units is None else ():
        total += _shortened(rows[start : start + 4096].astype(np.float64)).sum(0)
    if units is not None:
        order = np.argsort(units, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(units[order])) + 1):
            if len(part):
                total += _shortened(np.rint(rows[part].mean(0, dtype=np.float64))[None])[0]
    drawn = noise(step, size, noise_multiplier * (2.0**BITS + math.sqrt(size) / 2))
    mean = (total + drawn) * (UNIT / divisor)
    spread = size * (noise_multiplier / divisor) ** 2
    square = float(mean @ mean)
    clear = max(0.0, square - spread)  # |m|² without its noise
    factor = clear / square if square > 0 else 0.0
    return Centre(mean=mean * factor, scale=1 / math.sqrt(max(LONGEST**-2, 1 - clear)))


def _shortened(rows: np.ndarray) -> np.ndarray:
    """Whole numbers (m, S) -> int64, each row of length one at most in units of the grid, and half a unit per number more."""
    lengths = np.sqrt(np.square(rows).sum(1, keepdims=True))
    factors = 2.0**BITS * (1 - SLACK) / np.maximum(lengths, 1.0)
    return np.where(lengths > 2.0**BITS, np.rint(rows * factors), rows).astype(np.int64)
