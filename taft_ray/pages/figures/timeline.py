"""The timeline: which lane worked when, with long idle gaps left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from taft_ray.evaluation.measured import first_fits, is_measure, lookup
from taft_ray.evaluation.notation import duration
from taft_ray.pages.figures.svg import COLOURS, as_svg, short_label

_LABEL = 90  # px: the width of "0.36 s idle", and a little more


def timeline(report: dict[str, Any], *, width: int) -> str | None:
    """A bar for each fit on its lane; the prefix pass and the monolith on rows of their own."""
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
        labelled = -width
        for position, gap in cuts:
            axes.axvline(position, color=COLOURS["quiet"], linewidth=1.2, linestyle=(0, (3, 3)))
            if position / busy * width - labelled < _LABEL:
                continue
            labelled = position / busy * width
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


def _natural(name: str) -> list[tuple[int, int, str]]:
    """lane-2 before lane-10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]
