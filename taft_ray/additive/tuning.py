"""Choosing an additive model's settings from its sums, and κ from rows that are left out one by one.

S', the groups' weights and λ are those with the least GCV (`ridge.py`), which the sums give. Weights are searched group by group: a
group takes the weight with the least GCV while the others keep theirs, and twice round. κ is the factor of the leave-one-out logits
with the least mean −log softmax.

    G → D G D,  B → B D        D = diag of the roots of the groups' weights, of the first S' numbers

Legend: S numbers per row, S' of them used, K classes, m pictures left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import log_softmax

from taft_ray.additive.exact_sums import Sums
from taft_ray.additive.ridge import Problem, Reduced, Score, best_of
from taft_ray.additive.settings import Policy, Settings, SiteGroup, groups_in_turn
from taft_ray.errors import DataError

_ROUNDS = 2

Weights = tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """S' and weights with their best λ. curve: GCV of every λ."""

    size: int
    weights: Weights
    curve: tuple[Score, ...]
    reduced: Reduced

    @property
    def score(self) -> Score:
        """That of the best λ."""
        return best_of(self.curve)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Pictures left out one by one. losses: mean −log softmax by κ, in the policy's order.

    told: how many could be left out; where it is 0, the rest is not a number.
    """

    told: int
    accuracy: float
    losses: tuple[float, ...]


class Tuner:
    """The choice of a policy for these sums.

    Guarantees: on one machine a function of the sums, the policy and the rows given, to the last bit, whatever threads are set.
    """

    def __init__(self, sums: Sums, policy: Policy) -> None:
        policy.check()
        if policy.features != sums.size:
            raise DataError(f"a policy for rows of {policy.features} numbers: expected {sums.size}, those of the sums")
        self.policy, self.n, self._problem = policy, sums.n, Problem(sums)

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """Each size with equal weights, and the best of them once more with the weights that were found."""
        equal = (1.0,) * len(self.policy.groups)
        tried = [self.candidate(size, equal) for size in self.policy.sizes]
        weights = self._searched()
        if weights != equal:
            tried.append(self.candidate(_least(tried).size, weights))
        return tuple(tried)

    @property
    def chosen(self) -> Candidate:
        """The one with the least GCV; of equal ones the first."""
        return _least(self.candidates)

    def settings(self, left_out: LeftOut | None = None) -> Settings:
        """The choice. left_out: of `left_out`; None, or nothing told: κ is the policy's first."""
        chosen, kappa = self.chosen, self.policy.kappas[0]
        if left_out is not None and left_out.told:
            kappa = self.policy.kappas[int(np.argmin(left_out.losses))]
        return Settings(chosen.size, chosen.weights, chosen.score.penalty, kappa)

    def left_out(self, candidate: Candidate, rows: np.ndarray, labels: np.ndarray) -> LeftOut:
        """Pictures that are in the sums, each by the model without it. rows: int16 (m, S). labels: (m,)."""
        logits, told = candidate.reduced.leave_one_out(candidate.score.penalty, rows, labels)
        logits, labels = logits[told], np.asarray(labels)[told]
        if not len(labels):
            return LeftOut(told=0, accuracy=float("nan"), losses=(float("nan"),) * len(self.policy.kappas))
        return LeftOut(
            told=len(labels),
            accuracy=float((logits.argmax(1) == labels).mean()),
            losses=tuple(log_loss(kappa * logits, labels) for kappa in self.policy.kappas),
        )

    def candidate(self, size: int, weights: Weights) -> Candidate:
        """Any S' with any weights."""
        reduced = self._problem.reduced(column_scales(self.policy.groups, size, weights))
        return Candidate(size=size, weights=weights, curve=reduced.scores(self.policy.penalties), reduced=reduced)

    def _searched(self) -> Weights:
        """The weights that the search ends at."""
        weights = (1.0,) * len(self.policy.groups)
        if not self.policy.weights or len(weights) < 2:
            return weights
        size = min(self.policy.searched_at, max(self.policy.sizes))
        best = self.candidate(size, weights).score.gcv
        for _ in range(_ROUNDS):
            before = weights
            for group in range(len(weights)):
                for weight in dict.fromkeys((1.0, *self.policy.weights)):
                    other = (*weights[:group], weight, *weights[group + 1 :])
                    if other == weights or not any(other):
                        continue
                    gcv = self.candidate(size, other).score.gcv
                    if gcv < best:
                        best, weights = gcv, other
            if weights == before:
                break
        return weights


def column_scales(groups: Sequence[SiteGroup], size: int, weights: Sequence[float]) -> np.ndarray:
    """(S',): the root of its group's weight for each of the first numbers of a row."""
    return np.sqrt(np.asarray(weights, np.float64))[groups_in_turn([group.kept for group in groups])[:size]]


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean −log softmax of the true class. logits: (m, K). labels: (m,)."""
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def _least(candidates: Sequence[Candidate]) -> Candidate:
    return min(candidates, key=lambda candidate: candidate.score.gcv)
