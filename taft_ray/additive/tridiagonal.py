"""A symmetric matrix as Q T Qᵀ with T tridiagonal: every shift of it is then solved in O(S) steps per right side.

The reduction is the first half of an eigendecomposition and takes a third of its time. Legend: S rows, k right sides.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import get_lapack_funcs

from taft_ray.errors import DataError

_solve, _factor, _multiply, _reduce, _room = get_lapack_funcs(
    ("ptsv", "pttrf", "ormqr", "sytrd", "sytrd_lwork"), dtype=np.float64
)


class Tridiagonal:
    """T, and Q as LAPACK's reflectors. Call inside `one_blas_thread`, and so make it.

    Guarantees: the bits are a function of the matrix and of the machine.
    """

    def __init__(self, diagonal: np.ndarray, beside: np.ndarray, reflectors: np.ndarray, factors: np.ndarray) -> None:
        self._diagonal, self._beside = diagonal, beside
        self._reflectors, self._factors = reflectors, factors

    def turn(self, values: np.ndarray) -> np.ndarray:
        """Qᵀ v of (S, k)."""
        return self._turned(values, b"T")

    def turn_back(self, values: np.ndarray) -> np.ndarray:
        """Q v of (S, k)."""
        return self._turned(values, b"N")

    def solve(self, values: np.ndarray, shift: float) -> np.ndarray:
        """(T + shift I)⁻¹ v of (S, k); DataError where that matrix is not positive."""
        if len(self._diagonal) == 1:  # which LAPACK's wrappers do not take
            _need_positive(int(self._diagonal[0] + shift <= 0))
            return np.asarray(values) / (self._diagonal[0] + shift)
        _, _, found, failed = _solve(self._diagonal + shift, self._beside, values)
        _need_positive(failed)
        return found

    def trace_of_inverse(self, shift: float) -> float:
        """tr (T + shift I)⁻¹: with T + shift = L D Lᵀ, its diagonal is v_i = 1/d_i + l_i² v_(i+1) from the last one up."""
        if len(self._diagonal) == 1:
            return float(1 / (self._diagonal[0] + shift))
        pivots, factors, failed = _factor(self._diagonal + shift, self._beside)
        _need_positive(failed)
        total = value = 1 / pivots[-1]
        for inverse, square in zip((1 / pivots[:-1])[::-1].tolist(), np.square(factors)[::-1].tolist(), strict=True):
            value = inverse + square * value
            total += value
        return float(total)

    def _turned(self, values: np.ndarray, side: bytes) -> np.ndarray:
        turned = np.array(values, np.float64, order="F")
        if len(turned) > 1:  # the first row is no reflector's
            block = 64 * turned.shape[1]
            lower, _, failed = _multiply(b"L", side, self._reflectors, self._factors, turned[1:], block)
            assert failed == 0, failed
            turned[1:] = lower
        return turned


def reduced(matrix: np.ndarray) -> Tridiagonal:
    """Q T Qᵀ of a symmetric (S, S), whose lower triangle is read."""
    size = len(matrix)
    if size == 1:
        return Tridiagonal(matrix.diagonal().copy(), np.empty(0), np.empty((0, 0)), np.empty(0))
    room = int(_room(size, lower=1)[0])
    packed, diagonal, beside, factors, failed = _reduce(matrix.T, lower=1, lwork=room, overwrite_a=True)
    assert failed == 0, failed
    return Tridiagonal(diagonal, beside, np.asfortranarray(packed[1:, :-1]), factors)


def _need_positive(failed: int) -> None:
    if failed:
        raise DataError("the sums are not those of any rows: G is not positive; make them again from the rows")
