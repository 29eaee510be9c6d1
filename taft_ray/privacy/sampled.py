"""Accounting of noisy steps on Poisson batches: each unit is in a step's batch with probability q, by itself.

    P = (1 − q)·N(0, σ²) + q·N(1, σ²)   against   Q = N(0, σ²)        losses ln P/Q seen under P, and ln Q/P seen under Q

Steps' losses add up. The parts of Opacus's PRV accountant convolve them by Fourier transforms (Gopi, Lee & Wutschitz 2021,
arXiv:2106.02848). Its upper bound on ε is above its estimate by an error that is chosen. That is a thousandth of the ε by Rényi
divergences, and 0.01 at most. The bound is taken for δ less a thousandth. Losses lie on `MOST_POINTS` points at most. Where they would
be more, the error grows instead.

Opacus convolves the loss under P alone. Here the answer is the larger ε of both, as a unit may be there more or less.

Each step's tail has an error of 1e-16, so that PRV is not taken for δ below about T·1e-12. Nor is it for ε above `LARGEST`. There the
bound by Rényi divergences (RDP) is the answer, which is looser. Full batches with the same noise never give less away.

Guarantees: the answer is never above the full batch's, nor below PRV's lower bound. Tests find it below RDP's.

Zeroing a unit out has the same pair as adding it: it is in the batch with probability q, and then counts as nothing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
from scipy.fft import next_fast_len
from scipy.special import ndtr

from taft_ray.errors import UsageError
from taft_ray.privacy.accounting import epsilon_of, mu_of
from taft_ray.privacy.accounting import noise_multiplier as full_noise_multiplier

ERROR, LARGEST_ERROR = 1e-3, 0.01
MOST_POINTS = 1 << 22
LARGEST = 200.0
_STEP_ERROR = 1e-15  # of probabilities in a step's tail, and of the transform
_DELTA_ERROR = 1e-3  # of δ
_CLOSE = 1e-4  # relative, of a noise multiplier
_DIGITS = 5
_KEPT = 4096  # answers in memory
_ORDERS: list[float] = [
    *range(2, 33),
    *range(36, 65, 4),
    80,
    96,
    128,
    192,
    256,
]  # whole ones: others take a hundred times as long


@lru_cache(_KEPT)
def epsilon_of_sampled(noise_multiplier: float, rate: float, steps: int, delta: float) -> float:
    """ε of so many steps, an upper bound; 0.0 where δ alone covers it, and inf without noise.

    noise_multiplier: σ >= 0. rate: q, between 0 and 1, exclusive. steps: T >= 1. delta: between 0 and 1, exclusive. UsageError otherwise.
    """
    sigma, steps = _checked(noise_multiplier, rate, steps), int(steps)
    whole = epsilon_of(math.sqrt(steps) / sigma if sigma > 0 else math.inf, delta)
    if whole in (0.0, math.inf):
        return whole
    if rate * steps <= delta:  # so likely it is that the unit is in any batch
        return 0.0
    with _quiet():
        carried = steps * _STEP_ERROR <= _DELTA_ERROR * delta
        bound = _prv(sigma, rate, steps, delta) if carried else math.inf
        if bound == math.inf:
            bound = _renyi(sigma, rate, steps, delta)
    return max(min(bound, whole), 0.0)


@lru_cache(_KEPT)
def sampled_noise_multiplier(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The smallest σ found whose `epsilon_of_sampled` is not above ε, rounded up to five digits.

    It is not above that of full batches. UsageError for numbers that mean nothing, and for ε = 0, which asks for infinite noise.
    """
    if epsilon == 0:
        raise UsageError("ε=0 asks for infinite noise: nothing can be released; allow an ε above 0")
    enough = full_noise_multiplier(mu_of(epsilon, delta), steps)
    _checked(enough, rate, steps)
    if enough == 0.0:
        return enough

    def above(log_sigma: float) -> float:
        found = epsilon_of_sampled(math.exp(log_sigma), rate, steps, delta)
        return math.log(max(found, 1e-12) / epsilon) if found < math.inf else 100.0

    high = math.log(enough)
    at_high = min(above(high), 0.0)
    # steps of small q are nearly Gaussian together: μ² = q² T (exp(1/σ²) − 1) (Bu et al. 2019), a guess
    guess = -0.5 * math.log(math.log1p((mu_of(epsilon, delta) / rate) ** 2 / steps))
    low, less = min(guess, high) - 0.02, 0.02
    while (at_low := above(low)) <= 0:
        high, at_high = low, at_low
        low, less = low - 2 * less, 2 * less
    # false position; an end that stays twice counts half (Illinois)
    side = 0
    while high - low > _CLOSE:
        middle = high - at_high * (high - low) / (at_high - at_low)
        middle = min(max(middle, low + 0.2 * _CLOSE), high - 0.2 * _CLOSE)
        at_middle = above(middle)
        if at_middle <= 0:
            high, at_high, at_low = middle, at_middle, at_low / (2 if side > 0 else 1)
            side = 1
        else:
            low, at_low, at_high = middle, at_middle, at_high / (2 if side < 0 else 1)
            side = -1
    sigma = _rounded_up(math.exp(high))
    while sigma < enough and epsilon_of_sampled(sigma, rate, steps, delta) > epsilon:
        sigma = _rounded_up(sigma * (1 + 1e-5))
    return min(sigma, enough)


