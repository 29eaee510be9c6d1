"""The statistics of the attack: the AUC against scikit-learn's, the level kept under exchangeability, and power where it is due."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from taft_ray.attack.membership import (
    PermutationTest,
    Rows,
    arrangements,
    auc_interval,
    detection_rate,
    matched,
    permutation_test,
    placements,
    reference_needed,
    true_positive_rate,
)
from taft_ray.errors import UsageError


def rows(scores: np.ndarray, strata: object = 0, target: object = 0) -> Rows:
    """One stratum and one target unless said otherwise; scores (R,) or (R, G)."""
    scores = np.asarray(scores, float)
    if scores.ndim == 1:
        scores = scores[:, None]
    return Rows(
        scores=scores,
        strata=np.broadcast_to(np.asarray(strata), len(scores)).copy(),
        target=np.broadcast_to(np.asarray(target), len(scores)).copy(),
    )


def drawn(generator: np.random.Generator, count: int, shift: float = 0.0, *, reference: bool = False) -> Rows:
    """Rows of 3 classes under 2 targets whose columns depend on one another; scores are rounded, so that there are ties."""
    common = generator.normal(size=(count, 1))
    target = np.full(count, -1) if reference else generator.integers(0, 2, count)
    scores = common + generator.normal(size=(count, 2)) + [0.0, 3.0]
    scores[np.arange(count), np.maximum(target, 0)] += shift
    return rows(np.round(scores, 1), generator.integers(0, 3, count), target)


@pytest.mark.parametrize("decimals", [0, 1, 6])
@pytest.mark.parametrize(("asked", "reference"), [(1, 5), (7, 40), (60, 33)])
def test_auc_is_scikit_learns(asked: int, reference: int, decimals: int) -> None:
    generator = np.random.default_rng(asked)
    high, low = (np.round(generator.normal(at, 1, n), decimals) for at, n in ((0.7, asked), (0.0, reference)))
    expected = roc_auc_score(np.r_[np.ones(asked), np.zeros(reference)], np.r_[high, low])
    assert placements(rows(high), rows(low)).mean() == pytest.approx(expected, abs=1e-12)
    assert permutation_test(rows(high), rows(low), permutations=99).auc == pytest.approx(expected, abs=1e-12)


def test_stratified_auc_is_the_mean_of_scikit_learns_by_class_and_target() -> None:
    generator = np.random.default_rng(3)
    asked, reference = drawn(generator, 80, 0.5), drawn(generator, 120, reference=True)
    total = 0.0
    for stratum, g in itertools.product(range(3), range(2)):
        mine = (asked.strata == stratum) & (asked.target == g)
        high, low = asked.scores[mine, g], reference.scores[reference.strata == stratum, g]
        total += mine.sum() * roc_auc_score(np.r_[np.ones(len(high)), np.zeros(len(low))], np.r_[high, low])
    assert placements(asked, reference).mean() == pytest.approx(total / 80, abs=1e-12)


def test_p_value_is_the_exact_one_where_all_permutations_can_be_counted() -> None:
    high, low = np.array([1.0, 2.0, 5.0]), np.array([0.0, 1.0, 1.5, 3.0])
    pool = np.r_[high, low]

    def auc(chosen: tuple[int, ...]) -> float:
        rest = [i for i in range(len(pool)) if i not in chosen]
        return float(np.mean([(pool[i] > pool[j]) + 0.5 * (pool[i] == pool[j]) for i in chosen for j in rest]))

    exact = [auc(chosen) for chosen in itertools.combinations(range(7), 3)]
    expected = np.mean(np.array(exact) >= auc((0, 1, 2)) - 1e-9)
    assert permutation_test(rows(high), rows(low)).p_value == pytest.approx(expected, abs=0.02)  # 4 standard errors


def p_values(shift: float, count: int, **sizes: int) -> np.ndarray:
    found = []
    for seed in range(count):
        generator = np.random.default_rng(seed)
        asked, reference = drawn(generator, sizes["n"], shift), drawn(generator, sizes["m"], reference=True)
        found.append(permutation_test(*matched(asked, reference), seed=seed, permutations=199).p_value)
    return np.array(found)


def most_likely(trials: int, level: float) -> float:
    """The limit that a share of rejections at ``level`` stays below but once in 10,000 times."""
    return level + 3.8 * math.sqrt(level * (1 - level) / trials)


@pytest.mark.parametrize(("n", "m"), [(5, 20), (30, 60)])
def test_exchangeable_rows_are_rejected_no_more_often_than_promised(n: int, m: int) -> None:
    found = p_values(0.0, 400, n=n, m=m)
    for level in (0.01, 0.05, 0.2):
        assert (found <= level).mean() <= most_likely(400, level)
    assert (found <= 0.5).mean() > 0.35  # and not because the p-values are large in any case


def test_shifted_rows_are_rejected() -> None:
    assert (p_values(2.0, 60, n=30, m=60) <= 0.01).mean() > 0.95
    assert (p_values(-2.0, 60, n=30, m=60) <= 0.05).mean() == 0.0  # one-sided


def test_another_mix_of_classes_alone_is_not_membership() -> None:
    """A class on which the model is better, and of which more was forgotten: a plain test would reject nearly always."""
    rejected, plain = 0, 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        strata = [(generator.random(n) < share).astype(int) for n, share in ((30, 0.9), (60, 0.2))]
        asked, reference = (rows(generator.normal(size=len(s)) + 2.0 * s, s) for s in strata)
        rejected += permutation_test(asked, reference, seed=seed, permutations=199).p_value <= 0.05
        pooled = (rows(asked.scores), rows(reference.scores))
        plain += permutation_test(*pooled, seed=seed, permutations=199).p_value <= 0.05
    assert rejected / 200 <= most_likely(200, 0.05)
    assert plain > 190


def test_all_ties_say_nothing() -> None:
    test = permutation_test(rows(np.zeros(9)), rows(np.zeros(20)), permutations=199)
    assert (test.auc, test.p_value) == (0.5, 1.0)
    assert set(test.null) == {0.5}


def test_critical_auc_is_where_the_p_value_passes_the_level() -> None:
    generator = np.random.default_rng(0)
    asked, reference = drawn(generator, 20), drawn(generator, 40, reference=True)
    null = permutation_test(asked, reference).null
    for level in (0.01, 0.05, 0.5):
        critical = PermutationTest(auc=0.5, p_value=1.0, null=null).critical(level)
        p_of = [(1 + (null >= auc - 1e-9).sum()) / (len(null) + 1) for auc in (critical, critical + 1e-6)]
        assert p_of[0] > level >= p_of[1]
    with pytest.raises(UsageError, match="level=1e-05"):
        PermutationTest(auc=0.5, p_value=1.0, null=null).critical(1e-5)


@pytest.mark.parametrize(("level", "asked"), [(0.01, 1), (0.01, 2), (0.001, 3), (0.05, 19)])
def test_needed_reference_is_the_least_that_can_reach_the_level(level: float, asked: int) -> None:
    needed = reference_needed(asked, level)
    assert 1 / math.comb(asked + needed, asked) <= level
    assert needed == 1 or 1 / math.comb(asked + needed - 1, asked) > level
    best = permutation_test(rows(np.full(asked, 9.0)), rows(np.arange(needed) / needed))
    assert best.p_value <= level * 1.25  # the permutations are a sample of the arrangements
    assert arrangements(rows(np.zeros(asked)), rows(np.zeros(needed))) == pytest.approx(
        math.comb(asked + needed, asked)
    )


@pytest.mark.parametrize("theta", [0.5, 0.8, 0.95])
@pytest.mark.parametrize(("n", "m"), [(15, 60), (40, 40)])
def test_interval_covers_as_often_as_it_says(theta: float, n: int, m: int) -> None:
    from scipy.stats import norm

    generator = np.random.default_rng(7)
    shift = math.sqrt(2) * norm.ppf(theta)
    covered = 0
    for _ in range(300):
        auc = placements(rows(generator.normal(shift, 1, n)), rows(generator.normal(0, 1, m))).mean()
        low, high = auc_interval(float(auc), n, m)
        assert low <= auc <= high
        covered += low <= theta <= high
    assert 0.91 <= covered / 300 <= 0.99


def test_interval_keeps_inside_and_has_a_width_at_the_ends() -> None:
    low, high = auc_interval(1.0, 10, 50)
    assert high == 1.0
    assert 0.7 < low < 0.95
    low, high = auc_interval(0.0, 10, 50)
    assert low == 0.0
    assert 0.05 < high < 0.3


def test_strata_of_one_side_only_are_left_out() -> None:
    asked, reference = matched(rows(np.arange(4), [0, 0, 1, 2]), rows(np.arange(3), [0, 2, 3]))
    assert asked.strata.tolist() == [0, 0, 2]
    assert reference.strata.tolist() == [0, 2]
    with pytest.raises(UsageError, match="stratum 1"):
        placements(rows(np.zeros(1), 1), rows(np.zeros(1), 0))


def test_true_positive_rate_counts_who_is_above_nearly_all() -> None:
    reference = rows(np.arange(100))
    placed = placements(rows(np.array([-1.0, 50.5, 95.5, 98.5, 200.0])), reference)
    assert true_positive_rate(placed, 0.05) == pytest.approx(3 / 5)
    assert true_positive_rate(placed, 0.0) == pytest.approx(1 / 5)


def test_detection_rate_is_what_simulated_forgets_that_were_faked_show() -> None:
    """The rate foretold from other members is the share of faked forgets that the test finds."""
    generator = np.random.default_rng(1)
    foretold, found = [], []
    for _ in range(60):
        reference, members = rows(generator.normal(size=60)), rows(generator.normal(0.7, 1, 200))
        test = permutation_test(rows(generator.normal(0.7, 1, 12)), reference, permutations=399)
        foretold.append(detection_rate(placements(members, reference), 12, test.critical(0.05), draws=300))
        found.append(test.p_value <= 0.05)
    assert np.mean(foretold) == pytest.approx(np.mean(found), abs=0.2)
    assert 0.2 < np.mean(found) < 0.95
