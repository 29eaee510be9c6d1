"""The grid of rows: whole numbers of 16 bits, multiples of 2^-15. Needs numpy alone. Legend: n pictures, S numbers."""

from __future__ import annotations

import numpy as np

from taft_ray.errors import DataError

BITS = 15
UNIT = 2.0**-BITS
LARGEST = 2**BITS - 1


def from_rows(rows: np.ndarray) -> np.ndarray:
    """int16 (n, S) -> float64 in units of 1."""
    return rows.astype(np.float64) * UNIT


def check_rows(rows: np.ndarray, size: int) -> None:
    """DataError where ``rows`` are not rows of ``size`` numbers on the grid."""
    if rows.ndim != 2 or rows.dtype != np.int16 or rows.shape[1] != size:
        raise DataError(
            f"rows of {rows.dtype} {rows.shape}: expected int16 (n, {size}); they belong to another network or projection"
        )
