"""What does privacy cost? Accuracy of private heads on rows, private heads alone and private descent, by ε."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.evidence.drawing import BLUE, GREY, INK, ORANGE, PINK, svg
from benchmarks.evidence.results import Results
from benchmarks.evidence.systems import markdown, percent

NAME = "privacy"
EPSILON = ("1", "3", "8", "∞")
# file and title
PICTURED = (
    ("table3-Sign-Digits", "Sign-Digits, DeiT-Tiny"),
    ("table3-rows-Sign-Digits-DINOv2", "Sign-Digits, DINOv2-S"),
    ("table3-CIFAR-10", "CIFAR-10, DeiT-Tiny"),
    ("table3-digits", "digits, embedded model"),
)
DATA = (*PICTURED, ("table3-rows-CIFAR-10-DINOv2", "CIFAR-10, DINOv2-S"))


@dataclass(frozen=True, kw_only=True)
class Way:
    """A row of table3, and what the page calls it."""

    title: str
    row: str
    colour: str | None = None  # None: in the table alone
    marker: str = "o"


WAYS = (
    Way(title="rows of several blocks", row="dp-additive", colour=ORANGE),
    Way(title="rows, noisy sums", row="dp-additive, noisy sums"),
    Way(title="rows, owners of 5 pictures", row="dp-additive, owners of 5 pictures"),
    Way(title="rows, mean of 10 shards", row="dp-additive, mean of 10 shards", colour=PINK, marker="D"),
    Way(title="rows for small shards, mean of 10", row="dp-additive for small shards, mean of 10 shards"),
    Way(title="head alone, on centred rows", row="head on rows about their mean", colour=BLUE, marker="s"),
    Way(title="head alone, by descent", row="dp-gd, head", colour=GREY, marker="^"),
    Way(title="the whole block, by descent (the paper's)", row="dp-gd, full", colour=INK, marker="X"),
)


def table(results: Results) -> str:
    lines = [["private", *(title for _, title in DATA)]]
    for way in WAYS:
        cells = [" · ".join(percent(results.entry(file, way.row, one)) for one in EPSILON) for file, _ in DATA]
        lines.append([way.title, *(cell if cell.strip("– ·") else "–" for cell in cells)])
    return markdown(lines)


def commands(results: Results) -> str:
    return results.commands(*(file for file, _ in DATA))


def picture(results: Results) -> bytes:
    def draw(figure: Figure) -> None:
        panels = figure.subplots(2, 2)
        for axes, (file, title) in zip(panels.flat, PICTURED, strict=True):
            _panel(axes, results, file, title)
        handles, labels = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=12)

    return svg(draw, name=NAME, height=660)


def _panel(axes: Axes, results: Results, file: str, title: str) -> None:
    for way in WAYS:
        there = [(at, entry) for at, one in enumerate(EPSILON) if (entry := results.entry(file, way.row, one))]
        if way.colour is None or not there:
            continue
        axes.errorbar(
            [at for at, _ in there], [100 * entry["mean"] for _, entry in there],
            yerr=[100 * (entry["spread"] or 0) for _, entry in there], color=way.colour, marker=way.marker, capsize=2,
            label=way.title,
        )  # fmt: skip
    axes.set_xticks(range(len(EPSILON)), [*EPSILON[:-1], "no noise"])
    axes.set_ylim(15, 101)
    axes.grid(axis="y")
    axes.set_title(title, fontsize=12)
    axes.set_xlabel("ε")
    axes.set_ylabel("accuracy, percent")
