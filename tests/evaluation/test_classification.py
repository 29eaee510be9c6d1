"""Measures of single classes, against counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taft_ray.evaluation.classification import BINS, MOST_IN_A_MATRIX, classification

CLASSES = tuple("abcdefgh")


def drawn(seed: int, n: int, classes: int = len(CLASSES)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(classes, 0.5), n)
    labels = np.array([random.choice(classes, p=row) for row in probabilities], np.int64)
    return labels, probabilities.argmax(1), probabilities


@given(st.integers(0, 200), st.integers(1, 60))
def test_counts_are_those_of_counting(seed: int, n: int) -> None:
    labels, predicted, probabilities = drawn(seed, n)
    told = classification(labels, predicted, probabilities, CLASSES)
    pairs = list(zip(labels.tolist(), predicted.tolist(), strict=True))
    expected = np.array([[pairs.count((true, said)) for said in range(len(CLASSES))] for true in range(len(CLASSES))])
    assert told["confusion"] == expected.tolist()
    better = [sum(other > row[label] for other in row) for label, row in zip(labels, probabilities, strict=True)]
    assert told["top5"] == pytest.approx(sum(rank < 5 for rank in better) / n)
    for number, one in enumerate(told["per_class"]):
        of = labels == number
        assert one["n"] == of.sum()
        assert one["accuracy"] == (pytest.approx((predicted[of] == number).mean()) if of.any() else None)
    wrong = {(one["true"], one["predicted"]): one["n"] for one in told["confused"]}
    assert all(expected[CLASSES.index(t), CLASSES.index(p)] == count > 0 and t != p for (t, p), count in wrong.items())
    assert list(wrong.values()) == sorted(wrong.values(), reverse=True)


@given(st.integers(0, 200), st.integers(1, 60))
def test_calibration_error_by_counting(seed: int, n: int) -> None:
    labels, predicted, probabilities = drawn(seed, n)
    told = classification(labels, predicted, probabilities, CLASSES)
    sure, right = probabilities.max(1), labels == predicted
    error = 0.0
    for low in range(BINS):
        inside = [i for i in range(n) if low / BINS <= sure[i] < (low + 1) / BINS or (low == BINS - 1 and sure[i] == 1)]
        if inside:
            error += abs(sum(right[i] for i in inside) - sum(sure[i] for i in inside)) / n
    assert told["calibration_error"] == pytest.approx(error)
    assert sum(one["n"] for one in told["calibration"]) == n


def test_who_says_what_is_likely_is_calibrated_and_who_is_always_sure_is_not() -> None:
    labels, predicted, probabilities = drawn(1, 20_000)
    assert classification(labels, predicted, probabilities, CLASSES)["calibration_error"] < 0.02
    sure = np.eye(len(CLASSES))[predicted]
    wrong = (labels != predicted).mean()
    assert classification(labels, predicted, sure, CLASSES)["calibration_error"] == pytest.approx(wrong)


def test_few_pictures_few_classes_and_many() -> None:
    nothing = np.zeros(0, np.int64)
    told = classification(nothing, nothing, np.zeros((0, 2)), ("a", "b"))
    assert (told["top5"], told["calibration_error"], told["calibration"], told["confused"]) == (None, None, [], [])
    assert [one["accuracy"] for one in told["per_class"]] == [None, None]
    many = MOST_IN_A_MATRIX + 1
    told = classification(*drawn(2, 300, many), tuple(map(str, range(many))))
    assert told["confusion"] is None
    assert len(told["confused"]) == 20