def _prv(sigma: float, rate: float, steps: int, delta: float) -> float:
    """The upper bound by numerical composition; inf where there is none.

    It is made of the accountant's parts, as its own `get_epsilon` is. Losses are looked at as far as there, by fewer orders of Rényi
    divergence. Under Q those are no larger (Mironov, Talwar & Zhang 2019).
    """
    from opacus.accountants.analysis import rdp
    from opacus.accountants.analysis.prv import (
        Domain,
        PoissonSubsampledGaussianPRV,
        TruncatedPrivacyRandomVariable,
        compose_heterogeneous,
        discretize,
    )

    try:
        of_a_step = rdp.compute_rdp(q=rate, noise_multiplier=sigma, steps=1, orders=_ORDERS)

        def renyi(times: int, at: float) -> float:
            return float(rdp.get_privacy_spent(orders=_ORDERS, rdp=of_a_step * times, delta=at)[0])

        about, delta_error = renyi(steps, delta), _DELTA_ERROR * delta
        if not about <= LARGEST:
            return math.inf
        reach = 3 + max(renyi(steps, delta_error / 4), renyi(1, delta_error / (8 * steps)), LARGEST_ERROR)
        times = math.sqrt(steps * math.log(12 / delta_error) / 2)  # of the mesh the error is
        error = max(min(ERROR * about, LARGEST_ERROR), 2 * reach / MOST_POINTS * times)
        points: int = next_fast_len(math.ceil(reach / error * times) + 1)  # type: ignore[assignment]  # its stub has none
        half = points - 1.5
        domain = Domain.create_aligned(-half * error / times, half * error / times, error / times)
        found = []
        for loss in (PoissonSubsampledGaussianPRV(rate, sigma), _LossUnderQ(rate, sigma)):
            near = TruncatedPrivacyRandomVariable(loss, domain.t_min, domain.t_max)  # type: ignore[arg-type]  # asks for its cdf
            composed = compose_heterogeneous(dprvs=[discretize(near, domain)], num_self_compositions=[steps])
            found.append(float(composed.compute_epsilon(delta, delta_error, error)[2]))
    except (ArithmeticError, ValueError, RuntimeError, MemoryError):  # its own words for "cannot be computed"
        return math.inf
    return max(*found, 0.0) if all(map(math.isfinite, found)) else math.inf


class _LossUnderQ:
    """ln Q/P seen under Q, as a random variable.

    ln P/Q at x is ln(1 − q + q·exp((2x − 1) / 2σ²)), which rises with x from ln(1 − q).
    """

    def __init__(self, rate: float, sigma: float) -> None:
        self._rate, self._sigma = rate, sigma

    def cdf(self, t: np.ndarray | float) -> np.ndarray:
        """P[ln Q/P ≤ t] = P[x ≥ the x where ln P/Q = −t]."""
        within = np.expm1(-np.asarray(t, float)) + self._rate  # q·exp(…)
        reached = within > 0
        x = 0.5 + self._sigma**2 * np.log(np.where(reached, within, 1.0) / self._rate)
        return np.where(reached, ndtr(-x / self._sigma), 1.0)


def _renyi(sigma: float, rate: float, steps: int, delta: float) -> float:
    """ε by Rényi divergences (Mironov, Talwar & Zhang 2019), of all orders that Opacus has; inf where there is none."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(sigma, rate, steps)]
    try:
        found = float(accountant.get_epsilon(delta))
    except (ArithmeticError, ValueError):  # of noise so small that its series overflow
        return math.inf
    return math.inf if math.isnan(found) else max(found, 0.0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of Opacus, whose RDP orders end at 63, and of overflows, which are looked for."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _rounded_up(value: float) -> float:
    digits = _DIGITS - 1 - math.floor(math.log10(value))
    found = float(f"{math.ceil(value * 10.0**digits)}e{-digits}")
    return found if found >= value else float(f"{math.ceil(value * 10.0**digits) + 1}e{-digits}")


def _checked(noise_multiplier: float, rate: float, steps: int) -> float:
    for name, value in (("σ", noise_multiplier), ("q", rate)):
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise UsageError(f"{name}={value!r}: expected a number")
    if not noise_multiplier >= 0:
        raise UsageError(f"σ={noise_multiplier}: expected a noise multiplier >= 0")
    if not 0 < rate < 1:
        raise UsageError(f"q={rate}: expected a sampling rate between 0 and 1, exclusive")
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise UsageError(f"steps={steps}: expected a whole number >= 1")
    return float(noise_multiplier)
