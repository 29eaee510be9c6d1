"""Differentially private sums of rows: released once, solved for any penalty and number of features, added up like `Sums`.

    Ĝ = Σ a aᵀ + N_G        (S, S)        B̂ = Σ e_y aᵀ + N_B        (K, S)        logits(x) = B̂ (Ĝ₊ + λ I)⁻¹ a(x)

Source: AdaSSP (Wang 2018), with rows that are bounded by construction. |a| <= 1 bounds what one picture adds by 1 in each sum, in the
Frobenius norm. G has its off-diagonal numbers twice in that norm, so that those are released with noise smaller by √2. The two
sums are releases of their own: `share` of μ² goes to G.

Rows and their sums are whole numbers. So nothing is rounded, the sensitivity is exact, and noise is added as whole numbers.
All that follows is post-processing. Ĝ₊ is Ĝ without its negative eigenvalues. λ is a multiple of the spectral norm of N_G, which is
public. No intercept is needed: the mean of the targets is the same for all classes in what a softmax or argmax sees.

Legend: n pictures, S numbers, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from taft_ray.additive.centring import Noise
from taft_ray.additive.exact_sums import Sums
from taft_ray.additive.grid import BITS, UNIT
from taft_ray.additive.model import AdditiveModel
from taft_ray.additive.threads import one_blas_thread
from taft_ray.errors import DeltaMismatch, UsageError

SHARE = 0.3  # of μ² for G
PENALTY = 0.3  # λ in units of the spectral norm of G's noise
_DIAGONAL, _BESIDE, _BY_CLASS = range(3)  # the steps of the noise


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisySums:
    """A release. gram: (S, S), by_class: (K, S), float64 in units of 1. Nothing else of the private rows is in it.

    gram_variance: of an off-diagonal number of N_G, times 2; that of `merged` sums is their total.
    """

    gram: np.ndarray
    by_class: np.ndarray
    gram_variance: float
    recipe: str = ""

    @classmethod
    def release(cls, sums: Sums, mu: float, noise: Noise, *, share: float = SHARE) -> NoisySums:
        """A μ-Gaussian private release of these sums: ``noise`` is called for steps 0, 1 and 2.

        Guarantees: a picture that is zeroed out changes both sums together by no more than μ standard deviations of noise.
        """
        if not 0 < mu < math.inf or not 0 < share < 1:
            raise UsageError(f"mu={mu}, share={share}: expected a finite number > 0, and a share between 0 and 1")
        size, classes = sums.size, sums.classes
        sigma_gram, sigma_class = 1 / (mu * math.sqrt(share)), 1 / (mu * math.sqrt(1 - share))
        scale = sigma_gram * 2.0 ** (2 * BITS)
        gram = sums.upper().copy()
        beside = np.triu_indices(size, 1)
        gram[np.diag_indices(size)] += noise(_DIAGONAL, size, scale)
        gram[beside] += noise(_BESIDE, len(beside[0]), scale * math.sqrt(0.5))
        by_class = sums.by_class + noise(_BY_CLASS, classes * size, sigma_class * 2.0**BITS).reshape(classes, size)
        return cls(
            gram=(gram + np.triu(gram, 1).T) * UNIT**2,
            by_class=by_class * UNIT,
            gram_variance=sigma_gram**2,
            recipe=sums.recipe,
        )

    def merged(self, other: NoisySums) -> NoisySums:
        """The sums of both, whose noise adds up: N shards carry √N times the noise of one release of all."""
        if other.recipe != self.recipe or other.by_class.shape != self.by_class.shape:
            raise DeltaMismatch("noisy sums of other rows or other classes cannot be added; release them anew")
        return NoisySums(
            gram=self.gram + other.gram,
            by_class=self.by_class + other.by_class,
            gram_variance=self.gram_variance + other.gram_variance,
            recipe=self.recipe,
        )

    @property
    def edge(self) -> float:
        """The spectral norm of N_G as S grows: √(2 S) σ (the semicircle's edge)."""
        return math.sqrt(2 * len(self.gram) * self.gram_variance)

    def first(self, size: int) -> NoisySums:
        """The sums of the first ``size`` numbers of every row: a smaller projection's."""
        if not 1 <= size <= len(self.gram):
            raise UsageError(f"size={size}: expected 1..{len(self.gram)}, what these sums have")
        return NoisySums(
            gram=self.gram[:size, :size],
            by_class=self.by_class[:, :size],
            gram_variance=self.gram_variance,
            recipe=self.recipe if size == len(self.gram) else f"{self.recipe}[:{size}]",
        )

    def solve(self, penalty: float = PENALTY) -> AdditiveModel:
        """The model. penalty: λ in units of `edge`, chosen without the private data."""
        if not 0 < penalty < math.inf:
            raise UsageError(f"penalty={penalty}: expected a finite number > 0")
        ridge = penalty * self.edge
        with one_blas_thread():
            eigenvalues, vectors = np.linalg.eigh(self.gram)
            turned = (self.by_class @ vectors) / (np.maximum(eigenvalues, 0.0) + ridge)
            coefficients = turned @ vectors.T
        return AdditiveModel(
            coefficients=coefficients, intercept=np.zeros(len(coefficients)), penalty=ridge, recipe=self.recipe
        )
