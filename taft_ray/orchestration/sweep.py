"""`sweep`: try settings on a run's cached tokens, and write the best one as a spec that `train` takes.

All that is kept lies in reports/sweeps/<name>/ and holds settings and accuracies, nothing of a sample. The ledger is read and not
written to: a sweep is no part of what a run is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from taft_ray.errors import IntegrityError, UsageError
from taft_ray.evaluation import sweep_csv, sweep_page
from taft_ray.orchestration import session
from taft_ray.orchestration.bench import check_held_out, lay_bench, manifest_of
from taft_ray.orchestration.features import Report
from taft_ray.orchestration.linearised import load_for, run_spec
from taft_ray.orchestration.reading import read_state
from taft_ray.orchestration.run import run_address, silent
from taft_ray.orchestration.tuning import mlflow_callback, run_trials
from taft_ray.plans.space import Trial, default_space, draw
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.spec_file import write_spec_file
from taft_ray.plans.sweep import FAILED, Sweep, as_good_as, best_of, forgotten_since, standard_error
from taft_ray.storage import MALFORMED, Ledger, Store, digest_json, json_object
from taft_ray.storage import rundir as names
from taft_ray.tangent import between, linearize

FOLDER = names.report_key("sweeps")


def sweep(run: str, asked: Sweep, *, mlflow: str | None = None, report: Report = silent) -> dict[str, Any]:
    """Measure the trials that have no result yet, and write table, picture and the best spec; safe to call again.

    Trials that were measured before samples were forgotten are measured again: a chosen setting is a function of them.
    UsageError when no trial is valid, DataError when nobody is held out, TaftError when no trial was finished.
    """
    began = time.time()
    run = run_address(run)
    store = Store(run)
    base = run_spec(store)
    state = read_state(store)
    if state.cached is None:
        raise UsageError(f"{run} has no activation cache yet; run taft-ray train first, a sweep uses its tokens")
    if mlflow is not None:
        mlflow_callback(mlflow, "")  # before anything is read
    asked = replace(asked, space=asked.space or default_space(base))
    admit = _admission(base, len(state.cached["classes"]))
    trials, refused = draw(asked.space, base, trials=asked.trials, seed=asked.seed, admit=admit)
    name = asked.name(base)
    folder = f"{FOLDER}/{name}"
    entries = Ledger(store).entries()
    wanted = {_key(folder, trial): trial for trial in trials}
    results, stale = _kept(store, folder, entries, wanted)
    resumed = len(results)
    todo = [trial for key, trial in wanted.items() if key not in results]
    if todo:
        manifest = manifest_of(store, state)
        check_held_out(manifest, state, asked, base.seed)
        session.connect()
        session.check_device(base.device)
        blocks = {trial.spec(base).last_blocks for trial in todo}
        saw = {"ledger": entries[-1].number, "head": entries[-1].digest}
        bench = lay_bench(store, base, state, manifest, asked, f"{name} {time.time()}", blocks)
        counted = {"held_out": int(bench.held.sum()), "fitted_on": int((~bench.held).sum())}

        def finish(result: dict[str, Any]) -> None:
            key = next(key for key, trial in wanted.items() if trial.number == result["number"])
            results[key] = {**result, **counted, **saw}
            if result["status"] != FAILED:  # that is tried again
                store.write(key, json.dumps(results[key], allow_nan=False).encode())

        run_trials(bench, todo, scheduler=asked.scheduler, finish=finish, report=report, mlflow=mlflow)
    ordered = sorted(results.values(), key=lambda result: result["number"])
    best = best_of(ordered)
    entries = Ledger(store).entries()
    summary = {
        "sweep": name,
        "run": run,
        "objective": asked.objective,
        "scheduler": asked.scheduler,
        "space": [str(dimension) for dimension in asked.space],
        "seed": asked.seed,
        "held_out": best["held_out"],
        "fitted_on": best["fitted_on"],
        "best": {**{field: best[field] for field in ("number", "settings", "accuracy")}},
        "standard_error": standard_error(best["accuracy"], best["held_out"]),
        "as_good_as_best": as_good_as(best, ordered),
        "trials": ordered,
        "refused": [{"settings": settings, "reason": reason} for settings, reason in refused],
        "ledger": best["ledger"],
        "head": best["head"],
        "forgotten_since": forgotten_since(entries, best["ledger"], best["head"]),
    }
    written = _write(store, folder, summary, replace(base, **best["settings"]))
    return {
        **{
            field: summary[field] for field in ("sweep", "objective", "held_out", "fitted_on", "best", "standard_error")
        },
        "as_good_as_best": summary["as_good_as_best"],
        "trials": [_brief(result) for result in ordered],
        "refused": summary["refused"],
        "resumed": resumed,
        "measured_again": stale,
        "forgotten_since": summary["forgotten_since"],
        "stale_sweeps": _stale(store, entries, name),
        **written,
        "seconds": time.time() - began,
    }


def _admission(base: RunSpec, classes: int) -> Any:
    """Refuses, with UsageError, a spec that the run's model or its tokens cannot serve."""
    network = load_for(base).network

    @lru_cache
    def check(**options: Any) -> None:
        between(network, base.last_blocks, options["last_blocks"])
        linearize(network, num_classes=classes, **options)

    return lambda spec: check(**spec.linearize_options())


