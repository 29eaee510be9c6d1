"""Ridge with an intercept, from exact sums alone, and its λ by generalised cross-validation.

    C = B̄ (Ḡ + λ n I)⁻¹        Ḡ = G − t tᵀ/n,  B̄ = B − p tᵀ,  t = Σ â,  p = n_k/n        (one-hot targets)
    logits = p + C (a − t/n)
    GCV(λ) = n · res / (n − df)²        res = Σ|y − p|² − tr C B̄ᵀ − λ n |C|²,  df = 1 + S − λ n · tr (Ḡ + λ n I)⁻¹

Ḡ = Q T Qᵀ with T tridiagonal is found once (`tridiagonal.py`). Then C, res and df of each λ take O(S K) steps. A fixed grid is
tried, and the λ with the least score is taken.

Legend: S numbers per row, K classes, n pictures; everything is float64, in units where |a| <= 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taft_ray.additive.exact_sums import Sums
from taft_ray.additive.grid import UNIT, check_rows, from_rows
from taft_ray.additive.options import GRID
from taft_ray.additive.threads import one_blas_thread
from taft_ray.additive.tridiagonal import reduced
from taft_ray.errors import DataError, UsageError

_STRIP = 128
_LEFT = 1e-6  # of the pictures must be degrees of freedom that the model does not use


@dataclass(frozen=True, kw_only=True)
class Score:
    """One λ and its GCV. residual: mean |error|² per picture on the pictures themselves."""

    penalty: float
    gcv: float
    degrees_of_freedom: float
    residual: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """coefficients (K, S) and intercept (K,), for rows in units of 1. ``at_end``: λ is the first or last that was tried."""

    coefficients: np.ndarray
    intercept: np.ndarray
    score: Score
    curve: tuple[Score, ...]
    at_end: bool

    @property
    def penalty(self) -> float:
        """λ."""
        return self.score.penalty


def solve(sums: Sums, penalties: Sequence[float] = GRID, scales: np.ndarray | None = None) -> Solution:
    """The model of these sums, with the λ of ``penalties`` that has the least GCV; of equal ones the largest.

    scales: factors >= 0 of a row's first numbers, (S',); numbers behind them are left out. The coefficients are those of whole
    rows all the same, (K, S). None: all numbers, as they are.

    Guarantees: on one machine the bits are a function of the sums and of the arguments, whatever threads are set. Another
    machine's differ in their last digits: compare sums there.
    Raises DataError for sums of no pictures, UsageError for an impossible penalty.
    """
    return Problem(sums).reduced(scales).solve(penalties)


def leave_one_out(sums: Sums, penalty: float, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logits (m, K) of pictures that are in the sums, each by the model without it at the same λ n. For reports.

    Raises DataError where a picture decides its own logits alone.
    """
    logits, told = Problem(sums).reduced().leave_one_out(penalty, rows, labels)
    if not told.all():
        raise DataError("a picture decides its own logits alone; raise the penalty, or add pictures")
    return logits


class Problem:
    """Ḡ, B̄ and what belongs to them, float64."""

    def __init__(self, sums: Sums) -> None:
        self.n, self.size, self.classes = sums.n, sums.size, sums.classes
        if self.n == 0:
            raise DataError("an additive model of no pictures: nothing is in the sums")
        counts, total = sums.counts, sums.total
        self.target = counts / self.n
        self.spread = float(self.n - (counts * self.target).sum())  # Σ |y − p|²
        self.mean = total / self.n * UNIT
        self.cross = (sums.by_class - np.multiply.outer(self.target, total.astype(np.float64))) * UNIT
        self.gram = _centred(sums.upper(), total, self.n)

    def reduced(self, scales: np.ndarray | None = None) -> Reduced:
        """With Ḡ as Q T Qᵀ. scales: as `solve` takes them."""
        if scales is None:
            return Reduced(self, np.ones(self.size), self.cross, self.gram.copy())
        size = len(scales)
        gram = self.gram[:size, :size] * scales[:, None]
        gram *= scales
        return Reduced(self, scales, self.cross[:, :size] * scales, gram)


