"""A public preconditioner of rows: a' = M·a with M = c·(P + r·tr(P)/S · I)^-1/2.

P is the second moment of *public* pictures' rows. Descent on a' is descent on a with the public preconditioner M². Directions that
every picture has weigh less, and noise is not spent on them. Nothing private is read.

P is not centred, for a mean of other pictures is no mean of these. By c public rows have length one on average.

Legend: n pictures, S numbers.
"""

from __future__ import annotations

import numpy as np

from taft_ray.additive.grid import check_rows, from_rows
from taft_ray.additive.threads import one_blas_thread
from taft_ray.errors import DataError, UsageError

RIDGE = 0.1  # r, of the mean eigenvalue
_ROWS = 4096


def whitening_of(public: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """M (S, S) float64, symmetric, by public rows, int16 (n, S).

    Raises UsageError for no rows or a ridge <= 0, DataError for rows that are all zero.
    """
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
        return matrix / np.linalg.norm(from_rows(public) @ matrix, axis=1).mean()
