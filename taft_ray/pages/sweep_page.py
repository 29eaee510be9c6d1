"""The page of a sweep: what was chosen, pictures, and every trial.

summary: {"sweep", "run", "objective", "scheduler", "space", "seed", "held_out", "fitted_on", "best", "standard_error",
"as_good_as_best", "trials": [{"number", "settings", "status", "accuracy", "effort", "seconds", "curve", …}], "refused",
"forgotten_since"}. Guarantees: the same summary gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from markupsafe import Markup

from taft_ray.evaluation.sweep_table import settings_of
from taft_ray.pages.document import page
from taft_ray.pages.figures import both
from taft_ray.pages.figures.sweep import curves, said, settings
from taft_ray.pages.shown import Shown, Table, marked, table

_OBJECTIVES = {
    "composed": "the deltas of the run's shards, composed: effort is the part of the shards that is in the model",
    "whole": "one model over all samples: effort is the part of adam's epochs",
}


def sweep_page(summary: Mapping[str, Any]) -> str:
    """One HTML file: what was chosen, pictures, and every trial with the best first."""
    trials, best = summary["trials"], summary["best"]
    place = next((i for i, trial in enumerate(trials) if trial["number"] == best["number"]), None)
    same, varied = _parted(summary)
    return page(
        "sweep.html",
        summary=dict(summary),
        s=Shown(dict(summary)),
        objective=_OBJECTIVES[summary["objective"]],
        best=_settings(best["settings"], "/best/settings"),
        same=_settings({name: trials[0]["settings"][name] for name in same}, "/trials/0/settings") if same else None,
        figures=[both(partial(draw, trials, best["number"])) for draw in (curves, settings)],
        trials=_trials(summary, varied),
        refused=_refused(summary),
        place=place,
    )


def _settings(settings: Mapping[str, Any], where: str) -> Markup:
    shown = [
        Markup("{}={}").format(name, marked(value, f"{where}/{name}", said(value))) for name, value in settings.items()
    ]
    return Markup(", ").join(shown)


def _parted(summary: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The settings that all trials share, and those in which they differ, which are the table's columns."""
    trials = summary["trials"]
    same = [
        name
        for name in settings_of(summary)
        if len(trials) > 1 and len({said(trial["settings"].get(name, "")) for trial in trials}) == 1
    ]
    return same, [name for name in settings_of(summary) if name not in same]


def _trials(summary: Mapping[str, Any], varied: list[str]) -> Table:
    ranked = sorted(
        enumerate(summary["trials"]),
        key=lambda pair: (pair[1]["status"] != "finished", -pair[1].get("accuracy", 0.0), pair[1]["number"]),
    )
    rows = []
    for i, trial in ranked:
        at = f"/trials/{i}"
        found = {
            name: marked(trial[name], f"{at}/{name}", form.format(scale * trial[name])) if name in trial else ""
            for name, form, scale in (("accuracy", "{:.2f}", 100), ("effort", "{:.0f}", 1), ("seconds", "{:.2f}", 1))
        }
        if "error" in trial:
            found["accuracy"] = marked(trial["error"], f"{at}/error")
        rows.append(
            [
                marked(trial["number"], f"{at}/number"),
                *(
                    marked(trial["settings"][name], f"{at}/settings/{name}", said(trial["settings"][name]))
                    if name in trial["settings"]
                    else ""
                    for name in varied
                ),
                marked(trial["status"], f"{at}/status"),
                *found.values(),
            ]
        )
    heads = ["Trial", *(name.replace("_", " ") for name in varied), "Status", "Accuracy, %", "Effort, %", "Seconds"]
    return table("Trials, the best first", heads, rows, numeric=(0, *range(len(heads) - 3, len(heads))))


def _refused(summary: Mapping[str, Any]) -> Table:
    rows = [
        [_settings(entry["settings"], f"/refused/{i}/settings"), marked(entry["reason"], f"/refused/{i}/reason")]
        for i, entry in enumerate(summary["refused"])
    ]
    return table("Refused: no run can have these settings", ("Settings", "Reason"), rows, prose=(1,))
