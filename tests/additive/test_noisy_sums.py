"""Noisy sums: exact sensitivity, the noise that μ asks for, ridge where there is hardly any, and sums that add up."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from taft_ray.additive import NoisySums, Sums, to_rows
from taft_ray.additive.grid import LARGEST, from_rows
from taft_ray.errors import DeltaMismatch, UsageError
from taft_ray.privacy import GaussianStream

K, S = 4, 24


def stream(number: int = 0) -> GaussianStream:
    return GaussianStream(bytes([number]) * 32)


def made(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, n)
    values = 0.8 * rng.standard_normal((K, S))[labels] + rng.standard_normal((n, S))
    return to_rows(torch.from_numpy(values / np.sqrt(2 * S))), labels


def summed(rows: np.ndarray, labels: np.ndarray) -> Sums:
    sums = Sums(S, K)
    sums.add(rows, labels)
    return sums


def symmetric(sums: Sums) -> np.ndarray:
    upper = sums.upper()
    return upper + np.triu(upper, 1).T


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_no_row_changes_both_sums_by_more_than_mu_standard_deviations(share: float):
    """Adversarial rows: as long as `to_rows` allows, along one number or spread over all."""
    scales: dict[int, float] = {}

    def noise(step: int, count: int, scale: float) -> np.ndarray:
        scales[step] = scale
        return np.zeros(count, np.int64)

    mu = 0.7
    NoisySums.release(summed(*made()), mu, noise, share=share)
    rows = np.zeros((3, S), np.int16)
    rows[0, 0] = LARGEST
    rows[1:] = to_rows(torch.from_numpy(np.random.default_rng(0).standard_normal((2, S)) * 100))
    rows[2] = to_rows(torch.ones(1, S) * 5)
    for row in rows:
        one = summed(row[None], np.array([2]))
        upper = one.upper().astype(float)
        diagonal, beside = upper.diagonal(), upper[np.triu_indices(S, 1)]
        moved = (
            (diagonal / scales[0]) ** 2 @ np.ones(S)
            + ((beside / scales[1]) ** 2).sum()
            + ((one.by_class / scales[2]) ** 2).sum()
        )
        assert math.sqrt(moved) <= mu
        assert math.sqrt(moved) > 0.99 * mu, "a bound that nothing comes near would hide an error"


def test_the_noise_is_what_mu_asks_for():
    sums, mu = summed(*made()), 0.5
    gram, by_class = [], []
    for number in range(200):
        found = NoisySums.release(sums, mu, stream(number), share=0.3)
        gram.append(found.gram - symmetric(sums) * 2.0**-30)
        by_class.append(found.by_class - sums.by_class * 2.0**-15)
        assert (found.gram == found.gram.T).all()
    beside = np.triu_indices(S, 1)
    sigma = 1 / (mu * math.sqrt(0.3))
    for values, expected in (
        (np.stack([one.diagonal() for one in gram]), sigma),
        (np.stack([one[beside] for one in gram]), sigma / math.sqrt(2)),
        (np.stack(by_class), 1 / (mu * math.sqrt(0.7))),
    ):
        assert kstest(values.ravel() / expected, norm.cdf).pvalue > 1e-3
        assert kstest(values.ravel() / (1.2 * expected), norm.cdf).pvalue < 1e-3


def test_hardly_any_noise_gives_ridge():
    rows, labels = made()
    sums = summed(rows, labels)
    found = NoisySums.release(sums, 1e6, stream())
    penalty = 3.0 / found.edge
    a, y = from_rows(rows), np.eye(K)[labels]
    oracle = np.linalg.solve(a.T @ a + 3.0 * np.eye(S), a.T @ y).T
    model = found.solve(penalty)
    assert model.penalty == pytest.approx(3.0)
    assert model.coefficients == pytest.approx(oracle, abs=1e-3)


def test_sums_of_shards_add_up_and_so_does_their_noise():
    rows, labels = made()
    parts = [NoisySums.release(summed(rows[at::2], labels[at::2]), 1.0, stream(at)) for at in range(2)]
    both = parts[0].merged(parts[1])
    assert (both.gram == parts[0].gram + parts[1].gram).all()
    assert both.edge == pytest.approx(math.sqrt(2) * parts[0].edge)
    with pytest.raises(DeltaMismatch):
        both.merged(both.first(3))


def test_the_edge_is_the_spectral_norm_of_the_noise():
    size = 300
    sums = Sums(size, K)
    found = NoisySums.release(sums, 2.0, stream())
    assert np.abs(np.linalg.eigvalsh(found.gram)).max() == pytest.approx(found.edge, rel=0.1)


def test_one_release_serves_smaller_sizes():
    rows, labels = made()
    found = NoisySums.release(summed(rows, labels), 50.0, stream())
    small = found.first(10)
    assert (small.gram == found.gram[:10, :10]).all()
    assert small.solve().coefficients.shape == (K, 10)
    assert small.recipe != ""
    assert found.first(S).recipe == found.recipe


def test_equal_arguments_give_equal_bits():
    sums = summed(*made())
    one, two = (NoisySums.release(sums, 1.0, stream()) for _ in range(2))
    assert (one.gram == two.gram).all()
    assert (one.by_class == two.by_class).all()
    assert (one.solve().coefficients == two.solve().coefficients).all()


def test_the_sums_themselves_stay_as_they_are():
    sums = summed(*made())
    before = sums.copy()
    NoisySums.release(sums, 1.0, stream())
    assert sums == before


@pytest.mark.parametrize(("mu", "share"), [(0.0, 0.5), (-1.0, 0.5), (math.inf, 0.5), (math.nan, 0.5), (1, 0), (1, 1)])
def test_budgets_that_mean_nothing_are_refused(mu: float, share: float):
    with pytest.raises(UsageError, match="expected"):
        NoisySums.release(summed(*made(5)), mu, stream(), share=share)


@pytest.mark.parametrize("penalty", [0.0, -1.0, math.nan, math.inf])
def test_a_penalty_that_solves_nothing_is_refused(penalty: float):
    with pytest.raises(UsageError, match="penalty"):
        NoisySums.release(summed(*made(5)), 1.0, stream()).solve(penalty)
