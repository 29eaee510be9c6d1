"""Membership inference as a test: do the forgotten samples look more like members of a model than never-seen ones do?

Two samples of rows, *asked* (the forgotten) and *reference* (the never-seen). A score is higher the more a row looks like
a member. Rows are compared within a stratum, a class, and under one model (a column). Strata are needed: a shard may be
better at one class than at another, and the two sets may have other mixes of classes. The statistic is

    AUC = mean over asked i of P_j( score_jg < score_ig ) + ½ P_j( score_jg = score_ig ),   j: reference rows of i's stratum

with g the column that is i's target: the Mann–Whitney statistic, stratified (van Elteren 1960).

Guarantees: where rows of a stratum are exchangeable, `permutation_test` rejects at level a with probability at most a.
Rows are exchangeable after an honest forget of samples that come from the distribution of the never-seen. The bound holds
for any number of rows and columns and any ties. It holds for any dependence of a row's scores on one another, as whole rows
are permuted.

Legend: N asked rows, M reference rows, R rows, G columns (target models), B permutations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from taft_ray.errors import UsageError

PERMUTATIONS = 9999
_BLOCK = 2_000_000  # values of a block of permutations held at once
_ROUNDING = 1e-9  # the same sum in another order is the same statistic


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Rows with their scores under every target: ``scores`` (R, G), ``strata`` (R,), ``target`` (R,) columns.

    ``target`` is read of asked rows only: a reference row is compared under the target of whom it is compared with.
    """

    scores: np.ndarray
    strata: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, chosen: np.ndarray) -> Rows:
        return Rows(scores=self.scores[chosen], strata=self.strata[chosen], target=self.target[chosen])


def matched(asked: Rows, reference: Rows) -> tuple[Rows, Rows]:
    """Both without the strata that only one of them has: there is nothing to compare those with."""
    return (
        asked.take(np.isin(asked.strata, reference.strata)),
        reference.take(np.isin(reference.strata, asked.strata)),
    )


def placements(asked: Rows, reference: Rows) -> np.ndarray:
    """(N,): the share of reference rows of its stratum that each asked row is above, ties as halves; their mean is the AUC."""
    placed = np.empty(len(asked))
    for stratum in np.unique(asked.strata):
        rivals = reference.scores[reference.strata == stratum]
        if not len(rivals):
            raise UsageError(f"stratum {stratum} has no reference rows; use matched()")
        for g in np.unique(asked.target[asked.strata == stratum]):
            rows = np.flatnonzero((asked.strata == stratum) & (asked.target == g))
            ordered, values = np.sort(rivals[:, g]), asked.scores[rows, g]
            below, upto = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
            placed[rows] = (below + upto) / (2 * len(ordered))
    return placed


@dataclass(frozen=True, kw_only=True, eq=False)
class PermutationTest:
    """The AUC, the share of permutations with an AUC at least as high, and the permutations' AUCs, descending."""

    auc: float
    p_value: float
    null: np.ndarray

    def critical(self, level: float) -> float:
        """The AUC that must be exceeded for a p-value of at most ``level``."""
        allowed = math.floor(level * (len(self.null) + 1) + _ROUNDING) - 1
        if allowed < 0:
            raise UsageError(
                f"level={level}: {len(self.null)} permutations tell levels from {1 / (len(self.null) + 1):g}"
            )
        return float(self.null[min(allowed, len(self.null) - 1)])


