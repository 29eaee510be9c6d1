"""Reconstruction of samples from a linear model before and after they were deleted (Bertran et al., arXiv 2405.20272).

Ridge on features d about their mean has C A = B̄ with the curvature A = Σ d dᵀ + λ n I. Without m samples it has C'. Then

    (C − C') A + s C' = (R − C' D) M Dᵀ        s = λ n − λ' (n − m)        M = I + 1 1ᵀ/(n − m)

D has the deleted samples' d as columns, and R their targets about the mean. For one sample the right side is its error times
its features: a matrix of rank one, whose row space is d. For several samples, row k is a sum of features, each weighted by the
sample's error of class k. Without an intercept d is the feature itself, and M is I.

The attacker has C, C' and A. The features behind A are unknown, so A is estimated from other samples, as n Cov + λ n I.

Legend: S numbers per sample, K classes, n samples, m deleted ones, N others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taft_ray.errors import UsageError

_NO_PART = 1e-12  # of the largest squared singular value: what rounding leaves of a matrix of lower rank


@dataclass(frozen=True, kw_only=True, eq=False)
class Knowledge:
    """An attacker's idea of all samples. mean: (S,). covariance: (S, S), of one sample."""

    name: str
    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, name: str, features: np.ndarray) -> Knowledge:
        """From samples (n, S); UsageError for fewer than two."""
        if len(features) < 2:
            raise UsageError(f"{len(features)} samples of {name}: a covariance needs two or more")
        mean = features.mean(0)
        about = features - mean
        return cls(name=name, mean=mean, covariance=about.T @ about / len(features))

    def curvature(self, n: int, weight: float) -> np.ndarray:
        """n Cov + weight I."""
        found = self.covariance * n
        found[np.diag_indices(len(found))] += weight
        return found

    def scaled(self, scales: np.ndarray) -> Knowledge:
        """The same of features whose first numbers are multiplied by these; numbers with a factor of 0 are left out."""
        kept = np.flatnonzero(scales)
        factors = scales[kept]
        covariance = self.covariance[np.ix_(kept, kept)] * factors[:, None] * factors
        return Knowledge(name=self.name, mean=self.mean[kept] * factors, covariance=covariance)

    def about_zero(self) -> Knowledge:
        """The same without centring: Σ a aᵀ/n in place of the covariance."""
        moment = self.covariance + np.multiply.outer(self.mean, self.mean)
        return Knowledge(name=self.name, mean=np.zeros_like(self.mean), covariance=moment)


@dataclass(frozen=True, kw_only=True, eq=False)
class Recovered:
    """The matrix (C − C') A + s C', (K, S)."""

    matrix: np.ndarray

    @classmethod
    def of(cls, before: np.ndarray, after: np.ndarray, curvature: np.ndarray, shift: float = 0.0) -> Recovered:
        """before, after: C and C', (K, S). curvature: A. shift: s."""
        return cls(matrix=(before - after) @ curvature + shift * after)

    def one(self) -> np.ndarray:
        """The features (S,) of a single deleted sample, up to a factor: the row space of the best approximation of rank one."""
        _, columns = np.linalg.eigh(self.matrix @ self.matrix.T)
        return columns[:, -1] @ self.matrix

    def of_class(self, label: int) -> np.ndarray:
        """The sum of features (S,) that comes nearest to a deleted sample of this class."""
        return self.matrix[label]

    def span(self, deleted: int) -> np.ndarray:
        """Orthonormal rows (r, S): the row space, of at most as many dimensions as samples were deleted.

        Where they are fewer than the classes it is the space of their features, and exact releases give it whole.
        """
        values, columns = np.linalg.eigh(self.matrix @ self.matrix.T)
        kept = np.flatnonzero(values > _NO_PART * values[-1])[::-1][:deleted]
        return (columns[:, kept] / np.sqrt(values[kept])).T @ self.matrix


@dataclass(frozen=True, kw_only=True)
class Placed:
    """The attack on one sample. cosine: of recovered and true features, its size. rank: 1 where no other sample is nearer."""

    cosine: float
    rank: int


def placed(recovered: np.ndarray, span: np.ndarray, true: np.ndarray, others: np.ndarray) -> Placed:
    """recovered, true: (S,). span: (r, S), whose nearness ranks the candidates. others: (N, S). All about the same mean."""
    rank = placed_by(float(nearness(span, true[None])[0]), nearness(span, others)).rank
    return Placed(cosine=float(nearness(recovered[None], true[None])[0]), rank=rank)


def placed_by(cosine: float, others: np.ndarray) -> Placed:
    """From the nearness itself. others: (N,)."""
    return Placed(cosine=cosine, rank=1 + int((others > cosine).sum()))


def nearness(span: np.ndarray, several: np.ndarray) -> np.ndarray:
    """The cosine (N,) of each of (N, S) with the space of ``span`` (r, S): orthonormal rows, or a single row of any length.

    0 where either has no length.
    """
    if len(span) == 1:
        span = span / (np.linalg.norm(span) or 1.0)
    length = np.linalg.norm(several, axis=1)
    return np.divide(np.linalg.norm(several @ span.T, axis=1), length, out=np.zeros(len(several)), where=length > 0)


@dataclass(frozen=True, kw_only=True)
class Risk:
    """The attack on ``samples`` of them. first: the share of those that none of ``among`` others is nearer than.

    cosine: their mean.
    """

    samples: int
    among: int
    cosine: float
    first: float
    median_rank: float

    @classmethod
    def of(cls, found: Sequence[Placed], among: int) -> Risk:
        if not found:
            raise UsageError("no sample was attacked: the run has too few of them")
        return cls(
            samples=len(found),
            among=among,
            cosine=float(np.mean([one.cosine for one in found])),
            first=float(np.mean([one.rank == 1 for one in found])),
            median_rank=float(np.median([one.rank for one in found])),
        )
