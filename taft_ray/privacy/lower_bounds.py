"""Lower bounds on the privacy loss of a mechanism, by how often an attacker guesses right whether a canary was in its data.

    many runs   each run has the canary or not. No test of a μ-GDP mechanism is right with a probability above Φ(μ/2): that is
                its total variation (Dong, Roth & Su 2019). Right guesses of independent runs are binomial at most (Hoeffding 1956).
    one run     each of m canaries is in or out by a fair coin; r guesses, v of them right (the rest is left open).
                (ε, δ): Steinke, Nasr & Jagielski 2023, theorem 5.2, arXiv:2305.08846.
                μ: the argument of Mahloujifar, Melis & Chaudhuri 2024, arXiv:2410.22235, for Gaussian trade-offs; below.

With p_j = P[v = j], right mass R_c = Σ_{j≥c} j/m p_j and wrong mass W_c = Σ_{j≥c} (r−j)/m p_j. Turning one canary's coin makes a right
guess wrong. Let q be the probability that its guess is wrong and v ≥ c − 1. Right and v ≥ c then has at most Φ(Φ⁻¹(q) + μ).
The mean over canaries, by concavity: R_c ≤ Φ(Φ⁻¹(W_{c−1}) + μ). A tail P[v ≥ c] that no p_j allow refutes μ.

Guarantees: each bound is above the true value with a probability of at most ``level``, if how to guess was fixed beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import expit, ndtr, ndtri
from scipy.stats import beta, binom

from taft_ray.errors import UsageError

STEP = 0.01
"""`epsilon_of_one_run` is rounded down to a multiple of it."""
_LARGEST_MU, _HALVINGS = 64.0, 40
_SHARES = np.linspace(0.1, 1.0, 10)  # of the canaries that are guessed
_POWER = 0.8416212335729143  # Φ⁻¹(0.8)
_LARGEST_FACTOR = 1024.0


def mu_of_many_runs(right: int, runs: int, level: float) -> float:
    """The μ that this many right guesses refute; 0.0 where they refute none.

    right, runs: guesses and right ones, a guess per independent run. level: how likely the bound may be too high.
    """
    _check(right, runs, level)
    least = float(beta.ppf(level, right, runs - right + 1)) if right else 0.0  # Clopper & Pearson 1934
    return max(0.0, 2 * float(ndtri(least))) if least > 0 else 0.0


def mu_of_one_run(right: int, guesses: int, canaries: int, level: float) -> float:
    """The μ that this many right guesses refute; 0.0 where they refute none.

    right, guesses, canaries: v, r and m above. level: how likely the bound may be too high.
    """
    _check(right, guesses, level, canaries)
    if not _refuted(0.0, right, guesses, canaries, level):
        return 0.0
    low, high = 0.0, _LARGEST_MU
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _refuted(middle, right, guesses, canaries, level) else (low, middle)
    return low


def epsilon_of_one_run(right: int, guesses: int, canaries: int, delta: float, level: float) -> float:
    """The ε of (ε, δ) that this many right guesses refute, whatever the mechanism's noise looks like; 0.0 where they refute none.

    right, guesses, canaries: v, r and m above. level: how likely the bound may be too high.
    """
    _check(right, guesses, level, canaries)
    steps = 0
    # the first that stands ends it: the p-value need not rise everywhere
    while p_value(right, guesses, canaries, steps * STEP, delta) <= level:
        steps += 1
    return max(0, steps - 1) * STEP


def p_value(right: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """How likely an (ε, δ)-private mechanism lets so many guesses be right, at most (Steinke et al., theorem 5.2).

    P[B ≥ v] + 2mδ · max_i P[v − i ≤ B < v] / i,   B ~ Binomial(r, e^ε / (1 + e^ε)),   i = 1 … v
    """
    at = float(expit(epsilon))
    tail = float(binom.sf(right - 1, guesses, at))
    if not right:
        return 1.0
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, at))
    return min(1.0, tail + 2 * canaries * delta * float((below / np.arange(1, right + 1)).max()))


def guesses_for(canaries: int, mu: float, level: float) -> int:
    """How many of the canaries to guess, an even number: those that convict noise that is too small by the smallest factor.

    Among equals those that refute the most where the mechanism is as it claims.
    """

    def merit(guesses: int) -> tuple[float, float]:
        right = round(guesses * _chance(guesses, canaries, mu))
        factor = detects_by_one_run(mu, guesses, canaries, level)
        return -math.inf if factor is None else -factor, mu_of_one_run(right, guesses, canaries, level)

    most = canaries - canaries % 2
    return max({min(most, max(2, 2 * round(canaries * share / 2))) for share in _SHARES}, key=merit, default=0)


def detects_by_many_runs(mu: float, runs: int, level: float) -> float | None:
    """Times by which noise has to be too small so that about 4 of 5 such audits convict it; None where none does."""
    return _factor(lambda at: mu_of_many_runs(_likely(float(ndtr(at / 2)), runs), runs, level) > mu, mu)


def detects_by_one_run(mu: float, guesses: int, canaries: int, level: float) -> float | None:
    """The same of an audit by one run, whose canaries do not get in each other's way."""
    return _factor(
        lambda at: _refuted(mu, _likely(_chance(guesses, canaries, at), guesses), guesses, canaries, level), mu
    )


