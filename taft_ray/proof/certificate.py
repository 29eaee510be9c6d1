"""The certificate of a forget: what was asked, what was removed, what the model is now, and what it does not cover.

It is sealed: `digest` is the digest of all its other fields. The digest of its bytes is in the ledger, and a signature is
over the same bytes. A certificate in an answer has what `ADDED` names beside its own fields.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from taft_ray.answers.certificates import ADDED
from taft_ray.errors import IntegrityError
from taft_ray.plans.facts import Purge, Removed
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import FITTING, SUBTRACT, RequestState, RunState
from taft_ray.proof.outside import outside_told, publication_told
from taft_ray.proof.privacy import privacy_statement
from taft_ray.run.quarantine import quarantines
from taft_ray.storage import MALFORMED, DeltaRef, Entry, Ledger, canonical_json, digest_json, parse_json
from taft_ray.storage.digest import seal, unseal

SCHEMA = "taft_ray.certificate/1"
_SEAL = "digest"
_STEPS = {
    "forget-requested": "requested",
    "dropped": "dropped",
    "rewritten": "rewritten",
    "purged": "purged",
    "start-purged": "start purged",
    "withdrawn": "withdrawn",
}
_DOES_NOT_COVER = (
    "the source data, which belongs to its owner and is not touched",
    "backups and copies of the run folder, and older versions of objects where the store keeps them out of reach",
    "disk blocks and object storage not yet reclaimed: a delete is logical",
    "models that were handed out before the request; publishing a model before and after a drop reveals the shard's delta",
)
_OF_SUBTRACTION = "models that were handed out before the request; whoever has the model before and after it can learn about the samples that left"
_OF_BOTH = f"{_OF_SUBTRACTION}, and whoever has the deltas' composition of both times about the rest of their shards"


def certificate_of(
    run: RunState,
    ledger: Ledger,
    spec: RunSpec,
    request: str,
    after: str | None,
    told: Mapping[str, Any],
    beside: str | None = None,
) -> dict[str, Any]:
    """The sealed certificate of a forget, from the ledger's own facts and what its driver measured (see `Forgetting.conclude`).

    after: the digest of the composed model now. beside: of a run of two tiers, that of its deltas' composition. Its bytes are
    the `certificate_bytes` of what is returned.
    """
    state = run.requests[request]
    entries = ledger.since(0)
    steps = [entry for entry in entries if entry.kind in _STEPS and entry.body["request"] == request]
    subtract = state.mode == SUBTRACT
    fits = _fits(state, steps, entries) if state.mode in FITTING or (subtract and spec.two_tiers) else {}
    back = brought_back(entries, request, fits)
    issued, number = datetime.now(UTC).isoformat(timespec="microseconds"), entries[-1].number
    handed_out = (_OF_BOTH if spec.two_tiers else _OF_SUBTRACTION) if subtract else _DOES_NOT_COVER[-1]
    body = {
        "schema": SCHEMA,
        "issued": issued,
        "run": {"address": ledger.store.uri, "spec_digest": digest_json(spec.to_json())},
        "rests_on": {"number": number, "digest": entries[-1].digest},
        "steps": [_step(entry) for entry in sorted([*steps, *fits.values()], key=lambda entry: entry.number)],
        "composed_after": after,
        "composition": spec.compose,
        **({"beside": {"composition": spec.beside, "composed_after": beside}} if spec.two_tiers else {}),
        **_asked(state),
        "carried_out_with": sorted(set(told.get("carried_out_with", ())) - {request}),
        **_removals(state, entries, told),
        **_what_came_after(run, state, fits),
        **({"brought_back": back} if back else {}),
        **withdrawn_of(run, state),
        **({"privacy": privacy_statement(spec.privacy, entries, request, state.shards)} if spec.privacy else {}),
        **outside_told(run, request, number, issued),
        **publication_told(run, spec, issued, after),
        **_cost(state, steps, fits, told),
        "environment": _environment(run, spec),
        "does_not_cover": [*_DOES_NOT_COVER[:-1], handed_out],
    }
    return parse_json(seal(body, _SEAL))


def _asked(state: RequestState) -> dict[str, Any]:
    """The request, and the model before it."""
    return {
        "request": state.request,
        "mode": state.mode,
        "requested": state.requested,
        "deadline": state.deadline,
        "samples": len(state.hashes),
        "id_hashes": list(state.hashes),
        "owners": list(state.owners),
        "whole_shards": list(state.whole_shards),
        "shards": list(state.shards),
        "composed_before": state.composed_before,
        "composed_before_unknown": state.composed_before_unknown,
    }


def _removals(state: RequestState, entries: Sequence[Entry], told: Mapping[str, Any]) -> dict[str, Any]:
    """The objects that were removed, and those that a removal could not reach."""
    purges = [one for one in (state.purged, state.start_purged) if one is not None]
    deltas = () if state.dropped is None else state.dropped.deltas
    return {
        "manifest_before": _manifest_before(state.request, entries),
        "manifest_after": None if state.purged is None else state.purged.manifest,
        "deltas_removed": [ref.to_json() for ref in deltas],
        "objects_removed": removed_by(state),
        "older_versions_removed": sum(one.older_versions for one in purges),
        "still_listed_after_purge": [key for one in purges for key in one.still_listed],
        "beyond_reach": [one.beyond_reach for one in purges if one.beyond_reach],
        "local_copies_removed": told.get("local_copies"),
    }


def _what_came_after(run: RunState, state: RequestState, fits: Mapping[int, Entry]) -> dict[str, Any]:
    """The fits without the samples, and what the request's shards are now."""
    return {
        "retrained": [
            {name: fit.body[name] for name in ("shard", "generation", "samples", "delta", "facts")}
            for _, fit in sorted(fits.items())
        ],
        "shards_after": [
            {"shard": number, "state": run.shards[number].state, "samples": run.shards[number].samples}
            for number in state.shards
        ],
        "damage": _damage(run, state),
    }


