"""The systems that are compared, and their accuracy over shards on one data set.

Where a system has two numbers for one place, the later table's is taken. A system that is not trained has the same model at every
number of shards. Reading it stops where its digests say otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.evidence.drawing import AMBER, BLUE, GREEN, GREY, INK, ORANGE, PINK, SKY
from benchmarks.evidence.results import DataSet, Entry, Results

SHARDS = ("1", "10", "50", "500")
VIEWS = "4"  # of a picture, in the row beside the default's
MORE_VIEWS = f"additive, {VIEWS} views"
ENDS = ("", *(f"-{shards}" for shards in SHARDS[1:]))  # of files; one with a number has that number of shards alone


@dataclass(frozen=True, kw_only=True)
class System:
    """title: on the page. row: of table2 and baselines; way: of forgetting. parted: it depends on the shards.

    alone: the row that has the same model at one shard, where there is nothing to compose.
    """

    title: str
    row: str
    way: str | None
    colour: str
    marker: str
    parted: bool = True
    alone: str | None = None


SOUP = "Model Soup (NLFT, mean of weights)"
SYSTEMS = (
    System(title="additive", row="additive", way="additive: subtract", parted=False, colour=ORANGE, marker="o"),
    System(title=MORE_VIEWS, row=MORE_VIEWS, way=None, parted=False, colour=ORANGE, marker="h"),
    System(title="head alone", row="head alone, ridge from exact sums",
           way="head alone, ridge from exact sums: subtract", parted=False, colour=GREY, marker="s"),
    System(title="kNN, k = 20", row="kNN, k = 20", way="kNN, k = 20: remove the row", parted=False, colour=SKY, marker="^"),
    System(title="Head2Toe-like", row="Head2Toe-like", way="Head2Toe-like: select anew", parted=False, colour=PINK,
           marker="D"),
    System(title="ridge, joint Gram", row="ridge, joint Gram", way="ridge, joint Gram: retrain", alone="ridge, mean",
           colour=GREEN, marker="v"),
    System(title="ridge, Gram", row="ridge, Gram", way="ridge, Gram: retrain", alone="ridge, mean", colour=BLUE,
           marker="P"),
    System(title="ridge, mean", row="ridge, mean", way=None, colour=SKY, marker="<"),
    System(title="the paper's recipe", row="TAFT: Adam, mean", way="TAFT: Adam, mean: retrain", colour=INK, marker="X"),
    System(title="SISA", row="SISA (NLFT, mean of outputs)", way="SISA (NLFT, mean of outputs): retrain", alone=SOUP,
           colour=AMBER, marker="*"),
    System(title="Model Soup", row=SOUP, way="Model Soup (NLFT): retrain", colour=GREY, marker="d"),
    System(title="RegMean", row="RegMean (NLFT)", way=None, alone=SOUP, colour=GREY, marker=">"),
    System(title="RegMean++", row="RegMean++ (NLFT)", way="RegMean++ (NLFT): retrain", alone=SOUP, colour=PINK,
           marker="p"),
)  # fmt: skip


def system(title: str) -> System:
    return next(one for one in SYSTEMS if one.title == title)


class OverShards:
    """Everything that was measured over numbers of shards on one data set."""

    def __init__(self, results: Results, data: DataSet) -> None:
        self.results, self.data = results, data
        # files of one number of shards may be of fewer seeds
        self.files = {f"{name}-{data.label}{end}": end for end in reversed(ENDS) for name in ("table2", "baselines")}
        self.found: dict[tuple[str, str], Entry] = {
            (entry["row"], entry["column"]): entry
            for name, end in self.files.items()
            for entry in results.table(name).get("values", ())
            if end in ("", f"-{entry['column']}")
        }
        if (seen := results.entry(f"views-{data.label}", "additive", VIEWS)) is not None:
            self.found[MORE_VIEWS, "1"] = seen

    def at(self, system: System, shards: str) -> Entry | None:
        """The number; a system that knows no shards has that of one shard everywhere."""
        found = self.found.get((system.row, shards))
        if not system.parted:  # its digests are the same, and other numbers of shards may have fewer seeds
            return self.found.get((system.row, "1"), found)
        if found is None and shards == "1" and system.alone is not None:
            return self.found.get((system.alone, "1"))
        return found

    def cell(self, system: System) -> str:
        """Accuracy at each number of shards, in one cell of a table."""
        return " · ".join(percent(self.at(system, shards)) for shards in SHARDS)

    def check_digests(self) -> Iterator[str]:
        """The rows whose digest is the same at every number of shards, of every seed. ValueError where it is not."""
        cells: dict[str, dict[str, Any]] = {}
        for name in self.files:
            cells |= self.results.table(name).get("cells", {}) if name.startswith("baselines") else {}
        digests = {name[:12]: cell["digests"] for name, cell in cells.items() if "digests" in cell}
        for one in SYSTEMS:
            columns = [self.found[one.row, shards] for shards in SHARDS if (one.row, shards) in self.found]
            if one.parted or len(columns) < 2:
                continue
            for same in zip(*(entry["cells"] for entry in columns), strict=False):  # by seed, from the first on
                if len({json.dumps(digests[cell], sort_keys=True) for cell in same}) != 1:
                    raise ValueError(f"{self.data.title}: {one.row} has another digest at other numbers of shards")
            yield one.row


def percent(entry: Entry | None) -> str:
    return "–" if entry is None else f"{100 * entry['mean']:.1f}"


def markdown(lines: list[list[str]]) -> str:
    """A table; the first line is its head."""
    head, *rest = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rest])
