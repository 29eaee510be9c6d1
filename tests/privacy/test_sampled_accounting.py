"""Accounting of Poisson batches: beside two accountants of others, never above RDP nor the full batch, and hardly too much noise."""

import math
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.stats import kstest

from taft_ray.errors import UsageError
from taft_ray.privacy import epsilon_of, epsilon_of_sampled, mu_of, noise_multiplier, sampled_noise_multiplier
from taft_ray.privacy.sampled import _LossUnderQ

PIECES = 2e-3  # of a step's privacy loss times √steps, in Google's accountant
DELTA = 1e-5


def settings(count: int) -> list[tuple[float, float, int, float]]:
    """(σ, q, T, δ), with ε from about 0.1 to 20."""
    rng = random.Random(7)
    found = []
    while len(found) < count:
        rate, steps, mu = 10 ** rng.uniform(-2.5, -0.05), rng.choice([1, 10, 100, 600]), 10 ** rng.uniform(-1, 0.6)
        sigma = 1 / math.sqrt(math.log1p((mu / rate) ** 2 / steps))  # about μ-Gaussian, where steps are many
        if sigma > 0.4:
            found.append((sigma, rate, steps, 10 ** rng.uniform(-7, -3)))
    return found


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def prv_bounds(sigma: float, rate: float, steps: int, delta: float) -> tuple[float, float]:
    """Opacus, at an error of its own choice."""
    accountant = PRVAccountant()
    accountant.history = [(sigma, rate, steps)]
    with quiet():
        loss = accountant._get_dprv(eps_error=0.01, delta_error=delta / 1000)
        low, _, high = loss.compute_epsilon(delta, delta / 1000, 0.01)
    return float(low), float(high)


def rdp_epsilon(sigma: float, rate: float, steps: int, delta: float) -> float:
    accountant = RDPAccountant()
    accountant.history = [(sigma, rate, steps)]
    with quiet():
        return float(accountant.get_epsilon(delta))


def pld_bounds(sigma: float, rate: float, steps: int, delta: float) -> tuple[float, float]:
    """Google: the larger of adding and removing a unit; connected dots above, rounded down below."""
    found = []
    for pessimistic in (False, True):
        loss = privacy_loss_distribution.from_gaussian_mechanism(
            standard_deviation=sigma,
            sampling_prob=rate,
            value_discretization_interval=PIECES / math.sqrt(steps),
            pessimistic_estimate=pessimistic,
            use_connect_dots=pessimistic,
        )
        found.append((loss.self_compose(steps) if steps > 1 else loss).get_epsilon_for_delta(delta))
    low, high = found
    return low, high


@pytest.mark.parametrize(("sigma", "rate", "steps", "delta"), settings(10))
def test_epsilon_is_not_below_two_accountants_lower_bounds_and_hardly_above_the_upper(
    sigma: float, rate: float, steps: int, delta: float
):
    found = epsilon_of_sampled(sigma, rate, steps, delta)
    low, high = prv_bounds(sigma, rate, steps, delta)
    assert low <= found <= high + 1e-6
    low, high = pld_bounds(sigma, rate, steps, delta)
    assert low <= found
    # both are upper bounds, each with an error of its own
    assert high <= found * 1.005 + 1e-3
    assert found <= high * 1.005 + 1e-3
    assert found <= rdp_epsilon(sigma, rate, steps, delta)
    assert found <= epsilon_of(math.sqrt(steps) / sigma, delta)


def test_the_bounds_convict_an_epsilon_that_is_off_by_a_fiftieth():
    at = (1.1, 0.02, 600, DELTA)
    found = epsilon_of_sampled(*at)
    low, high = pld_bounds(*at)
    assert low <= found <= high * 1.005
    assert found * 0.98 < low
    assert found * 1.02 > high * 1.005


def test_a_rate_of_nearly_one_is_nearly_the_full_batch():
    whole = epsilon_of(math.sqrt(50) / 9.83, DELTA)
    assert 0.995 * whole < epsilon_of_sampled(9.83, 0.9999, 50, DELTA) <= whole


def test_more_is_never_cheaper():
    assert _rises(lambda steps: epsilon_of_sampled(2.0, 0.05, steps, DELTA), [1, 10, 50, 51, 100, 1000])
    assert _rises(lambda rate: epsilon_of_sampled(2.0, rate, 50, DELTA), [0.01, 0.02, 0.1, 0.5, 0.9])
    assert _rises(lambda sigma: epsilon_of_sampled(sigma, 0.05, 50, DELTA), [30.0, 8.0, 2.0, 1.99, 1.0, 0.6, 0.2])
    assert _rises(lambda delta: epsilon_of_sampled(2.0, 0.05, 50, delta), [1e-3, 1e-5, 1e-8])