def permutation_test(
    asked: Rows, reference: Rows, *, seed: int = 0, permutations: int = PERMUTATIONS
) -> PermutationTest:
    """One-sided permutation test of the AUC: which rows of a stratum were asked for, and with which target, is permuted.

    The p-value counts the permutation that was observed (Phipson & Smyth 2010), so that it is never 0.
    """
    observed = float(placements(asked, reference).mean())
    generator = np.random.default_rng(seed)
    total = np.zeros(permutations)
    for stratum in np.unique(asked.strata):
        mine, rivals = asked.strata == stratum, reference.strata == stratum
        scores = np.concatenate([asked.scores[mine], reference.scores[rivals]])
        role = np.concatenate([asked.target[mine], np.full(int(rivals.sum()), -1)])
        block = max(1, _BLOCK // len(role))
        for at in range(0, permutations, block):
            count = min(block, permutations - at)
            roles = generator.permuted(np.tile(role, (count, 1)), axis=1)
            total[at : at + count] += _sums(scores, roles)
    null = np.sort(total / len(asked))[::-1]
    return PermutationTest(
        auc=observed,
        p_value=(1 + int((null >= observed - _ROUNDING).sum())) / (permutations + 1),
        null=null,
    )


def _sums(scores_RG: np.ndarray, roles_BR: np.ndarray) -> np.ndarray:
    """(B,): the sum of the asked rows' placements, one stratum; role -1 is reference, else the target column."""
    total = np.zeros(len(roles_BR))
    for g in np.unique(roles_BR[0][roles_BR[0] >= 0]):
        order = np.argsort(scores_RG[:, g], kind="stable")
        ordered, roles = scores_RG[order, g], roles_BR[:, order]
        below = np.zeros((len(roles), len(order) + 1), np.int32)
        np.cumsum(roles == -1, axis=1, out=below[:, 1:])
        first, after = (np.searchsorted(ordered, ordered, side=side) for side in ("left", "right"))
        halves = below[:, first] + below[:, after]
        total += np.where(roles == g, halves, 0).sum(axis=1)
    return total / (2 * int((roles_BR[0] == -1).sum()))


def reference_needed(asked: int, level: float) -> int:
    """How many reference rows ``asked`` rows need for a p-value of ``level`` to be possible at all: C(N + M, N) >= 1/level."""
    if asked < 1:
        raise UsageError(f"expected at least one sample to ask for, got {asked}")
    needed = 1
    while math.comb(asked + needed, asked) * level < 1:
        needed += 1
    return needed


def arrangements(asked: Rows, reference: Rows) -> float:
    """How many ways there are to choose the asked rows, stratum by stratum: 1 / it is the smallest p-value there can be."""
    log = 0.0
    for stratum in np.unique(asked.strata):
        n, m = int((asked.strata == stratum).sum()), int((reference.strata == stratum).sum())
        log += math.lgamma(n + m + 1) - math.lgamma(n + 1) - math.lgamma(m + 1)
    return math.exp(min(log, 700.0))


def auc_interval(auc: float, asked: int, reference: int, confidence: float = 0.95) -> tuple[float, float]:
    """A confidence interval of an AUC that stays inside 0..1 and has a width at 0 and 1, where Wald intervals have none.

    Newcombe (2006, part 2, method 5): the θ with |AUC − θ| = z·sd(θ). The deviation sd is Hanley and McNeil's (1982)
    with (N + M)/2 in place of either count. At θ = ½ it is the exact null deviation of the Mann–Whitney statistic.
    """
    z = float(norm.ppf((1 + confidence) / 2))
    half = (asked + reference) / 2 - 1

    def excess(theta: float) -> float:
        variance = theta * (1 - theta) * (1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta))
        return abs(auc - theta) - z * math.sqrt(variance / (asked * reference))

    low = 0.0 if auc <= 0 else float(brentq(excess, 0.0, min(auc, 1 - _ROUNDING)))  # type: ignore[arg-type]
    high = 1.0 if auc >= 1 else float(brentq(excess, max(auc, _ROUNDING), 1.0))  # type: ignore[arg-type]
    return low, high


def true_positive_rate(placed: np.ndarray, false_positive_rate: float) -> float:
    """The share of asked rows above all but ``false_positive_rate`` of their reference rows."""
    return float((placed >= 1 - false_positive_rate - _ROUNDING).mean())


def detection_rate(
    member_placements: np.ndarray, asked: int, critical_auc: float, *, seed: int = 0, draws: int = 2000
) -> float:
    """How often as many members as samples are asked for would have been found out: their mean placement is above critical."""
    generator = np.random.default_rng(seed)
    drawn = generator.choice(member_placements, size=(draws, asked))
    return float((drawn.mean(axis=1) > critical_auc + _ROUNDING).mean())
