"""Gaussian differential privacy: what a mechanism with Gaussian noise gives away, as one number μ.

    δ(ε) = Φ(−ε/μ + μ/2) − e^ε Φ(−ε/μ − μ/2)        Dong, Roth & Su 2019, corollary 1; Balle & Wang 2018, theorem 8

A release with L2 sensitivity Δ and noise N(0, (σΔ)²) is 1/σ-GDP. Releases add up as μ² = Σ μ_i² (corollary 2 there), whether or not
one was chosen after looking at another. So T steps of noise σ have μ = √T / σ. The formula is exact for the Gaussian mechanism:
there is no grid and no truncation to choose.

Guarantees: `epsilon_of` is never below the true ε, `mu_of` and 1 / `noise_multiplier` are never above the true values. Each is within
1e-9 of it, relatively, for δ down to 1e-300 and ε up to 1e4.

With a = ε/μ − μ/2, b = a + μ and Mills' ratio M(x) = Φ(−x) / φ(x):  e^ε φ(b) = φ(a), so δ = φ(a) (M(a) − M(b)).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from scipy.optimize import root_scalar
from scipy.special import erfcx, ndtr, ndtri

from taft_ray.errors import UsageError

_ROOT_HALF = math.sqrt(0.5)
_ROOT_HALF_PI = math.sqrt(0.5 * math.pi)
_LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)
_NARROW = 0.5  # μ below which M(a) − M(b) loses digits and its derivative is integrated in its place
_FAR = 40.0  # x beyond which 1 − x M(x) loses digits, and its series has them all
_MARGIN = 1e-11  # relative error of δ that the answers allow for; the measured one is below 1e-12
_STEPS = 200  # of Newton's method; 5 to 10 are usual
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def delta_of(mu: float, epsilon: float) -> float:
    """δ at which a μ-GDP release is (ε, δ)-differentially private; 0.0 below the smallest float.

    mu, epsilon: >= 0; inf is "no noise", and "no bound". UsageError for NaN and negative values.
    """
    mu, epsilon = _at_least_zero("μ", mu), _at_least_zero("ε", epsilon)
    if mu == 0.0 or epsilon == math.inf:
        return 0.0
    if mu == math.inf:
        return 1.0
    # ε/μ overflows for the smallest μ: nothing is given away there
    at = epsilon / mu - 0.5 * mu
    return math.exp(min(_log_delta(mu, at), 0.0)) if at < math.inf else 0.0


def epsilon_of(mu: float, delta: float) -> float:
    """ε at which a μ-GDP release is (ε, δ)-differentially private, rounded up; 0.0 where δ alone covers it.

    mu: >= 0; inf has ε = inf. delta: between 0 and 1, exclusive. UsageError otherwise.
    """
    mu, delta = _at_least_zero("μ", mu), _probability(delta)
    if mu == 0.0:
        return 0.0
    if mu == math.inf:
        return math.inf
    goal = math.log(delta) + math.log1p(-_MARGIN)
    if _log_delta(mu, -0.5 * mu) <= goal:
        return 0.0
    # δ < Φ(−a) gives a start above the root; ln δ is concave in a, so that Newton's method stays above it
    low, high = -0.5 * mu, max(float(-ndtri(delta)), -0.5 * mu) + 1e-6
    at = high
    for _ in range(_STEPS):
        log_delta = _log_delta(mu, at)
        low, high = (low, at) if log_delta <= goal else (at, high)
        following = at + (log_delta - goal) * math.exp(min(log_delta - _log_slope(mu, at), 700.0))
        if not low <= following <= high:
            following = 0.5 * (low + high)
        moved, at = abs(following - at), following
        if moved <= 1e-13 * (abs(at) + 0.5 * mu):
            break
    # rounding may have ended it a little below
    nudge = 1e-15 * (abs(at) + 0.5 * mu)
    while _log_delta(mu, at) > goal:
        at, nudge = at + nudge, 2 * nudge
    return max(mu * (at + 0.5 * mu + 1e-15 * (abs(at) + 0.5 * mu)), 0.0) * (1 + 1e-15)


def mu_of(epsilon: float, delta: float) -> float:
    """The largest μ whose `epsilon_of` is not above ε; inf for ε = inf.

    epsilon: >= 0. delta: between 0 and 1, exclusive. UsageError otherwise.
    """
    epsilon, delta = _at_least_zero("ε", epsilon), _probability(delta)
    if epsilon == math.inf:
        return math.inf
    goal = math.log(delta) + math.log1p(-2 * _MARGIN)

    def above(log_mu: float) -> float:
        mu = math.exp(log_mu)
        return max(_log_delta(mu, epsilon / mu - 0.5 * mu), -1e5) - goal

    # δ < μ φ(0) at ε = 0, and δ < Φ(−a) at any ε: two μ that are allowed, but for the margin
    far = float(-ndtri(delta))
    root = math.hypot(far, math.sqrt(2 * epsilon))
    by_tail = 2 * epsilon / (far + root) if far > 0 else root - far
    low, more = math.log(max(delta * math.sqrt(2 * math.pi), by_tail)) - 1e-9, 1.0
    while above(low) > 0:
        low -= more
    high = low + more
    while above(high) < 0:
        low, more = high, 2 * more
        high = low + more
    mu = math.exp(root_scalar(above, bracket=(low, high), xtol=1e-14, rtol=1e-14).root)
    while epsilon_of(mu, delta) > epsilon:
        mu *= 1 - 1e-12
    return mu


def total(mus: Iterable[float]) -> float:
    """√Σμ²: releases that concern the same sample, in any order; 0.0 for none. UsageError for NaN and negative values."""
    found = [_at_least_zero("μ", mu) for mu in mus]
    largest = max(found, default=0.0)
    if largest in (0.0, math.inf):
        return largest
    return largest * math.sqrt(math.fsum((mu / largest) ** 2 for mu in found))


def noise_multiplier(mu: float, steps: int) -> float:
    """σ = √steps / μ, rounded up: noise of each step in units of its L2 sensitivity. UsageError for μ <= 0, steps < 1."""
    if not _at_least_zero("μ", mu) > 0.0:
        raise UsageError("μ=0 asks for infinite noise: nothing can be released; allow an ε above 0")
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise UsageError(f"steps={steps}: expected a whole number >= 1")
    sigma = math.sqrt(steps) / mu
    while math.sqrt(steps) / sigma > mu if sigma > 0 else False:
        sigma = math.nextafter(sigma, math.inf)
    return sigma


def _log_delta(mu: float, at: float) -> float:
    """ln δ at a = ε/μ − μ/2 >= −μ/2; -inf where even its logarithm is out of reach."""
    if at == math.inf:
        return -math.inf
    end = at + mu
    if mu < _NARROW:
        # M'(x) = x M(x) − 1
        half = 0.5 * mu
        difference = half * float(_WEIGHTS @ _minus_slope_of_mills(at + half + half * _NODES))
    elif at < 0:
        inside = float(ndtr(-at)) - math.exp(_log_density(at)) * _mills(end)
        return math.log(inside)
    else:
        difference = _mills(at) - _mills(end)
    return _log_density(at) + math.log(difference) if difference > 0 else -math.inf


def _log_slope(mu: float, at: float) -> float:
    """ln of −dδ/da = μ φ(a) M(b)."""
    return math.log(mu) + _log_density(at) + math.log(_mills(at + mu))


def _log_density(x: float) -> float:
    return -0.5 * x * x - _LOG_ROOT_TWO_PI


def _mills(x: float) -> float:
    """Φ(−x) / φ(x), for x > -37."""
    return _ROOT_HALF_PI * float(erfcx(x * _ROOT_HALF))


def _minus_slope_of_mills(x: np.ndarray) -> np.ndarray:
    """1 − x M(x), all of one x near another: 1/x² − 3/x⁴ + 15/x⁶ − 105/x⁸ + … for large x."""
    if x[0] > _FAR:
        square = 1 / (x * x)
        return square * (1 - square * (3 - square * (15 - square * (105 - square * 945))))
    return 1 - x * (_ROOT_HALF_PI * erfcx(x * _ROOT_HALF))


def _at_least_zero(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating) or not value >= 0:
        raise UsageError(f"{name}={value!r}: expected a number >= 0")
    return float(value)


def _probability(delta: float) -> float:
    if isinstance(delta, bool) or not isinstance(delta, int | float | np.floating) or not 0 < delta < 1:
        raise UsageError(f"δ={delta!r}: expected a number between 0 and 1, exclusive, such as 1e-5")
    return float(delta)
