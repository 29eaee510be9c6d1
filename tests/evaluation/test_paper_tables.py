"""A table of the paper as Markdown, CSV and picture."""

import csv
import io
from typing import Any

import pytest

from taft_ray.evaluation import as_csv, markdown
from taft_ray.pages import picture


def entry(row: str, column: str, values: list[float], unit: str = "accuracy") -> dict[str, Any]:
    spread = None if len(values) == 1 else 0.01
    cells = [f"{row}{column}{i}" for i in range(len(values) * (2 if unit == "×" else 1))]
    mean = sum(values) / len(values)
    return {"row": row, "column": column, "unit": unit, "mean": mean, "spread": spread, "values": values,
            "seeds": list(range(len(values))), "cells": cells}  # fmt: skip


def summary(kind: str = "bars", seeds: int = 3, **changes: Any) -> dict[str, Any]:
    values = [entry(row, column, [0.75] * seeds) for row in ("a", "b") for column in ("10", "50")][:-1]
    return {
        "table": "table2", "title": "Some title", "row": "system", "column": "shards", "picture": kind, "rows": ["a", "b"],
        "columns": ["10", "50"], "values": values, "data": "toy (60 / 30)", "model": "toy", "seeds": list(range(seeds)),
        "command": "taft-ray reproduce table2 out --data d --eval e", **changes,
    }  # fmt: skip


def test_markdown_has_the_numbers_and_the_command_under_them():
    lines = markdown(summary()).splitlines()
    assert "| system \\ shards | 10 | 50 |" in lines
    assert "| a | 75.0 ± 1.0 | 75.0 ± 1.0 |" in lines
    assert "| b | 75.0 ± 1.0 |  |" in lines  # what was not measured is blank
    assert lines[-3] == "    taft-ray reproduce table2 out --data d --eval e"
    assert "--cell" in lines[-1]


def test_one_seed_has_no_spread():
    assert "| a | 75.0 | 75.0 |" in markdown(summary(seeds=1))


def test_seconds_and_ratios_have_their_units():
    values = [entry("a", "10", [0.5, 0.5], "s"), entry("a", "50", [41.0, 43.0], "×")]
    assert "| a | 0.5 ± 0.01 s | 42.0 ± 0.01× |" in markdown(summary(values=values, rows=["a"]))
    values = [entry("a", "10", [0.0], "margin"), entry("a", "50", [0.1234, 0.1234], "margin")]
    assert "| a | 0 | 0.123 ± 0.01 |" in markdown(summary(values=values, rows=["a"]))


def test_csv_names_the_cell_of_every_number():
    values = [entry("a", "10", [0.5, 0.6]), entry("a", "50", [41.0, 43.0], "×")]
    rows = list(csv.DictReader(io.StringIO(as_csv(summary(values=values)))))
    assert [(row["seed"], float(row["value"]), row["cell"]) for row in rows] == [
        ("0", 0.5, "a100"), ("1", 0.6, "a101"), ("0", 41.0, "a500+a501"), ("1", 43.0, "a502+a503"),
    ]  # fmt: skip


def time_summary() -> dict[str, Any]:
    parts = {"accuracy": "accuracy", "one model": "accuracy", "retrain of a shard": "s", "retrain of one model": "s"}
    values = [
        entry("a", f"{s}: {name}", [0.5], unit)
        for s in ("0% forgotten", "50% forgotten")
        for name, unit in parts.items()
    ]
    return summary("time", 1, values=values, rows=["a"], columns=[value["column"] for value in values])


def forget_summary() -> dict[str, Any]:
    units = {"accuracy after": "accuracy", "largest Δ margin": "margin", "CPU seconds": "s"}
    values = [
        entry(row, name, [0.0 if unit == "margin" and row == "a" else 0.5] * 2, unit)
        for row in ("a", "b")
        for name, unit in units.items()
    ]
    return summary("forget", 2, values=values, columns=list(units))


@pytest.mark.parametrize(
    "made",
    [summary("bars"), summary("lines"), summary("lines", 1), time_summary(), forget_summary()],
    ids=["bars", "lines", "one", "time", "forget"],
)
def test_picture_is_svg_and_the_same_bytes_again(made):
    first = picture(made)
    assert first == picture(made)
    assert b"<svg" in first
    assert "http://www.w3.org" in first.decode()
    assert "toy (60 / 30)" in first.decode()
    assert "mathdefault" not in first.decode()
