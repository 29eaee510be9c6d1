"""Several runs side by side: a panel per number, a bar per run."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from taft_ray.evaluation.notation import value_of
from taft_ray.pages.figures.svg import COLOURS, as_svg, short_label

_PANELS = (
    ("accuracy", "accuracy, composed", "mean"),
    ("forget_seconds_median", "seconds per forget, median", "retrain"),
    ("work_seconds", "seconds of work", "cache"),
)


def sides(comparison: dict[str, Any], *, width: int) -> str | None:
    """None where no run has any of the numbers."""
    runs = comparison["runs"]
    panels = [one for one in _PANELS if any(run["numbers"][one[0]]["value"] is not None for run in runs)]
    if not panels:
        return None
    across = len(panels) if width > 500 else 1
    down = -(-len(panels) // across)

    def draw(figure: Figure) -> None:
        for place, (name, label, colour) in enumerate(panels, start=1):
            axes = figure.add_subplot(down, across, place)
            for y, run in enumerate(runs):
                number = run["numbers"][name]
                if number["value"] is None:
                    axes.text(0, y, " not measured", va="center", fontsize=10, color=COLOURS["quiet"])
                    continue
                margin = run["numbers"]["accuracy_margin"]["value"] if name == "accuracy" else None
                axes.barh(
                    y, number["value"], height=0.55, color=COLOURS[colour], ecolor=COLOURS["ink"],
                    xerr=None if margin is None else margin / 100,
                )  # fmt: skip
                axes.text(0, y - 0.32, value_of(number), va="bottom", fontsize=10.5)
            first = across == 1 or place == 1
            axes.set_yticks(range(len(runs)), [short_label(run["name"]) for run in runs] if first else [""] * len(runs))
            axes.set_ylim(len(runs) - 0.5, -0.7)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
            if name == "accuracy":
                axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g} %"))
            axes.grid(axis="x")
            axes.spines["left"].set_visible(False)
            axes.set_xlabel(label)

    height = (90 + 44 * len(runs)) * down
    return as_svg(draw, name="comparison", width=width, height=height)