def _began(state: RequestState, steps: Sequence[Entry]) -> float:
    """When the work of a request began (unix seconds): one that was gathered with others waited before."""
    dropped = next((entry.time for entry in steps if entry.kind == "dropped"), None)
    if state.deadline is None or dropped is None:
        return state.started
    seconds = 0.0 if state.purged is None else state.purged.drop_seconds or 0.0
    return datetime.fromisoformat(dropped).timestamp() - seconds


def withdrawn_of(run: RunState, state: RequestState) -> dict[str, Any]:
    """The models that replicas answered with before a request and do no more; nothing of a run that was never served."""
    return {"withdrawn": [one.to_json() for one in state.withdrawn]} if run.servings else {}


def _cost(
    state: RequestState, steps: Sequence[Entry], fits: Mapping[int, Entry], told: Mapping[str, Any]
) -> dict[str, Any]:
    """Seconds of the steps, and of workers; money where an hour has a price."""
    purged, price = state.purged, told.get("gpu_hour_price")
    worker_seconds = sum(float(fit.body["facts"].get("seconds", 0.0)) for fit in fits.values())
    return {
        "seconds": {
            "drop": purged and purged.drop_seconds,
            "purge": purged and purged.seconds,
            "retrain": told.get("retrain_seconds"),
            "total": time.time() - _began(state, steps),
        },
        "cost": {
            "worker_seconds": worker_seconds,
            "price_per_hour": price,
            "money": None if price is None else price * worker_seconds / 3600,
        },
    }


def _environment(run: RunState, spec: RunSpec) -> dict[str, Any]:
    return {
        "versions": dict(spec.versions),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": spec.device,
        "threads": spec.threads,
        "run_made_on": dict(run.environment),
        "spec": spec.to_json(),
    }


def _damage(run: RunState, state: RequestState) -> dict[str, Any]:
    """The steps taken where storage was damaged: parts that went whole, and the request's shards that are in quarantine.

    Such a shard is out of the model, whatever the mode; it comes back, without the samples, by a repair.
    """
    return {
        "parts_removed_whole": [part.to_json() for part in (state.rewritten.parts_lost if state.rewritten else ())],
        "quarantined": [one for one in quarantines(run) if one["shard"] in state.shards],
    }


