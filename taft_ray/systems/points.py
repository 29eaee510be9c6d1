"""A table is points, each a number of one seed that is read from a cell's result. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.systems.cell import Cell

DROPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)  # of the shards (figures 1a, 1b)

Read = Callable[[Mapping[str, Any]], float]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One number of one seed: ``read`` of the cell's result, divided into ``against``'s where that is given.

    unit: "accuracy" (a fraction), "s", "×" or "margin" (a plain number).
    """

    row: str
    column: str
    cell: Cell
    read: Read
    unit: str = "accuracy"
    against: tuple[Cell, Read] | None = None

    def value(self, results: Mapping[str, Mapping[str, Any]]) -> float:
        """results: of every cell, by digest."""
        own = self.read(results[self.cell.digest])
        if self.against is None:
            return own
        other, read = self.against
        return read(results[other.digest]) / own

    @property
    def cells(self) -> tuple[Cell, ...]:
        return (self.cell,) if self.against is None else (self.cell, self.against[0])


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The inputs and sizes that a table is made for.

    ``base``: data, model and the rest, whose fit and trained part each row changes.
    ``shards``: the numbers of shards of table2; the figures use the largest.
    ``many_blocks``: of table1's "-7" rows; 0 leaves them out.
    ``joint``: whether shards of this network can be composed jointly.
    ``site_width``: the numbers that its sites have; None where it has none.
    ``public``: whether there are public pictures to whiten rows by.
    """

    base: Cell
    seeds: Sequence[int] = (0, 1, 2)
    shards: Sequence[int] = (10, 25, 50)
    many_blocks: int = 7
    joint: bool = True
    site_width: int | None = None
    public: bool = False

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise UsageError(f"seeds={list(self.seeds)}: expected different numbers >= 0; set --seeds")
        if not self.shards or len(set(self.shards)) != len(self.shards) or min(self.shards) < 2:
            raise UsageError(f"shards={list(self.shards)}: expected different numbers >= 2; set --shards")
        if self.many_blocks < 0:
            raise UsageError(f"expected many_blocks >= 0, got {self.many_blocks}; set --many-blocks")

    @property
    def most(self) -> int:
        return max(self.shards)

    @property
    def kept(self) -> tuple[int, ...]:
        """How many of the most shards the figures of dropping keep, all of them first."""
        return tuple(sorted({round(self.most * (1 - drop)) for drop in DROPS}, reverse=True))


@dataclass(frozen=True, kw_only=True)
class Table:
    """picture: "bars", "lines" (columns are numbers), "time" (accuracy against seconds, of two models) or "forget" (of one)."""

    name: str
    title: str
    row: str  # what a row is
    column: str  # what a column is
    picture: str
    points: tuple[Point, ...]

    @property
    def cells(self) -> list[Cell]:
        """Every cell once, in the order of the points."""
        return list({cell.digest: cell for point in self.points for cell in point.cells}.values())


def accuracy(readout: str) -> Read:
    return lambda result: float(result["accuracy"][readout])


def kept(readout: str, shards: int) -> Read:
    """The mean over orders of the accuracy of ``shards`` of the shards that have samples."""

    def read(result: Mapping[str, Any]) -> float:
        most = max(row["shards"] for row in result["kept"])
        return fmean(float(row[readout]) for row in result["kept"] if row["shards"] == min(shards, most))

    return read


def gram_at(epsilon: float) -> Read:
    return lambda result: float(result["gram_by_epsilon"][f"{epsilon:g}"])


def joint_at(penalty: float) -> Read:
    return lambda result: float(result["joint_by_penalty"][f"{penalty:g}"])


def forgotten(way: str, *path: str) -> Read:
    """A number of one way to forget, such as "seconds", or "after" and "mean"."""

    def read(result: Mapping[str, Any]) -> float:
        found: Any = result["forgetting"][way]
        for name in path:
            found = found[name]
        return float(found)

    return read


def refit_seconds(readout: str | None) -> Read:
    """The seconds of a warm retrain of one shard, the median over shards.

    They count constants, fit and, where a composed model is served, statistics and the composition. ``readout`` None is of
    one model over everything, which needs neither.
    """

    def read(result: Mapping[str, Any]) -> float:
        fits = result["fits"]
        parts = ("prepare_seconds", "fit_seconds") + (() if readout in (None, "mean") else (f"{readout}_seconds",))
        each = [sum(values) for values in zip(*(fits[part] for part in parts), strict=True)]
        return median(each) + (result["recompose_seconds"][readout] if readout is not None else 0.0)

    return read
