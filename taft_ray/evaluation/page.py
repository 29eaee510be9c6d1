"""A report as one HTML page: pictures, the tables beside them, and the raw measurement behind every figure."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from taft_ray.evaluation import figures
from taft_ray.evaluation.class_section import class_section
from taft_ray.evaluation.drawing import drawn
from taft_ray.evaluation.markup import Raw, code, document, esc, moment, nested, pairs, plain, table, title
from taft_ray.evaluation.measured import lookup
from taft_ray.evaluation.notation import ABSENT, percent, recorded, seconds, value_of
from taft_ray.evaluation.report import NO_MONOLITH

_REQUEST = re.compile(r"[0-9a-f]{8,64}")


def render(report: dict[str, Any]) -> str:
    """The page of a report made by ``summarise`` (or read back from report.json)."""
    sections = [
        _header(report),
        _cards(report),
        _notes(report),
        _forgets(report),
        _accuracy(report),
        class_section(report),
        _speed(report),
        _timeline(report),
        _shards(report),
        _run(report),
        _measurements(report),
    ]
    return document(f"taft_ray report: {_uri(report)}", "\n".join(sections))


def _uri(report: dict[str, Any]) -> str:
    return str(lookup(report["measurements"], "run.uri") or "a run")


def _header(report: dict[str, Any]) -> Raw:
    run = report["measurements"]["run"]
    spec = lookup(run, "spec") or {}
    told = [f"{key} {spec[key]}" for key in ("model", "shards", "solver") if isinstance(spec, dict) and key in spec]
    made = f"run made {run['created']}" if run.get("created") else ""
    return Raw(
        f"<header><h1>Sharded training and forgetting, measured</h1>\n<p>{code(_uri(report))}</p>\n"
        f'<p class="quiet">{esc(" · ".join([*told, *([made] if made else [])]))}</p></header>'
    )


def _cards(report: dict[str, Any]) -> Raw:
    derived = report["derived"]

    def measured(path: str) -> str:
        return recorded(lookup(report["measurements"], path))

    def margin(name: str) -> str:
        known = derived[name]["value"] is not None
        return f"± {derived[name]['value']:.2f} points on {measured('evaluation.n')} samples" if known else ""

    monolith = f"{measured('monolith.seconds')} s"
    wall = f"{monolith} ÷ {measured('training.wall_seconds')} s, from when the lanes had work"
    critical = f"{monolith} ÷ {value_of(derived['critical_path'])}, the slowest shard"
    retrain = f"{monolith} ÷ each retrain; {derived['speedup_retrain_median']['note']}"
    states = [
        f"{derived[f'shards_{state}']['value']:,} {state}" for state in ("dropped", "empty", "pending", "quarantined")
    ]
    cards = [
        ("Accuracy, composed", "accuracy", margin("accuracy_margin")),
        ("Accuracy, monolith", "accuracy_monolith", margin("accuracy_monolith_margin")),
        ("Shards trained", "shards_trained", ", ".join(states)),
        ("Sharded training against the monolith, wall clock", "speedup_wall", wall),
        ("Critical path against the monolith, not wall clock", "speedup_critical_path", critical),
        ("Retrain after forget against the monolith, median", "speedup_retrain_median", retrain),
    ]
    shown = "\n".join(_card(label, derived[name], source) for label, name, source in cards)
    return Raw(f'<dl class="cards">\n{shown}\n</dl>')


def _card(label: str, number: dict[str, Any], source: str) -> str:
    if number["value"] is None:
        return f'<div><dt>{esc(label)}</dt><dd class="none">{_reason(number["reason"])}</dd></div>'
    return f'<div><dt>{esc(label)}</dt><dd class="big">{esc(value_of(number))}</dd><dd>{esc(source)}</dd></div>'


def _reason(text: str) -> str:
    return esc(text).replace("--monolithic", "<code>--monolithic</code>")


def _notes(report: dict[str, Any]) -> Raw:
    if not report["notes"]:
        return Raw("")
    items = "".join(f"<li>{esc(note)}</li>" for note in report["notes"])
    return Raw(f'<section class="notes" aria-label="Notes on these numbers"><ul>{items}</ul></section>')


def _accuracy(report: dict[str, Any]) -> Raw:
    derived = report["derived"]
    rows = figures.accuracy_rows(report)
    level = lookup(report["measurements"], "monolith.accuracy")
    alt = f"Line chart of accuracy against the number of shards composed, {len(rows)} points; see the table."
    caption = "Accuracy of the first m shards composed; dashed, the monolith trained on everything."
    parts = [
        drawn(figures.accuracy_by_shards, report, alt, caption, f"Accuracy against shards: {ABSENT}."),
    ]
    if rows:
        shown = [mode for mode in figures.COMPOSED if any(row[mode] is not None for row in rows)]
        parts.append(
            table(
                "Accuracy by number of shards composed",
                ["Shards", *(mode.capitalize() for mode in shown), "Monolith"],
                [[f"{row['shards']:g}", *(percent(row[mode]) for mode in shown), percent(level)] for row in rows],
                numeric=range(2 + len(shown)),
            )
        )
    compositions = lookup(report["measurements"], "composition") or []
    names = [("accuracy_monolith", "Monolith", None)]
    names = [(f"accuracy_{c.get('mode')}", f"Composed by {c.get('mode')}", c) for c in compositions] + names
    parts.append(
        table(
            "Accuracy of each model, with its 95 % margin",
            ["Model", "Accuracy", "±", "Less the monolith", "Seconds to compose", "Digest"],
            [
                [
                    label,
                    value_of(derived[name]),
                    value_of(derived[f"{name}_margin"]),
                    value_of(derived[f"{name}_gap"]) if c else "",
                    seconds(c.get("seconds")) if c else "",
                    _digest(c.get("digest")) if c else "",
                ]
                for name, label, c in names
                if name in derived
            ],
            numeric=(1, 2, 3, 4),
        )
    )
    evaluation = lookup(report["measurements"], "evaluation")
    told = (
        f"Measured on {recorded(evaluation.get('n'))} samples of {evaluation.get('data')}."
        if evaluation
        else derived["accuracy"]["reason"]
    )
    return Raw(f"<h2>Accuracy</h2>\n<p>{esc(told or '')}</p>\n" + "\n".join(parts))


def _timeline(report: dict[str, Any]) -> Raw:
    derived = report["derived"]
    bars = figures.timeline_bars(report)
    rows = len({bar[0] for bar in bars})
    alt = f"Timeline of {len(bars)} pieces of work on {rows} rows: prefix pass, shard fits, monolith."
    caption = "Each bar is one fit, from its recorded start to its end. Times of every shard are in its table below."
    measurements = report["measurements"]
    lines = [
        ("Prefix pass (activation cache), wall clock", seconds(lookup(measurements, "cache.seconds"))),
        (
            "Sharded training, wall clock (from when the lanes had work)",
            seconds(lookup(measurements, "training.wall_seconds")),
        ),
        ("Sum of all shard fits", value_of(derived["sum_of_fits"])),
        ("Slowest shard (critical path, not wall clock)", value_of(derived["critical_path"])),
        ("Share of the lanes' time spent fitting", value_of(derived["lane_use"])),
        ("Monolith", seconds(lookup(measurements, "monolith.seconds"), NO_MONOLITH)),
    ]
    missing = f"Timeline: {ABSENT}; no start and end times are recorded."
    return Raw(f"<h2>Timeline</h2>\n{drawn(figures.timeline, report, alt, caption, missing)}\n{pairs(lines)}")


def _speed(report: dict[str, Any]) -> Raw:
    derived = report["derived"]
    names = [
        "speedup_wall",
        "speedup_critical_path",
        "speedup_one_worker",
        "speedup_retrain_median",
        "speedup_end_to_end_median",
    ]
    rows = [[title(n["label"]), value_of(n), _sources(n), n["note"] or ""] for n in (derived[name] for name in names)]
    told = "; ".join(f"{row[0]}: {row[1]}" for row in rows)
    caption = "Dashed: the monolith's speed. Hatched: critical path, no clock showed it. Dots: single forgets."
    missing = f"Speed-up: {derived['speedup_wall']['reason']}."
    picture = drawn(figures.speedups, report, f"Bar chart. {told}.", caption, missing)
    return Raw(
        f"<h2>Speed-up against the monolith</h2>\n{picture}\n"
        + table(
            "Speed-ups and the measurements they come from",
            ["Speed-up", "Times", "Measured", "How to read it"],
            rows,
            numeric=(1,),
            prose=(0, 3),
        )
    )


def _forgets(report: dict[str, Any]) -> Raw:
    forgets = lookup(report["measurements"], "forgets") or []
    if not forgets:
        return Raw("<h2>Forgets</h2>\n<p>Not measured: nothing has been forgotten in this run.</p>")
    steps = sorted(
        dict.fromkeys(step for forget in forgets for step in forget.get("seconds") or {}),
        key=lambda step: step == "total",
    )
    head = [
        "Request",
        "Mode",
        "Samples",
        "Shards",
        *(f"{title(step)}, s" for step in steps),
        "Retrain ×",
        "End to end ×",
        "Before",
        "After",
        "Change",
        "Time",
    ]
    rows = []
    for i, forget in enumerate(forgets):
        own = [
            report["derived"][f"forgets[{i}].{name}"]
            for name in ("speedup_retrain", "speedup_end_to_end", "accuracy_change")
        ]
        shards = forget.get("shards")
        rows.append(
            [
                _certificate_link(forget.get("request", "")),
                forget.get("mode", ""),
                recorded(forget.get("samples")),
                ", ".join(map(str, shards)) if isinstance(shards, list) else recorded(shards),
                *(recorded((forget.get("seconds") or {}).get(step), "–") for step in steps),
                *(value_of(number, short=True) for number in own[:2]),
                percent(forget.get("accuracy_before"), "–"),
                percent(forget.get("accuracy_after"), "–"),
                value_of(own[2], short=True),
                forget.get("time", ""),
            ]
        )
    caption = "Every forget: seconds of each step, times the monolith's speed, accuracy before and after"
    return Raw(f"<h2>Forgets</h2>\n{table(caption, head, rows, numeric=(2, *range(4, len(head))))}")


def _certificate_link(request: Any) -> Raw:
    """The request, linked to the page of its certificate beside this one."""
    name = str(request)
    return Raw(f'<a href="certificate-{name}.html">{code(name)}</a>') if _REQUEST.fullmatch(name) else code(name)


def _shards(report: dict[str, Any]) -> Raw:
    shards = report["measurements"]["shards"]
    measurements = report["measurements"]
    began = figures.timeline_bars(report)
    origin = min((bar[2] for bar in began), default=None)
    columns: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
        ("Shard", lambda s: recorded(s.get("shard"))),
        ("State", lambda s: s.get("state") or ABSENT),
        ("Generation", lambda s: recorded(s.get("generation"), "–")),
        ("Samples", lambda s: recorded(s.get("samples"), "–")),
        ("Fit, s", lambda s: recorded(s.get("seconds"), "–")),
        ("Lane", lambda s: s.get("lane") or "–"),
        ("From, s", lambda s: _since(s.get("started"), origin)),
        ("To, s", lambda s: _since(s.get("ended"), origin)),
        ("Iterations", lambda s: recorded(s.get("iterations"), "–")),
        ("Residual", lambda s: recorded(s.get("residual"), "–")),
        ("Distance bound", lambda s: recorded(s.get("distance_bound"), "–")),
    ]
    counted = " · ".join(
        f"{report['derived'][f'shards_{state}']['value']:,} {state}"
        for state in ("trained", "dropped", "empty", "pending", "quarantined")
        if report["derived"][f"shards_{state}"]["value"]
    )
    rows = [[cell(s) if isinstance(s, dict) else "" for _, cell in columns] for s in shards]
    zero = f" Times are counted from {moment(origin)}." if origin is not None else ""
    monolith = lookup(measurements, "monolith")
    told = f"Monolith: {NO_MONOLITH}."
    if monolith:
        told = (
            f"Monolith: {seconds(monolith.get('seconds'))} on {recorded(monolith.get('samples'))} samples, "
            f"{recorded(monolith.get('iterations'))} iterations, {monolith.get('lane') or 'lane not recorded'}."
        )
    return Raw(
        f"<h2>Shards</h2>\n<p>{esc(counted or 'No shard yet')}.{esc(zero)}</p>\n"
        + table(
            "Every shard, in the order of shards[0], shards[1], …",
            [name for name, _ in columns],
            rows,
            numeric=(2, 3, 4, 6, 7, 8, 9, 10),
        )
        + f"\n<p>{esc(told)}</p>"
    )


def _run(report: dict[str, Any]) -> Raw:
    measurements = report["measurements"]
    run = {key: value for key, value in measurements["run"].items() if key != "spec"}
    spec = lookup(measurements, "run.spec")
    parts = ["<h2>Run, data and machine</h2>", nested(run)]
    for heading, value in (
        ("Spec", spec),
        ("Data", measurements.get("data")),
        ("Environment", measurements.get("environment")),
    ):
        parts.append(f"<h3>{heading}</h3>\n{nested(value, level=4) if value else '<p>Not recorded.</p>'}")
    return Raw("\n".join(parts))


def _measurements(report: dict[str, Any]) -> Raw:
    derived = [
        [code(name), value_of(number), number["formula"], _sources(number), number["note"] or ""]
        for name, number in report["derived"].items()
    ]
    raw = [
        [code(path), plain(value)]
        for path, value in _leaves(report["measurements"], "")
        if not path.startswith("shards[")
    ]
    head = ["Number", "Value", "How it is computed", "From", "Note"]
    return Raw(
        "<h2>Every number and its measurements</h2>\n"
        "<p>Nothing above comes from anything but measurements. Those of the shards are in their table above; "
        "report.json beside this page holds every one in full precision.</p>\n"
        + table("Derived numbers", head, derived, prose=(1, 2, 4))
        + "\n"
        + (table("Raw measurements", ["Measurement", "Recorded"], raw) if raw else "")
    )


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def _sources(number: dict[str, Any]) -> Raw:
    sources = list(number["from"].items())
    if not sources:
        return Raw("–")
    if len(sources) > 3:
        return Raw(f"{len(sources):,} measurements: {code(sources[0][0])} … {code(sources[-1][0])}")
    return Raw("<br>".join(f"{code(path)} = {esc(recorded(value))}" for path, value in sources))


def _digest(value: Any) -> Raw:
    """Enough of a digest to tell two apart; the raw measurements have it whole."""
    text = str(value or "–")
    return code(text if len(text) <= 18 else f"{text[:17]}…")


def _since(value: Any, origin: float | None) -> str:
    return f"{value - origin:.3f}" if isinstance(value, int | float) and origin is not None else "–"
