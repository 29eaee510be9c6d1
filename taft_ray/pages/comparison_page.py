"""Several runs side by side, as a page: accuracy, forgets and cost, in a table and drawn."""

from __future__ import annotations

from functools import partial
from typing import Any

from markupsafe import Markup

from taft_ray.evaluation.notation import value_of
from taft_ray.pages.document import page
from taft_ray.pages.figures import both
from taft_ray.pages.figures.comparison import sides
from taft_ray.pages.shown import Shown, Table, code, marked, plain, table

_COLUMNS = (
    ("Accuracy", "accuracy"),
    ("Monolith", "accuracy_monolith"),
    ("Samples forgotten", "forgotten_samples"),
    ("Per forget, median", "forget_seconds_median"),
    ("Retrain, × monolith", "speedup_retrain_median"),
    ("Training, wall clock", "training_seconds"),
    ("Work: prefix and fits", "work_seconds"),
)


def comparison_page(comparison: dict[str, Any]) -> str:
    """The page of what ``evaluation.compared`` made."""
    return page(
        "comparison.html",
        comparison=comparison,
        s=Shown(comparison),
        measured=_measured(comparison),
        settings=_settings(comparison),
        figure=both(partial(sides, comparison)),
        silent=_silent(comparison),
    )


def _measured(comparison: dict[str, Any]) -> Table:
    rows = []
    for i, run in enumerate(comparison["runs"]):
        cells = [_number(run, i, name) for _, name in _COLUMNS]
        margin = run["numbers"]["accuracy_margin"]
        if margin["value"] is not None:
            where = f"/runs/{i}/numbers/accuracy_margin/value"
            cells[0] = Markup("{} ± {}").format(cells[0], marked(margin["value"], where, f"{margin['value']:.2f}"))
        rows.append([marked(run["name"], f"/runs/{i}/name"), *cells])
    head = ("Run", *(title for title, _ in _COLUMNS))
    return table("Measured", head, rows, numeric=range(1, len(head)))


def _number(run: dict[str, Any], i: int, name: str) -> Markup:
    number = run["numbers"][name]
    if number["value"] is None:
        return Markup("–")
    return marked(number["value"], f"/runs/{i}/numbers/{name}/value", value_of(number))


def _settings(comparison: dict[str, Any]) -> Table:
    names = list(dict.fromkeys(name for run in comparison["runs"] for name in run["settings"]))
    rows = [
        [
            marked(run["name"], f"/runs/{i}/name"),
            *(
                plain(run["settings"][name], f"/runs/{i}/settings/{name}") if name in run["settings"] else ""
                for name in names
            ),
            "–" if run["samples"] is None else marked(run["samples"], f"/runs/{i}/samples", f"{run['samples']:,}"),
            code(run["uri"], f"/runs/{i}/uri"),
        ]
        for i, run in enumerate(comparison["runs"])
    ]
    return table("Settings", ("Run", *(name.replace("_", " ") for name in names), "samples", "address"), rows)


def _silent(comparison: dict[str, Any]) -> list[tuple[str, Markup]]:
    """Per run, why a column has no number."""
    return [
        (f"{run['name']}, {title.lower()}", marked(number["reason"], f"/runs/{i}/numbers/{name}/reason"))
        for i, run in enumerate(comparison["runs"])
        for title, name in _COLUMNS
        for number in [run["numbers"][name]]
        if number["value"] is None
    ]
