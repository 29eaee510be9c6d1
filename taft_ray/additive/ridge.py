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
from taft_ray.additive.threads import one_blas_thread
from taft_ray.additive.tridiagonal import Tridiagonal, reduced
from taft_ray.errors import DataError, UsageError

GRID = tuple(10.0 ** (step / 4) for step in range(-40, 5))  # 1e-10 to 10
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


def solve(sums: Sums, penalties: Sequence[float] = GRID) -> Solution:
    """The model of these sums, with the λ of ``penalties`` that has the least GCV; of equal ones the largest.

    Guarantees: on one machine the bits are a function of the sums and of ``penalties``, whatever threads are set. Another
    machine's differ in their last digits: compare sums there.
    Raises DataError for sums of no pictures, UsageError for an impossible penalty.
    """
    if not penalties or not all(0 < penalty < float("inf") for penalty in penalties):
        raise UsageError(f"penalties={list(penalties)}: expected finite numbers > 0, at least one")
    problem = _Problem(sums)
    with one_blas_thread():
        tri = reduced(problem.gram)
        turned = tri.turn(problem.cross.T)  # Qᵀ B̄ᵀ
        curve = tuple(problem.score(tri, turned, penalty) for penalty in penalties)
        best = min(range(len(curve)), key=lambda place: (curve[place].gcv, -curve[place].penalty))
        weight = curve[best].penalty * problem.n
        coefficients = np.ascontiguousarray(tri.turn_back(tri.solve(turned, weight)).T)
        intercept = problem.target - coefficients @ problem.mean
    ends = (min(penalties), max(penalties))
    return Solution(
        coefficients=coefficients,
        intercept=intercept,
        score=curve[best],
        curve=curve,
        at_end=len(penalties) > 1 and curve[best].penalty in ends,
    )


def leave_one_out(sums: Sums, penalty: float, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logits (m, K) of pictures that are in the sums, each by the model without it at the same λ n. For reports.

    The hat matrix gives them: (fit − h y) / (1 − h), where h = 1/n + (a − t/n)ᵀ (Ḡ + λ n I)⁻¹ (a − t/n).
    Raises DataError where a picture decides its own logits alone.
    """
    check_rows(rows, sums.size)
    labels = np.asarray(labels)
    if labels.shape != (len(rows),) or (len(rows) and not 0 <= int(labels.min()) <= int(labels.max()) < sums.classes):
        raise DataError(f"{len(rows)} rows with labels {labels.shape}: expected a class below {sums.classes} per row")
    problem = _Problem(sums)
    with one_blas_thread():
        tri = reduced(problem.gram)
        weight = penalty * problem.n
        coefficients = tri.turn_back(tri.solve(tri.turn(problem.cross.T), weight)).T
        logits = np.empty((len(rows), sums.classes))
        for at in range(0, len(rows), 1024):
            values = from_rows(rows[at : at + 1024]) - problem.mean
            turned = tri.turn(values.T)
            hat = (1 / problem.n + (turned * tri.solve(turned, weight)).sum(0))[:, None]
            if bool((hat >= 1 - 1e-9).any()):
                raise DataError("a picture decides its own logits alone; raise the penalty, or add pictures")
            fit = problem.target + values @ coefficients.T
            logits[at : at + 1024] = (fit - hat * np.eye(sums.classes)[labels[at : at + 1024]]) / (1 - hat)
    return logits


class _Problem:
    """Ḡ, B̄ and what belongs to them, float64."""

    def __init__(self, sums: Sums) -> None:
        self.n = sums.n
        if self.n == 0:
            raise DataError("an additive model of no pictures: nothing is in the sums")
        counts, total = sums.counts, sums.total
        self.target = counts / self.n
        self.spread = float(self.n - (counts * self.target).sum())  # Σ |y − p|²
        self.mean = total / self.n * UNIT
        self.cross = (sums.by_class - np.multiply.outer(self.target, total.astype(np.float64))) * UNIT
        self.gram = _centred(sums.upper(), total, self.n)

    def score(self, tri: Tridiagonal, turned: np.ndarray, penalty: float) -> Score:
        weight = penalty * self.n
        found = tri.solve(turned, weight)
        free = 1 + len(found) - weight * tri.trace_of_inverse(weight)
        fitted = float((found * turned).sum()) + weight * float(np.square(found).sum())
        residual = max(self.spread - fitted, 0.0)
        left = self.n - free
        gcv = self.n * residual / left**2 if left > _LEFT * self.n else float("inf")
        return Score(penalty=penalty, gcv=gcv, degrees_of_freedom=free, residual=residual / self.n)


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
