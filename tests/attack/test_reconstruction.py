"""A deleted sample comes back from exact releases of ridge, and neither from a batch nor from noise."""

import numpy as np
import pytest
from additive_rows import some_rows, summed

from taft_ray.additive import NoisySums, solve
from taft_ray.additive.grid import from_rows
from taft_ray.attack.reconstruction import Knowledge, Placed, Recovered, Risk, nearness, placed
from taft_ray.errors import UsageError
from taft_ray.privacy import GaussianStream

N, S, K, PENALTY = 400, 60, 5, 1e-3
_EVERY = some_rows(11 * N, S, classes=K)
ROWS, LABELS = _EVERY[0][:N], _EVERY[1][:N]
FEATURES = from_rows(ROWS)
OWN = Knowledge.of("own", FEATURES)


def coefficients(left: np.ndarray, penalty: float) -> np.ndarray:
    return solve(summed(ROWS[left], LABELS[left], K), [penalty]).coefficients


def deleted(group: list[int], after_penalty: float = PENALTY, knowledge: Knowledge = OWN) -> Recovered:
    left = np.setdiff1d(np.arange(N), group)
    shift = PENALTY * N - after_penalty * len(left)
    curvature = knowledge.curvature(N, PENALTY * N)
    return Recovered.of(coefficients(np.arange(N), PENALTY), coefficients(left, after_penalty), curvature, shift)


@pytest.mark.parametrize("after_penalty", [PENALTY, 3 * PENALTY])
@pytest.mark.parametrize("number", [0, 17, 399])
def test_one_deleted_sample_comes_back(number: int, after_penalty: float):
    found = deleted([number], after_penalty).one()
    about = FEATURES - OWN.mean
    assert placed(found, found[None], about[number], np.delete(about, number, axis=0)).rank == 1
    assert nearness(found[None], about[number][None])[0] > 0.999999


def test_what_comes_back_is_the_error_times_the_features():
    """The equation of the module, to rounding, for a group."""
    group = [3, 50, 51, 200]
    left = np.setdiff1d(np.arange(N), group)
    after = coefficients(left, PENALTY)
    features = (FEATURES - OWN.mean)[group].T
    errors = np.eye(K)[LABELS[group]].T - (np.bincount(LABELS, minlength=K) / N)[:, None] - after @ features
    expected = errors @ (np.eye(4) + 1 / len(left)) @ features.T
    assert np.abs(deleted(group).matrix - expected).max() < 1e-9 * np.abs(expected).max()


def test_fewer_samples_than_classes_are_found_among_others_though_none_comes_back():
    """Their span comes back whole, and not which mixture of it each is."""
    group = [5, 60, 61, 300]
    about, found = FEATURES - OWN.mean, deleted(group)
    span, rivals = found.span(len(group)), np.delete(about, group, axis=0)
    assert len(span) == len(group)
    assert np.allclose(span @ span.T, np.eye(len(group)), atol=1e-6)
    assert nearness(span, about[group]).min() > 0.999999
    directions = [found.of_class(int(LABELS[one])) for one in group]
    each = [placed(one, span, about[at], rivals) for one, at in zip(directions, group, strict=True)]
    assert [one.rank for one in each] == [1] * len(group)
    assert min(one.cosine for one in each) < 0.9


def test_of_a_large_batch_no_sample_comes_back():
    group = list(range(100))
    about, found = FEATURES - OWN.mean, deleted(group)
    each = [nearness(found.of_class(int(LABELS[one]))[None], about[one][None])[0] for one in group]
    assert max(each) < 0.9
    assert np.mean(each) < 0.6
    assert nearness(found.one()[None], about[group]).max() < 0.9
    span, rivals = found.span(len(group)), about[100:]
    assert len(span) == K - 1, "errors add up to nothing over the classes"
    ranks = [placed(found.of_class(int(LABELS[one])), span, about[one], rivals).rank for one in group]
    assert np.mean([rank == 1 for rank in ranks]) < 0.1


def test_noise_hides_the_sample():
    def release(left: np.ndarray, key: int) -> np.ndarray:
        noise = GaussianStream(key.to_bytes(32, "big"))
        return NoisySums.release(summed(ROWS[left], LABELS[left], K), 1.0, noise).solve().coefficients

    everyone, about_zero = np.arange(N), OWN.about_zero()
    ridge = NoisySums.release(summed(ROWS, LABELS, K), 1.0, GaussianStream(bytes(32))).solve().penalty
    before, found = release(everyone, 1), []
    for number in range(20):
        after = release(np.delete(everyone, number), 2 + number)
        direction = Recovered.of(before, after, about_zero.curvature(N, ridge)).one()
        found.append(nearness(direction[None], FEATURES[number][None])[0])
    assert max(np.abs(found)) < 0.9
    exact = [deleted([number]).one() for number in range(3)]
    assert min(nearness(one[None], (FEATURES - OWN.mean)[at][None])[0] for at, one in enumerate(exact)) > 0.999999


def test_public_data_come_near_and_not_as_near():
    """Other samples of the same kind give nearly the same curvature."""
    strangers = Knowledge.of("public", from_rows(_EVERY[0][N:]))
    about = FEATURES - strangers.mean
    by_public = [nearness(deleted([n], knowledge=strangers).one()[None], about[n][None])[0] for n in range(10)]
    assert 0.7 < np.mean(by_public) < 0.999
    pink = Knowledge(name="nothing", mean=strangers.mean, covariance=np.eye(S))
    by_nothing = [nearness(deleted([n], knowledge=pink).one()[None], about[n][None])[0] for n in range(10)]
    assert np.mean(by_nothing) < np.mean(by_public)


def test_scaled_knowledge_is_that_of_scaled_features():
    scales = np.random.default_rng(0).random(40)
    scales[7] = 0.0
    kept = np.flatnonzero(scales)
    expected = Knowledge.of("own", FEATURES[:, kept] * scales[kept])
    found = OWN.scaled(scales)
    assert np.allclose(found.covariance, expected.covariance, atol=1e-14)
    assert np.allclose(found.mean, expected.mean, atol=1e-14)


def test_ranks_count_who_is_nearer():
    true, others = np.array([1.0, 1.0]), np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    one = np.array([1.0, 0.2])
    found = placed(one, one[None], true, others)
    assert found.rank == 2
    assert found.cosine == pytest.approx(0.832, abs=1e-3)
    risk = Risk.of([Placed(cosine=1.0, rank=1), Placed(cosine=0.5, rank=4)], 9)
    assert (risk.cosine, risk.first, risk.median_rank) == (0.75, 0.5, 2.5)
    with pytest.raises(UsageError, match="no sample was attacked"):
        Risk.of([], 9)
    with pytest.raises(UsageError, match="a covariance needs two"):
        Knowledge.of("public", FEATURES[:1])
