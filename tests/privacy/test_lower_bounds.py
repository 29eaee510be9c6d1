"""Lower bounds on privacy: above the truth no more often than promised, equal to slow oracles, and 0 for guesses at chance."""

import math

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.special import ndtr, ndtri
from scipy.stats import binom, norm

from taft_ray.errors import UsageError
from taft_ray.privacy import epsilon_of, mu_of
from taft_ray.privacy.lower_bounds import (
    STEP,
    detects_by_many_runs,
    detects_by_one_run,
    epsilon_of_one_run,
    guesses_for,
    mu_of_many_runs,
    mu_of_one_run,
    p_value,
)

DELTA = 1e-5


def most_likely(trials: int, level: float) -> float:
    """A limit that the share of failures at ``level`` exceeds once in 10,000 times."""
    return level + 3.8 * math.sqrt(level * (1 - level) / trials)


# --- many runs


@pytest.mark.parametrize("mu", [0.0, 0.27, 1.67])
def test_many_runs_exceed_the_truth_no_more_often_than_promised(mu: float) -> None:
    """Exactly: by the binomial probabilities of all counts."""
    runs, level = 200, 0.05
    chance = binom.pmf(np.arange(runs + 1), runs, ndtr(mu / 2))
    above = [mu_of_many_runs(right, runs, level) > mu for right in range(runs + 1)]
    assert chance[above].sum() <= level
    assert chance[above].sum() > level / 3  # and not because it is always 0


def test_unequal_error_rates_are_covered_too() -> None:
    """Another threshold makes the two rates unequal, whose guesses together are less often right."""
    mu, runs, level = 1.0, 100, 0.05
    for shift in (0.1, 0.5, 1.5):
        with_it, without = ndtr(mu / 2 - shift), ndtr(mu / 2 + shift)
        chance = np.convolve(
            binom.pmf(np.arange(runs + 1), runs, with_it), binom.pmf(np.arange(runs + 1), runs, without)
        )
        above = [mu_of_many_runs(right, 2 * runs, level) > mu for right in range(2 * runs + 1)]
        assert chance[above].sum() <= level


def test_many_runs_of_few_guesses_are_exact() -> None:
    """All of 5 right: at a chance of level^(1/5) that has the probability level."""
    assert mu_of_many_runs(5, 5, 0.05) == pytest.approx(2 * ndtri(0.05**0.2), rel=1e-9)
    assert mu_of_many_runs(0, 5, 0.05) == 0.0
    assert mu_of_many_runs(3, 5, 0.05) == 0.0


def test_many_runs_rise_with_right_guesses_and_the_level() -> None:
    found = [mu_of_many_runs(right, 100, 0.05) for right in range(101)]
    assert found == sorted(found)
    assert mu_of_many_runs(80, 100, 0.01) < mu_of_many_runs(80, 100, 0.05)


# --- one run


def refutes_by_programming(mu: float, right: int, guesses: int, canaries: int) -> float:
    """The largest P[v >= right] that some distribution of v allows: each concave limit by many tangents of it."""
    counts = np.arange(guesses + 1)
    touching = np.concatenate([np.geomspace(1e-12, 0.5, 120), 1 - np.geomspace(1e-6, 0.4, 40)])
    at = ndtri(touching)
    slopes = np.exp(norm.logpdf(at + mu) - norm.logpdf(at))
    heights = ndtr(at + mu) - slopes * touching
    limits, most = [], []
    for count in range(1, guesses + 1):
        good = np.where(counts >= count, counts / canaries, 0.0)
        bad = np.where(counts >= count - 1, (guesses - counts) / canaries, 0.0)
        limits.append(good[None] - slopes[:, None] * bad[None])
        most.append(heights)
    found = linprog(
        -(counts >= right).astype(float), A_ub=np.concatenate(limits), b_ub=np.concatenate(most),
        A_eq=np.ones((1, guesses + 1)), b_eq=[1.0], bounds=(0, 1), method="highs",
    )  # fmt: skip
    assert found.status == 0
    return -found.fun


@pytest.mark.parametrize(
    ("mu", "right", "guesses", "canaries"),
    [(0.0, 14, 16, 16), (0.3, 14, 16, 20), (0.3, 11, 12, 40), (0.8, 16, 16, 16), (1.7, 24, 24, 40), (1.0, 19, 20, 100)],
)
def test_one_run_refutes_what_no_distribution_allows(mu: float, right: int, guesses: int, canaries: int) -> None:
    """The recursion against a linear programme over all distributions of right guesses."""
    allowed = refutes_by_programming(mu, right, guesses, canaries)
    assert 1e-6 < allowed < 0.9
    assert mu_of_one_run(right, guesses, canaries, allowed * 1.02) >= mu
    assert mu_of_one_run(right, guesses, canaries, allowed * 0.95) <= mu + 0.01


