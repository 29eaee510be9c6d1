"""Symmetric matrices as their upper triangle, row by row: half of the numbers to store, sum and round."""

from __future__ import annotations

import torch
from torch import Tensor


def pack(matrix: Tensor) -> Tensor:
    """The upper triangle of (S, S), row by row: (S(S + 1)/2,)."""
    return torch.cat([row[index:] for index, row in enumerate(matrix.unbind())])


def lower_triangle(packed: Tensor, size: int) -> Tensor:
    """(S, S), zero above the diagonal and column by column in memory, which is how LAPACK wants what it factorises in place."""
    lower = torch.zeros(size, size, dtype=packed.dtype, device=packed.device).T
    start = 0
    for column in range(size):
        stop = start + size - column
        lower[column:, column] = packed[start:stop]
        start = stop
    return lower
