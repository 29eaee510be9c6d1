"""What ``report.json`` says: numbers derived from a run's measurements, each with the measurements it comes from.

Guarantees: pure (no clock, no files, no ray); every number under ``derived`` lists in ``from`` the paths and values it
was computed of, and each path resolves in ``measurements``, which hold the facts as they came; a number whose
measurement is missing, not finite, negative or a zero divisor is ``None`` with a ``reason``, never a guess.
"""

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.evaluation.measured import Measured, first_fits, is_measure, lookup

SCHEMA = "taft_ray.report/1"
NO_MONOLITH = "not measured: run with --monolithic"
ONE_MODEL = "not measured: an additive run is one model over everything already, and retrains nothing"
NO_WALL = "not measured: no wall clock of the sharded training is recorded"
NO_FITS = "not measured: no shard has a recorded fit time"
NO_FORGET = "not measured: nothing has been forgotten"
NO_EVALUATION = "not measured: no evaluation of this model is recorded (every forget and retrain makes another one): taft-ray evaluate"

WALL_NOTE = "wall clock from when the lanes had work (the cache was there) to the last commit, with what was left of starting the lanes"
CRITICAL_NOTE = "critical path, not wall clock: what as many workers as shards would give"


def summarise(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The report of a run, ready for ``json.dumps(..., allow_nan=False)``."""
    for part, kind in (("run", Mapping), ("shards", list | tuple)):
        if not isinstance(facts.get(part), kind):
            raise UsageError(
                f"a report needs the facts 'run' and 'shards', got no {part!r}; gather them from the ledger"
            )
    measured = Measured(facts)
    notes: list[str] = [
        f"shard {ill.get('shard')} is in quarantine, out of the model: its storage is damaged; taft-ray repair makes it again"
        for ill in facts.get("quarantine", ())
        if isinstance(ill, Mapping)
    ]
    derived = {
        **_counts(measured),
        **_training(measured, notes),
        **_accuracy(measured, notes),
        **_forgets(measured),
        **_throughput(measured),
    }
    if lookup(measured.facts, "run.spec.solver") == "additive":
        for number in derived.values():
            if number["reason"] == NO_MONOLITH:
                number["reason"] = ONE_MODEL
    return {
        "schema": SCHEMA,
        "derived": derived,
        "notes": notes + measured.problems,
        "not_measured": {name: number["reason"] for name, number in derived.items() if number["value"] is None},
        "measurements": measured.facts,
    }


def no_monolith(measured: Measured) -> str:
    """Why nothing is known of the one model over everything."""
    removed_by = lookup(measured.facts, "monolith.removed_by")
    if not removed_by:
        return NO_MONOLITH
    return f"not measured: request {removed_by} removed that model before it was evaluated; train --monolithic makes it again"


def _number(
    label: str,
    unit: str,
    formula: str,
    sources: Mapping[str, Any],
    value: float | None,
    *,
    reason: str | None = None,
    note: str | None = None,
) -> dict[str, Any]:
    """One derived number as it stands in report.json. An overflow to infinity is no number either."""
    if value is not None and not math.isfinite(value):
        value, reason = None, f"no number: {formula} overflows"
    return {
        "label": label,
        "unit": unit,
        "value": value,
        "formula": formula,
        "from": dict(sources),
        "reason": None if value is not None else reason,
        "note": note,
    }


def _ratio(
    measured: Measured,
    label: str,
    unit: str,
    top: str,
    bottom: str,
    *,
    missing: Mapping[str, str],
    note: str | None = None,
) -> dict[str, Any]:
    """``top / bottom``; ``missing`` gives, for each of the two paths, what to say where it was not measured."""
    sources = measured.take((top, bottom))
    value = reason = None
    absent = [path for path in (top, bottom) if path not in sources]
    if absent:
        reason = missing[absent[0]]
    elif sources[bottom] == 0:
        reason = f"no ratio: {bottom} was measured as 0"
    else:
        value = sources[top] / sources[bottom]
    return _number(label, unit, f"{top} / {bottom}", sources, value, reason=reason, note=note)


def _counts(measured: Measured) -> dict[str, Any]:
    shards = measured.facts["shards"]
    now: dict[str, tuple[float, int]] = {}
    for i, shard in enumerate(shards):
        generation = lookup(shard, "generation")
        rank = (float(generation) if is_measure(generation) else 0.0, i)
        name = str(lookup(shard, "shard"))
        now[name] = max(rank, now.get(name, rank))
    states = {
        f"shards[{i}].state": lookup(shards[i], "state") for _, i in sorted(now.values(), key=lambda rank: rank[1])
    }
    return {
        f"shards_{state}": _number(
            f"shards {state}", "", f"count of shards whose latest state is {state!r}", chosen, len(chosen)
        )
        for state in ("trained", "dropped", "subtracted", "empty", "pending", "quarantined")
        for chosen in [{path: got for path, got in states.items() if got == state}]
    }


def _training(measured: Measured, notes: list[str]) -> dict[str, Any]:
    fits = measured.take(f"shards[{i}].seconds" for i in first_fits(measured.facts))
    total = math.fsum(fits.values()) if fits else None
    slowest = max(fits, key=lambda path: fits[path]) if fits else None
    critical = fits[slowest] if slowest else None
    monolith = measured.take(["monolith.seconds"])
    lanes = next((path for path in ("training.lanes", "environment.lanes") if measured.number(path)), None)

    numbers = {
        "sum_of_fits": _number("sum of all shard fits", "s", "sum of shards[*].seconds", fits, total, reason=NO_FITS),
        "critical_path": _number(
            "slowest shard (critical path)",
            "s",
            "max of shards[*].seconds",
            fits,
            critical,
            reason=NO_FITS,
            note=f"the slowest is {slowest.removesuffix('.seconds')}" if slowest else None,
        ),
        "speedup_wall": _ratio(
            measured,
            "sharded training against the monolith",
            "×",
            "monolith.seconds",
            "training.wall_seconds",
            missing={"monolith.seconds": NO_MONOLITH, "training.wall_seconds": NO_WALL},
            note=WALL_NOTE,
        ),
        "speedup_critical_path": _number(
            "slowest shard against the monolith",
            "×",
            "monolith.seconds / max of shards[*].seconds",
            monolith | fits,
            _divide(monolith.get("monolith.seconds"), critical),
            reason=_why(monolith, NO_MONOLITH, fits, NO_FITS, "no ratio: every shard fit was measured as 0"),
            note=CRITICAL_NOTE,
        ),
        "speedup_one_worker": _number(
            "all shard fits one after the other against the monolith",
            "×",
            "monolith.seconds / sum of shards[*].seconds",
            monolith | fits,
            _divide(monolith.get("monolith.seconds"), total),
            reason=_why(monolith, NO_MONOLITH, fits, NO_FITS, "no ratio: every shard fit was measured as 0"),
            note="work against work: below 1 the shards together cost more than the monolith",
        ),
    }

    wall = measured.take(["training.wall_seconds"])
    sources = wall | measured.take([lanes] if lanes else []) | fits
    busy = _divide(total, wall["training.wall_seconds"] * sources[lanes]) if wall and lanes else None
    numbers["lane_use"] = _number(
        "share of the lanes' time spent fitting",
        "share",
        f"sum of shards[*].seconds / (training.wall_seconds × {lanes or 'lanes'})",
        sources,
        busy,
        reason=_why(wall, NO_WALL, fits, NO_FITS, "not measured: the number of lanes is not recorded"),
    )

    wall_sources = measured.take(["training.wall_seconds"])
    numbers["training_seconds"] = _number(
        "training on shards, wall clock",
        "s",
        "training.wall_seconds",
        wall_sources,
        wall_sources.get("training.wall_seconds"),
        reason=NO_WALL,
        note=WALL_NOTE,
    )
    every = measured.take(f"shards[{i}].seconds" for i in range(measured.count("shards")))
    passed = measured.take(["cache.seconds"])
    numbers["work_seconds"] = _number(
        "prefix pass and every fit, refits too",
        "s",
        "cache.seconds + sum of shards[*].seconds of every generation",
        passed | every,
        math.fsum((passed | every).values()) if every else None,
        reason=NO_FITS,
        note="work, not wall clock: what one worker would have taken",
    )

    _check_wall(measured, numbers, notes)
    if lanes and critical is not None and sources[lanes] < len(fits):
        notes.append(
            f"{len(fits)} shards took turns on {sources[lanes]:g} lane{'s' * (sources[lanes] != 1)}: the wall clock is "
            "this machine's; the critical path is the slowest single fit as measured here."
        )
    samples = measured.take(f"shards[{i}].samples" for i in first_fits(measured.facts))
    whole = measured.number("monolith.samples")
    if whole is not None and samples and whole != sum(samples.values()):
        notes.append(
            f"The monolith saw {whole:g} samples, the shards {sum(samples.values()):g}: "
            "the two are not on the same data."
        )
    return numbers


def _check_wall(measured: Measured, numbers: dict[str, Any], notes: list[str]) -> None:
    """A wall clock that leaves out some of the work, or contains the monolith's, must not pass for a fair one."""
    began, ended = measured.number("training.started"), measured.number("training.ended")
    if began is None or ended is None:
        return
    fits = first_fits(measured.facts)
    before = [i for i in fits if (done := measured.number(f"shards[{i}].ended")) is not None and done < began]
    if before:
        reason = (
            f"{len(before)} of {len(fits)} shards were trained before this wall clock began "
            "(an interrupted run taken up again), so it would overstate the speed"
        )
        for name in ("speedup_wall", "lane_use"):
            numbers[name] |= {"value": None, "reason": numbers[name]["reason"] or f"withheld: {reason}"}
        notes.append(f"Wall-clock figures are withheld: {reason}.")
    start, stop = measured.number("monolith.started"), measured.number("monolith.ended")
    if start is not None and stop is not None and (shared := min(stop, ended) - max(start, began)) > 0:
        notes.append(
            f"The monolith trained for {shared:.3g} s of the sharded training's wall clock: "
            "both shared the machine then."
        )


def _accuracy(measured: Measured, notes: list[str]) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    wanted = lookup(measured.facts, "run.spec.compose")
    modes = {str(lookup(measured.facts, f"composition[{i}].mode")): i for i in range(measured.count("composition"))}
    served = "evaluation.accuracy"
    if measured.number(served) is None and wanted in modes:
        served = f"composition[{modes[wanted]}].accuracy"
    paths = {
        "accuracy": ("accuracy of the composed model", served, NO_EVALUATION),
        "accuracy_monolith": ("accuracy of the monolith", "monolith.accuracy", no_monolith(measured)),
    } | {
        f"accuracy_{mode}": (f"accuracy composed by {mode}", f"composition[{i}].accuracy", NO_EVALUATION)
        for mode, i in modes.items()
    }
    for name, (label, path, missing) in paths.items():
        sources = measured.take([path])
        numbers[name] = _number(label, "accuracy", path, sources, sources.get(path), reason=missing)
        sources = measured.take([path, "evaluation.n"])
        numbers[f"{name}_margin"] = _number(
            f"95 % margin of {label}",
            "points",
            f"1.96 × sqrt({path} × (1 − {path}) / evaluation.n) × 100",
            sources,
            _margin(sources.get(path), sources.get("evaluation.n")),
            reason=missing if path not in sources else "not measured: the number of evaluated samples is not recorded",
        )
    for name, (label, path, missing) in paths.items():
        if name != "accuracy_monolith":
            sources = measured.take([path, "monolith.accuracy"])
            gap = 100 * (sources[path] - sources["monolith.accuracy"]) if len(sources) == 2 else None
            numbers[f"{name}_gap"] = _number(
                f"{label}, less the monolith's",
                "points",
                f"({path} − monolith.accuracy) × 100",
                sources,
                gap,
                reason=missing if path not in sources else no_monolith(measured),
            )
    evaluated, current = lookup(measured.facts, "evaluation.composed"), lookup(measured.facts, "run.composed")
    if evaluated and current and evaluated != current:
        notes.append(
            f"The accuracy was measured on the composed model {evaluated}; the run now holds {current}: evaluate again."
        )
    return numbers


def _forgets(measured: Measured) -> dict[str, Any]:
    samples = measured.take(f"forgets[{i}].samples" for i in range(measured.count("forgets")))
    numbers: dict[str, Any] = {
        "forgotten_samples": _number(
            "samples forgotten", "", "sum of forgets[*].samples", samples, sum(samples.values())
        )
    }
    totals = measured.take(f"forgets[{i}].seconds.total" for i in range(measured.count("forgets")))
    numbers["forget_seconds_median"] = _number(
        "seconds per forget, median",
        "s",
        "median of forgets[*].seconds.total",
        totals,
        median(totals.values()) if totals else None,
        reason=NO_FORGET if not measured.count("forgets") else "not measured: no forget has total seconds",
    )
    ways = {
        "speedup_retrain": ("retrain after forget against the monolith", "retrain", "no shard was retrained for it"),
        "speedup_end_to_end": ("forget, end to end, against the monolith", "total", "not measured: no total time"),
    }
    for i in range(measured.count("forgets")):
        for name, (label, key, missing) in ways.items():
            bottom = f"forgets[{i}].seconds.{key}"
            numbers[f"forgets[{i}].{name}"] = _ratio(
                measured,
                label,
                "×",
                "monolith.seconds",
                bottom,
                missing={"monolith.seconds": NO_MONOLITH, bottom: missing},
            )
        numbers[f"forgets[{i}].accuracy_change"] = _change(measured, i)
    for name, (label, key, _) in ways.items():
        each = [numbers[f"forgets[{i}].{name}"] for i in range(measured.count("forgets"))]
        usable = [number for number in each if number["value"] is not None]
        if measured.number("monolith.seconds") is None:
            reason = NO_MONOLITH
        else:
            reason = f"not measured: no forget has {key} seconds" if each else NO_FORGET
        numbers[f"{name}_median"] = _number(
            f"{label}, median",
            "×",
            f"median of monolith.seconds / forgets[*].seconds.{key}",
            {path: value for number in usable for path, value in number["from"].items()},
            median(number["value"] for number in usable) if usable else None,
            reason=reason,
            note=f"of {len(usable)} forget{'s' * (len(usable) != 1)}" if usable else None,
        )
    return numbers


def _change(measured: Measured, i: int) -> dict[str, Any]:
    """Accuracy after a forget less before it. Two evaluations that were not of the same pictures are not compared."""
    after, before = f"forgets[{i}].accuracy_after", f"forgets[{i}].accuracy_before"
    sources = measured.take((after, before))
    reason = "not measured: the accuracy was not taken before and after"
    change = None
    if len(sources) == 2:
        of = [lookup(measured.facts, f"forgets[{i}].evaluated_{when}") or {} for when in ("before", "after")]
        if of[0] == of[1]:
            change = 100 * (sources[after] - sources[before])
        else:
            told = [f"{one.get('n')} pictures of {one.get('data')}" for one in of]
            reason = f"not compared: measured on {told[0]} before, on {told[1]} after"
    return _number(
        "accuracy after less before", "points", f"({after} − {before}) × 100", sources, change, reason=reason
    )


def _throughput(measured: Measured) -> dict[str, Any]:
    silent = "not measured: the pass through the frozen prefix is not recorded"
    return {
        "cache_rate": _ratio(
            measured,
            "images through the frozen prefix",
            "images/s",
            "cache.images",
            "cache.seconds",
            missing={"cache.images": silent, "cache.seconds": silent},
        ),
        "cache_bytes_per_image": _ratio(
            measured,
            "activation cache per image",
            "bytes",
            "cache.bytes",
            "cache.images",
            missing={"cache.bytes": silent, "cache.images": silent},
        ),
        "data_kept": _ratio(
            measured,
            "share of the source rows kept",
            "share",
            "data.kept",
            "data.rows",
            missing={"data.kept": "not measured: no manifest counts", "data.rows": "not measured: no manifest counts"},
        ),
    }


def _divide(top: float | None, bottom: float | None) -> float | None:
    return None if top is None or not bottom else top / bottom


def _why(first: Mapping[str, float], no_first: str, second: Mapping[str, float], no_second: str, zero: str) -> str:
    return no_first if not first else no_second if not second else zero


def _margin(accuracy: float | None, n: float | None) -> float | None:
    if accuracy is None or not n or not 0 <= accuracy <= 1:
        return None
    return 100 * 1.96 * math.sqrt(accuracy * (1 - accuracy) / n)