def one_run_of_scores(mu: float, canaries: int, guesses: int, random: np.random.Generator) -> int:
    """Right guesses of the highest and the lowest of N(0, 1) and N(μ, 1)."""
    coins = random.random(canaries) < 0.5
    order = np.argsort(random.normal(size=canaries) + mu * coins)
    return int(coins[order[canaries - guesses // 2 :]].sum() + (~coins[order[: guesses // 2]]).sum())


@pytest.mark.parametrize("mu", [0.0, 0.72, 1.67])
def test_one_run_exceeds_the_truth_no_more_often_than_promised(mu: float) -> None:
    level, trials, random = 0.05, 600, np.random.default_rng(0)
    epsilon = epsilon_of(mu, DELTA)
    for guesses in (20, 100):
        rights = [one_run_of_scores(mu, 100, guesses, random) for _ in range(trials)]
        values, counts = np.unique(rights, return_counts=True)
        wrong = counts[[mu_of_one_run(int(v), guesses, 100, level) > mu for v in values]].sum()
        wrong_too = counts[[epsilon_of_one_run(int(v), guesses, 100, DELTA, level) > epsilon for v in values]].sum()
        assert wrong / trials <= most_likely(trials, level)
        assert wrong_too / trials <= most_likely(trials, level)


def test_one_run_finds_most_of_a_large_loss() -> None:
    random = np.random.default_rng(1)
    right = [one_run_of_scores(3.0, 400, 200, random) for _ in range(20)]
    assert np.median([mu_of_one_run(v, 200, 400, 0.05) for v in right]) > 1.0
    assert np.median([epsilon_of_one_run(v, 200, 400, DELTA, 0.05) for v in right]) > 2.0


def test_p_value_is_the_published_formula() -> None:
    """The sums of theorem 5.2, one after the other."""
    right, guesses, canaries, epsilon, delta = 18, 20, 50, 0.7, 1e-3
    chance = math.exp(epsilon) / (1 + math.exp(epsilon))
    at = [math.comb(guesses, j) * chance**j * (1 - chance) ** (guesses - j) for j in range(guesses + 1)]
    most = max(sum(at[right - i : right]) / i for i in range(1, right + 1))
    expected = sum(at[right:]) + 2 * canaries * delta * most
    assert p_value(right, guesses, canaries, epsilon, delta) == pytest.approx(expected, rel=1e-10)
    assert p_value(0, guesses, canaries, epsilon, delta) == 1.0


def test_epsilon_of_all_right_without_delta_is_exact() -> None:
    """10 of 10 right: refuted while (e^ε / (1 + e^ε))^10 <= level."""
    chance = 0.05**0.1
    assert epsilon_of_one_run(10, 10, 10, 1e-300, 0.05) == pytest.approx(math.log(chance / (1 - chance)), abs=STEP)


def test_one_run_rises_with_right_guesses_and_falls_with_delta() -> None:
    several = range(50, 101, 5)
    for bound in (
        lambda v: mu_of_one_run(v, 100, 200, 0.05),
        lambda v: epsilon_of_one_run(v, 100, 200, DELTA, 0.05),
    ):
        found = [bound(v) for v in several]
        assert found == sorted(found)
        assert found[0] == 0.0 < found[-1]
    assert epsilon_of_one_run(90, 100, 200, 1e-3, 0.05) < epsilon_of_one_run(90, 100, 200, 0.0, 0.05)


# --- how to guess, and what would be noticed


def test_guesses_are_an_even_part_of_the_canaries() -> None:
    for canaries in (2, 3, 7, 100, 301):
        guesses = guesses_for(canaries, mu_of(3.0, DELTA), 0.05)
        assert guesses % 2 == 0
        assert 2 <= guesses <= canaries


def test_noise_too_small_by_the_named_factor_is_convicted_4_times_of_5() -> None:
    mu, runs, level = mu_of(3.0, DELTA), 600, 0.01
    factor = detects_by_many_runs(mu, runs, level)
    assert factor is not None
    chance = binom.pmf(np.arange(runs + 1), runs, ndtr(factor * mu / 2))
    convicts = [mu_of_many_runs(right, runs, level) > mu for right in range(runs + 1)]
    assert chance[convicts].sum() == pytest.approx(0.8, abs=0.04)
    guesses = guesses_for(300, mu, level)
    factor = detects_by_one_run(mu, guesses, 300, level)
    assert factor is not None
    random = np.random.default_rng(2)
    found = [
        mu_of_one_run(one_run_of_scores(factor * mu, 300, guesses, random), guesses, 300, level) > mu
        for _ in range(200)
    ]
    assert 0.65 < np.mean(found) < 0.95


def test_too_few_runs_notice_nothing() -> None:
    assert detects_by_many_runs(mu_of(8.0, DELTA), 2, 0.01) is None
    assert detects_by_one_run(mu_of(8.0, DELTA), 2, 2, 0.01) is None


@pytest.mark.parametrize(("right", "guesses", "canaries"), [(3, 2, 5), (-1, 2, 5), (0, 0, 5), (1, 6, 5)])
def test_impossible_counts_are_refused(right: int, guesses: int, canaries: int) -> None:
    with pytest.raises(UsageError, match="expected 0 <= right"):
        mu_of_one_run(right, guesses, canaries, 0.05)
    with pytest.raises(UsageError, match="expected 0 <= right"):
        epsilon_of_one_run(right, guesses, canaries, DELTA, 0.05)
    with pytest.raises(UsageError, match="--level"):
        mu_of_many_runs(1, 2, 0.0)
