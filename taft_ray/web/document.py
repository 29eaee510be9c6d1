"""The document of a run's page: answers of verbs, made of one state of its ledger. It is what RUN.json gives.

Guarantees: each value is an answer's of a verb, or is recorded in the ledger or in the run's reports. A part that cannot be made has a
problem, and the others are made all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow.compute as pc

from taft_ray import answers
from taft_ray.data.columns import is_kept
from taft_ray.data.keys import owner_label
from taft_ray.errors import ObjectMissing
from taft_ray.evaluation import summarise
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import FITTING, SUBTRACT, TRAINED, RequestState, RunState
from taft_ray.proof.certificate import removed_by
from taft_ray.run.outcomes import AUDIT, AUDIT_PRIVACY, AUDIT_RECONSTRUCT, VERIFY, Recorded
from taft_ray.run.record import Record
from taft_ray.run.secret import secret_of
from taft_ray.run.state import check_newest
from taft_ray.storage import parse_json
from taft_ray.storage import rundir as names
from taft_ray.verbs.list import last_composed
from taft_ray.verbs.privacy import privacy_of
from taft_ray.verbs.recalls import recalls_of
from taft_ray.verbs.release import release_of
from taft_ray.verbs.report import gather
from taft_ray.verbs.status import outcomes_of, status_of
from taft_ray.web.reading import UNREADABLE, Reading, told

FRESH_S = 2.0  # for so long a document is given again, where the ledger has not moved
OUTCOMES = {
    VERIFY: answers.Verification,
    AUDIT: answers.Audit,
    AUDIT_PRIVACY: answers.PrivacyAudit,
    AUDIT_RECONSTRUCT: answers.Reconstruction,
}
"""Answers that are shown where they were recorded in the run, or somebody kept them among its reports, as NAME.json."""
_WITH_RUN = (AUDIT_PRIVACY, AUDIT_RECONSTRUCT)  # answers that name the run, which an outcome leaves out
_MOST_OUTCOME = 1 << 20  # bytes
_OF_FITS = ("shard", "generation", "samples", "state", "seconds", "lane", "started", "ended")  # for `summarise`


def document(reading: Reading) -> dict[str, Any]:
    """{"run", "name", "head", "problem", "status", "requests", "recalls", "release", "privacy", "report", "outcomes"}.

    A part that cannot be made is {"problem": a sentence}. problem: why the whole run cannot be read, or is not to be trusted.
    """
    with reading.lock:
        try:
            record = reading.record()
        except UNREADABLE as error:
            return {"run": reading.store.uri, "name": reading.name, "problem": told(error)}
        of = (record.state.entries, int(time.time() / FRESH_S))
        return reading.kept("document", of, lambda: _made(reading, record))


def _made(reading: Reading, record: Record) -> dict[str, Any]:
    spec, state, uri = record.spec, record.state, reading.store.uri
    composed, entries, asked = last_composed(spec, state), state.entries, spec.privacy
    newest = record.ledger.since(entries - 1)[0] if entries else None
    return {
        "run": uri,
        "name": reading.name,
        "problem": _part(lambda: check_newest(reading.store, state)).get("problem"),
        "head": None if newest is None else {"number": newest.number, "digest": newest.digest, "time": newest.time},
        "status": _part(lambda: status_of(record, composed)),
        "requests": _part(lambda: {"all": [request_told(spec, state, one) for one in state.requests.values()]}),
        "recalls": _part(lambda: recalls_of(reading.store, uri, state)),
        "release": _part(lambda: release_of(uri, spec, state)),
        "privacy": None if asked is None else _part(lambda: privacy_of(uri, asked, state, composed)),
        "report": reading.kept("report", entries, lambda: _part(lambda: _report(record))),
        "outcomes": _outcomes(record),
    }


def _part(make: Callable[[], Mapping[str, Any] | None]) -> dict[str, Any]:
    """A part; {} where it is nothing, and its problem where it cannot be made."""
    try:
        return dict(make() or {})
    except UNREADABLE as error:
        return {"problem": told(error)}


def request_told(spec: RunSpec, state: RunState, request: RequestState) -> dict[str, Any]:
    """A request and how far it is. steps: which are done, in order. fitted, to_fit: shards fitted again, and all that are to be.

    removed: objects that are gone. outcome: digest of the certificate, None before the end.
    """
    fits = request.mode in FITTING or (request.mode == SUBTRACT and spec.two_tiers)
    to_fit = request.shards if fits else ()
    fitted = 0
    if request.purged is not None:
        fitted = sum(state.shards[one].state == TRAINED for one in to_fit)
    steps = {
        "recorded": True,
        "out of the model": request.left_at is not None,
        "removed from storage": request.purged is not None,
        "certified": request.forgotten is not None,
    }
    finished = request.forgotten
    return {
        "request": request.request,
        "mode": request.mode,
        "samples": len(request.hashes),
        "owners": len(request.owners),
        "shards": list(request.shards),
        "asked": request.requested,
        "deadline": request.deadline,
        "waiting": request.waiting,
        "steps": steps,
        "to_fit": len(to_fit),
        "fitted": len(to_fit) if finished is not None else fitted,
        "removed": len(removed_by(request)),
        "signed": request.signed is not None,
        "certificate": None if finished is None else finished.certificate.to_json(),
        "seconds": None if finished is None else finished.seconds.get("total"),
    }


def _report(record: Record) -> dict[str, Any]:
    """The part of a report that the page shows: derived numbers, evaluations after forgets, the spec."""
    facts = gather(record.store, record.spec, record.state)
    slim = [{name: shard[name] for name in _OF_FITS if name in shard} for shard in facts["shards"]]
    # numbers of each forget are in its certificate and in the report
    summed = summarise({**facts, "shards": slim, "forgets": [_slim(one) for one in facts["forgets"]]})["derived"]
    return {
        "derived": {name: one for name, one in summed.items() if not name.startswith("forgets[")},
        "spec": facts["run"]["spec"],
        "created": facts["run"]["created"],
        "evaluation": facts.get("evaluation"),
        "forgets": [
            {
                name: one.get(name)
                for name in ("request", "samples", "accuracy_before", "accuracy_after", "evaluated_after")
            }
            for one in facts["forgets"]
        ],
    }


def _slim(forget: Mapping[str, Any]) -> dict[str, Any]:
    return {name: forget[name] for name in ("samples", "seconds")}


def _outcomes(record: Record) -> dict[str, dict[str, Any]]:
    """The outcome of each verb: the one recorded last, else an answer among the reports; {} where there is none."""
    recorded = _part(lambda: {one.verb: one for one in outcomes_of(record)})
    return {
        name: _part(lambda name=name: _recorded(record, recorded[name]))
        if name in recorded
        else _part(lambda name=name: _outcome(record, name))
        for name in OUTCOMES
    }


def _recorded(record: Record, one: Recorded) -> dict[str, Any]:
    """{"answer", "made", "entry", "since"}, as of `_outcome`."""
    if one.outcome is None:
        return {"problem": one.problem}
    answer = {"run": record.store.uri, **one.outcome.answer} if one.verb in _WITH_RUN else one.outcome.answer
    return {
        "answer": OUTCOMES[one.verb].from_json(answer).to_json(),
        "made": one.outcome.made,
        "entry": None if one.since is None else one.number,
        "since": one.since,
    }


def _outcome(record: Record, name: str) -> dict[str, Any]:
    """An answer that somebody kept among the reports, and whether the ledger has moved on since."""
    try:
        data = record.store.read(names.report_key(f"{name}.json"))
    except ObjectMissing:
        return {}
    if len(data) > _MOST_OUTCOME:
        raise ValueError(f"reports/{name}.json has {len(data):,} bytes, which no such answer has")
    kept = OUTCOMES[name].from_json(parse_json(data)).to_json()
    if name != "verify":
        return {"answer": kept}
    known = {entry.digest: entry.number for entry in record.ledger.known}
    head = kept["head"]
    at = known.get(head) if isinstance(head, str) else None
    return {"answer": kept, "entry": at, "since": None if at is None else record.state.entries - 1 - at}


def owners(reading: Reading) -> dict[str, Any]:
    """{"owners": [{"owner", "samples", "shards"}], "count", "samples", "unowned", "forgotten"}: the most samples first.

    owner: a keyed hash, None where the key of the hashes is gone. forgotten: hashes of owners that were forgotten whole.
    """
    with reading.lock:
        record = reading.record()
        of = (record.state.manifest_key, record.state.key_destroyed)
        counted = reading.kept("owners", of, lambda: _owners(record))
        return {**counted, "forgotten": dict(record.state.owner_tombstones)}


def _owners(record: Record) -> dict[str, Any]:
    if record.state.manifest_key is None:
        return {"owners": [], "count": 0, "samples": 0, "unowned": 0}
    table = record.current(record.manifest).table
    table = table.filter(is_kept(table)).select(["owner_key", "shard"])
    grouped = table.group_by("owner_key").aggregate([("shard", "count"), ("shard", "count_distinct")])
    secret = secret_of(record.store)
    rows = zip(
        *(grouped[name].to_pylist() for name in ("owner_key", "shard_count", "shard_count_distinct")), strict=True
    )
    known = sorted(((n, shards, key) for key, n, shards in rows if key is not None), key=lambda one: (-one[0], one[2]))
    return {
        "owners": [
            {"owner": None if secret is None else owner_label(key, secret), "samples": n, "shards": shards}
            for n, shards, key in known
        ],
        "count": len(known),
        "samples": table.num_rows,
        "unowned": int(pc.sum(pc.is_null(table["owner_key"])).as_py() or 0),  # type: ignore[attr-defined]  # made at import
    }