def _key(folder: str, trial: Trial) -> str:
    return f"{folder}/trial-{digest_json(trial.settings)[:16]}.json"


def _kept(
    store: Store, folder: str, entries: Sequence[Any], wanted: Mapping[str, Trial]
) -> tuple[dict[str, dict[str, Any]], int]:
    """Results of earlier calls by key; and how many saw samples which were forgotten since, and are removed."""
    results, stale = {}, 0
    for info in store.list(f"{folder}/"):
        if not info.key.startswith(f"{folder}/trial-"):
            continue
        try:
            result = json_object(store.read(info.key), info.key)
            since = forgotten_since(entries, result["ledger"], result["head"])
        except (IntegrityError, *MALFORMED):  # damaged: measured again
            store.delete(info.key)
            continue
        if since != 0:
            store.delete(info.key)
            stale += 1
        elif info.key in wanted:
            results[info.key] = {**result, "number": wanted[info.key].number}
    return results, stale


def _write(store: Store, folder: str, summary: dict[str, Any], best: RunSpec) -> dict[str, str]:
    """The sweep as JSON, table and page, and the best spec; where they are."""
    spec, page = f"{folder}/best.json", f"{folder}/sweep.html"
    store.write(f"{folder}/trials.csv", sweep_csv(summary).encode())
    store.write(page, sweep_page(summary).encode())
    store.write(spec, write_spec_file(best))
    store.write(f"{folder}/sweep.json", json.dumps(summary, allow_nan=False, indent=1).encode())
    where = {"spec": spec, "page": page, "table": f"{folder}/trials.csv"}
    return {what: str(store.fetch(key)) if store.local else f"{store.uri}/{key}" for what, key in where.items()}


def _stale(store: Store, entries: Sequence[Any], current: str) -> list[str]:
    """Other sweeps of this run that saw samples which were forgotten since: their choices are to be made again."""
    stale = []
    for info in store.list(f"{FOLDER}/"):
        name, _, file = info.key.removeprefix(f"{FOLDER}/").partition("/")
        if file == "sweep.json" and name != current:
            try:
                other = json_object(store.read(info.key), info.key)
                since = forgotten_since(entries, other["ledger"], other["head"])
            except (IntegrityError, *MALFORMED):  # damaged: nobody can tell what it saw
                since = None
            if since != 0:
                stale.append(name)
    return stale


def _brief(result: Mapping[str, Any]) -> dict[str, Any]:
    names_of = ("number", "settings", "status", "accuracy", "effort", "seconds", "error")
    return {name: result[name] for name in names_of if name in result}
