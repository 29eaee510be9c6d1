"""Pictures of a sweep: accuracy by effort, and by each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import log
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from taft_ray.pages.figures.svg import COLOURS, as_svg

_MOST_PANELS = 9
_PANEL = 170  # px high
_ROOM = 0.3  # of an axis: between two labels
_SCALES = ("learning_rate", "penalty", "kappa", "alpha", "epsilon", "joint_penalty")


def curves(trials: Sequence[Mapping[str, Any]], best: int, *, width: int) -> str | None:
    """Held-out accuracy by effort; None where no trial has a curve."""
    drawn = [trial for trial in trials if trial.get("curve")]
    return (
        as_svg(partial(_draw_curves, drawn=drawn, best=best), name="curves", width=width, height=300) if drawn else None
    )


def settings(trials: Sequence[Mapping[str, Any]], best: int, *, width: int) -> str | None:
    """Held-out accuracy by setting, a panel per setting that was varied; None where no trial has a curve."""
    drawn = [trial for trial in trials if trial.get("curve")]
    if not drawn:
        return None
    panels = _panels(drawn)
    height = _PANEL * -(-len(panels) // _columns(width, panels))
    draw = partial(_draw_settings, drawn=drawn, best=best, panels=panels, width=width)
    return as_svg(draw, name="settings", width=width, height=height)


def said(value: Any) -> str:
    """A setting's value as text."""
    return str(value).lower() if isinstance(value, bool) else f"{value:.3g}" if isinstance(value, float) else str(value)


def _panels(drawn: list[Mapping[str, Any]]) -> list[str]:
    """The settings that differ between trials; one at least."""
    names = list(dict.fromkeys(name for trial in drawn for name in trial["settings"]))
    varied = [name for name in names if len({str(trial["settings"].get(name)) for trial in drawn}) > 1]
    return (varied or names)[:_MOST_PANELS]


def _columns(width: int, panels: list[str]) -> int:
    return min(3 if width > 500 else 2, len(panels))


def _colour(trial: Mapping[str, Any]) -> str:
    return COLOURS["mean"] if trial["settings"].get("solver") == "adam" else COLOURS["gram"]


def _draw_curves(figure: Figure, *, drawn: list[Mapping[str, Any]], best: int) -> None:
    axes = figure.add_subplot()
    for trial in drawn:
        efforts, accuracies = zip(*trial["curve"], strict=True)
        is_best = trial["number"] == best
        axes.plot(
            efforts, accuracies, color=COLOURS["monolith"] if is_best else _colour(trial), linewidth=2.4 if is_best else 1.2,
            marker="o", markersize=5 if len(efforts) == 1 else 2.5, zorder=3 if is_best else 2,
        )  # fmt: skip
    axes.set_xlabel("effort, %")
    _percent(axes)


def _draw_settings(figure: Figure, *, drawn: list[Mapping[str, Any]], best: int, panels: list[str], width: int) -> None:
    columns = _columns(width, panels)
    for place, name in enumerate(panels, start=1):
        axes = figure.add_subplot(-(-len(panels) // columns), columns, place)
        with_it = [trial for trial in drawn if name in trial["settings"]]
        values = [trial["settings"][name] for trial in with_it]
        names = sorted({said(value) for value in values})
        places = values if name in _SCALES else [names.index(said(value)) for value in values]
        for trial, at in zip(with_it, places, strict=True):
            colour = COLOURS["monolith"] if trial["number"] == best else _colour(trial)
            inside = colour if trial["status"] == "finished" else "none"
            axes.plot(at, trial["accuracy"], "o", markersize=5, color=colour, markerfacecolor=inside)
        if name in _SCALES:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(FixedLocator(_apart(values)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        else:
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_xlabel(name.replace("_", " "))
        _percent(axes)


def _apart(values: Sequence[float]) -> list[float]:
    """The least and the largest value, and those between whose labels have room on a log scale."""
    least, most = min(values), max(values)
    if least == most:
        return [least]
    place = {value: log(value / least) / log(most / least) for value in sorted(set(values))}
    kept = [least]
    for value, at in place.items():
        if at - place[kept[-1]] >= _ROOM and 1 - at >= _ROOM:
            kept.append(value)
    return [*kept, most]


def _percent(axes: Any) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
    axes.grid(axis="y")
