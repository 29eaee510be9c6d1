"""`report`: the ledger's measurements, put together, drawn, and stored beside the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from taft_ray.counting import plural
from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.evaluation import summarise
from taft_ray.log import operation
from taft_ray.pages import certificate_page, report_page
from taft_ray.plans.additions import counts_of
from taft_ray.plans.facts import Composed
from taft_ray.plans.fold import Replayed
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.spending import spent_by
from taft_ray.plans.state import RequestState, RunState
from taft_ray.proof.certificate import open_certificate
from taft_ray.proof.contradictions import contradictions, inconsistencies
from taft_ray.proof.signature import with_signature
from taft_ray.run.quarantine import quarantines
from taft_ray.run.spec import run_spec
from taft_ray.run.state import read_state
from taft_ray.storage import Ledger, Store, digest_json, read_manifest
from taft_ray.storage import rundir as names


@operation("report")
def report(run: str) -> dict[str, Any]:
    """Write report.json, report.html and a page per certificate; returns where they are and what was derived."""
    store = Store(run)
    made = measured(store)
    summary = made.summary
    page, data = names.report_key("report.html"), names.report_key("report.json")
    store.write(data, json.dumps(summary, allow_nan=False, indent=1).encode())
    store.write(page, report_page(summary).encode())
    pages: list[str] = []
    for certificate, key, request, problems in made.certificates:
        written = certificate_page(certificate, key, (made.at, problems), made.state.key_kept_until).encode()
        where = names.report_key(f"certificate-{request}.html")
        store.write(where, written)
        pages.append(address_of(store, where))
    ill = quarantines(made.state)
    return {
        "page": address_of(store, page),
        "json": address_of(store, data),
        "derived": {name: number["value"] for name, number in summary["derived"].items()},
        "not_measured": summary["not_measured"],
        "ok": not ill and not made.damaged,
        "quarantined": ill,
        "damaged": made.damaged,
        "notes": summary["notes"],
        **({"certificates": pages} if pages else {}),
    }


class Made(NamedTuple):
    """A run's report, and what was found wrong. certificates: (certificate, key, request, problems)."""

    summary: dict[str, Any]
    state: RunState
    at: str
    certificates: list[tuple[dict[str, Any], str, str, list[str]]]
    damaged: list[str]


def measured(store: Store) -> Made:
    """A run's report, from its ledger and certificates."""
    spec = run_spec(store)
    state = read_state(store)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    certificates, damaged = _certificates(store, state)
    facts = gather(store, spec, state)
    known = {request: (certificate, key, problems) for certificate, key, request, problems in certificates}
    for forget in facts["forgets"]:
        certificate, key, problems = known.get(forget["request"], (None, None, ["the certificate cannot be read"]))
        forget["certificate"] = {"key": key, "checked": at, "problems": problems}
        if certificate is not None:
            forget["certificate"] |= {
                "issued": certificate["issued"],
                "signed": certificate.get("signature") is not None,
                "worker_seconds": certificate["cost"]["worker_seconds"],
            }
    return Made(summarise(facts), state, at, certificates, damaged)


def _certificates(store: Store, state: RunState) -> tuple[list[tuple[dict[str, Any], str, str, list[str]]], list[str]]:
    """Every certificate that can be read, compared with the ledger and the manifest; and what is wrong."""
    finished = [(request, request.forgotten) for request in state.requests.values() if request.forgotten is not None]
    if not finished:
        return [], []
    entries = Ledger(store).entries()
    manifest = read_manifest(store)
    held = set() if manifest is None else set(manifest.table["id_hash"].to_pylist())
    found: list[tuple[dict[str, Any], str, str, list[str]]] = []
    damaged: list[str] = []
    replayed = Replayed(entries)
    for request, forgotten in finished:
        key = forgotten.certificate.key
        try:
            certificate = with_signature(open_certificate(store.read(key), key)[0], request)
        except (IntegrityError, ObjectMissing) as error:
            damaged.append(str(error))
            continue
        wrong = [*inconsistencies(certificate), *contradictions(certificate, entries, state, replayed)]
        if back := held & set(certificate["id_hashes"]):
            wrong.append(f"{plural(len(back), 'of its samples is', 'of its samples are')} in the manifest again")
        damaged += [f"{key}: {one}" for one in wrong]
        found.append((dict(certificate), key, request.request, wrong))
    return found, damaged


def address_of(store: Store, key: str) -> str:
    """A local path, or the object's URI."""
    return str(store.fetch(key)) if store.local else f"{store.uri}/{key}"


