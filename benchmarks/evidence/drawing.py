"""One style for the four pictures of RESULTS.md: as SVG, 720 px wide, the same bytes for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Callable

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from taft_ray.pages.figures.svg import COLOURS, SETTINGS

INK, QUIET = COLOURS["ink"], COLOURS["quiet"]
# Okabe and Ito's colours, safe for colour-blind readers; every one comes with a marker of its own
ORANGE, BLUE, GREEN, PINK, SKY, AMBER, GREY = (
    "#d55e00",
    "#0072b2",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#8a8a8a",
)
_INCH = 72


def svg(draw: Callable[[Figure], None], *, name: str, width: int = 720, height: int) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        matplotlib.rcParams.update({"figure.facecolor": COLOURS["paper"], "svg.hashsalt": f"taft_ray/evidence/{name}"})
        figure = Figure(figsize=(width / _INCH, height / _INCH), dpi=_INCH, layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def plain_log(axes: Axes, ticks: list[float]) -> None:
    """A logarithmic x axis with these numbers on it, written out."""
    axes.set_xscale("log")
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def rows_of(axes: Axes, names: list[str]) -> None:
    """A row per name, from the top down, with a thin line along each."""
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
