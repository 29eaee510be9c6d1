"""The trials of a sweep as a table, a page and its pictures.

summary: {"sweep", "run", "objective", "scheduler", "space", "seed", "held_out", "fitted_on", "best", "standard_error",
"as_good_as_best", "trials": [{"number", "settings", "status", "accuracy", "effort", "seconds", "curve", …}], "refused",
"forgotten_since"}. Guarantees: the same summary gives the same bytes.
"""

import csv
import io
from collections.abc import Mapping
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from taft_ray.evaluation.figures import COLOURS, NARROW, WIDE, as_svg
from taft_ray.evaluation.markup import Raw, code, document, esc, pairs, table

_MEASURES = ("status", "accuracy", "effort", "seconds")
_MOST_PANELS = 9
_PANEL = 170  # px high
_SCALES = ("learning_rate", "penalty", "kappa", "alpha", "epsilon", "joint_penalty")


def sweep_csv(summary: Mapping[str, Any]) -> str:
    """A row a trial: number, a column a setting (empty where it has no meaning), and what was measured."""
    settings = _settings(summary)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["number", *settings, *_MEASURES, "error"])
    for trial in summary["trials"]:
        values = [trial["settings"].get(name, "") for name in settings]
        writer.writerow([trial["number"], *values, *(trial.get(name, "") for name in (*_MEASURES, "error"))])
    return out.getvalue()


def sweep_page(summary: Mapping[str, Any]) -> str:
    """One HTML file: what was chosen, pictures, and every trial with the best first."""
    best = summary["best"]
    head = [
        f"<h1>Sweep {esc(summary['sweep'])}</h1>",
        f'<p class="quiet">{code(summary["run"])}</p>',
        *_warnings(summary),
        pairs(
            [
                ("Best settings", _said(best["settings"])),
                ("Its held-out accuracy", f"{100 * best['accuracy']:.2f} ± {100 * summary['standard_error']:.2f} %"),
                ("Finished trials within one standard error", summary["as_good_as_best"]),
                ("Objective", _OBJECTIVES[summary["objective"]]),
                ("Fitted on, held out", f"{summary['fitted_on']:,}, {summary['held_out']:,} samples"),
                ("Varied", "; ".join(summary["space"])),
                ("Early stopping", summary["scheduler"]),
            ]
        ),
    ]
    body = [*head, *_figures(summary), _trials(summary), _refused(summary)]
    return document(f"Sweep {summary['sweep']}", "\n".join(body))


_OBJECTIVES = {
    "composed": "the run's shards, composed: effort is the part of the shards that is in the model",
    "whole": "one model over all samples: effort is the part of adam's epochs",
}


def _warnings(summary: Mapping[str, Any]) -> list[str]:
    if not summary["forgotten_since"]:
        return []
    return [
        f'<div class="notes"><p>{summary["forgotten_since"]:,} samples were asked to be forgotten since these trials were '
        "measured: what is chosen here depends on them. Run the sweep again.</p></div>"
    ]


def _settings(summary: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for trial in summary["trials"] for name in trial["settings"]))


def _said(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_text(value)}" for name, value in settings.items())


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.3g}" if isinstance(value, float) else str(value)


def _trials(summary: Mapping[str, Any]) -> Raw:
    ranked = sorted(
        summary["trials"],
        key=lambda trial: (trial["status"] != "finished", -trial.get("accuracy", 0.0), trial["number"]),
    )
    settings = _settings(summary)
    rows = [
        [
            trial["number"],
            *(_text(trial["settings"][name]) if name in trial["settings"] else "" for name in settings),
            trial["status"],
            f"{100 * trial['accuracy']:.2f}" if "accuracy" in trial else trial.get("error", ""),
            f"{trial['effort']:.0f}" if "effort" in trial else "",
            f"{trial['seconds']:.2f}" if "seconds" in trial else "",
        ]
        for trial in ranked
    ]
    heads = ["trial", *settings, "status", "accuracy, %", "effort, %", "seconds"]
    return table("Trials, the best first", heads, rows, numeric=(0, *range(len(heads) - 3, len(heads))))


def _refused(summary: Mapping[str, Any]) -> str:
    if not summary["refused"]:
        return ""
    rows = [[_said(entry["settings"]), entry["reason"]] for entry in summary["refused"]]
    return table("Refused: no run can have these settings", ["settings", "reason"], rows, prose=(1,))


def _figures(summary: Mapping[str, Any]) -> list[str]:
    drawn = [trial for trial in summary["trials"] if trial.get("curve")]
    if not drawn:
        return []
    panels = _panels(drawn)
    out = []
    for what, draw in (("curves", _draw_curves), ("settings", _draw_settings)):
        sized = []
        for width in (WIDE, NARROW):
            height = 300 if what == "curves" else _PANEL * -(-len(panels) // _columns(width, panels))
            figure = partial(draw, drawn=drawn, best=summary["best"]["number"], panels=panels, width=width)
            sized.append(as_svg(figure, name=what, width=width, height=height))
        out.append(
            f'<figure><div class="wide">{sized[0]}</div><div class="narrow">{sized[1]}</div>'
            f"<figcaption>{esc(_CAPTIONS[what])}</figcaption></figure>"
        )
    return out


def _panels(drawn: list[Mapping[str, Any]]) -> list[str]:
    """The settings that differ between trials; one at least."""
    names = list(dict.fromkeys(name for trial in drawn for name in trial["settings"]))
    varied = [name for name in names if len({str(trial["settings"].get(name)) for trial in drawn}) > 1]
    return (varied or names)[:_MOST_PANELS]


def _columns(width: int, panels: list[str]) -> int:
    return min(3 if width > 500 else 2, len(panels))


_CAPTIONS = {
    "curves": "Held-out accuracy by effort; green is ridge (or a single solver), blue adam, orange the best. A line that ends early was stopped.",
    "settings": "Held-out accuracy by setting; hollow marks are trials that were stopped early.",
}


def _colour(trial: Mapping[str, Any]) -> str:
    return COLOURS["mean"] if trial["settings"].get("solver") == "adam" else COLOURS["gram"]


def _draw_curves(figure: Figure, *, drawn: list[Mapping[str, Any]], best: int, panels: list[str], width: int) -> None:
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
        names = sorted({_text(value) for value in values})
        places = values if name in _SCALES else [names.index(_text(value)) for value in values]
        for trial, at in zip(with_it, places, strict=True):
            colour = COLOURS["monolith"] if trial["number"] == best else _colour(trial)
            inside = colour if trial["status"] == "finished" else "none"
            axes.plot(at, trial["accuracy"], "o", markersize=5, color=colour, markerfacecolor=inside)
        if name in _SCALES:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1,) if max(values) / min(values) > 20 else (1, 2, 5)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        else:
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_xlabel(name.replace("_", " "))
        _percent(axes)


def _percent(axes: Any) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
    axes.grid(axis="y")