def _fits(state: RequestState, steps: Sequence[Entry], entries: Sequence[Entry]) -> dict[int, Entry]:
    """The latest fit of each of the request's shards since the rewrite: also of one that a later request took out again."""
    rewritten = next((entry.number for entry in steps if entry.kind == "rewritten"), len(entries))
    fits = (entry for entry in entries[rewritten:] if entry.kind == "trained" and entry.body["shard"] in state.shards)
    return {entry.body["shard"]: entry for entry in fits}


def brought_back(entries: Sequence[Entry], request: str, fitted: Collection[int]) -> list[dict[str, Any]]:
    """The drops whose shards this request's fits put back into the model: {"request", "samples", "id_hashes", "shards"}.

    shards: those of the drop that were out when this request began, and were ``fitted`` by it. A shard that was dropped
    several times is under each of the drops.
    """
    asked: dict[str, Mapping[str, Any]] = {}
    out: dict[int, list[str]] = {}  # shard: the drops that it waits out
    for entry in entries:
        name = entry.body.get("request")
        if entry.kind == "forget-requested":
            asked[entry.body["request"]] = entry.body
        elif entry.kind == "placed":
            asked[entry.body["request"]] = {**asked[entry.body["request"]], "shards": entry.body["shards"]}
        elif entry.kind == "dropped" and name == request:
            break
        elif entry.kind == "dropped" and asked[entry.body["request"]]["mode"] == "drop":
            for shard in asked[entry.body["request"]]["shards"]:
                out.setdefault(shard, []).append(entry.body["request"])
        elif entry.kind == "trained":
            out.pop(entry.body["shard"], None)
    back: dict[str, list[int]] = {}
    for shard in sorted(fitted):
        for earlier in out.get(shard, ()):
            back.setdefault(earlier, []).append(shard)
    return [
        {
            "request": one,
            "samples": len(asked[one]["hashes"]),
            "id_hashes": list(asked[one]["hashes"]),
            "shards": shards,
        }
        for one, shards in back.items()
    ]


def _step(entry: Entry) -> dict[str, Any]:
    what = _STEPS.get(entry.kind) or f"trained shard {entry.body['shard']}"
    return {"step": what, "number": entry.number, "digest": entry.digest, "time": entry.time}


def removed_by(state: RequestState) -> list[dict[str, Any]]:
    """The objects that a request's purges listed, and the deltas that an interrupted purge of it had removed already."""
    deltas: Sequence[DeltaRef] = () if state.dropped is None else state.dropped.deltas
    purges: list[Purge] = [one for one in (state.purged, state.start_purged) if one is not None]
    removed = {delta.key: Removed(delta.key, delta.digest) for delta in deltas}
    removed |= {one.key: one for purge in purges for one in purge.removed}
    return [one.to_json() for _, one in sorted(removed.items())]


def _manifest_before(request: str, entries: Sequence[Entry]) -> str | None:
    """The digest of the manifest that this request's rewrite replaced."""
    digest = None
    for entry in entries:
        if entry.kind == "rewritten" and entry.body["request"] == request:
            break
        if entry.kind in ("cached", "added", "rewritten"):
            digest = entry.body["manifest"] or digest
    return digest


def certificate_bytes(certificate: Mapping[str, Any]) -> bytes:
    """The bytes that the ledger's digest and any signature are of: canonical JSON, without what an answer adds."""
    return canonical_json({name: value for name, value in certificate.items() if name not in ADDED})


def open_certificate(data: bytes, where: str) -> tuple[dict[str, Any], Any]:
    """A certificate, as stored or as answered, and what it has as its signature (None: nothing).

    IntegrityError naming ``where`` unless its content has the digest recorded in it.
    """
    try:
        given = parse_json(data)
        signature = given.get("signature")
        sealed = certificate_bytes(given)
    except MALFORMED as error:
        raise IntegrityError(f"{where} is not a certificate: {str(error)[:80]}; give the JSON of one") from error
    if given.get("schema") != SCHEMA:
        raise IntegrityError(
            f"{where} is not a certificate: expected schema {SCHEMA!r}, got {given.get('schema')!r:.60}"
        )
    return unseal(sealed, _SEAL, where), signature
