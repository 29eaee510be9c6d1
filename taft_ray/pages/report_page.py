"""The page of a report: what was forgotten and whether it was checked, then accuracy, then speed.

Guarantees: every number on it is one of the report's and names its place in report.json (`shown`). A number that was not
measured says so. The same report gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from markupsafe import Markup

from taft_ray.evaluation.measured import is_measure, lookup
from taft_ray.evaluation.notation import ABSENT, recorded, timed_step
from taft_ray.pages.document import page
from taft_ray.pages.figures import both
from taft_ray.pages.figures.accuracy import COMPOSED, accuracy_by_shards, accuracy_rows
from taft_ray.pages.figures.classes import confusion, reliability
from taft_ray.pages.figures.speedups import speedups
from taft_ray.pages.figures.timeline import timeline, timeline_bars
from taft_ray.pages.shown import Shown, Table, code, derived, digest, marked, pointer, table, time_of, title

_REQUEST = re.compile(r"[0-9a-f]{8,64}")
_STATES = ("trained", "dropped", "subtracted", "empty", "pending", "quarantined")
_SPEEDS = (
    "speedup_wall",
    "speedup_critical_path",
    "speedup_one_worker",
    "speedup_retrain_median",
    "speedup_end_to_end_median",
)


def report_page(report: dict[str, Any]) -> str:
    """The page of a report made by ``summarise`` (or read back from report.json)."""
    measured = Shown(report["measurements"], "/measurements")
    evaluated, current = measured.raw("evaluation.composed"), measured.raw("run.composed")
    bars = timeline_bars(report)
    return page(
        "report.html",
        report=report,
        m=measured,
        d=partial(derived, report),
        name=str(measured.raw("run.uri") or "a run").rstrip("/").rpartition("/")[2],
        wrong=[one for one in measured.raw("forgets") or () if lookup(one, "certificate.problems")],
        stale=bool(evaluated and current and evaluated != current),
        states=[state for state in _STATES if report["derived"][f"shards_{state}"]["value"]],
        forgets=_forgets(report, measured),
        steps=_steps(report, measured),
        waiting=_waiting(measured),
        figures={
            "accuracy": both(partial(accuracy_by_shards, report)),
            "confusion": both(partial(confusion, report)),
            "reliability": both(partial(reliability, report)),
            "speedups": both(partial(speedups, report)),
            "timeline": both(partial(timeline, report)),
        },
        curve=_curve(report),
        models=_models(report, measured),
        classes=_classes(measured),
        mistakes=_mistakes(measured),
        speeds=_speeds(report),
        bars=len(bars),
        lanes=len({bar[0] for bar in bars}),
        shards=_shards(report, measured),
        every=_every_number(report),
        silent=_silent(report),
        raw=_raw(report),
    )


def _request(measured: Shown, i: int) -> Markup:
    """The request, linked to the page of its certificate beside this one."""
    named = code(measured.raw(f"forgets[{i}].request"), pointer(f"forgets[{i}].request", measured.root))
    name = str(measured.raw(f"forgets[{i}].request"))
    return Markup('<a href="certificate-{}.html">{}</a>').format(name, named) if _REQUEST.fullmatch(name) else named


def _forgets(report: dict[str, Any], measured: Shown) -> Table:
    rows = []
    for i in range(len(measured.raw("forgets") or ())):
        one = measured.below(f"forgets[{i}]")
        problems = one.raw("certificate.problems")
        checked = (
            Markup("agrees with the ledger")
            if problems == []
            else Markup("; ").join(one.text(f"certificate.problems[{n}]") for n in range(len(problems or ())))
        )
        rows.append(
            [
                _request(measured, i),
                one.text("mode", ""),
                one.at("samples"),
                one.some("shards", "shards") if isinstance(one.raw("shards"), list) else one.at("shards"),
                _moment(one, "time"),
                _moment(one, "certificate.issued"),
                checked or "not checked",
                {True: "yes", False: "no"}.get(one.raw("certificate.signed"), "–"),
                one.at("accuracy_before", "percent", "–"),
                one.at("accuracy_after", "percent", "–"),
                derived(report, f"forgets[{i}].accuracy_change", short=True),
            ]
        )
    head = (
        "Request",
        "Mode",
        "Samples",
        "Shards",
        "Asked",
        "Done",
        "Certificate",
        "Signed",
        "Before",
        "After",
        "Change",
    )
    return table("Every request, with the accuracy before and after it", head, rows, numeric=(2, 8, 9, 10))  # fmt: skip


def _moment(shown: Shown, path: str) -> Any:
    value = shown.raw(path)
    return "–" if value is None else time_of(value, pointer(path, shown.root))


def _steps(report: dict[str, Any], measured: Shown) -> Table:
    forgets = measured.raw("forgets") or []
    named = [{timed_step(one.get("mode"), step): step for step in one.get("seconds") or {}} for one in forgets]
    steps = sorted(dict.fromkeys(name for names in named for name in names), key=lambda name: name == "total")
    rows = [
        [
            _request(measured, i),
            *(_step(measured, i, named[i][name]) if name in named[i] else "–" for name in steps),
            derived(report, f"forgets[{i}].speedup_retrain", short=True),
            derived(report, f"forgets[{i}].speedup_end_to_end", short=True),
        ]
        for i in range(len(forgets))
    ]
    head = ("Request", *(f"{title(name)}, s" for name in steps), "Retrain, × monolith", "End to end, × monolith")
    return table("Seconds of each step", head, rows, numeric=range(1, len(head)))


def _step(measured: Shown, i: int, step: str) -> Any:
    value = (measured.raw(f"forgets[{i}].seconds") or {}).get(step)
    where = f"{pointer(f'forgets[{i}].seconds', measured.root)}/{step.replace('~', '~0').replace('/', '~1')}"
    return "–" if value is None else marked(value, where, f"{value:.3f}" if is_measure(value) else value)


def _waiting(measured: Shown) -> Table:
    rows = []
    for i in range(len(measured.raw("waiting") or ())):
        one = measured.below(f"waiting[{i}]")
        rows.append(
            [one.text("request"), one.text("mode"), one.at("samples"), _moment(one, "asked"), _moment(one, "deadline")]
        )
    head = ("Request", "Mode", "Samples", "Asked", "Deadline")
    return table("Requests that are not done", head, rows, numeric=(2,))


def _curve(report: dict[str, Any]) -> Table:
    rows = accuracy_rows(report)
    shown = [mode for mode in COMPOSED if any(row[mode] is not None for row in rows)]
    measured = Shown(report["measurements"], "/measurements")
    places = {
        row.get("shards"): i for i, row in enumerate(measured.raw("accuracy_by_shards") or ()) if isinstance(row, dict)
    }
    return table(
        "Accuracy by number of shards composed",
        ("Shards", *(["Composed"] if len(shown) == 1 else map(str.capitalize, shown)), "Monolith"),
        [
            [
                measured.at(f"accuracy_by_shards[{i}].shards", "whole"),
                *(measured.at(f"accuracy_by_shards[{i}].{mode}", "percent") for mode in shown),
                measured.at("monolith.accuracy", "percent", "–"),
            ]
            for row in rows
            for i in [places[row["shards"]]]
        ],
        numeric=range(2 + len(shown)),
    )  # fmt: skip


def _models(report: dict[str, Any], measured: Shown) -> Table:
    rows = []
    compositions = measured.raw("composition") or ()
    for i, composition in enumerate(compositions):
        name = f"accuracy_{composition.get('mode')}"
        if name in report["derived"]:
            rows.append(
                [
                    Markup("Composed by {}").format(measured.text(f"composition[{i}].mode"))
                    if len(compositions) > 1
                    else "Composed",
                    *(derived(report, f"{name}{end}") for end in ("", "_margin")),
                    derived(report, f"{name}_gap", short=True),
                    measured.at(f"composition[{i}].seconds", "seconds"),
                    digest(composition["digest"], pointer(f"composition[{i}].digest", "/measurements"))
                    if composition.get("digest")
                    else "",
                ]
            )
    rows.append(
        ["Monolith", derived(report, "accuracy_monolith"), derived(report, "accuracy_monolith_margin"), "", "", ""]
    )
    head = ("Model", "Accuracy", "±", "Less the monolith", "Time to compose", "Digest")
    return table("Accuracy of each model, with its 95 % margin", head, rows, numeric=(3, 4))  # fmt: skip


def _classes(measured: Shown) -> Table:
    rows = []
    for i in range(len(measured.raw("evaluation.per_class") or ())):
        one = measured.below(f"evaluation.per_class[{i}]")
        rows.append([one.text("label"), one.at("n", "whole"), one.at("accuracy", "percent")])
    return table("Accuracy of each class", ("Class", "Pictures", "Accuracy"), rows, numeric=(1, 2))


def _mistakes(measured: Shown) -> Table:
    rows = []
    for i in range(len(measured.raw("evaluation.confused") or ())):
        one = measured.below(f"evaluation.confused[{i}]")
        rows.append([one.text("true"), one.text("predicted"), one.at("n", "whole")])
    return table("Most frequent mistakes", ("True class", "Predicted", "Pictures"), rows, numeric=(2,))


def _speeds(report: dict[str, Any]) -> Table:
    known = [(name, report["derived"][name]) for name in _SPEEDS if report["derived"][name]["value"] is not None]
    return table(
        "Speed-ups and the measurements that they come from",
        ("Speed-up", "Times", "Measured", "How to read it"),
        [[title(number["label"]), derived(report, name), _sources(name, number), _note(name, number)] for name, number in known],
        numeric=(1,),
        prose=(0, 3),
    )  # fmt: skip


def _shards(report: dict[str, Any], measured: Shown) -> Table:
    columns = (
        ("Shard", "shard", "whole"),
        ("State", "state", "plain"),
        ("Generation", "generation", "whole"),
        ("Samples", "samples", "whole"),
        ("Fit, s", "seconds", "recorded"),
        ("Lane", "lane", "plain"),
        ("Began", "started", "moment"),
        ("Iterations", "iterations", "whole"),
        ("Residual", "residual", "recorded"),
        ("Distance bound", "distance_bound", "recorded"),
    )
    rows = []
    for i, shard in enumerate(measured.raw("shards")):
        one = measured.below(f"shards[{i}]")
        cells: list[Any] = []
        for _, key, form in columns if isinstance(shard, dict) else ():
            cells.append(_moment(one, key) if form == "moment" else one.at(key, form, "–"))
        rows.append(cells or [""] * len(columns))
    head = tuple(name for name, _, _ in columns)
    return table(
        "Every fit of every shard, in the order of shards[0], shards[1], …", head, rows, numeric=(2, 3, 4, 7, 8, 9)
    )


def _every_number(report: dict[str, Any]) -> Table:
    known = [(name, number) for name, number in report["derived"].items() if number["value"] is not None]
    return table(
        "Derived numbers",
        ("Number", "Value", "How it is computed", "From", "Note"),
        [
            [code(name), derived(report, name), code(number["formula"]), _sources(name, number), _note(name, number)]
            for name, number in known
        ],
    )


def _silent(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Reasons why numbers are missing, each with the names of those."""
    names: dict[str, list[str]] = {}
    for name, number in report["derived"].items():
        if number["value"] is None:
            names.setdefault(number["reason"], []).append(name)
    return [(reason, ", ".join(those)) for reason, those in names.items()]


def _note(name: str, number: dict[str, Any]) -> Any:
    return marked(number["note"], f"/derived/{name}/note") if number["note"] else ""


def _sources(name: str, number: dict[str, Any]) -> Markup:
    """The measurements of a derived number; of many the first and the last."""
    sources = list(number["from"])
    if not sources:
        return Markup("–")
    m = "/measurements"
    if len(sources) > 3:
        told = Markup('<data value="{}" data-count-of="/derived/{}/from">{}</data> measurements: {} … {}')
        return told.format(len(sources), name, f"{len(sources):,}", code(sources[0]), code(sources[-1]))
    shown = [
        Markup("{} = {}").format(
            code(path), marked(number["from"][path], pointer(path, m), recorded(number["from"][path]))
        )
        for path in sources
    ]
    return Markup("<br>").join(shown)


def _raw(report: dict[str, Any]) -> Table:
    measured = Shown(report["measurements"], "/measurements")
    rows = [
        [code(path), measured.text(path, ABSENT)]
        for path, _ in _leaves(report["measurements"], "")
        if not path.startswith("shards[") and measured.raw(path) is not None
    ]
    return table("Raw measurements", ("Measurement", "Recorded"), rows)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value