def _rises(of, values) -> bool:
    found = [of(value) for value in values]
    return found == sorted(found) and len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("steps", "rate", "expected"),
    [(5000, 0.01, [1.04, 1.23, 1.77]), (500, 0.1, [1.01, 1.05, 1.15]), (50, 0.1, [1.11, 1.37, 1.89])],
)
def test_the_page_s_noise_beside_that_of_full_batches(steps: int, rate: float, expected: list[float]):
    """docs/how-to/private-training.md: the noise in the model, beside that of 50 steps on full batches."""
    times = [
        sampled_noise_multiplier(epsilon, DELTA, rate, steps)
        / noise_multiplier(mu_of(epsilon, DELTA), 50)
        / (rate * (steps / 50) ** 0.5)
        for epsilon in (1.0, 3.0, 8.0)
    ]
    assert times == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(
    ("epsilon", "delta", "rate", "steps"),
    [(1.0, 1e-5, 0.1, 50), (3.0, 1e-4, 0.3, 20), (8.0, 1e-6, 0.01, 300), (0.1, 1e-5, 0.05, 10), (3.0, 1e-5, 0.95, 50)],
)
def test_noise_is_enough_and_no_more(epsilon: float, delta: float, rate: float, steps: int):
    sigma = sampled_noise_multiplier(epsilon, delta, rate, steps)
    assert epsilon_of_sampled(sigma, rate, steps, delta) <= epsilon
    assert epsilon_of_sampled(sigma * (1 - 3e-4), rate, steps, delta) > epsilon
    assert sigma <= noise_multiplier(mu_of(epsilon, delta), steps)
    assert float(f"{sigma:.5g}") == sigma or sigma == noise_multiplier(mu_of(epsilon, delta), steps)


def test_ends():
    assert epsilon_of_sampled(0.0, 0.1, 5, DELTA) == math.inf
    assert epsilon_of_sampled(1e9, 0.1, 5, DELTA) == 0.0, "δ covers it"
    assert epsilon_of_sampled(2.0, 1e-7, 5, DELTA) == 0.0, "δ covers that anybody is in a batch"
    assert sampled_noise_multiplier(math.inf, DELTA, 0.1, 5) == 0.0
    # much privacy spent, and a δ that floating point does not carry: RDP's bound, or the full batch's
    loose = sampled_noise_multiplier(1e5, 1e-4, 0.5, 40)
    assert 0 < loose <= noise_multiplier(mu_of(1e5, 1e-4), 40)
    assert epsilon_of_sampled(loose, 0.5, 40, 1e-4) <= 1e5
    far = epsilon_of_sampled(2.0, 0.05, 100, 1e-14)
    assert epsilon_of_sampled(2.0, 0.05, 100, 1e-9) < far <= rdp_epsilon(2.0, 0.05, 100, 1e-14)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, math.nan, None, "0.1", True])
def test_rates_that_mean_nothing_are_refused(rate):
    for call in (
        lambda: epsilon_of_sampled(1.0, rate, 5, DELTA),
        lambda: sampled_noise_multiplier(1.0, DELTA, rate, 5),
    ):
        with pytest.raises(UsageError, match="q="):
            call()


def test_other_numbers_that_mean_nothing_are_refused():
    for call, said in (
        (lambda: epsilon_of_sampled(-1.0, 0.1, 5, DELTA), "noise multiplier >= 0"),
        (lambda: epsilon_of_sampled(math.nan, 0.1, 5, DELTA), "noise multiplier >= 0"),
        (lambda: epsilon_of_sampled(1.0, 0.1, 0, DELTA), "steps"),
        (lambda: epsilon_of_sampled(1.0, 0.1, 2.5, DELTA), "steps"),  # type: ignore[arg-type]
        (lambda: epsilon_of_sampled(1.0, 0.1, 5, 0.0), "between 0 and 1"),
        (lambda: sampled_noise_multiplier(0.0, DELTA, 0.1, 5), "infinite noise"),
        (lambda: sampled_noise_multiplier(-1.0, DELTA, 0.1, 5), ">= 0"),
        (lambda: sampled_noise_multiplier(math.nan, DELTA, 0.1, 5), ">= 0"),
    ):
        with pytest.raises(UsageError, match=said):
            call()


def test_the_module_itself_imports_neither_opacus_nor_torch():
    code = "import sys, taft_ray.privacy.sampled as _, taft_ray.plans.spending as _; print(sorted({'opacus', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("sigma", "rate"), [(0.8, 0.3), (3.0, 0.02), (1.0, 0.9)])
def test_the_loss_of_a_unit_that_is_there_less_is_distributed_as_drawn(sigma: float, rate: float):
    x = sigma * np.random.default_rng(3).standard_normal(20_000)
    drawn = -np.log1p(rate * np.expm1((2 * x - 1) / (2 * sigma**2)))
    assert kstest(drawn, _LossUnderQ(rate, sigma).cdf).pvalue > 0.01
    assert kstest(drawn, _LossUnderQ(rate * 1.1, sigma).cdf).pvalue < 0.01


def test_a_unit_that_is_there_less_is_convolved_too(monkeypatch: pytest.MonkeyPatch):
    """By itself that loss has the ε of Google's adding direction. It is the smaller one, so nothing else would show it."""
    from opacus.accountants.analysis import prv

    at = (0.971, 0.052, 600, DELTA)
    both = epsilon_of_sampled(*at)
    monkeypatch.setattr(prv, "PoissonSubsampledGaussianPRV", _LossUnderQ)
    epsilon_of_sampled.cache_clear()
    less = epsilon_of_sampled(*at)
    epsilon_of_sampled.cache_clear()
    sigma, rate, steps, delta = at
    loss = privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=sigma, sampling_prob=rate, value_discretization_interval=PIECES / math.sqrt(steps)
    )
    adding = loss.self_compose(steps)._pmf_add.get_epsilon_for_delta(delta)
    assert adding <= less * 1.005 <= 1.01 * adding
    assert less < both
