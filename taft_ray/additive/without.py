"""The additive model without some of its pictures, at the same settings: what a group of them weighs in an answer. Exact.

D has the columns a − t/n of the m pictures that leave, about the mean of all n, and R their y − p. With M = I + 1 1ᵀ/(n − m):

    Ḡ' = Ḡ − D M Dᵀ        B̄' = B̄ − R M Dᵀ        p' = (n_k − n'_k)/(n − m)        ā' = t/n − D 1/(n − m)
    logits' = p' + B̄' (Ḡ' + λ (n − m) I)⁻¹ (a − ā')

Few pictures are a downdate of rank m of A = Ḡ + λ (n − m) I (Woodbury), whose inverse the reduced Ḡ gives for any shift:

    (A − D M Dᵀ)⁻¹ = A⁻¹ + A⁻¹ D (I − 1 1ᵀ/n − Dᵀ A⁻¹ D)⁻¹ Dᵀ A⁻¹

More of them are subtracted from the sums, and the rest is solved by Cholesky. So is a group whose downdate would lose digits.

Legend: S numbers per row, S' of them used, K classes, n pictures, m that leave, q pictures that are asked about.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve, get_lapack_funcs

from taft_ray.additive.exact_sums import Sums
from taft_ray.additive.grid import check_rows, from_rows
from taft_ray.additive.ridge import Problem
from taft_ray.additive.threads import one_blas_thread
from taft_ray.errors import DataError

FEW = 0.5  # of S' numbers: the largest group whose downdate is quicker than a solve of the sums that are left
_CONDITION = 1e-6  # a downdate that is nearer to singular than this is solved from the sums

_potrf, _pocon = get_lapack_funcs(("potrf", "pocon"), dtype=np.float64)


class Without:
    """Logits of pictures by the model of ``sums`` without a group of its pictures; λ, scales and κ stay.

    scales: factors of a row's first numbers, as `solve` takes them. factor: κ of the logits. asked: int16 (q, S).

    Guarantees: equal to the solve of the sums without the group, to rounding.
    """

    def __init__(
        self, sums: Sums, penalty: float, asked: np.ndarray, scales: np.ndarray | None = None, factor: float = 1.0
    ) -> None:
        check_rows(asked, sums.size)
        self._sums, self._penalty, self._factor = sums, penalty, factor
        self._problem = Problem(sums)
        self._reduced = self._problem.reduced(scales)
        self._scales = self._reduced.scales
        self._asked = from_rows(asked[:, : len(self._scales)]) * self._scales
        with one_blas_thread():
            self._turned = self._reduced.tri.turn((self._asked - self._reduced.mean).T)

    @property
    def few(self) -> int:
        """The pictures of the largest group that is a downdate."""
        return int(FEW * len(self._scales))

    def logits(self, rows: np.ndarray, labels: np.ndarray, *, downdate: bool | None = None) -> np.ndarray | None:
        """(q, K) without these pictures; None where no other is in the sums. rows: int16 (m, S). labels: (m,).

        downdate: by Woodbury, or by a solve; None: by the group's size.

        Raises DataError for rows that are not in the sums.
        """
        check_rows(rows, self._sums.size)
        labels = np.asarray(labels)
        left = self._sums.n - len(rows)
        if labels.shape != (len(rows),) or left < 0:
            raise DataError(f"{len(rows)} rows with labels {labels.shape}: expected some of {self._sums.n} pictures")
        counts = np.bincount(labels, minlength=self._sums.classes)
        if len(counts) > self._sums.classes or bool((counts > self._sums.counts).any()):
            raise DataError(f"{len(rows)} rows of classes that the sums lack; they are not in the sums")
        if not left:
            return None
        if len(rows) and (len(rows) <= self.few if downdate is None else downdate):
            found = self._downdated(rows, labels, counts)
            if found is not None:
                return found * self._factor
        return self._solved(rows, labels) * self._factor

    def _downdated(self, rows: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
        """By Woodbury; None where digits would be lost."""
        problem, reduced = self._problem, self._reduced
        left = problem.n - len(rows)
        target = (self._sums.counts - counts) / left
        with one_blas_thread():
            gone = reduced.tri.turn((from_rows(rows[:, : len(self._scales)]) * self._scales - reduced.mean).T)
            asked = self._turned + gone.sum(1, keepdims=True) / left
            both = reduced.tri.solve(np.concatenate([asked, gone], axis=1), self._penalty * left)
            found, inverse = both[:, : asked.shape[1]], both[:, asked.shape[1] :]
            inner = np.eye(len(rows)) - 1 / problem.n - gone.T @ inverse
            factor, failed = _potrf(inner, lower=1)
            if failed or _pocon(factor, np.abs(inner).sum(0).max(), uplo="L")[0] < _CONDITION:
                return None
            found = found + inverse @ cho_solve((factor, True), inverse.T @ asked)
            along = gone.T @ found  # (m, q)
            along += along.sum(0) / left
            moved = np.eye(problem.classes)[:, labels] - problem.target[:, None]
            return (target[:, None] + reduced.turned.T @ found - moved @ along).T

    def _solved(self, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """From the sums without the rows."""
        rest = self._sums.copy()
        rest.subtract(rows, labels)
        problem, size = Problem(rest), len(self._scales)
        gram = problem.gram[:size, :size]
        gram *= self._scales[:, None]
        gram *= self._scales
        gram[np.diag_indices(size)] += self._penalty * problem.n
        factor = cho_factor(gram.T, lower=True, overwrite_a=True, check_finite=False)
        found = cho_solve(factor, (self._asked - problem.mean[:size] * self._scales).T, check_finite=False)
        return problem.target + ((problem.cross[:, :size] * self._scales) @ found).T
