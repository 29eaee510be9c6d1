"""The certificate of a forget: what was asked, what was removed, what the model is now, and what it does not cover.

It is sealed: `digest` is the digest of all its other fields. The digest of its bytes is in the ledger, and a signature is
over the same bytes. A certificate in an answer has what `ADDED` names beside its own fields.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from taft_ray.answers.certificates import ADDED
from taft_ray.errors import IntegrityError
from taft_ray.plans.facts import Purge, Removed
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import EMPTY, FITTING, QUARANTINED, SUBTRACT, RequestState, RunState
from taft_ray.run.quarantine import quarantines
from taft_ray.storage import MALFORMED, DeltaRef, Entry, Ledger, canonical_json, digest_json, parse_json
from taft_ray.storage import rundir as names
from taft_ray.storage.digest import seal, unseal

SCHEMA = "taft_ray.certificate/1"
_SEAL = "digest"
_STEPS = {
    "forget-requested": "requested",
    "dropped": "dropped",
    "rewritten": "rewritten",
    "purged": "purged",
    "start-purged": "start purged",
}
_DOES_NOT_COVER = (
    "the source data, which belongs to its owner and is not touched",
    "backups and copies of the run folder, and older versions of objects where the store keeps them out of reach",
    "disk blocks and object storage not yet reclaimed: a delete is logical",
    "models that were handed out before the request; publishing a model before and after a drop reveals the shard's delta",
)
_OF_SUBTRACTION = "models that were handed out before the request; whoever has the model before and after it can learn about the samples that left"


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
    limits = [*_DOES_NOT_COVER[:-1], _OF_SUBTRACTION] if subtract else _DOES_NOT_COVER
    body = {
        "schema": SCHEMA,
        "issued": datetime.now(UTC).isoformat(timespec="microseconds"),
        "run": {"address": ledger.store.uri, "spec_digest": digest_json(spec.to_json())},
        "rests_on": {"number": entries[-1].number, "digest": entries[-1].digest},
        "steps": [_step(entry) for entry in sorted([*steps, *fits.values()], key=lambda entry: entry.number)],
        "composed_after": after,
        "composition": spec.compose,
        **({"beside": {"composition": spec.beside, "composed_after": beside}} if spec.two_tiers else {}),
        **_asked(state),
        "carried_out_with": sorted(set(told.get("carried_out_with", ())) - {request}),
        **_removals(state, entries, told),
        **_what_came_after(run, state, fits),
        **({"brought_back": back} if back else {}),
        **_cost(state, steps, fits, told),
        "environment": _environment(run, spec),
        "does_not_cover": [*limits, *([_DOES_NOT_COVER[-1]] if subtract and spec.two_tiers else [])],
    }
    return parse_json(seal(body, _SEAL))


def _asked(state: RequestState) -> dict[str, Any]:
    """The request, and the model before it."""
    return {
        "request": state.request,
        "mode": state.mode,
        "requested": state.time,
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
    dropped, purges = state.dropped, [one for one in (state.purged, state.start_purged) if one is not None]
    deltas = () if dropped is None else dropped.deltas
    return {
        "manifest_before": _manifest_before(state.request, entries),
        "manifest_after": None if state.purged is None else state.purged.manifest,
        "deltas_removed": [ref.to_json() for ref in deltas],
        "objects_removed": _removed(deltas, purges),
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
    """What was done where storage was damaged: parts that went whole, and the request's shards that are in quarantine.

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


def _removed(deltas: Sequence[DeltaRef], purges: Sequence[Purge]) -> list[dict[str, Any]]:
    """What the purges listed, and the deltas that an interrupted purge of the same request had removed already."""
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


