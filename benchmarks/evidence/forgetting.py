"""What does a forget cost? CPU seconds of each way, how far its model is from a model without the picture, and what drops cost."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.evidence.drawing import BLUE, GREEN, INK, ORANGE, plain_log, rows_of, svg
from benchmarks.evidence.results import Entry, Results
from benchmarks.evidence.systems import markdown, percent, system
from taft_ray.evaluation.paper_table import number

NAME = "forgetting"
# label, title, colour and marker
DATA = (
    ("Sign-Digits", "Sign-Digits", ORANGE, "o"),
    ("CIFAR-10", "CIFAR-10", BLUE, "s"),
    ("digits", "digits, embedded model", GREEN, "^"),
)
WAYS = (
    ("additive: subtract", "additive: subtract"),
    ("head alone, ridge from exact sums: subtract", "head alone: subtract"),
    ("kNN, k = 20: remove the row", "kNN: remove the row"),
    ("Head2Toe-like: select anew", "Head2Toe-like: select anew"),
    ("ridge, Gram: drop", "ridge, Gram: drop the shard"),
    ("ridge, Gram: resolve", "ridge, Gram: resolve"),
    ("ridge, Gram: retrain", "ridge, Gram: retrain"),
    ("ridge, joint Gram: retrain", "ridge, joint Gram: retrain"),
    ("TAFT: Adam, mean: retrain", "the paper's recipe: retrain"),
    ("SISA (NLFT, mean of outputs): retrain", "SISA: retrain"),
    ("Model Soup (NLFT): retrain", "Model Soup: retrain"),
    ("RegMean++ (NLFT): retrain", "RegMean++: retrain"),
)
_LINE = 2.6  # points of accuracy that a name takes
KEPT = ("50", "45", "40", "35", "30", "25")
DROPS = ("ridge, joint Gram", "ridge, Gram", "SISA", "the paper's recipe", "Model Soup")


def table(results: Results) -> str:
    """A way per line: the largest distance from the same system without the picture, and seconds by data set."""
    lines = [["system: way", "largest distance", *(f"{title}: accuracy after, CPU seconds" for _, title, *_ in DATA)]]
    for way, title in WAYS:
        distances = [_of(results, label, way, "largest Δ margin") for label, *_ in DATA]
        most = max(max(entry["values"]) for entry in distances)
        cells = [
            f"{percent(_of(results, label, way, 'accuracy after'))}, {short(_of(results, label, way, 'CPU seconds'))}"
            for label, *_ in DATA
        ]
        lines.append([title, f"{most:.0e}" if most else "0", *cells])
    return markdown(lines)


def commands(results: Results) -> str:
    return results.commands(*(f"forgetting-{label}" for label, *_ in DATA), "fig1b-Sign-Digits", "fig1c-Sign-Digits")


def picture(results: Results) -> bytes:
    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, height_ratios=(1.35, 1))
        _seconds(above, results)
        _drops(below, results)

    return svg(draw, name=NAME, height=760)


def short(seconds: Entry) -> str:
    mean = seconds["mean"]
    return f"{1e3 * mean:.2g} ms" if mean < 0.1 else f"{mean:.2g} s" if mean < 10 else f"{mean:.0f} s"


def _of(results: Results, label: str, way: str, column: str) -> Entry:
    entry = results.entry(f"forgetting-{label}", way, column)
    if entry is None:
        raise KeyError(f"forgetting-{label} has no {way!r}, {column!r}")
    return entry


def _seconds(axes: Axes, results: Results) -> None:
    for place, (label, title, colour, marker) in enumerate(DATA):
        seconds = [_of(results, label, way, "CPU seconds")["mean"] for way, _ in WAYS]
        at = [row + 0.18 * (place - 1) for row in range(len(WAYS))]
        axes.plot(seconds, at, color=colour, marker=marker, linestyle="none", markersize=7, label=title)
    rows_of(axes, [title for _, title in WAYS])
    plain_log(axes, [0.0001, 0.001, 0.01, 0.1, 1, 10])
    axes.set_xlim(0.00008, 60)
    axes.set_xlabel("CPU seconds until one picture has left 50 shards, log scale")
    model = results.entry("fig1c-Sign-Digits", "ridge, Gram", "0% forgotten: retrain of one model")
    if model is not None:
        axes.axvline(model["mean"], color=INK, linewidth=1, linestyle=":")
        axes.annotate(
            f"one model anew: {number({**model, 'spread': None})} (wall clock)", (model["mean"], 2), xytext=(-6, 0),
            textcoords="offset points", ha="right", va="center", color=INK, fontsize=11,
        )  # fmt: skip
    axes.legend(loc="lower left", fontsize=11)


def _drops(axes: Axes, results: Results) -> None:
    """Names stand at the lines' ends, from the best system down."""
    last = 100.0
    for title in DROPS:
        one = system(title)
        found = [results.entry("fig1b-Sign-Digits", one.row, kept) for kept in KEPT]
        there = [(int(kept), entry) for kept, entry in zip(KEPT, found, strict=True) if entry is not None]
        axes.errorbar(
            [x for x, _ in there], [100 * entry["mean"] for _, entry in there],
            yerr=[100 * (entry["spread"] or 0) for _, entry in there], color=one.colour, marker=one.marker, capsize=2,
        )  # fmt: skip
        last = min(100 * there[-1][1]["mean"], last - _LINE)  # a name has its own line
        axes.annotate(one.title, (25, last), xytext=(10, 0), textcoords="offset points", va="center", color=INK, fontsize=11)  # fmt: skip
    axes.set_xticks([int(kept) for kept in KEPT])
    axes.set_xlim(51, 18)
    axes.grid(axis="y")
    axes.set_xlabel("shards left of 50, Sign-Digits")
    axes.set_ylabel("accuracy, percent")
