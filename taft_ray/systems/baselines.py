"""Rows and tables beside the paper's: systems that are not trained, fine-tuned shards merged by RegMean, and ways to forget.

Systems that are not trained are functions of all pictures, however these are parted. Their cells of several numbers of shards show it:
accuracy and digest are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from taft_ray.additive.options import MOST_VIEWS
from taft_ray.systems.cell import Cell
from taft_ray.systems.points import Point, Table, Wanted, accuracy, forgotten
from taft_ray.systems.recipes import adam, frozen, merged, on_sites, ridge

Make = Callable[..., Cell]


def _untrained(wanted: Wanted) -> dict[str, tuple[Make, str]]:
    rows: dict[str, tuple[Make, str]] = {
        "head alone, ridge from exact sums": (frozen, "head"),
        "kNN, k = 20": (frozen, "knn"),
    }
    return {**_of_sites(wanted, "additive", "additive"), **rows, **_of_sites(wanted, "Head2Toe-like", "head2toe")}


def _of_sites(wanted: Wanted, row: str, network: str) -> dict[str, tuple[Make, str]]:
    """The row of a system on sites, where the network has any."""
    width = wanted.site_width
    if width is None:
        return {}
    return {row: (lambda base, **changes: on_sites(base, network, width, **changes), network)}


MERGED = {"RegMean (NLFT)": "regmean", "RegMean++ (NLFT)": "regmean++"}
SAME_SHARDS = {"Model Soup (NLFT, mean of weights)": "mean", "SISA (NLFT, mean of outputs)": "average"}


def points(wanted: Wanted) -> list[Point]:
    """The rows of `table`, which are in table2 too."""
    several = sorted(wanted.shards)
    found = [
        Point(row=row, column=str(shards), cell=make(wanted.base, shards=shards, seed=seed), read=accuracy(readout))
        for row, (make, readout) in _untrained(wanted).items()
        # the selection needs all pictures at once: of shards there is nothing to compose
        for shards in ((1,) if readout == "head2toe" else (1, *several))
        for seed in wanted.seeds
    ]
    return found + _of_merged(MERGED, wanted)


def _of_merged(rows: Mapping[str, str], wanted: Wanted) -> list[Point]:
    return [
        Point(row=row, column=str(shards), cell=merged(wanted.base, shards=shards, seed=seed), read=accuracy(readout))
        for row, readout in rows.items()
        for shards in sorted(wanted.shards)
        for seed in wanted.seeds
    ]


def table(wanted: Wanted) -> Table:
    """`points`, with Model Soup and SISA of the shards that are merged."""
    title = "Systems that are not trained, and fine-tuned shards merged layer by layer"
    made = points(wanted) + _of_merged(SAME_SHARDS, wanted)
    columns = [str(shards) for shards in (1, *sorted(wanted.shards))]
    made.sort(key=lambda point: columns.index(point.column))  # a stable sort: rows keep their order
    return Table(name="baselines", title=title, row="system", column="shards", picture="lines", points=tuple(made))


def views(wanted: Wanted) -> Table:
    """The additive model of rows over one view of a picture, and over several (`additive.views`)."""
    made = tuple(
        Point(
            row=row, column=str(count), cell=make(wanted.base, shards=1, seed=seed, views=count), read=accuracy(readout)
        )
        for row, (make, readout) in _of_sites(wanted, "additive", "additive").items()
        for count in range(1, MOST_VIEWS + 1)
        for seed in wanted.seeds
    )
    title = "Rows over several views of a picture: as it is, and middles of 7/8, 3/4 and 5/8 of each side"
    return Table(name="views", title=title, row="system", column="views", picture="lines", points=made)


def forgetting(wanted: Wanted) -> Table:
    """One picture leaves. Every way is timed on a warm worker, from what it has cached to the model that answers."""
    rows: dict[str, tuple[Make, str]] = {}
    ways = {"additive": "subtract", "head": "subtract", "knn": "remove the row", "head2toe": "select anew"}
    for row, (make, readout) in _untrained(wanted).items():
        rows[f"{row}: {ways[readout]}"] = (make, f"{readout}: {ways[readout]}")
    for way in ("retrain", "resolve", "drop", "drop, against retrain"):
        rows[f"ridge, Gram: {way}"] = (ridge, f"gram: {way}")
    if wanted.joint:
        rows["ridge, joint Gram: retrain"] = (ridge, "joint: retrain")
    rows |= {
        "TAFT: Adam, mean: retrain": (adam, "mean: retrain"),
        "SISA (NLFT, mean of outputs): retrain": (merged, "average: retrain"),
        "Model Soup (NLFT): retrain": (merged, "mean: retrain"),
        "RegMean++ (NLFT): retrain": (merged, "regmean++: retrain"),
    }
    columns = {
        "accuracy after": ("accuracy", ("accuracy",)),
        "mean Δ margin": ("margin", ("after", "mean")),
        "largest Δ margin": ("margin", ("after", "max")),
        "equal predictions": ("accuracy", ("after", "same")),
        "mean Δ margin if nothing is forgotten": ("margin", ("before", "mean")),
        "CPU seconds": ("s", ("seconds",)),
    }
    base = replace(wanted.base, timed=True, leaving=1)
    made = tuple(
        Point(
            row=row, column=column, cell=make(base, shards=wanted.most, seed=seed), read=forgotten(way, *path), unit=unit
        )
        for row, (make, way) in rows.items()
        for column, (unit, path) in columns.items()
        for seed in wanted.seeds
    )  # fmt: skip
    title = f"One picture leaves {wanted.most} shards: the distance from the same system without it"
    return Table(name="forgetting", title=title, row="system: way", column="", picture="forget", points=made)
