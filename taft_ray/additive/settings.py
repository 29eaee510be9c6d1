"""Records of what may be chosen of an additive model, and of what was; without numpy. Legend: S numbers per row, K classes.

Numbers of a row belong to groups of sites, a group per block. A model may use the first numbers of every row alone, weigh the
groups, penalise, and scale its logits. None of it changes a row or a sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from taft_ray.additive.options import GRID
from taft_ray.errors import UsageError
from taft_ray.jsonable import JsonObject

WEIGHTS = (0.0, 0.25, 4.0)  # of a group's share of |a|², beside 1
SEARCHED_AT = 512  # numbers per row while weights are searched: a reduction of 2,048 takes 30 times as long
LEFT_OUT = 4096  # pictures that are left out one by one
KAPPAS = tuple(2.0 ** (step / 2) for step in range(13))  # 1 to 64


@dataclass(frozen=True)
class SiteGroup(JsonObject):
    """A block's sites: how many numbers of a row are theirs."""

    name: str
    kept: int


@dataclass(frozen=True)
class Policy(JsonObject):
    """The candidates, in the order in which equally good ones are taken. A choice is a function of them and of what is left.

    sizes: S', how many of the first numbers of a row. kappas: factors of the logits. penalties: λ.

    weights: those that a group may have beside 1; empty: all have 1.

    searched_at: the S' at which weights are searched, at most the largest of ``sizes``.

    left_out: how many pictures are left out one by one for κ, those with the smallest keys.
    """

    groups: tuple[SiteGroup, ...]
    sizes: tuple[int, ...]
    kappas: tuple[float, ...]
    weights: tuple[float, ...] = WEIGHTS
    penalties: tuple[float, ...] = GRID
    searched_at: int = SEARCHED_AT
    left_out: int = LEFT_OUT

    @property
    def features(self) -> int:
        """S, the numbers per row."""
        return sum(group.kept for group in self.groups)

    @property
    def smallest(self) -> int:
        """The least S' with a number of every group."""
        seen: set[int] = set()
        for place, group in enumerate(groups_in_turn([group.kept for group in self.groups])):
            seen.add(group)
            if len(seen) == len(self.groups):
                return place + 1
        raise UsageError("a policy without groups of sites; the spec's network has none")

    def check(self) -> None:
        """UsageError for candidates that no model has."""
        wrong = [size for size in self.sizes if not self.smallest <= size <= self.features]
        if not self.sizes or wrong:
            raise UsageError(
                f"sizes={list(self.sizes)}: expected {self.smallest}..{self.features}, at least one; set --sizes"
            )
        for name, values, least in (
            ("kappas", self.kappas, 1),
            ("penalties", self.penalties, 1),
            ("weights", self.weights, 0),
        ):
            right = all(math.isfinite(value) and (value > 0 or (name == "weights" and value == 0)) for value in values)
            if len(values) < least or not right:
                raise UsageError(f"{name}={list(values)}: expected finite numbers > 0; set --{name}")
        if not self.smallest <= self.searched_at or self.left_out < 1:
            raise UsageError(
                f"searched_at={self.searched_at}, left_out={self.left_out}: expected at least {self.smallest} and 1"
            )


@dataclass(frozen=True)
class Settings(JsonObject):
    """The choice for a model. size: S'. weights: of each group's share of |a|². penalty: λ. kappa: factor of the logits."""

    size: int
    weights: tuple[float, ...]
    penalty: float
    kappa: float


def turns(kept: Sequence[int]) -> list[tuple[int, int]]:
    """The (group, row) of every number of a row. Groups take turns, so that the first S' numbers have a part of each.

    kept: numbers per group. A group with a part p of all numbers has p S' of the first S', to half a number per group.
    """
    places = [((row + 0.5) / count, group, row) for group, count in enumerate(kept) for row in range(count)]
    return [(group, row) for _, group, row in sorted(places)]


def groups_in_turn(kept: Sequence[int]) -> list[int]:
    """The group of every number of a row."""
    return [group for group, _ in turns(kept)]
