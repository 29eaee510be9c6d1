"""Sums of shards' terms that are exact and subtract exactly: int64 arrays by name. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from taft_ray.errors import DeltaMismatch, FixedPointOverflow, UsageError

OF_DELTA = "delta/"  # what the names of a delta's terms begin with


class Totals:
    """The exact sums over the shards that are in the model, as numpy arrays; `Sums` has them as tensors.

    Guarantees: independent of the order of additions; ``subtract`` after ``add`` restores every bit. An overflow raises
    FixedPointOverflow and changes nothing.
    """

    def __init__(self) -> None:
        self.totals: dict[str, Any] = {}
        self.weight = 0
        self.count = 0
        self._bounds: dict[str, int] = {}  # no value of a total is larger: spares a pass over it for every shard

    def add(self, terms: Mapping[str, Any], weight: int = 1) -> None:
        """Add a shard's terms; deltas count ``weight`` times, Gram statistics once (they grow with the samples)."""
        self._update(terms, weight, +1)

    def subtract(self, terms: Mapping[str, Any], weight: int = 1) -> None:
        """Take away what `add` put in with the same terms and weight."""
        self._update(terms, weight, -1)

    def correct(self, terms: Mapping[str, Any]) -> None:
        """Take away a part of what a shard put in; the shard stays."""
        self._update(terms, 1, -1)
        self.weight, self.count = self.weight + 1, self.count + 1

    def _update(self, terms: Mapping[str, Any], weight: int, sign: int) -> None:
        if weight < 0 or int(weight) != weight:
            raise UsageError(f"weight={weight}: expected a whole number >= 0")
        if weight == 0:
            return
        totals = self.totals or {name: self._zeros_like(term) for name, term in terms.items()}
        if totals.keys() != terms.keys() or any(totals[n].shape != terms[n].shape for n in totals):
            differing = sorted(totals.keys() ^ terms.keys()) or sorted(
                n for n in totals if totals[n].shape != terms[n].shape
            )
            raise DeltaMismatch(f"shards of different linearisations: {differing[:4]} differ")
        factors = {name: sign * (weight if name.startswith(OF_DELTA) else 1) for name in terms}
        bounds = {}
        for name, term in terms.items():
            step = abs(factors[name]) * self._largest(term)
            bounds[name] = self._bounds.get(name, 0) + step
            if bounds[name] >= 2**63 > step:
                bounds[name] = self._reach(totals[name], term, factors[name])
            check_sum(bounds[name], what=name)
        # nothing has changed so far; from here on nothing can fail
        for name, term in terms.items():
            if bounds[name]:  # else all is zero, and a factor of any size would do
                self._add(totals[name], term, factors[name])
        self.totals, self._bounds = totals, bounds
        self.weight += sign * weight
        self.count += sign

    # --- the arithmetic of one kind of array

    def _zeros_like(self, term: Any) -> Any:
        return np.zeros(term.shape, np.int64)

    def _largest(self, term: Any) -> int:
        """max |value|, exactly; 0 for an empty array."""
        return max(-int(term.min()), int(term.max())) if term.size else 0

    def _reach(self, total: Any, term: Any, factor: int) -> int:
        """No value of total + factor·term is larger in size: value by value, rounded up by more than float64 errs."""
        return rounded_up(float(np.abs(total.astype(np.float64) + float(factor) * term.astype(np.float64)).max()))

    def _add(self, total: Any, term: Any, factor: int) -> None:
        np.add(total, term if factor == 1 else term * np.int64(factor), out=total)


def rounded_up(estimate: float) -> int:
    """A bound of what float64 arithmetic estimated."""
    return int(estimate * (1 + 2**-40)) + 1


def check_sum(bound: int, *, what: str) -> None:
    """FixedPointOverflow when a sum that may reach ±``bound`` could leave int64."""
    if bound >= 2**63:
        raise FixedPointOverflow(
            f"{what}: the sum would leave int64 (bound {bound:.3g}); use smaller weights or shards"
        )
