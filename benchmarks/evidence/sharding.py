"""Does sharding cost accuracy? Accuracy of every system at 1, 10, 50 and 500 shards, on four data sets."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.evidence.drawing import plain_log, svg
from benchmarks.evidence.results import DATA, Results
from benchmarks.evidence.systems import ENDS, SHARDS, SYSTEMS, OverShards, markdown, system

NAME = "sharding"
DRAWN = ("additive", "ridge, joint Gram", "ridge, Gram", "RegMean++", "SISA", "Model Soup", "the paper's recipe")


def measured(results: Results) -> list[OverShards]:
    """By data set; ValueError where a system that knows no shards has two models."""
    found = [OverShards(results, data) for data in DATA]
    for one in found:
        list(one.check_digests())
    return found


def table(results: Results) -> str:
    shown = measured(results)
    lines = [["system", *(one.data.title for one in shown)]]
    for one in SYSTEMS:
        title = f"**{one.title}**" if one.title == "additive" else one.title
        lines.append([title, *(over.cell(one) for over in shown)])
    return markdown(lines)


def commands(results: Results) -> str:
    names = [f"{name}-{one.label}{end}" for one in DATA for name in ("baselines", "table2") for end in ENDS]
    return results.commands(*names, *(f"views-{one.label}" for one in DATA))


def picture(results: Results) -> bytes:
    shown = measured(results)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2, 2)
        for axes, one in zip(panels.flat, shown, strict=True):
            _panel(axes, one)
        handles, labels = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=12)

    return svg(draw, name=NAME, height=640)


def _panel(axes: Axes, measured: OverShards) -> None:
    for title in DRAWN:
        one = system(title)
        there = [(int(shards), entry) for shards in SHARDS if (entry := measured.at(one, shards)) is not None]
        axes.errorbar(
            [x for x, _ in there], [100 * entry["mean"] for _, entry in there],
            yerr=[100 * (entry["spread"] or 0) for _, entry in there], color=one.colour, marker=one.marker,
            linestyle="-" if one.parted else "--", capsize=2, label=one.title,
        )  # fmt: skip
    plain_log(axes, [int(shards) for shards in SHARDS])
    axes.set_ylim(0, 103)
    axes.grid(axis="y")
    axes.set_title(measured.data.title, fontsize=12)
    axes.set_xlabel("shards")
    axes.set_ylabel("accuracy, percent")
