"""Differentially private descent on rows (dp-additive): softmax cross-entropy of a linear model, full batch, clipped and noisy.

    W ← W − η/n · (Σ_i c_i r_i [a_i, 1]ᵀ + σ·C·N(0, I)),   r_i = softmax(W [a_i, 1]) − e_y,   c_i = min(1, C / (|r_i| √(|a_i|² + 1)))

from W = 0, for a number of steps and with a divisor n that are fixed beforehand. T steps are √T/σ-Gaussian private (Dong, Roth & Su 2019).
A picture's gradient is an outer product, so that its norm is the product of two norms. Its size is at most 2 for rows |a| <= 1:
then C = 2 clips nothing.

Sums are whole numbers, in units q of a grid. A unit that is zeroed out changes them by at most C(1 + η)/q, where η covers:

    2·γ·m      the block of m rows that it is in is summed twice, with and without it. Float64 sums of m terms err by at
               most γ = m·u/(1 − m·u) times the sum of the terms' sizes, u = 2⁻⁵³ (Higham)
    q/C·√P     both sums are rounded, by at most 1/2 per parameter each (P of them)

Legend: n pictures, S numbers, K classes, P = K (S + 1) parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from taft_ray.additive.grid import from_rows
from taft_ray.additive.threads import one_blas_thread
from taft_ray.errors import DataError, UsageError

BLOCK = 4096  # rows that are summed before they are rounded
MOST = 1 << 40  # rows whose sum of integers int64 holds
GRID = 2.0**-22  # q is at most this part of C
SLACK = 2.0**-40  # what c is smaller by than C over the norm: rounding of norms and products is 2^-50
_U = 2.0**-53

Noise = Callable[[int, int, float], np.ndarray]
"""(step, count, scale) -> int64 (count,): round(scale · N(0, 1)); each step has its own draws, as of `privacy.GaussianStream`."""


class Recipe(Protocol):
    """How private descent descends, as `fitting.PrivateRecipe` checks it. None of it may depend on the private data."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def noise_multiplier(self) -> float: ...
    @property
    def divisor(self) -> int: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class RowDescent:
    """The result of a private descent. ``coefficients`` (K, S) and ``intercept`` (K,) are released; ``nonfinite`` is not.

    sensitivity: C(1 + η), which the noise was scaled to. nonfinite: gradients (unit × step) that counted as zero because they
    were not finite.
    """

    coefficients: np.ndarray
    intercept: np.ndarray
    sensitivity: float
    nonfinite: int


def grid_unit(clip: float) -> float:
    """q: a power of two, so that products with it are exact; at most `GRID`·C, and more than half of that."""
    return 2.0 ** (math.frexp(clip)[1] - 1) * GRID


def margin(parameters: int) -> float:
    """η. It depends on the number of parameters alone."""
    gamma = BLOCK * _U / (1 - BLOCK * _U)
    return 2 * gamma * BLOCK + GRID * math.sqrt(parameters)


def descend(
    rows: np.ndarray,
    labels: np.ndarray,
    classes: int,
    recipe: Recipe,
    noise: Noise,
    *,
    units: np.ndarray | None = None,
) -> RowDescent:
    """The linear model after ``recipe.steps`` private steps.

    rows: int16 (n, S) as `to_rows` gives them, or floating (n, S), such as a `Whitening`'s. labels: (n,) in 0..K-1.

    units: (n,) int64, the number of each row's unit (its owner), whose gradients are summed and clipped together. Each row is a
    unit by itself by default.

    Guarantees: ``noise`` is called once per step, with P numbers, for no rows too. Zeroing a unit's gradient out changes each
    step's integers by at most C(1 + η)/q, whatever the rows are. Equal arguments give equal bits, whatever the threads.

    Raises DataError for labels outside the classes and for arrays that do not belong together.
    """
    labels = _checked(rows, labels, classes, units)
    size = rows.shape[1]
    count = classes * (size + 1)
    unit, sensitivity = grid_unit(recipe.clip), recipe.clip * (1 + margin(count))
    blocks = list(_blocks(len(rows), units))
    weights, nonfinite = np.zeros((classes, size + 1)), 0
    with one_blas_thread():
        for step in range(recipe.steps):
            total = np.zeros((classes, size + 1), np.int64)
            for index, whole in blocks:
                values = rows[index]
                values = from_rows(values) if values.dtype == np.int16 else values.astype(np.float64, copy=False)
                residual = _residual(values, labels[index], weights)
                add = _add_unit if whole else _add_rows
                nonfinite += add(total, values, residual, recipe.clip, unit)
            drawn = noise(step, count, recipe.noise_multiplier * sensitivity / unit)
            if drawn.shape != (count,) or drawn.dtype != np.int64:
                raise UsageError(f"expected noise ({count},) int64, got {drawn.shape} {drawn.dtype}")
            total += drawn.reshape(total.shape)
            weights -= total * (recipe.learning_rate * unit / recipe.divisor)
    return RowDescent(
        coefficients=np.ascontiguousarray(weights[:, :-1]),
        intercept=weights[:, -1].copy(),
        sensitivity=sensitivity,
        nonfinite=nonfinite,
    )


