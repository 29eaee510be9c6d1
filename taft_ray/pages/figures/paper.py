"""The picture of a table of `reproduce`, as an SVG file: bars with spreads, lines, or accuracy against seconds."""

import io
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from taft_ray.evaluation.paper_table import entries
from taft_ray.pages.figures.svg import COLOURS, SETTINGS

# Okabe and Ito, in an order in which neighbours differ in lightness too
_CYCLE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#1b1f24", "#999999")
_MARKERS = "os^DvPX*"
_INCH = 72


def picture(summary: dict[str, Any]) -> bytes:
    """SVG; the same summary gives the same bytes."""
    draw = {"bars": _bars, "lines": _lines, "time": _time, "forget": _forget}[summary["picture"]]
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        matplotlib.rcParams.update(
            {"figure.facecolor": COLOURS["paper"], "svg.hashsalt": f"taft_ray/{summary['table']}"}
        )
        figure = Figure(figsize=(760 / _INCH, 400 / _INCH), dpi=_INCH, layout="constrained")
        axes = figure.add_subplot()
        draw(axes, summary)
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        figure.suptitle(f"{summary['title']}\n{summary['data']}, {summary['model']}", fontsize=11)
        figure.legend(loc="outside lower center", ncols=3, fontsize=10)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _log_axis(axes: Axes) -> None:
    """Plain numbers: no formula is set in these pictures."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _bars(axes: Axes, summary: dict[str, Any]) -> None:
    found, rows, columns = entries(summary), summary["rows"], summary["columns"]
    width = 0.8 / len(rows)
    for at, row in enumerate(rows):
        there = [(x, found[row, column]) for x, column in enumerate(columns) if (row, column) in found]
        axes.bar(
            [x - 0.4 + (at + 0.5) * width for x, _ in there],
            [100 * entry["mean"] for _, entry in there],
            width * 0.92,
            yerr=[100 * (entry["spread"] or 0) for _, entry in there],
            color=_CYCLE[at % len(_CYCLE)],
            hatch="//" * (at // len(_CYCLE)),  # a colour comes again
            edgecolor=COLOURS["paper"] if at >= len(_CYCLE) else _CYCLE[at],
            linewidth=0,
            ecolor=COLOURS["ink"],
            label=row,
        )
    least = min(entry["mean"] - (entry["spread"] or 0) for entry in summary["values"])
    axes.set_ylim(bottom=max(0.0, 100 * least - 8))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_xlabel(summary["column"])
    axes.set_ylabel("accuracy, percent (axis does not start at 0)")


def _lines(axes: Axes, summary: dict[str, Any]) -> None:
    found = entries(summary)
    for at, row in enumerate(summary["rows"]):
        there = [(float(column), found[row, column]) for column in summary["columns"] if (row, column) in found]
        axes.errorbar(
            [x for x, _ in there],
            [100 * entry["mean"] for _, entry in there],
            yerr=[100 * (entry["spread"] or 0) for _, entry in there],
            color=_CYCLE[at % len(_CYCLE)],
            marker=_MARKERS[at % len(_MARKERS)],
            capsize=3,
            label=row,
        )
    numbers = sorted(float(column) for column in summary["columns"])
    if numbers[0] > 0 and numbers[-1] / numbers[0] > 50:
        _log_axis(axes)
    elif summary["column"] == "shards kept":
        axes.invert_xaxis()  # time goes on to the right: ever more is dropped
    axes.set_xlabel(summary["column"])
    axes.set_ylabel("accuracy, percent")


def _time(axes: Axes, summary: dict[str, Any]) -> None:
    """Accuracy after a retrain against its seconds: of a shard (filled), and of one model over everything (open)."""
    found = entries(summary)
    shares = list(dict.fromkeys(column.partition(":")[0] for column in summary["columns"]))
    for at, row in enumerate(summary["rows"]):
        for kind, filled in (("a shard", True), ("one model", False)):
            accuracy = "accuracy" if filled else "one model"
            points = [
                (found[row, f"{share}: retrain of {kind}"]["mean"], 100 * found[row, f"{share}: {accuracy}"]["mean"])
                for share in shares
            ]
            x, y = zip(*points, strict=True)
            colour = _CYCLE[at % len(_CYCLE)]
            axes.plot(
                x, y, color=colour, marker=_MARKERS[at % len(_MARKERS)], markerfacecolor=colour if filled else "none",
                linestyle="-" if filled else ":", label=f"{row}: {kind}",
            )  # fmt: skip
    _log_axis(axes)
    axes.set_xlabel("seconds of a retrain, log scale")
    axes.set_ylabel(f"accuracy, percent, with {', '.join(share.split()[0] for share in shares)} forgotten")


def _forget(axes: Axes, summary: dict[str, Any]) -> None:
    """Accuracy after a forget against its CPU seconds. Open: the model is not the one that never had the picture."""
    found = entries(summary)
    for at, row in enumerate(summary["rows"]):
        seconds, accuracy = found[row, "CPU seconds"], found[row, "accuracy after"]
        colour, exact = _CYCLE[at % len(_CYCLE)], max(found[row, "largest Δ margin"]["values"]) == 0
        axes.errorbar(
            seconds["mean"], 100 * accuracy["mean"], yerr=100 * (accuracy["spread"] or 0), color=colour, capsize=3,
            marker=_MARKERS[at % len(_MARKERS)], markerfacecolor=colour if exact else "none", linestyle="none", label=row,
        )  # fmt: skip
    _log_axis(axes)
    axes.set_xlabel("CPU seconds of a forget, log scale")
    axes.set_ylabel("accuracy after it, percent")
