"""Every table in benchmarks/results/, and the figures that a page refers to.

A reference names a file, a row and a column: ``table2-Sign-Digits | ridge, Gram | 50``. Its text is the mean, accuracies in
percent. ``±`` as a fourth part adds the spread over seeds. ``A > B`` is the difference, in points of accuracy. It raises where A
is not above B. So a claim that a page makes in words cannot turn over unseen. ``A / B`` is a ratio. Parts that B leaves empty are A's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taft_ray.evaluation.notation import times
from taft_ray.evaluation.paper_table import entries, number

FOLDER = Path(__file__).parents[1] / "results"
Entry = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """label: of the files in results/."""

    title: str
    label: str


DATA = (
    DataSet(title="Sign-Digits, DeiT-Tiny", label="Sign-Digits"),
    DataSet(title="Sign-Digits, DINOv2-S", label="Sign-Digits-DINOv2"),
    DataSet(title="CIFAR-10, DeiT-Tiny", label="CIFAR-10"),
    DataSet(title="digits, embedded model", label="digits"),
)


class Results:
    """The tables of a folder, each read once."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self._tables: dict[str, dict[str, Any]] = {}
        self._entries: dict[str, Mapping[tuple[str, str], Entry]] = {}

    def names(self) -> Iterator[str]:
        """The files that `reproduce` wrote, by name."""
        for path in sorted(self.folder.glob("*.json")):
            if "table" in self.table(path.stem):
                yield path.stem

    def table(self, name: str) -> dict[str, Any]:
        """The content of the file; empty where there is none."""
        if name not in self._tables:
            path = self.folder / f"{name}.json"
            self._tables[name] = json.loads(path.read_text()) if path.is_file() else {}
        return self._tables[name]

    def entry(self, name: str, row: str, column: str) -> Entry | None:
        if name not in self._entries:
            table = self.table(name)
            self._entries[name] = entries(table) if "values" in table else {}
        return self._entries[name].get((row, column))

    def commands(self, *names: str) -> str:
        """The commands of these files, as a block of code."""
        return "\n".join(f"    {self.table(name)['command']}" for name in names if self.table(name))

    def said(self, reference: str) -> str:
        """The text of a reference. KeyError where nothing was measured, ValueError where a claim does not hold."""
        for sign, say in ((" > ", _above), (" / ", _ratio)):
            left, found, right = reference.partition(sign)
            if found:
                own, other = _parts(left), _parts(right)
                other = [mine if index >= len(other) or not other[index] else other[index]
                         for index, mine in enumerate(own)]  # fmt: skip
                return say(reference, self._found(own, reference), self._found(other, reference))
        parts = _parts(reference)
        entry = self._found(parts[:3], reference)
        return _number(entry if parts[3:] == ["±"] else {**entry, "spread": None})

    def _found(self, parts: list[str], reference: str) -> Entry:
        entry = self.entry(*parts) if len(parts) == 3 else None
        if entry is None:
            raise KeyError(f"{reference}: benchmarks/results has no such number; expected FILE | ROW | COLUMN")
        return entry


def _number(entry: Entry) -> str:
    """As tables have it, but short times in milliseconds."""
    short = entry["unit"] == "s" and entry["mean"] < 0.1 and entry["spread"] is None
    return f"{1e3 * entry['mean']:.3g} ms" if short else number(entry)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split("|")]


def _above(reference: str, one: Entry, other: Entry) -> str:
    """Points of accuracy, or the difference in the unit of both."""
    difference = round(one["mean"], 9) - round(other["mean"], 9)
    if difference <= 0:
        raise ValueError(
            f"{reference}: a page claims the first to be larger, and got {one['mean']} and {other['mean']}"
        )
    return _number({"unit": one["unit"], "mean": difference, "spread": None})


def _ratio(_: str, one: Entry, other: Entry) -> str:
    return times(one["mean"] / other["mean"])