def detects_any_noise(
    mu: float, epsilon: float, guesses: int, canaries: int, delta: float, level: float
) -> float | None:
    """The same of `epsilon_of_one_run` above ε, for scores that are about Gaussian."""

    def convicts(at: float) -> bool:
        right = _likely(_chance(guesses, canaries, at), guesses)
        return p_value(right, guesses, canaries, epsilon, delta) <= level

    return _factor(convicts, mu)


def _refuted(mu: float, right: int, guesses: int, canaries: int, level: float) -> bool:
    """Whether P[v ≥ right] = level is impossible: then the masses that it needs below are more than r/m in all."""
    good, bad = level * right / canaries, level * (guesses - right) / canaries
    for below in range(right - 1, -1, -1):
        needed = float(ndtr(ndtri(good) - mu))
        if needed <= bad:
            break  # nothing changes any more
        good, bad = min(1.0, good + below / (guesses - below) * (needed - bad)), needed
    return good + bad > guesses / canaries


def _chance(guesses: int, canaries: int, mu: float) -> float:
    """How likely a guess is right, of the highest and the lowest of scores N(0, 1) and N(μ, 1), half of them each."""
    if guesses >= canaries:
        return float(ndtr(mu / 2))
    share = guesses / canaries  # above a threshold on one side, of those on that side of the middle
    low, high = mu / 2 - 40.0, mu / 2 + 40.0
    for _ in range(80):
        at = 0.5 * (low + high)
        above = float(ndtr(mu - at) + ndtr(-at))
        low, high = (at, high) if above > share else (low, at)
    return float(ndtr(mu - high) / (ndtr(mu - high) + ndtr(-high)))


def _likely(chance: float, guesses: int) -> int:
    """Right guesses that are reached about 4 times of 5."""
    return max(0, math.floor(guesses * chance - _POWER * math.sqrt(guesses * chance * (1 - chance))))


def _factor(convicts: Callable[[float], bool], mu: float) -> float | None:
    low, high = 0.0, math.log(_LARGEST_FACTOR)
    if not convicts(mu * _LARGEST_FACTOR):
        return None
    for _ in range(16):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if convicts(mu * math.exp(middle)) else (middle, high)
    return math.exp(high)


def _check(right: int, guesses: int, level: float, canaries: int | None = None) -> None:
    if not 0 <= right <= guesses or not guesses >= 1 or (canaries is not None and guesses > canaries):
        raise UsageError(
            f"{right} of {guesses} guesses right, {canaries} canaries: expected 0 <= right <= guesses <= canaries"
        )
    if not 0 < level < 1:
        raise UsageError(f"expected 0 < level < 1, got {level}; set --level")
