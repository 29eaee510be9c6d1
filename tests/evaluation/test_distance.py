"""Distances of models by margins, against definitions written out picture by picture."""

import math

import numpy as np
import pytest

from taft_ray.errors import DataError
from taft_ray.evaluation.distance import MOST, distance, margins


def by_hand(logits: list[float], label: int) -> float:
    others = sum(math.exp(value) for k, value in enumerate(logits) if k != label)
    return logits[label] - math.log(others)


def some(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return 3 * generator.standard_normal((40, 5)), generator.integers(0, 5, 40)


def test_margins_are_their_definition():
    logits, labels = some()
    expected = [by_hand(row, int(label)) for row, label in zip(logits.tolist(), labels, strict=True)]
    assert margins(logits, labels) == pytest.approx(expected, rel=1e-12)


def test_distance_is_the_mean_and_the_largest_difference():
    (logits, labels), (oracle, _) = some(0), some(1)
    apart = [
        abs(by_hand(one, int(k)) - by_hand(other, int(k)))
        for one, other, k in zip(logits.tolist(), oracle.tolist(), labels, strict=True)
    ]
    same = [max(range(5), key=one.__getitem__) == max(range(5), key=other.__getitem__)
            for one, other in zip(logits.tolist(), oracle.tolist(), strict=True)]  # fmt: skip
    found = distance(logits, oracle, labels)
    assert found["mean"] == pytest.approx(sum(apart) / 40, rel=1e-12)
    assert found["max"] == pytest.approx(max(apart), rel=1e-12)
    assert found["same"] == pytest.approx(sum(same) / 40)


def test_equal_bits_have_no_distance_and_one_other_bit_has_one():
    logits, labels = some()
    assert distance(logits, logits.copy(), labels) == {"mean": 0.0, "max": 0.0, "same": 1.0}
    moved = logits.copy()
    moved[7, labels[7]] = np.nextafter(moved[7, labels[7]], np.inf)
    assert distance(moved, logits, labels)["max"] > 0


def test_shares_of_zero_and_one_are_at_the_bounds():
    with np.errstate(divide="ignore"):
        logits = np.log(np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]))
    assert margins(logits, np.zeros(3, int)).tolist() == [MOST, -MOST, 0.0]


def test_a_constant_added_to_all_logits_changes_no_margin():
    logits, labels = some()
    assert margins(logits + 17, labels) == pytest.approx(margins(logits, labels), abs=1e-12)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((2, 3)), np.zeros(3, int)),
        (np.zeros(3), np.zeros(3, int)),
        (np.zeros((2, 3)), np.array([0, 3])),
        (np.array([[np.nan, 0.0]]), np.zeros(1, int)),
        (np.full((1, 2), -np.inf), np.zeros(1, int)),
    ],
    ids=["too many labels", "no classes", "a class that is not there", "nan", "no share at all"],
)
def test_what_has_no_margin_is_refused(logits: np.ndarray, labels: np.ndarray):
    with pytest.raises(DataError):
        margins(logits, labels)


def test_no_picture_is_refused():
    with pytest.raises(DataError, match="no picture"):
        distance(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int))
