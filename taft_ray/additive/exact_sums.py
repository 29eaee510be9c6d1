"""Exact sums over pictures, from which the additive model is solved and which a picture can leave.

    G = Σ â âᵀ        (S, S)        B = Σ e_y âᵀ        (K, S)        n_k, the pictures of class k

â is a row of whole numbers (`rows.py`). Each row is in one class. So Σ â = Σ_k B_k and Σ |e_y|² = Σ n_k = n, and the constant 1
beside â needs no sums of its own. The upper triangle of G is kept.

Products of two rows are below 2^30. So sums over 2^23 rows are whole numbers below 2^53, which float64 adds without an error
in whatever order. GEMMs of such blocks are added as int64.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import numpy as np

from taft_ray.additive.grid import BITS, LARGEST, check_rows
from taft_ray.additive.threads import one_blas_thread
from taft_ray.errors import DataError, DeltaMismatch, FixedPointOverflow, UsageError

ROWS = 4096  # rows that are float64 at once
EXACT = 2 ** (53 - 2 * BITS)  # rows whose products float64 sums without an error
MOST = 2 ** (63 - 2 * BITS) - 1  # pictures whose sums int64 holds
_STRIP = 128  # rows of G made at once: its products stay in the processor's cache
_NARROW = 256  # rows below which several threads of BLAS wait for each other longer than they compute
_FEW = 1  # rows for which int64 products are the quicker ones
_FORMAT = 1


class Sums:
    """G, B and n_k of the pictures that are in the model.

    recipe: names the rows, such as `Projection.digest`; sums of rows of another recipe are refused. "" when there is none.

    Guarantees: independent of order, blocks, threads and BLAS; ``subtract`` after ``add`` restores every bit. An error
    changes nothing. Equal sums have equal `to_arrays`.
    """

    def __init__(self, size: int, classes: int, recipe: str = "") -> None:
        if size < 1 or classes < 1:
            raise UsageError(f"sums of {size} numbers and {classes} classes: expected at least one of each")
        self.recipe = recipe
        self._upper = np.zeros((size, size), np.int64)
        self._by_class = np.zeros((classes, size), np.int64)
        self._counts = np.zeros(classes, np.int64)

    @property
    def size(self) -> int:
        """S."""
        return self._upper.shape[0]

    @property
    def classes(self) -> int:
        """K."""
        return len(self._counts)

    @property
    def n(self) -> int:
        """Pictures."""
        return int(self._counts.sum())

    @property
    def counts(self) -> np.ndarray:
        """n_k, a copy."""
        return self._counts.copy()

    @property
    def by_class(self) -> np.ndarray:
        """B, a copy."""
        return self._by_class.copy()

    @property
    def total(self) -> np.ndarray:
        """Σ â."""
        return self._by_class.sum(0)

    def upper(self) -> np.ndarray:
        """G on and above the diagonal, zero below it: a view that cannot be written to."""
        view = self._upper.view()
        view.flags.writeable = False
        return view

    def add(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """Add pictures: int16 (m, S), and the class of each."""
        self._update(rows, labels, +1)

    def subtract(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """Take pictures away that are in; DataError where they cannot have been."""
        self._update(rows, labels, -1)

    def merge(self, other: Sums) -> None:
        """Add all of ``other``'s pictures."""
        self._combine(other, +1)

    def remove(self, other: Sums) -> None:
        """Take all of ``other``'s pictures away: a shard's or an owner's."""
        self._combine(other, -1)

    def add_classes(self, more: int) -> None:
        """New classes behind those there are. Pictures so far have a target of zero for them."""
        if more < 0:
            raise UsageError(f"{more} more classes: a class list never shrinks")
        self._by_class = np.concatenate([self._by_class, np.zeros((more, self.size), np.int64)])
        self._counts = np.concatenate([self._counts, np.zeros(more, np.int64)])

    def first(self, size: int) -> Sums:
        """The sums of the first ``size`` numbers of every row: a smaller projection's."""
        if not 1 <= size <= self.size:
            raise UsageError(f"size={size}: expected 1..{self.size}, what these sums have")
        smaller = Sums(size, self.classes, self.recipe if size == self.size else f"{self.recipe}[:{size}]")
        smaller._upper[...] = self._upper[:size, :size]
        smaller._by_class[...] = self._by_class[:, :size]
        smaller._counts[...] = self._counts
        return smaller

    def copy(self) -> Sums:
        return self.first(self.size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sums):
            return NotImplemented
        return (
            self.recipe == other.recipe
            and np.array_equal(self._counts, other._counts)
            and np.array_equal(self._by_class, other._by_class)
            and np.array_equal(self._upper, other._upper)
        )

    __hash__ = None  # type: ignore[assignment]  # sums change

    def to_arrays(self) -> dict[str, np.ndarray]:
        """For storage: G's upper triangle row by row, B, n_k, and the recipe as bytes."""
        return {
            "additive/format": np.array([_FORMAT], np.int64),
            "additive/gram": np.concatenate([row[at:] for at, row in enumerate(self._upper)]),
            "additive/by_class": self.by_class,
            "additive/counts": self.counts,
            "additive/recipe": np.frombuffer(self.recipe.encode(), np.uint8).copy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Sums:
        """The sums that `to_arrays` gave; DataError where they cannot be those of any rows."""
        try:
            kind, gram, by_class, counts, recipe = (
                arrays[f"additive/{name}"] for name in ("format", "gram", "by_class", "counts", "recipe")
            )
        except KeyError as error:
            raise DataError(f"no sums of an additive model: {error} is missing") from error
        if kind.tolist() != [_FORMAT]:
            raise DataError(f"sums of format {kind.tolist()}: expected {_FORMAT}; a newer taft_ray made them")
        sums = cls(by_class.shape[1], by_class.shape[0], bytes(recipe.tolist()).decode())
        size = sums.size
        if (
            gram.shape != (size * (size + 1) // 2,)
            or counts.shape != (sums.classes,)
            or {a.dtype for a in (gram, by_class, counts)} != {np.dtype(np.int64)}
        ):
            raise DataError(f"sums of shapes {gram.shape}, {by_class.shape}, {counts.shape} do not belong together")
        at = 0
        for row in range(size):
            sums._upper[row, row:] = gram[at : at + size - row]
            at += size - row
        sums._by_class[...], sums._counts[...] = by_class, counts
        n = int(counts.sum())
        if counts.min() < 0 or n > MOST:
            raise DataError(f"sums of {n} pictures: expected 0..{MOST}, and no class below 0")
        diagonal = sums._upper.diagonal()
        if diagonal.min() < 0 or int(diagonal.max()) > n * LARGEST**2:
            raise DataError(f"sums that no {n} rows have; the object is damaged")
        return sums

    def _update(self, rows: np.ndarray, labels: np.ndarray, sign: int) -> None:
        check_rows(rows, self.size)
        labels = np.asarray(labels)
        if labels.shape != (len(rows),) or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(f"{len(rows)} rows with labels {labels.dtype} {labels.shape}: expected a class per row")
        if not len(rows):
            return
        if int(labels.min()) < 0 or int(labels.max()) >= self.classes:
            raise DataError(
                f"classes {labels.min()}..{labels.max()}: expected 0..{self.classes - 1}; add the new classes first"
            )
        if int(rows.min()) < -LARGEST:
            raise DataError(f"a number of a row is {rows.min()}: expected -{LARGEST}..{LARGEST}")
        counts = np.bincount(labels, minlength=self.classes).astype(np.int64)
        blocks = [slice(at, at + ROWS) for at in range(0, len(rows), ROWS)]
        energy = np.zeros(self.size, np.int64)
        for block in blocks:
            energy += np.square(rows[block], dtype=np.int64).sum(0)
        self._check(counts, energy, sign)
        # nothing has changed so far; from here on nothing can fail
        with one_blas_thread() if len(rows) < _NARROW else nullcontext():
            for block in blocks:
                self._add_block(rows[block], labels[block], sign)
        self._counts += sign * counts

    def _add_block(self, rows: np.ndarray, labels: np.ndarray, sign: int) -> None:
        """Fewer than `EXACT` rows."""
        whole = rows.astype(np.int64 if len(rows) <= _FEW else np.float64)
        for label in np.unique(labels):
            self._by_class[label] += sign * rows[labels == label].sum(0, dtype=np.int64)
        for start in range(0, self.size, _STRIP):
            stop = min(start + _STRIP, self.size)
            strip = self._upper[start:stop, start:]
            if len(whole) <= _FEW:
                for row in whole:
                    strip += np.multiply.outer(sign * row[start:stop], row[start:])
            else:
                strip += ((sign * whole[:, start:stop]).T @ whole[:, start:]).astype(np.int64)
            # values fell below the diagonal, too, in the strip's square at the front
            square = self._upper[start:stop, start:stop]
            square[np.tril_indices(stop - start, -1)] = 0

    def _combine(self, other: Sums, sign: int) -> None:
        if other.recipe != self.recipe or other.size != self.size:
            raise DeltaMismatch(
                f"sums of {other.size} numbers of recipe {other.recipe[:12]!r}: expected {self.size} of {self.recipe[:12]!r}; "
                "they belong to another network or projection"
            )
        if other.classes > self.classes:
            raise DeltaMismatch(
                f"sums of {other.classes} classes: expected at most {self.classes}; add the new classes first"
            )
        counts = np.zeros(self.classes, np.int64)
        counts[: other.classes] = other._counts
        self._check(counts, other._upper.diagonal(), sign)
        self._counts += sign * counts
        self._by_class[: other.classes] += sign * other._by_class
        self._upper += sign * other._upper

    def _check(self, counts: np.ndarray, energy: np.ndarray, sign: int) -> None:
        """Whether these counts and this diagonal of G can be added or taken away."""
        if sign > 0:
            if self.n + int(counts.sum()) > MOST:
                raise FixedPointOverflow(f"more than {MOST} pictures: G would leave int64; sum fewer pictures")
        elif bool((counts > self._counts).any()) or bool((energy > self._upper.diagonal()).any()):
            raise DataError("these pictures are not in the sums: a count or the diagonal of G would fall below zero")