def gather(store: Store, spec: RunSpec, state: RunState) -> dict[str, Any]:
    """The facts that `evaluation.report.summarise` takes, all of them from the ledger."""
    latest = state.evaluations[-1] if state.evaluations else None
    latest_of = _of_the_present_model(state)
    facts: dict[str, Any] = {
        "run": {
            "uri": store.uri,
            "spec": spec.to_json(),
            "spec_digest": digest_json(spec.to_json()),
            "composed": latest_of[spec.compose].digest if spec.compose in latest_of else None,
            "created": state.created_time,
        },
        "environment": {
            **state.environment, "device": spec.device, "threads": spec.threads, "versions": dict(spec.versions),
        },
        "shards": _shards(state),
    }  # fmt: skip
    tuned = state.tuned
    if tuned is not None and tuned.settings is not None and tuned.of == facts["run"]["composed"]:
        facts["settings"] = tuned.settings.to_json()
    if spec.privacy is not None:
        facts["privacy"] = spent_by(state, spec.privacy)
    if state.quarantined:
        facts["quarantine"] = quarantines(state)
    if state.cached is not None:
        cached = state.cached
        facts["data"] = {**counts_of(cached.counts, state.additions), "classes": list(state.classes)}
        facts["cache"] = {name: getattr(cached, name) for name in ("seconds", "images", "bytes", "started", "ended")}
    if state.trainings:
        facts["training"] = state.trainings[0].to_json()
    if state.monolith is not None:
        facts["monolith"] = {
            **state.monolith.fit.facts,
            "removed_by": state.monolith.removed_by,
            "accuracy": next((e.monolith for e in reversed(state.evaluations) if e.monolith is not None), None),
        }
    measured = {
        found["composed"]: (found["accuracy"], {"n": evaluation.n, "data": evaluation.data})
        for evaluation in state.evaluations
        for found in evaluation.by_composition.values()
    }
    facts["composition"] = [
        {
            "mode": c.mode,
            "seconds": c.seconds,
            "digest": c.digest,
            "accuracy": measured[c.digest][0] if c.digest in measured else None,
        }
        for c in latest_of.values()
    ]
    if latest is not None:
        elsewhere = {"by_shards", "by_composition", "monolith", "rejected", "settings"}
        facts["evaluation"] = {name: value for name, value in latest.to_json().items() if name not in elsewhere}
        facts["accuracy_by_shards"] = list(latest.by_shards)
    facts["forgets"] = [_forget(request, measured) for request in state.requests.values() if request.forgotten]
    facts["waiting"] = [
        {
            "request": request.request,
            "mode": request.mode,
            "samples": len(request.hashes),
            "asked": request.requested,
            "deadline": request.deadline,
        }
        for request in state.requests.values()
        if request.forgotten is None
    ]
    return facts


def _of_the_present_model(state: RunState) -> dict[str, Composed]:
    """The latest composition of each mode. A forget makes one; those of other modes from before it are of another model."""
    after = {request.forgotten.composed_after for request in state.requests.values() if request.forgotten}
    latest: dict[str, Composed] = {}
    for composition in state.compositions:
        if composition.digest in after:
            after.remove(composition.digest)
            latest.clear()
        latest[composition.mode] = composition
    return latest


def _shards(state: RunState) -> list[dict[str, Any]]:
    """The fits, by shard and generation, and shards without any: a shard that was fitted again has several rows."""
    rows = []
    for fit in state.fits:
        shard = state.shards[fit.shard]
        rows.append(
            {
                "shard": fit.shard,
                "generation": fit.generation,
                "samples": fit.samples,
                "state": shard.told if fit.generation == shard.generation else "trained",
                **fit.facts,
            }
        )
    fitted = {fit.shard for fit in state.fits}
    rows += [
        {"shard": s.shard, "generation": 0, "samples": s.samples, "state": s.told}
        for s in state.shards.values()
        if s.shard not in fitted
    ]
    return sorted(rows, key=lambda row: (row["shard"], row["generation"]))


def _forget(request: RequestState, measured: Mapping[str, tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    finished = request.forgotten
    assert finished is not None
    after = finished.composed_after
    told: dict[str, Any] = {}
    for when, composed in (("before", request.composed_before), ("after", after)):
        accuracy, on = measured.get(str(composed), (None, None))
        told |= {f"composed_{when}": composed, f"accuracy_{when}": accuracy, f"evaluated_{when}": on}
    return {
        "request": request.request,
        "mode": request.mode,
        "samples": len(request.hashes),
        "shards": list(request.shards),
        "seconds": dict(finished.seconds),
        **told,
        "time": request.requested,
    }
