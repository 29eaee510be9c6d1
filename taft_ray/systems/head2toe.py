"""A head on selected intermediate features, as Head2Toe has it (Evci et al., ICML 2022), on the sites of the additive model.

    W = ridge on all numbers, λ by leave-one-out error        s_i = |W_i|, the norm over classes
    the head: ridge on the numbers with the largest s_i, from exact sums

The paper takes s_i from descent with a group lasso, and features of all layers. It chooses how many to keep on held-out data. Here as
many are kept as the additive model has. The selection depends on every picture, so that forgetting one is selecting anew.

Legend: n pictures, S numbers, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from taft_ray.additive import GRID, to_rows
from taft_ray.additive.grid import from_rows
from taft_ray.storage import digest_tensors
from taft_ray.systems.frozen import RidgeOfSums, Rows, Summed, joined

_LAMBDAS = GRID[8::4]  # a decade apart, from 1e-8 to 10


@dataclass(frozen=True)
class Selected:
    """All pictures, which numbers the head reads, in ascending order, and the head."""

    kept: Rows
    index: np.ndarray
    head: Summed
    classes: int


class Head2Toe:
    """kept: how many numbers are selected."""

    way = "select anew"

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self._ridge = RidgeOfSums()

    def fitted(self, shards: Sequence[Rows], classes: int) -> Selected:
        every = joined(shards)
        index = np.sort(np.argsort(-scores(every.rows, every.labels, classes), kind="stable")[: self.kept])
        few = Rows(every.keys, every.labels, _longer(every.rows, index))
        return Selected(every, index, self._ridge.fitted([few], classes), classes)

    def without(self, state: Selected, leaving: Rows) -> Selected:
        gone = set(leaving.keys)
        staying = np.array([place for place, key in enumerate(state.kept.keys) if key not in gone], np.int64)
        return self.fitted([state.kept.at(staying)], state.classes)

    def logits(self, state: Selected, rows: np.ndarray) -> np.ndarray:
        return self._ridge.logits(state.head, _longer(rows, state.index))

    def digest(self, state: Selected) -> str:
        return digest_tensors({"index": state.index, **state.head.sums.to_arrays()})


def scores(rows: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """s, (S,): the norm over classes of each number's coefficients in a ridge on all of them (scikit-learn's)."""
    from sklearn.linear_model import RidgeCV  # takes a while

    model = RidgeCV(alphas=[penalty * len(rows) for penalty in _LAMBDAS])
    coefficients = np.asarray(model.fit(from_rows(rows), np.eye(classes)[labels]).coef_)
    return np.linalg.norm(coefficients.reshape(classes, -1), axis=0)


def _longer(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The selected numbers, enlarged so that the grid is used: a factor of the numbers' counts alone."""
    return to_rows(torch.from_numpy(from_rows(rows[:, index]) * np.sqrt(rows.shape[1] / len(index)) * 0.5))
