"""The three pictures of a report, as inline SVG.

Guarantees: the same report gives the same bytes; every colour is a CSS variable of the page (so a figure follows light,
dark and print) with its light value as fallback; no script, no URL, no font file; nothing of the machine's matplotlib
settings is used.
"""

import io
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from taft_ray.evaluation.measured import first_fits, is_measure, lookup
from taft_ray.evaluation.notation import duration, times

# Okabe and Ito's colours, safe for colour-blind readers; the page holds a dark value for each name.
COLOURS = {
    "ink": "#1b1f24",
    "quiet": "#6a727c",
    "rule": "#d9dde2",
    "paper": "#fefefe",
    "mean": "#0072b2",
    "gram": "#009e73",
    "monolith": "#d55e00",
    "fit": "#0173b3",
    "retrain": "#019f74",
    "dropped": "#a9cfe6",
    "cache": "#8d959f",
}
COMPOSED = ("mean", "gram", "joint")  # a run has the mean and at most one of the others
WIDE, NARROW = 720, 340  # px: the page shows the narrow drawing on a phone, so that no text is scaled down

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.image_inline": True,
    "text.parse_math": False,  # a lane may be called "$x"
    "font.size": 12.0,
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["quiet"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.8,
    "hatch.linewidth": 1.2,
    "legend.frameon": False,
    "legend.labelcolor": COLOURS["ink"],
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["quiet"],
    "ytick.color": COLOURS["quiet"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


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
        for (mode, points), marker in zip(lines.items(), "os", strict=False):
            x, y = zip(*points, strict=True)
            # Bare markers beyond 40 points would merge into a band.
            axes.plot(
                x,
                y,
                color=COLOURS["mean" if mode == "mean" else "gram"],
                marker=marker if len(points) <= 40 else None,
                markersize=6.5,
                linewidth=2.2,
                linestyle="-" if mode == "mean" else (0, (6, 1.5)),
                label=f"composed by {mode}",
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


def timeline(report: dict[str, Any], *, width: int) -> str | None:
    """Who worked when: a bar for each fit on its lane; the prefix pass and the monolith on rows of their own."""
    bars = timeline_bars(report)
    if not bars:
        return None
    place, cuts, busy = _cut_idle([(start, stop) for _, _, start, stop, _ in bars])
    rows = list(dict.fromkeys(row for row, *_ in bars))
    pitch = max(6.0, min(30.0, 420 / len(rows)))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        rank = {row: y for y, row in enumerate(rows)}
        corners, fills, edges = [], [], []
        for row, kind, start, stop, text in bars:
            y, left, right = rank[row], place(start), place(stop)
            span = (right - left) / busy * width
            corners.append([(left, y - 0.4), (left, y + 0.4), (right, y + 0.4), (right, y - 0.4)])
            fills.append(COLOURS[kind])
            # An edge in the paper's colour parts the bars, and would swallow those of a pixel or two.
            edges.append(COLOURS["paper" if span > 3 else kind])
            if pitch >= 14 and span * 0.8 > 8 * len(text) + 4:
                ink = COLOURS["ink" if kind == "dropped" else "paper"]
                axes.text((left + right) / 2, y, text, color=ink, ha="center", va="center", fontsize=10.5)
        # all in one collection: a thousand bars one by one take as long as the rest of the page
        axes.add_collection(PolyCollection(corners, facecolors=fills, edgecolors=edges, linewidth=0.6))
        for position, gap in cuts:
            axes.axvline(position, color=COLOURS["quiet"], linewidth=1.2, linestyle=(0, (3, 3)))
            axes.annotate(
                f"{duration(gap)} idle",
                (position, -0.55),
                ha="center",
                va="bottom",
                fontsize=10,
                color=COLOURS["quiet"],
                annotation_clip=False,
            )
        step = max(1, -(-len(rows) * 14 // 420))
        axes.set_yticks(range(0, len(rows), step), [short_label(row) for row in rows[::step]])
        axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_xlim(0, busy)
        # Beyond a cut the axis is no longer the time since the start: no numbers there.
        end = cuts[0][0] if cuts else busy
        ticks = MaxNLocator(nbins=8 if width > 500 else 4).tick_values(0, end)
        axes.set_xticks([tick for tick in ticks if 0 <= tick <= end])
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("seconds since the first start" + (", idle gaps left out" if cuts else ""))
        names = {"fit": "shard fit", "retrain": "retrain", "dropped": "fit, since dropped", "cache": "prefix pass"}
        names["monolith"] = "monolith"
        kinds = [kind for kind in names if any(bar[1] == kind for bar in bars)]
        figure.legend(
            handles=[Patch(facecolor=COLOURS[kind], label=names[kind]) for kind in kinds],
            loc="outside upper left",
            ncols=len(kinds) if width > 500 else 2,
            handlelength=1.1,
            columnspacing=1.4,
        )

    return as_svg(draw, name="timeline", width=width, height=110 + pitch * len(rows) + (20 if cuts else 0))


def timeline_bars(report: dict[str, Any]) -> list[tuple[str, str, float, float, str]]:
    """(row, kind, started, ended, text) of everything whose start and end were measured, rows in drawing order."""
    measurements = report["measurements"]
    bars: list[tuple[str, str, float, float, str]] = []

    def add(row: str, kind: str, entry: Any, text: str) -> None:
        start, stop = lookup(entry, "started"), lookup(entry, "ended")
        if is_measure(start) and is_measure(stop) and stop >= start:
            bars.append((row, kind, start, stop, text))

    add("prefix", "cache", measurements.get("cache"), "")
    first = set(first_fits(measurements))
    trained = lookup(measurements, "training.ended")
    fits = []
    for index, entry in enumerate(measurements["shards"]):
        again = index not in first or (is_measure(trained) and (lookup(entry, "started") or 0) >= trained)
        kind = "dropped" if lookup(entry, "state") == "dropped" else "retrain" if again else "fit"
        lane = lookup(entry, "lane")
        fits.append((str(lane) if lane is not None else "no lane", kind, entry, str(lookup(entry, "shard"))))
    for lane, kind, entry, text in sorted(fits, key=lambda fit: (_natural(fit[0]), lookup(fit[2], "started") or 0)):
        add(lane, kind, entry, text)
    add("monolith", "monolith", measurements.get("monolith"), "")
    return bars


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


def _cut_idle(
    spans: Sequence[tuple[float, float]],
) -> tuple[Callable[[float], float], list[tuple[float, float]], float]:
    """A time axis without long idle gaps (a forget may come days after the training).

    Returns the place of a time on the axis, the cuts as (place, seconds left out), and the axis' length.
    """
    worked: list[list[float]] = []
    for start, stop in sorted(spans):
        if worked and start <= worked[-1][1]:
            worked[-1][1] = max(worked[-1][1], stop)
        else:
            worked.append([start, stop])
    busy = sum(stop - start for start, stop in worked)
    kept = 0.04 * busy
    edges: list[tuple[float, float]] = []  # (time from which, shift to the left)
    cuts: list[tuple[float, float]] = []
    shift = worked[0][0]
    for (_, before), (after, _) in pairwise(worked):
        gap = after - before
        if gap > 0.3 * busy:
            cuts.append((before - shift + kept / 2, gap))
            shift += gap - kept
            edges.append((after, shift))

    def place(time: float) -> float:
        return time - max((moved for since, moved in edges if time >= since), default=worked[0][0])

    return place, cuts, place(worked[-1][1]) or 1.0


def as_svg(draw: Callable[[Figure], None], *, name: str, width: int, height: float) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the reader's matplotlibrc must not change the bytes
        # A salt a drawing: ids must differ between the drawings of one page.
        matplotlib.rcParams.update(SETTINGS)
        matplotlib.rcParams["svg.hashsalt"] = f"taft_ray/{name}/{width}"
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _inline(buffer.getvalue())


def _inline(svg: str) -> str:
    """Matplotlib's document as an element of a page: no prologue, no namespaces, no fixed size, colours by name."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    svg = f'<svg {box.group(0) if box else ""} aria-hidden="true" focusable="false">{rest}'
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every drawing, and nothing refers to them
    svg = svg.replace("xlink:href", "href")
    for colour, value in COLOURS.items():
        svg = re.sub(rf"(?<=[ :\"]){value}\b", f"var(--{colour}, {value})", svg)
    return svg.strip()


def short_label(name: str) -> str:
    """A row's name as far as the figure's font surely has it; the table beside it has it in full."""
    name = name.encode("ascii", "replace").decode()
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return name if len(name) <= 12 else f"{name[:11]}~"


def _natural(name: str) -> list[tuple[int, int, str]]:
    """lane-2 before lane-10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]