def _checked(rows: np.ndarray, labels: np.ndarray, classes: int, units: np.ndarray | None) -> np.ndarray:
    if rows.ndim != 2 or not (rows.dtype == np.int16 or np.issubdtype(rows.dtype, np.floating)):
        raise DataError(f"rows of {rows.dtype} {rows.shape}: expected int16 or floating (n, S)")
    if len(rows) > MOST:
        raise UsageError(f"{len(rows)} rows: expected at most {MOST} in a private shard; use more shards")
    labels = np.asarray(labels)
    for what, values in (("labels", labels), ("units", units)):
        if values is not None and (values.shape != (len(rows),) or not np.issubdtype(values.dtype, np.integer)):
            raise DataError(f"{len(rows)} rows with {what} {values.dtype} {values.shape}: expected a number per row")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(f"classes {labels.min()}..{labels.max()}: expected 0..{classes - 1}")
    return labels


def _blocks(count: int, units: np.ndarray | None) -> Iterator[tuple[slice | np.ndarray, bool]]:
    """Rows that are summed together, and whether they are one unit."""
    if units is None:
        yield from ((slice(at, at + BLOCK), False) for at in range(0, count, BLOCK))
        return
    order = np.argsort(units, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(units[order])) + 1):
        if len(part):
            yield part, True


def _residual(values: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(m, K): softmax − e_y; NaN where logits are not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        logits = values @ weights[:, :-1].T + weights[:, -1]
        logits -= logits.max(1, keepdims=True)
        residual = np.exp(logits, out=logits)
        residual /= residual.sum(1, keepdims=True)
    residual[np.arange(len(labels)), labels] -= 1
    return residual


def _add_rows(total: np.ndarray, values: np.ndarray, residual: np.ndarray, clip: float, unit: float) -> int:
    """Adds the clipped gradients of a block, each row a unit; how many were not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(residual, axis=1) * np.sqrt(np.square(values).sum(1) + 1)
    fine = np.isfinite(norms)
    if not fine.all():
        values, residual, norms = values[fine], residual[fine], norms[fine]
    scaled = residual * (_factors(norms, clip) / unit)[:, None]
    total[:, :-1] += np.rint(scaled.T @ values).astype(np.int64)
    total[:, -1] += np.rint(scaled.sum(0)).astype(np.int64)
    return len(fine) - int(fine.sum())


def _add_unit(total: np.ndarray, values: np.ndarray, residual: np.ndarray, clip: float, unit: float) -> int:
    """Adds the clipped gradient of one unit; 1 if it was not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        gradient = np.concatenate([residual.T @ values, residual.sum(0)[:, None]], axis=1)
        norm = np.linalg.norm(gradient)
    if not np.isfinite(norm):
        return 1
    total += np.rint(gradient * (_factors(norm, clip) / unit)).astype(np.int64)
    return 0


def _factors(norms: np.ndarray | np.floating, clip: float) -> np.ndarray:
    """min(1, C/norm), a little less."""
    with np.errstate(divide="ignore"):
        return np.minimum(1.0, clip * (1 - SLACK) / np.asarray(norms))
