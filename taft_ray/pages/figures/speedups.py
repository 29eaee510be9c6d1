"""How many times faster than the monolith: training, and every forget."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from taft_ray.evaluation.notation import times
from taft_ray.pages.figures.svg import COLOURS, as_svg


def speedups(report: dict[str, Any], *, width: int) -> str | None:
    """How many times faster than the monolith: wall clock, critical path (hatched, as it is no wall clock), forgets."""
    derived = report["derived"]
    bars = [
        ("train all shards, wall clock", "mean", "", "speedup_wall"),
        ("slowest shard: critical path, not wall clock", "mean", "///", "speedup_critical_path"),
        ("retrain after forget, median", "gram", "", "speedup_retrain_median"),
        ("forget end to end, median", "gram", "", "speedup_end_to_end_median"),
    ]
    bars = [(*bar, derived[bar[3]]["value"]) for bar in bars if derived[bar[3]]["value"]]
    if not bars:
        return None
    dots = {
        f"{name}_median": [v["value"] for key, v in derived.items() if key.endswith(f"].{name}") and v["value"]]
        for name in ("speedup_retrain", "speedup_end_to_end")
    }
    values = [1.0, *(bar[4] for bar in bars), *(dot for key in dots for dot in dots[key])]
    log = max(values) / min(values) > 25

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        start = 1 if log else 0  # a bar's length on a log scale means something only from 1× on
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=7 if width > 500 else 4))
        if log:
            axes.set_xlim(min(values) / 1.3, max(values) * (max(values) / min(values)) ** 0.2)
        else:
            axes.set_xlim(0, max(values) * 1.2)
        for y, (text, colour, hatch, name, value) in enumerate(bars):
            axes.barh(
                y,
                value - start,
                left=start,
                height=0.42,
                hatch=hatch,
                linewidth=1.5,
                edgecolor=COLOURS[colour],
                facecolor="none" if hatch else COLOURS[colour],
            )
            own = dots.get(name, [])
            if len(own) > 1:
                axes.plot(
                    own,
                    [y + 0.32] * len(own),
                    linestyle="",
                    marker="o",
                    markersize=4.5,
                    color=COLOURS["ink"],
                    markeredgewidth=0,
                    alpha=0.75,
                )
            axes.annotate(
                f"{times(value)}×",
                (max(value, start), y),
                (6, 0),
                textcoords="offset points",
                va="center",
                weight="bold",
                bbox={"facecolor": COLOURS["paper"], "edgecolor": "none", "pad": 1},
            )
            axes.text(
                0,
                y - 0.29,
                text,
                transform=axes.get_yaxis_transform(),
                va="bottom",
                fontsize=11.5,
                bbox={"facecolor": COLOURS["paper"], "edgecolor": "none", "pad": 1},
            )
        axes.axvline(1, color=COLOURS["monolith"], linewidth=2, linestyle=(0, (2, 2)))
        axes.set_ylim(len(bars) - 0.45, -0.75)
        axes.set_yticks([])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        scale = ", log scale" if log else ""
        axes.set_xlabel(f"times the speed of the monolith (dashed){scale}" if width > 500 else f"× the monolith{scale}")

    return as_svg(draw, name="speedups", width=width, height=64 + 62 * len(bars))
