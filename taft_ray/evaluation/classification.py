"""How well predictions agree with labels: per class, as a confusion matrix, among the best five, and in their confidence.

`evaluate` alone imports this module, for scikit-learn takes a while.

Legend: n pictures, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

BINS = 15  # of confidence, of equal width: Guo et al. 2017, On Calibration of Modern Neural Networks
MOST_IN_A_MATRIX = 100  # classes; of more the most frequent confusions alone are told
MOST_CONFUSIONS = 20
TOP = 5


def classification(
    labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """{"per_class", "confusion", "confused", "top5", "calibration_error", "calibration"}.

    labels, predicted: (n,) numbers of classes. probabilities: (n, K). top5: classes with higher numbers come first among
    those that are exactly as probable.
    """
    numbers = np.arange(len(classes))
    some = len(labels) > 0
    matrix = confusion_matrix(labels, predicted, labels=numbers) if some else np.zeros((len(classes),) * 2, np.int64)
    ranked = len(classes) > TOP and some
    error, bins = calibration(labels == predicted, probabilities.max(1) if len(labels) else np.zeros(0))
    return {
        "per_class": [
            {"label": name, "n": int(of), "accuracy": int(right) / int(of) if of else None}
            for name, of, right in zip(classes, matrix.sum(1), matrix.diagonal(), strict=True)
        ],
        "confusion": matrix.tolist() if len(classes) <= MOST_IN_A_MATRIX else None,
        "confused": confusions(matrix, classes),
        "top5": float(top_k_accuracy_score(labels, probabilities, k=TOP, labels=numbers)) if ranked else None,
        "calibration_error": error,
        "calibration": bins,
    }


def confusions(matrix: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The most frequent mistakes: {"true", "predicted", "n"}."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    places = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS]
    pairs = [(int(place) // len(classes), int(place) % len(classes)) for place in places]
    return [
        {"true": classes[true], "predicted": classes[said], "n": int(wrong[true, said])}
        for true, said in pairs
        if wrong[true, said]
    ]


def calibration(correct: np.ndarray, confidence: np.ndarray) -> tuple[float | None, list[dict[str, Any]]]:
    """The expected calibration error, and what it is of: {"confidence", "accuracy", "n"} of each bin that is not empty.

    The error is Σ n_b/n · |accuracy_b − confidence_b| over bins of equal width. None without pictures.
    """
    if not len(correct):
        return None, []
    number = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    bins = [
        {
            "confidence": float(confidence[inside].mean()),
            "accuracy": float(correct[inside].mean()),
            "n": int(inside.sum()),
        }
        for inside in (number == one for one in range(BINS))
        if inside.any()
    ]
    return sum(b["n"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / len(correct), bins
