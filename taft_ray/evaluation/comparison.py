"""Several runs side by side: accuracy, forgets and cost, each with the report that it comes from. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.evaluation.measured import lookup

SCHEMA = "taft_ray.comparison/1"
NUMBERS = (
    "accuracy",
    "accuracy_margin",
    "accuracy_monolith",
    "forgotten_samples",
    "forget_seconds_median",
    "training_seconds",
    "work_seconds",
    "speedup_retrain_median",
)


def compared(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{"schema", "runs", "notes"}. reports: what `summarise` made of each run.

    A run has its names, its spec's main settings and ``numbers``, which are those of its report.
    """
    if len(reports) < 2:
        raise UsageError(f"expected two runs or more to compare, got {len(reports)}")
    uris = [str(lookup(report["measurements"], "run.uri")) for report in reports]
    if len(set(uris)) < len(uris):
        raise UsageError(f"expected different runs, got one of them twice: {', '.join(uris)}")
    runs = [_run(report, name) for report, name in zip(reports, _names(uris), strict=True)]
    return {"schema": SCHEMA, "runs": runs, "notes": _notes(runs)}


def _names(uris: Sequence[str]) -> list[str]:
    """The last parts of the addresses, as many of them as tell the runs apart."""
    parts = [uri.rstrip("/").split("/") for uri in uris]
    for kept in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-kept:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(uris)


def _run(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    measurements = report["measurements"]
    spec = lookup(measurements, "run.spec") or {}
    return {
        "name": name,
        "uri": lookup(measurements, "run.uri"),
        "composed": lookup(measurements, "run.composed"),
        "settings": {key: spec[key] for key in ("model", "shards", "solver", "compose", "last_blocks", "seed") if key in spec},
        "samples": lookup(measurements, "data.kept"),
        "evaluated": {key: lookup(measurements, f"evaluation.{key}") for key in ("data", "n", "composed")},
        "requests": len(measurements.get("forgets") or ()),
        "numbers": {key: report["derived"][key] for key in NUMBERS},
    }  # fmt: skip


def _notes(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    measured = [run for run in runs if run["numbers"]["accuracy"]["value"] is not None]
    tested = {(run["evaluated"]["data"], run["evaluated"]["n"]) for run in measured}
    if len(tested) > 1:
        told = "; ".join(f"{run['name']}: {run['evaluated']['n']} of {run['evaluated']['data']}" for run in measured)
        notes.append(f"The accuracies are not of the same pictures. {told}.")
    stale = [run["name"] for run in measured if run["evaluated"]["composed"] not in (None, run["composed"])]
    if stale:
        notes.append(
            f"The accuracy is of an earlier model: {', '.join(stale)}. taft-ray evaluate measures the present one."
        )
    if len({run["samples"] for run in runs}) > 1:
        told = "; ".join(f"{run['name']}: {run['samples']}" for run in runs)
        notes.append(f"The runs were trained on different numbers of samples. {told}.")
    return notes
