"""Accounting: between the bounds of two independent accountants, never below the truth, and stable at the ends."""

import math
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import mpmath
import pytest
from dp_accounting.pld import privacy_loss_distribution
from opacus.accountants import PRVAccountant, RDPAccountant

from taft_ray.errors import UsageError
from taft_ray.privacy import delta_of, epsilon_of, mu_of, noise_multiplier, total

PIECES = 2e-3  # of a privacy loss, in Google's accountant
PAGE = {1: (0.268, 26.4), 3: (0.719, 9.83), 8: (1.666, 4.24)}  # ε: μ, σ at 50 steps, δ = 1e-5


def exact_delta(mu: float, epsilon: float, digits: int = 350):
    """The formula of the module's docstring, term by term, with digits enough for both."""
    with mpmath.workdps(digits):
        m, e = mpmath.mpf(mu), mpmath.mpf(epsilon)
        return mpmath.ncdf(-e / m + m / 2) - mpmath.exp(e) * mpmath.ncdf(-e / m - m / 2)


def settings(count: int) -> list[tuple[int, float, float]]:
    """(T, σ, δ), with μ from 0.05 to 5."""
    rng = random.Random(20)
    found = []
    for _ in range(count):
        steps, mu = rng.choice([1, 2, 10, 50, 200, 1000]), 10 ** rng.uniform(-1.3, 0.7)
        found.append((steps, math.sqrt(steps) / mu, 10 ** rng.uniform(-9, -3)))
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Two warnings of Opacus: it takes the logarithm of 1 - q at q = 1 without using it, and its RDP orders end at 63."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "divide by zero encountered in log", RuntimeWarning)
        warnings.filterwarnings("ignore", "Optimal order is the", UserWarning)
        yield


def prv_bounds(steps: int, sigma: float, delta: float) -> tuple[float, float]:
    """Opacus: numerical composition of the privacy loss's characteristic function (Gopi, Lee & Wutschitz 2021)."""
    accountant = PRVAccountant()
    accountant.history = [(sigma, 1.0, steps)]
    with quiet():
        loss = accountant._get_dprv(eps_error=0.01, delta_error=delta / 1000)
    low, _, high = loss.compute_epsilon(delta, delta / 1000, 0.01)
    return low, high


def pld_bounds(steps: int, sigma: float, delta: float) -> tuple[float, float]:
    """Google: the privacy loss in pieces, connected dots above (Doroshenko et al. 2022) and rounded down below."""
    high, low = (
        privacy_loss_distribution.from_gaussian_mechanism(
            standard_deviation=sigma,
            value_discretization_interval=PIECES / math.sqrt(steps),
            pessimistic_estimate=pessimistic,
            use_connect_dots=pessimistic,
        )
        for pessimistic in (True, False)
    )
    if steps > 1:
        high, low = high.self_compose(steps), low.self_compose(steps)
    return low.get_epsilon_for_delta(delta), high.get_epsilon_for_delta(delta)


def rdp_epsilon(steps: int, sigma: float, delta: float) -> float:
    accountant = RDPAccountant()
    accountant.history = [(sigma, 1.0, steps)]
    with quiet():
        return accountant.get_epsilon(delta)


@pytest.mark.parametrize(("steps", "sigma", "delta"), settings(50))
def test_epsilon_lies_between_two_accountants_bounds_and_never_above_rdp(steps: int, sigma: float, delta: float):
    found = epsilon_of(math.sqrt(steps) / sigma, delta)
    for low, high in (prv_bounds(steps, sigma, delta), pld_bounds(1, sigma / math.sqrt(steps), delta)):
        assert low <= found <= high
    assert found <= rdp_epsilon(steps, sigma, delta)


@pytest.mark.parametrize(("steps", "sigma", "delta"), settings(6))
def test_steps_composed_one_by_one_say_the_same(steps: int, sigma: float, delta: float):
    low, high = pld_bounds(steps, sigma, delta)
    assert low <= epsilon_of(math.sqrt(steps) / sigma, delta) <= high
    assert high - low < 0.05 + 0.01 * high, "bounds so wide would pass anything"


def test_the_bounds_convict_an_epsilon_that_is_off_by_a_fiftieth():
    steps, sigma, delta = 50, 9.83, 1e-5
    found = epsilon_of(math.sqrt(steps) / sigma, delta)
    for low, high in (prv_bounds(steps, sigma, delta), pld_bounds(steps, sigma, delta)):
        assert not low <= found * 0.98 <= high
        assert not low <= found * 1.02 <= high


def test_delta_has_twelve_digits_down_to_1e_300():
    rng = random.Random(1)
    for _ in range(150):
        mu, at = 10 ** rng.uniform(-6, 2), rng.uniform(-30, 37)
        epsilon = mu * (at + mu / 2)
        exact = exact_delta(mu, max(epsilon, 0.0))
        if epsilon >= 0 and exact > 1e-300:
            assert abs(delta_of(mu, epsilon) / exact - 1) < 1e-11, (mu, epsilon)