def inconsistencies(certificate: Mapping[str, Any]) -> Iterator[str]:
    """Where a certificate contradicts itself: what was asked and what was done, the order of its steps, what is left."""
    hashes, mode = certificate["id_hashes"], certificate["mode"]
    if certificate["samples"] != len(hashes) or len(set(hashes)) != len(hashes):
        yield f"it says {certificate['samples']} samples, and names {len(set(hashes))}"
    if certificate["still_listed_after_purge"] and not certificate["beyond_reach"]:
        yield f"{certificate['still_listed_after_purge'][:4]} were still listed after the purge"
    for back in certificate.get("brought_back", ()):
        if back["samples"] != len(set(back["id_hashes"])):
            yield f"it says {back['samples']} samples of request {back['request']}, and names {len(set(back['id_hashes']))}"
    yield from _disorder(certificate)
    after = {shard["shard"]: shard["state"] for shard in certificate["shards_after"]}
    if sorted(after) != sorted(certificate["shards"]):
        yield f"it touches the shards {certificate['shards']}, and tells what became of {sorted(after)}"
    retrained = {shard["shard"] for shard in certificate["retrained"]}
    # in a run of two tiers deltas are fitted again behind a subtraction
    may_fit = mode in FITTING or (mode == SUBTRACT and certificate.get("beside") is not None)
    if not may_fit and retrained:
        yield f"a {mode} was asked, and the shards {sorted(retrained)} are said to be trained again"
    undone = sorted(n for n, state in after.items() if state not in (EMPTY, QUARANTINED) and n not in retrained)
    if mode in FITTING and undone:
        yield f"{mode} was asked, and the shards {undone} were not trained again"
    removed = {entry["key"] for entry in certificate["objects_removed"]}
    kept = [delta["key"] for delta in certificate["deltas_removed"] if delta["key"] not in removed]
    if kept:
        yield f"the deltas {kept[:4]} left the model, and are not among the objects removed"
    old = {delta["digest"] for delta in certificate["deltas_removed"]}
    for shard in certificate["retrained"]:
        # a part that was replaced lost a sample; where none was, another request had taken the samples already
        folder = f"{names.shard_prefix(shard['shard'])}/"
        lost = any(e["key"].startswith(folder) and e["digest"] for e in certificate["objects_removed"])
        if lost and shard["delta"]["digest"] in old:
            yield f"shard {shard['shard']} was trained again to the very bytes that were removed"
        if shard["facts"].get("resolved") and not isinstance(shard["facts"].get("distance_bound"), float):
            yield f"shard {shard['shard']} was solved again without a certified distance"


def _disorder(certificate: Mapping[str, Any]) -> Iterator[str]:
    steps = [step["step"] for step in certificate["steps"]]
    numbers = [step["number"] for step in certificate["steps"]]
    purge = [step for step in steps if not step.startswith("trained shard ")][:4]
    if purge != ["requested", "dropped", "rewritten", "purged"]:
        yield f"its steps are {steps}, expected requested, dropped, rewritten and purged"
    if numbers != sorted(set(numbers)) or (numbers and numbers[-1] > certificate["rests_on"]["number"]):
        yield f"its steps are the ledger's entries {numbers}: not in order, or after the one it rests on"


def contradictions(certificate: Mapping[str, Any], entries: Sequence[Entry]) -> Iterator[str]:
    """Where a certificate does not stand in the chain as it says, or says what the entries there do not.

    entries: the run's ledger, verified.
    """
    steps = certificate["steps"]
    last_purge = max((step["number"] for step in steps if step["step"] == "purged"), default=None)
    for what, position in [("rests on", certificate["rests_on"]), *((step["step"], step) for step in steps)]:
        number, digest = position["number"], position["digest"]
        entry = entries[number] if isinstance(number, int) and 0 <= number < len(entries) else None
        if entry is None or entry.digest != digest:
            got = "no such entry" if entry is None else f"one with digest {entry.digest[:16]}"
            yield f"{what}: expected entry {number} with digest {str(digest)[:16]}, the ledger has {got}"
        elif what != "rests on" and (what != "purged" or number == last_purge):
            says = _says(certificate, what)
            wrong = [name for name, value in says.items() if entry.body.get(name) != value]
            if wrong:
                yield f"{what}: the certificate and entry {number} of the ledger differ in {wrong}"
    yield from _other_drops(certificate, entries)


def _other_drops(certificate: Mapping[str, Any], entries: Sequence[Entry]) -> Iterator[str]:
    """Where a certificate that names drops whose shards came back names others than the ledger has."""
    if "brought_back" not in certificate:  # nothing came back, or an earlier version made it
        return
    fitted = {one["shard"] for one in certificate["retrained"]}
    if certificate["brought_back"] != brought_back(entries, certificate["request"], fitted):
        yield "the shards that came back, and the samples that they came back without, are not those of the ledger"


def _says(certificate: Mapping[str, Any], step: str) -> dict[str, Any]:
    """What the ledger's entry of a step must have in it, going by the certificate."""
    if step.startswith("trained shard "):
        (shard,) = (s for s in certificate["retrained"] if step == f"trained shard {s['shard']}")
        return {name: shard[name] for name in ("delta", "generation", "facts")}
    return {
        "requested": {"hashes": certificate["id_hashes"], "mode": certificate["mode"], "owners": certificate["owners"]},
        "dropped": {"deltas": certificate["deltas_removed"]},
        "rewritten": {"manifest": certificate["manifest_after"]},
        "purged": {"manifest": certificate["manifest_after"]},
        "start purged": {},
    }[step]
