"""Pictures of an evaluation by class: the confusion matrix, and accuracy against confidence."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MultipleLocator

from taft_ray.evaluation.measured import lookup
from taft_ray.pages.figures.svg import COLOURS, as_svg, short_label

MOST_DRAWN = 40  # classes of a matrix that can be told apart
_WITH_NUMBERS = 12  # classes of one whose cells have room for a number
_FAINTEST = 0.06  # of a cell with a single picture


def confusion(report: dict[str, Any], *, width: int) -> str | None:
    """The confusion matrix, each row shaded by its share; None where there is none, or it is too large to be drawn."""
    matrix = lookup(report["measurements"], "evaluation.confusion")
    labels = [str(one["label"]) for one in lookup(report["measurements"], "evaluation.per_class") or ()]
    if not matrix or len(matrix) != len(labels) or len(matrix) > MOST_DRAWN:
        return None
    count = len(matrix)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row, line in enumerate(matrix):
            of = max(1, sum(line))
            for column, n in enumerate(line):
                if n:
                    colour = COLOURS["mean" if row == column else "monolith"]
                    shade = _FAINTEST + (1 - _FAINTEST) * n / of
                    axes.add_patch(
                        Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, alpha=shade, linewidth=0)
                    )
                if n and count <= _WITH_NUMBERS and width > 500:
                    axes.text(column, row, f"{n:,}", ha="center", va="center", color=COLOURS["ink"], fontsize=11)
        axes.set_xlim(-0.5, count - 0.5)
        axes.set_ylim(count - 0.5, -0.5)
        size = 12 if count <= _WITH_NUMBERS else 9 if count <= 25 else 7
        names = [short_label(name) for name in labels]
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true class")
        axes.set_aspect("equal")

    return as_svg(draw, name="confusion", width=width, height=min(width, 620))


def reliability(report: dict[str, Any], *, width: int) -> str | None:
    """Accuracy against confidence, a point per bin; None where nothing was measured."""
    bins = lookup(report["measurements"], "evaluation.calibration") or []
    if not bins:
        return None
    most = max(one["n"] for one in bins)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot(
            [0, 1], [0, 1], color=COLOURS["quiet"], linewidth=1.2, linestyle=(0, (2, 2)), label="as sure as right"
        )
        x, y = ([one[name] for one in bins] for name in ("confidence", "accuracy"))
        axes.plot(x, y, color=COLOURS["mean"], linewidth=1.2)
        axes.scatter(
            x, y, s=[20 + 160 * one["n"] / most for one in bins], color=COLOURS["mean"], label="pictures", zorder=3
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MultipleLocator(0.2 if width > 500 else 0.5))
            axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.05)
        axes.tick_params(axis="x", pad=10)  # two labels of 0 % meet in the corner
        axes.grid()
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        figure.legend(loc="outside upper left", ncols=2, handlelength=2.6, columnspacing=1.4)

    return as_svg(draw, name="reliability", width=width, height=320 if width > 500 else 280)
