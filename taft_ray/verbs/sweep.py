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
from taft_ray.evaluation import sweep_csv
from taft_ray.log import operation
from taft_ray.pages import sweep_page
from taft_ray.plans.space import Trial, default_space, draw
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.spec_file import write_spec_file
from taft_ray.plans.state import RunState
from taft_ray.plans.sweep import FAILED, Sweep, as_good_as, best_of, forgotten_since, standard_error
from taft_ray.progress import Report, silent
from taft_ray.run.address import run_address
from taft_ray.run.spec import run_spec
from taft_ray.run.state import read_state
from taft_ray.storage import MALFORMED, Ledger, Store, digest_json, json_object, read_rows
from taft_ray.storage import rundir as names
from taft_ray.studies.held_out import check_held_out
from taft_ray.studies.mlflow import check_mlflow

FOLDER = names.report_key("sweeps")


@operation("sweep")
def sweep(run: str, asked: Sweep, *, mlflow: str | None = None, report: Report = silent) -> dict[str, Any]:
    """Measure the trials that have no result yet, and write table, picture and the best spec; safe to call again.

    Trials that were measured before samples were forgotten are measured again: a chosen setting is a function of them.
    UsageError when no trial is valid, DataError when nobody is held out, TaftError when no trial was finished.
    """
    began = time.time()
    run = run_address(run)
    store = Store(run)
    base = run_spec(store)
    if base.lean:
        raise UsageError("a sweep tries fits, and this run fits nothing; use taft-ray tune, which needs no trial")
    if base.privacy is not None:
        raise UsageError(
            "a sweep on private data would choose by fits without noise, which nobody charged; choose settings on other data"
        )
    state = read_state(store)
    if state.cached is None:
        raise UsageError(f"{run} has no activation cache yet; run taft-ray train first, a sweep uses its tokens")
    if mlflow is not None:
        check_mlflow()  # before anything is read
    asked = replace(asked, space=asked.space or default_space(base))
    admit = _admission(base, len(state.cached.classes))
    trials, refused = draw(asked.space, base, trials=asked.trials, seed=asked.seed, admit=admit)
    name = asked.name(base)
    folder = f"{FOLDER}/{name}"
    wanted = {_key(folder, trial): trial for trial in trials}
    results, stale = _kept(store, folder, Ledger(store).entries(), wanted)
    resumed = len(results)
    todo = {key: trial for key, trial in wanted.items() if key not in results}
    if todo:
        results |= _measured(store, base, state, asked, todo, name, mlflow, report)
    ordered = sorted(results.values(), key=lambda result: result["number"])
    entries = Ledger(store).entries()
    summary = {"sweep": name, "run": run, **_summary(asked, ordered, refused, entries)}
    written = _write(store, folder, summary, replace(base, **summary["best"]["settings"]))
    fields = ("sweep", "objective", "held_out", "fitted_on", "best", "standard_error", "as_good_as_best")
    return {
        **{field: summary[field] for field in fields},
        "trials": [_brief(result) for result in ordered],
        "refused": summary["refused"],
        "resumed": resumed,
        "measured_again": stale,
        "forgotten_since": summary["forgotten_since"],
        "stale_sweeps": _stale(store, entries, name),
        **written,
        "seconds": time.time() - began,
    }


def _measured(
    store: Store,
    base: RunSpec,
    state: RunState,
    asked: Sweep,
    todo: Mapping[str, Trial],
    name: str,
    mlflow: str | None,
    report: Report,
) -> dict[str, dict[str, Any]]:
    """Run these trials, by the key of their result, and write each result as it comes."""
    manifest = read_rows(store, str(state.manifest_key), str(state.manifest))
    check_held_out(manifest, state, asked, base.seed)
    from taft_ray.orchestration import places, session
    from taft_ray.orchestration.pulse import looked_after
    from taft_ray.studies.bench import lay_bench
    from taft_ray.studies.trial import signs_of
    from taft_ray.studies.tuning import run_trials

    results: dict[str, dict[str, Any]] = {}
    bench_name = f"{name} {time.time()}"
    group = signs_of(bench_name)
    with session.connected(report), looked_after("trials", group, run=store.uri, closes=True):
        places.check_device(base.device, per_lane=state.per_lane)
        blocks = {trial.spec(base).last_blocks for trial in todo.values()}
        last = Ledger(store).entries()[-1]
        bench = lay_bench(store, base, state, manifest, asked, bench_name, blocks)
        facts = {
            "held_out": int(bench.held.sum()),
            "fitted_on": int((~bench.held).sum()),
            "ledger": last.number,
            "head": last.digest,
        }

        def finish(result: dict[str, Any]) -> None:
            key = next(key for key, trial in todo.items() if trial.number == result["number"])
            results[key] = {**result, **facts}
            if result["status"] != FAILED:  # that is tried again
                store.write(key, json.dumps(results[key], allow_nan=False).encode())

        run_trials(
            bench,
            list(todo.values()),
            state.per_lane,
            scheduler=asked.scheduler,
            finish=finish,
            report=report,
            mlflow=mlflow,
        )
    return results


def _summary(
    asked: Sweep, ordered: Sequence[dict[str, Any]], refused: Sequence[Any], entries: Sequence[Any]
) -> dict[str, Any]:
    """The record of a sweep: what was asked, every trial, and the best."""
    best = best_of(ordered)
    return {
        "objective": asked.objective,
        "scheduler": asked.scheduler,
        "space": [str(dimension) for dimension in asked.space],
        "seed": asked.seed,
        "held_out": best["held_out"],
        "fitted_on": best["fitted_on"],
        "best": {field: best[field] for field in ("number", "settings", "accuracy")},
        "standard_error": standard_error(best["accuracy"], best["held_out"]),
        "as_good_as_best": as_good_as(best, ordered),
        "trials": ordered,
        "refused": [{"settings": settings, "reason": reason} for settings, reason in refused],
        "ledger": best["ledger"],
        "head": best["head"],
        "forgotten_since": forgotten_since(entries, best["ledger"], best["head"]),
    }


def _admission(base: RunSpec, classes: int) -> Any:
    """Refuses, with UsageError, a spec that the run's model or its tokens cannot serve."""
    from taft_ray.run.model import load_for
    from taft_ray.tangent import between, linearize

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
