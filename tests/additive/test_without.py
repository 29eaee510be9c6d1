"""Logits without a group of pictures are those of the solve of the sums that are left."""

import numpy as np
import pytest
from additive_rows import some_rows, summed

from taft_ray.additive import AdditiveModel
from taft_ray.additive.without import Without
from taft_ray.errors import DataError

N, S, K, PENALTY = 120, 40, 3, 1e-3
ROWS, LABELS = some_rows(N, S)
ASKED = some_rows(7, S, seed=1)[0]


def solved_anew(left: np.ndarray, penalty: float, scales: np.ndarray | None = None, factor: float = 1.0) -> np.ndarray:
    """The oracle: the whole solve of the rows that are left."""
    return AdditiveModel.of(summed(ROWS[left], LABELS[left]), penalty, scales).scaled(factor).logits(ASKED)


def equal(found: np.ndarray | None, expected: np.ndarray, tolerance: float = 1e-9) -> bool:
    assert found is not None
    return float(np.abs(found - expected).max()) <= tolerance * float(np.abs(expected).max())


@pytest.mark.parametrize("size", [0, 1, 5, 39, 118])
@pytest.mark.parametrize("downdate", [True, False, None])
def test_equals_the_solve_of_the_sums_that_are_left(size: int, downdate: bool | None):
    group = np.random.default_rng(size).permutation(N)[:size]
    left = np.setdiff1d(np.arange(N), group)
    found = Without(summed(ROWS, LABELS), PENALTY, ASKED).logits(ROWS[group], LABELS[group], downdate=downdate)
    assert equal(found, solved_anew(left, PENALTY))
    assert size == 0 or not equal(found, solved_anew(np.arange(N), PENALTY))


@pytest.mark.parametrize("downdate", [True, False])
def test_scales_and_kappa_stay(downdate: bool):
    scales = np.random.default_rng(2).random(24) * 2
    scales[3] = 0.0
    found = Without(summed(ROWS, LABELS), 0.02, ASKED, scales, 5.0).logits(ROWS[:9], LABELS[:9], downdate=downdate)
    assert equal(found, solved_anew(np.arange(9, N), 0.02, scales, 5.0))


def test_a_whole_class_can_leave():
    group = np.flatnonzero(LABELS == 1)
    for downdate in (True, False):
        found = Without(summed(ROWS, LABELS), PENALTY, ASKED).logits(ROWS[group], LABELS[group], downdate=downdate)
        assert equal(found, solved_anew(np.flatnonzero(LABELS != 1), PENALTY))
        assert found is not None
        assert np.abs(found[:, 1]).max() < 1e-12, "nothing speaks for the class"


def test_a_group_that_decides_nearly_all_is_solved_from_the_sums():
    """The group has nearly all there is in some directions: a downdate would divide by what rounding leaves."""
    penalty, group, left = 1e-9, np.arange(N - 10), np.arange(N - 10, N)
    without = Without(summed(ROWS, LABELS), penalty, ASKED)
    assert without._downdated(ROWS[group], LABELS[group], np.bincount(LABELS[group], minlength=K)) is None
    assert equal(without.logits(ROWS[group], LABELS[group], downdate=True), solved_anew(left, penalty), 1e-6)


def test_of_nothing_there_is_no_model_and_strangers_are_refused():
    without = Without(summed(ROWS, LABELS), PENALTY, ASKED)
    assert without.logits(ROWS, LABELS) is None
    with pytest.raises(DataError, match="expected some of 120 pictures"):
        without.logits(np.concatenate([ROWS, ROWS[:1]]), np.append(LABELS, 0))
    with pytest.raises(DataError, match="classes that the sums lack"):
        without.logits(ROWS[:1], np.array([K]))
