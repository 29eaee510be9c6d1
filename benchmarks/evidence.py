"""The first section of RESULTS.md: accuracy over shards of every system, and the seconds to forget a picture, as a table and a picture.

    python -m benchmarks.evidence

It reads what ``taft-ray reproduce`` wrote into results/: table2, baselines and forgetting of each data set, and those of 500
shards, whose label ends in -500. Where a system has two
numbers for one place, the later table's is taken. Nothing is measured here. It stops where a system that is not trained has another
digest at other numbers of shards.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from taft_ray.pages.figures.svg import COLOURS, SETTINGS

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results", HERE.parent / "RESULTS.md"
SHARDS = ("1", "10", "50", "500")
MOST = SHARDS[-1]
_INCH = 72
_MARKS = re.compile(r"(<!-- evidence -->\n).*?(<!-- /evidence -->)", re.DOTALL)


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


@dataclass(frozen=True, kw_only=True)
class System:
    """title: in the table. row: of table2 and baselines; way: of forgetting. parted: it depends on the shards.

    alone: the row that has the same model at one shard, where there is nothing to compose.
    """

    title: str
    row: str
    way: str | None
    parted: bool = True
    alone: str | None = None
    drawn: str | None = None  # colour and marker in the picture


SOUP = "Model Soup (NLFT, mean of weights)"
SYSTEMS = (
    System(title="**additive**", row="additive", way="additive: subtract", parted=False, drawn="#d55e00o"),
    System(title="head alone, ridge from exact sums", row="head alone, ridge from exact sums",
           way="head alone, ridge from exact sums: subtract", parted=False, drawn="#999999s"),
    System(title="kNN memory, k = 20", row="kNN, k = 20", way="kNN, k = 20: remove the row", parted=False, drawn="#56b4e9^"),
    System(title="Head2Toe-like", row="Head2Toe-like", way="Head2Toe-like: select anew", parted=False, drawn="#cc79a7D"),
    System(title="ridge, joint Gram", row="ridge, joint Gram", way="ridge, joint Gram: retrain", alone="ridge, mean",
           drawn="#009e73v"),
    System(title="ridge, Gram", row="ridge, Gram", way="ridge, Gram: retrain", alone="ridge, mean", drawn="#0072b2P"),
    System(title="ridge, mean", row="ridge, mean", way=None),
    System(title="Adam, mean: the paper's recipe", row="TAFT: Adam, mean", way="TAFT: Adam, mean: retrain", drawn="#1b1f24X"),
    System(title="SISA (NLFT, mean of outputs)", row="SISA (NLFT, mean of outputs)",
           way="SISA (NLFT, mean of outputs): retrain", alone=SOUP, drawn="#e69f00*"),
    System(title=SOUP, row=SOUP, way="Model Soup (NLFT): retrain"),
    System(title="RegMean (NLFT)", row="RegMean (NLFT)", way=None, alone=SOUP),
    System(title="RegMean++ (NLFT)", row="RegMean++ (NLFT)", way="RegMean++ (NLFT): retrain", alone=SOUP, drawn="#8c564bp"),
)  # fmt: skip

Found = Mapping[tuple[str, str], dict[str, Any]]  # by row and column


class Measured:
    """Everything that results/ has of one data set."""

    def __init__(self, data: DataSet, folder: Path = RESULTS) -> None:
        self.data = data
        read = {name: _read(folder / f"{name}-{data.label}.json") for name in ("table2", "baselines", "forgetting")}
        # the largest number of shards has files of its own, which may be of fewer seeds
        read |= {
            f"{name}-{MOST}": _read(folder / f"{name}-{data.label}-{MOST}.json") for name in ("table2", "baselines")
        }
        self.tables = {name: table for name, table in read.items() if table}
        self.accuracy: Found = {
            (entry["row"], entry["column"]): entry
            for name in (f"table2-{MOST}", f"baselines-{MOST}", "table2", "baselines")
            for entry in self.tables.get(name, {}).get("values", ())
            if entry["column"] == MOST or not name.endswith(MOST)
        }
        self.forgets: Found = {
            (entry["row"], entry["column"]): entry for entry in self.tables.get("forgetting", {}).get("values", ())
        }

    def at(self, system: System, shards: str) -> dict[str, Any] | None:
        """The entry; a system that knows no shards has that of one shard everywhere."""
        found = self.accuracy.get((system.row, shards))
        if not system.parted:  # its digests are the same, and other numbers of shards may have fewer seeds
            return self.accuracy.get((system.row, "1"), found)
        if found is None and shards == "1" and system.alone is not None:
            return self.accuracy.get((system.alone, "1"))
        return found

    def seconds(self, system: System) -> float | None:
        entry = self.forgets.get((system.way or "", "CPU seconds"))
        return None if entry is None else float(entry["mean"])

    def check_digests(self) -> Iterator[str]:
        """The rows whose digest is the same at every number of shards, of every seed. ValueError where it is not."""
        tables = (self.tables.get(name, {}) for name in ("baselines", f"baselines-{MOST}"))
        cells = {name: cell for table in tables for name, cell in table.get("cells", {}).items()}
        digests = {name[:12]: cell["digests"] for name, cell in cells.items() if "digests" in cell}
        for system in SYSTEMS:
            columns = [self.accuracy[system.row, shards] for shards in SHARDS if (system.row, shards) in self.accuracy]
            if system.parted or len(columns) < 2:
                continue
            for same in zip(*(entry["cells"] for entry in columns), strict=False):  # by seed, from the first on
                if len({json.dumps(digests[cell], sort_keys=True) for cell in same}) != 1:
                    raise ValueError(f"{self.data.title}: {system.row} has another digest at other numbers of shards")
            yield system.row


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _percent(entry: dict[str, Any] | None) -> str:
    return "–" if entry is None else f"{100 * entry['mean']:.1f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{1e3 * value:.2g} ms" if value < 0.1 else f"{value:.2g} s"


def table(measured: list[Measured]) -> str:
    """Markdown."""
    shards = " · ".join(SHARDS)
    head = ["system", *(f"{one.data.title}: {shards}" for one in measured), "to forget one picture"]
    lines = [head, ["---"] * len(head)]
    for system in SYSTEMS:
        cells = [" · ".join(_percent(one.at(system, number)) for number in SHARDS) for one in measured]
        lines.append([system.title, *cells, _seconds(measured[0].seconds(system))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(measured: list[Measured]) -> bytes:
    """SVG: a panel of accuracy over shards per data set, and bars of seconds. The same numbers give the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        matplotlib.rcParams.update({"figure.facecolor": COLOURS["paper"], "svg.hashsalt": "taft_ray/evidence"})
        figure = Figure(figsize=(860 / _INCH, 900 / _INCH), dpi=_INCH, layout="constrained")
        grid = figure.add_gridspec(3, 2, height_ratios=(1, 1, 1.1))
        for place, one in enumerate(measured):
            _panel(figure.add_subplot(grid[place // 2, place % 2]), one)
        _bars(figure.add_subplot(grid[2, :]), measured[0])
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=10)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _panel(axes: Axes, measured: Measured) -> None:
    for system in SYSTEMS:
        if system.drawn is None:
            continue
        there = [(int(n), entry) for n in SHARDS if (entry := measured.at(system, n)) is not None]
        axes.errorbar(
            [x for x, _ in there], [100 * entry["mean"] for _, entry in there],
            yerr=[100 * (entry["spread"] or 0) for _, entry in there], color=system.drawn[:7], marker=system.drawn[7],
            linestyle="-" if system.parted else "--", capsize=2, label=system.title.strip("*"),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks([int(number) for number in SHARDS])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.grid(axis="y")
    axes.set_title(measured.data.title, fontsize=11)
    axes.set_xlabel("shards")
    axes.set_ylabel("accuracy, percent")


def _bars(axes: Axes, measured: Measured) -> None:
    timed = [(system, seconds) for system in SYSTEMS if (seconds := measured.seconds(system)) is not None]
    for at, (system, seconds) in enumerate(timed):
        axes.barh(at, seconds, height=0.6, color=(system.drawn or "#999999")[:7])
        axes.annotate(_seconds(seconds), (seconds, at), xytext=(5, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(timed)), [system.title.strip("*") for system, _ in timed])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlabel(f"CPU seconds to forget one picture, {measured.data.title}, log scale")


def put(page: str, part: str) -> str:
    """The page with ``part`` between its marks; KeyError where it has none."""
    if not _MARKS.search(page):
        raise KeyError("RESULTS.md has no part '<!-- evidence -->'")
    return _MARKS.sub(lambda found: f"{found[1]}{part}\n{found[2]}", page)


def section(measured: list[Measured]) -> str:
    """The part of the page between the marks."""
    commands = [
        one.tables[name]["command"]
        for one in measured
        for name in ("baselines", "forgetting", f"table2-{MOST}")
        if name in one.tables
    ]
    shown = "\n".join(f"    {command}" for command in commands)
    return f"{table(measured)}\n\n![accuracy over shards](benchmarks/results/evidence.svg)\n\n{shown}"


def main() -> None:
    measured = [Measured(data) for data in DATA]
    for one in measured:
        print(
            f"{one.data.title}: the same digest at every number of shards: {', '.join(one.check_digests()) or 'none'}"
        )
    (RESULTS / "evidence.svg").write_bytes(picture(measured))
    PAGE.write_text(put(PAGE.read_text(), section(measured)))


if __name__ == "__main__":
    main()
