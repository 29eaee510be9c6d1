"""A public preconditioner of rows: a' = (P + r·tr(P)/S · I)^-1/2 a, shortened or stretched to length 1, on the grid again.

P is the second moment of *public* pictures' rows. Descent on a' is descent on a with the public preconditioner P. Directions that
every picture has weigh less, and noise is not spent on them. Nothing private is read, and |a'| <= 1 holds as |a| <= 1 did.

P is not centred: a mean of other pictures is no mean of these. Lengths are made equal, because private
pictures' lengths are not the public ones'. A row that is short pays as much noise as a long one.

Legend: n pictures, S numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from taft_ray.additive.grid import check_rows, from_rows
from taft_ray.additive.rows import to_rows
from taft_ray.additive.threads import one_blas_thread
from taft_ray.errors import DataError, UsageError

RIDGE = 0.1  # r, of the mean eigenvalue
_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Whitening:
    """``matrix``: (S, S) float64, symmetric."""

    matrix: np.ndarray

    @classmethod
    def of(cls, public: np.ndarray, ridge: float = RIDGE) -> Whitening:
        """The whitening by public rows, int16 (n, S). UsageError for no rows or a ridge <= 0, DataError for rows that are all zero."""
        if not len(public) or not 0 < ridge < float("inf"):
            raise UsageError(f"whitening by {len(public)} public rows, ridge={ridge}: expected some rows, a number > 0")
        check_rows(public, public.shape[1])
        moment = np.zeros((public.shape[1], public.shape[1]))
        with one_blas_thread():
            for at in range(0, len(public), _ROWS):
                values = from_rows(public[at : at + _ROWS])
                moment += values.T @ values
            scale = np.trace(moment) / len(moment)
            if not scale > 0:
                raise DataError("public rows are all zero: another network's, or damaged")
            eigenvalues, vectors = np.linalg.eigh(moment / scale)
            matrix = (vectors / np.sqrt(np.maximum(eigenvalues, 0.0) + ridge)) @ vectors.T
        return cls(matrix)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """int16 (n, S) -> int16 (n, S), each of length one but for rounding; a row of zeros stays one."""
        check_rows(rows, len(self.matrix))
        found = np.empty_like(rows)
        with one_blas_thread():
            for at in range(0, len(rows), _ROWS):
                values = from_rows(rows[at : at + _ROWS]) @ self.matrix
                lengths = np.linalg.norm(values, axis=1, keepdims=True)
                found[at : at + _ROWS] = to_rows(torch.from_numpy(values / np.where(lengths > 0, lengths, 1.0)))
        return found
