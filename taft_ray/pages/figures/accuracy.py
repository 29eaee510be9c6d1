"""Accuracy against the number of shards composed."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from taft_ray.evaluation.measured import is_measure, lookup
from taft_ray.pages.figures.svg import COLOURS, as_svg

COMPOSED = (
    "mean",
    "gram",
    "joint",
    "additive",
)  # a run has the mean, at most one of the next two, and perhaps the last
_DASHED = (0, (6, 1.5))
_LOOKS = {"mean": ("mean", "o", "-"), "additive": ("additive", "D", _DASHED)}  # colour, marker, line
_OTHER = ("gram", "s", _DASHED)


def accuracy_by_shards(report: dict[str, Any], *, width: int) -> str | None:
    """Accuracy of the first m shards composed, for each way to compose, with the monolith as a level line."""
    rows = accuracy_rows(report)
    lines = {mode: [(row["shards"], row[mode]) for row in rows if row[mode] is not None] for mode in COMPOSED}
    lines = {mode: points for mode, points in lines.items() if points}
    if not lines:
        return None
    level = lookup(report["measurements"], "monolith.accuracy")

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for mode, points in lines.items():
            colour, marker, line = _LOOKS.get(mode, _OTHER)
            x, y = zip(*points, strict=True)
            # Bare markers beyond 40 points would merge into a band.
            axes.plot(
                x,
                y,
                color=COLOURS[colour],
                marker=marker if len(points) <= 40 else None,
                markersize=6.5,
                linewidth=2.2,
                linestyle=line,
                label=mode if len(lines) > 1 else "composed",
                clip_on=False,
            )
        if level is not None:
            axes.axhline(level, color=COLOURS["monolith"], linewidth=2, linestyle=(0, (2, 2)), label="monolith")
        most = max(x for points in lines.values() for x, _ in points)
        least = min(x for points in lines.values() for x, _ in points)
        if least > 0 and most / least > 50:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if most / least < 2000 else (1,)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8 if width > 500 else 5, integer=True))
        if most == least:
            axes.set_xlim(most - 1, most + 1)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("shards composed" + (", log scale" if axes.get_xscale() == "log" else ""))
        axes.margins(x=0.03, y=0.12)
        figure.legend(loc="outside upper left", ncols=3 if width > 500 else 2, handlelength=2.6, columnspacing=1.4)

    return as_svg(draw, name="accuracy", width=width, height=320 if width > 500 else 280)


def accuracy_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The measured points of the accuracy figure, by number of shards."""
    rows = lookup(report["measurements"], "accuracy_by_shards") or []
    kept = [row for row in rows if isinstance(row, dict) and is_measure(row.get("shards"))]
    kept.sort(key=lambda row: row["shards"])
    return [
        {"shards": row["shards"]} | {m: row[m] if is_measure(row.get(m)) else None for m in COMPOSED} for row in kept
    ]