class Reduced:
    """A `Problem` with the numbers of rows scaled and Ḡ tridiagonal: each λ takes O(S K) steps.

    gram: overwritten. tri: Ḡ as Q T Qᵀ. turned: Qᵀ B̄ᵀ.
    """

    def __init__(self, problem: Problem, scales: np.ndarray, cross: np.ndarray, gram: np.ndarray) -> None:
        self.problem, self.scales = problem, scales
        with one_blas_thread():
            self.tri = reduced(gram)
            self.turned = self.tri.turn(cross.T)

    def scores(self, penalties: Sequence[float]) -> tuple[Score, ...]:
        """GCV of each λ."""
        if not penalties or not all(0 < penalty < float("inf") for penalty in penalties):
            raise UsageError(f"penalties={list(penalties)}: expected finite numbers > 0, at least one")
        with one_blas_thread():
            return tuple(map(self._score, penalties))

    def solve(self, penalties: Sequence[float]) -> Solution:
        """As the function `solve`."""
        curve = self.scores(penalties)
        best = best_of(curve)
        coefficients = np.zeros((self.problem.classes, self.problem.size))
        with one_blas_thread():
            found = self._coefficients(best.penalty)
            coefficients[:, : len(self.scales)] = found * self.scales
            intercept = self.problem.target - found @ self.mean
        return Solution(
            coefficients=coefficients,
            intercept=intercept,
            score=best,
            curve=curve,
            at_end=len(penalties) > 1 and best.penalty in (min(penalties), max(penalties)),
        )

    def leave_one_out(self, penalty: float, rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits (m, K) of pictures in the sums, each by the model without it at the same λ n. Beside them (m,): which can be told.

        The hat matrix gives them: (fit − h y) / (1 − h), where h = 1/n + (a − t/n)ᵀ (Ḡ + λ n I)⁻¹ (a − t/n). They cannot be told
        where h is 1: the picture decides its own logits alone.
        """
        problem, size = self.problem, len(self.scales)
        check_rows(rows, problem.size)
        labels = np.asarray(labels)
        if labels.shape != (len(rows),) or (
            len(rows) and not 0 <= int(labels.min()) <= int(labels.max()) < problem.classes
        ):
            raise DataError(
                f"{len(rows)} rows with labels {labels.shape}: expected a class below {problem.classes} per row"
            )
        logits, told = np.zeros((len(rows), problem.classes)), np.zeros(len(rows), bool)
        weight = penalty * problem.n
        with one_blas_thread():
            coefficients = self._coefficients(penalty)
            for at in range(0, len(rows), 1024):
                block = slice(at, at + 1024)
                values = from_rows(rows[block, :size]) * self.scales - self.mean
                turned = self.tri.turn(values.T)
                hat = (1 / problem.n + (turned * self.tri.solve(turned, weight)).sum(0))[:, None]
                fit = problem.target + values @ coefficients.T
                told[block] = hat[:, 0] < 1 - 1e-9
                left = np.where(told[block, None], 1 - hat, 1.0)
                logits[block] = (fit - hat * np.eye(problem.classes)[labels[block]]) / left
        return logits, told

    @property
    def mean(self) -> np.ndarray:
        """t/n of scaled rows, (S',)."""
        return self.problem.mean[: len(self.scales)] * self.scales

    def _coefficients(self, penalty: float) -> np.ndarray:
        """(K, S') for scaled rows."""
        found = self.tri.solve(self.turned, penalty * self.problem.n)
        return np.ascontiguousarray(self.tri.turn_back(found).T)

    def _score(self, penalty: float) -> Score:
        n = self.problem.n
        weight = penalty * n
        found = self.tri.solve(self.turned, weight)
        free = 1 + len(found) - weight * self.tri.trace_of_inverse(weight)
        fitted = float((found * self.turned).sum()) + weight * float(np.square(found).sum())
        residual = max(self.problem.spread - fitted, 0.0)
        left = n - free
        gcv = n * residual / left**2 if left > _LEFT * n else float("inf")
        return Score(penalty=penalty, gcv=gcv, degrees_of_freedom=free, residual=residual / n)


def best_of(curve: Sequence[Score]) -> Score:
    """The least GCV; of equal ones the largest λ."""
    return min(curve, key=lambda score: (score.gcv, -score.penalty))


def _centred(upper: np.ndarray, total: np.ndarray, n: int) -> np.ndarray:
    """Ḡ, (S, S), both triangles, in units of 1.

    Rows minus the whole numbers c next to their mean are summed in int64, without an error. The rest of the mean is below
    half a step, so that no digit is lost to cancellation.
    """
    near = (2 * total + n) // (2 * n)
    rest = total - n * near
    shift = rest / n
    gram = np.empty(upper.shape)
    for start in range(0, len(upper), _STRIP):
        here, there = slice(start, start + _STRIP), slice(start, None)
        # Σ (â − c)(â − c)ᵀ = G − t cᵀ − c tᵀ + n c cᵀ = G − t cᵀ − c (t − n c)ᵀ
        exact = upper[here, there] - np.multiply.outer(total[here], near[there])
        exact -= np.multiply.outer(near[here], rest[there])
        strip = (exact - np.multiply.outer(rest[here], shift[there])) * UNIT**2
        square = strip[:, : len(strip)]
        square[...] = np.triu(square) + np.triu(square, 1).T
        gram[here, there] = strip
        gram[there, here] = strip.T
    return gram