def test_epsilon_is_never_below_the_truth_and_hardly_above_it():
    rng = random.Random(2)
    for _ in range(40):
        mu, delta = 10 ** rng.uniform(-6, 2.1), 10 ** rng.uniform(-300, -0.01)
        found = epsilon_of(mu, delta)
        assert exact_delta(mu, found) <= delta
        below = found * (1 - 1e-9) - 1e-12 * mu
        assert below <= 0 or exact_delta(mu, below) > delta


@pytest.mark.parametrize("epsilon", [0.0, 1e-4, 0.3, 1.0, 8.0, 1e2, 1e4])
@pytest.mark.parametrize("delta", [1e-300, 1e-12, 1e-5, 0.3, 0.97])
def test_mu_is_the_largest_that_is_allowed(epsilon: float, delta: float):
    mu = mu_of(epsilon, delta)
    assert epsilon_of(mu, delta) <= epsilon
    assert exact_delta(mu, epsilon) <= delta < exact_delta(mu * (1 + 1e-9), epsilon)


def test_the_design_page_s_figures():
    for epsilon, (mu, sigma) in PAGE.items():
        found = mu_of(epsilon, 1e-5)
        assert found == pytest.approx(mu, abs=6e-4)
        assert noise_multiplier(found, 50) == pytest.approx(sigma, rel=2e-3)
    once = mu_of(1.0, 1e-5)
    after = [epsilon_of(total([once] * generations), 1e-5) for generations in (2, 5, 10)]
    assert after == pytest.approx([1.47, 2.44, 3.62], abs=5e-3)
    assert epsilon_of(5 * once, 1e-5) == pytest.approx(6.2, abs=0.05)  # five samples of one person


def test_totals_do_not_depend_on_order_and_neither_overflow_nor_vanish():
    rng = random.Random(3)
    mus = [10 ** rng.uniform(-4, 2) for _ in range(500)]
    there = total(mus)
    rng.shuffle(mus)
    assert total(mus) == there == pytest.approx(math.hypot(*mus), rel=1e-15)
    assert total([]) == total([0.0, 0.0]) == 0.0
    assert total([3e200, 4e200]) == pytest.approx(5e200)
    assert total([3e-200, 4e-200]) == pytest.approx(5e-200)
    assert total([1.0, math.inf]) == math.inf


def test_more_is_never_cheaper():
    mus = [10 ** (step / 10) for step in range(-60, 60)]
    for delta in (1e-300, 1e-5, 0.5):
        found = [epsilon_of(mu, delta) for mu in mus]
        assert found == sorted(found)
    for mu in mus:
        found = [delta_of(mu, step / 10) for step in range(100)]
        assert found == sorted(found, reverse=True)


def test_ends():
    assert epsilon_of(0.0, 1e-5) == 0.0
    assert epsilon_of(1e-10, 1e-5) == 0.0, "δ covers it"
    assert epsilon_of(math.inf, 1e-5) == epsilon_of(1e200, 1e-5) == math.inf
    assert epsilon_of(1e100, 1e-5) == pytest.approx(5e199)
    assert delta_of(0.0, 0.0) == delta_of(1.0, math.inf) == delta_of(1e-200, 1e200) == 0.0
    assert delta_of(math.inf, 3.0) == 1.0
    assert delta_of(1e-8, 0.0) == pytest.approx(1e-8 / math.sqrt(2 * math.pi), rel=1e-14)
    assert delta_of(1e9, 1.0) == 1.0
    assert mu_of(math.inf, 1e-5) == math.inf
    assert mu_of(1e300, 1e-5) == pytest.approx(math.sqrt(2e300))
    assert mu_of(0.0, math.nextafter(1.0, 0.0)) < 17


def test_noise_is_never_less_than_was_asked_for():
    rng = random.Random(4)
    for _ in range(1000):
        mu, steps = 10 ** rng.uniform(-8, 8), rng.randrange(1, 10_000)
        sigma = noise_multiplier(mu, steps)
        assert math.sqrt(steps) / sigma <= mu
        assert sigma == pytest.approx(math.sqrt(steps) / mu, rel=1e-15)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2, math.nan, None, "1e-5", True])
def test_a_delta_that_means_nothing_is_refused(delta):
    for call in (lambda: epsilon_of(1.0, delta), lambda: mu_of(1.0, delta)):
        with pytest.raises(UsageError, match="between 0 and 1"):
            call()


@pytest.mark.parametrize("value", [-1.0, math.nan, None, "1", True])
def test_numbers_below_zero_are_refused(value):
    calls = (
        lambda: delta_of(value, 1.0),
        lambda: delta_of(1.0, value),
        lambda: epsilon_of(value, 1e-5),
        lambda: mu_of(value, 1e-5),
        lambda: total([1.0, value]),
        lambda: noise_multiplier(value, 1),
    )
    for call in calls:
        with pytest.raises(UsageError, match=">= 0"):
            call()


@pytest.mark.parametrize("steps", [0, -1, 1.5, math.nan, None, True])
def test_steps_that_mean_nothing_are_refused(steps):
    with pytest.raises(UsageError, match="steps"):
        noise_multiplier(1.0, steps)


def test_no_privacy_at_all_needs_no_noise_and_perfect_privacy_has_none():
    assert noise_multiplier(math.inf, 5) == 0.0
    with pytest.raises(UsageError, match="μ=0"):
        noise_multiplier(0.0, 5)
