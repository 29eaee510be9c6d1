"""The picture of a benchmark's table: a bar a number, with its target across it, as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.tables import Bar

# Okabe and Ito's, safe for colour-blind readers; whether a target is met is said in words too
INK, QUIET, MET, MISSED, PAPER = "#1b1f24", "#999999", "#0072b2", "#d55e00", "#fefefe"
_INCH = 72


def picture(bars: Sequence[Bar], *, axis: str, log: bool, name: str) -> bytes:
    """The same bars give the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 11.0})
        figure = Figure(figsize=(760 / _INCH, (70 + 30 * len(bars)) / _INCH), dpi=_INCH, layout="constrained")
        figure.set_facecolor(PAPER)
        axes = figure.add_subplot()
        axes.set_facecolor(PAPER)
        for at, bar in enumerate(bars):
            colour = {True: MET, False: MISSED, None: QUIET}[bar.met]
            axes.barh(at, bar.value, height=0.6, color=colour)
            said = {True: " (met)", False: " (missed)", None: ""}[bar.met]
            axes.annotate(
                f"{bar.value:.3g}{said}", (bar.value, at), xytext=(5, 0), textcoords="offset points", va="center", color=INK
            )  # fmt: skip
            if bar.target is not None:
                axes.plot([bar.target] * 2, [at - 0.42, at + 0.42], color=INK, linewidth=2)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.set_xlim(left=1)
        axes.margins(x=0.18)
        axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
        axes.invert_yaxis()
        axes.set_xlabel(f"{axis}; a dark line is the target")
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(left=False)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
