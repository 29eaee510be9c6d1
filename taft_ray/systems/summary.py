"""A table with its numbers, JSON-able: mean and spread over the seeds, and the cells that each number was read from."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any

from taft_ray.systems.points import Point, Table

SHORT = 12  # hex digits of a cell's digest that a table shows


def summarise(table: Table, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """results: of every cell of the table, by digest.

    "values": one entry a (row, column): "mean", "spread" (the sample standard deviation, None of one seed), "values" by seed.
    """
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in table.points:
        groups.setdefault((point.row, point.column), []).append(point)
    values = []
    for (row, column), points in groups.items():
        numbers = [point.value(results) for point in points]
        values.append(
            {
                "row": row,
                "column": column,
                "unit": points[0].unit,
                "mean": fmean(numbers),
                "spread": stdev(numbers) if len(numbers) > 1 else None,
                "values": numbers,
                "seeds": [point.cell.spec.seed for point in points],
                "cells": [cell.digest[:SHORT] for point in points for cell in point.cells],
            }
        )
    return {
        "table": table.name,
        "title": table.title,
        "row": table.row,
        "column": table.column,
        "picture": table.picture,
        "rows": list(dict.fromkeys(point.row for point in table.points)),
        "columns": list(dict.fromkeys(point.column for point in table.points)),
        "values": values,
    }
