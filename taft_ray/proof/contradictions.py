"""Where a certificate contradicts itself, or the run's ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from taft_ray.plans.fold import Replayed
from taft_ray.plans.state import EMPTY, FITTING, QUARANTINED, SUBTRACT, RunState, requested_at
from taft_ray.proof.certificate import brought_back
from taft_ray.proof.outside import outside_contradictions
from taft_ray.proof.privacy import privacy_contradictions
from taft_ray.storage import Entry
from taft_ray.storage import rundir as names


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
    spared = (certificate.get("privacy") or {}).get("not_fitted", ())  # the budget allows no fit
    undone = sorted(
        n for n, state in after.items() if state not in (EMPTY, QUARANTINED) and n not in (*retrained, *spared)
    )
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
    steps = [step["step"] for step in certificate["steps"] if step["step"] != "withdrawn"]
    numbers = [step["number"] for step in certificate["steps"]]
    purge = [step for step in steps if not step.startswith("trained shard ")][:4]
    if purge != ["requested", "dropped", "rewritten", "purged"]:
        yield f"its steps are {steps}, expected requested, dropped, rewritten and purged"
    if numbers != sorted(set(numbers)) or (numbers and numbers[-1] > certificate["rests_on"]["number"]):
        yield f"its steps are the ledger's entries {numbers}: not in order, or after the one it rests on"


def contradictions(
    certificate: Mapping[str, Any],
    entries: Sequence[Entry],
    state: RunState | None = None,
    replayed: Replayed | None = None,
) -> Iterator[str]:
    """Where a certificate does not stand in the chain as it says, or says what the entries there do not.

    entries: the run's ledger, verified. state: the fold of it, where it is known.

    replayed: of the same ledger. It saves time where several certificates come in the order in which they were made.
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
            if what == "requested" and certificate["requested"] != requested_at(
                entry.time, entry.body.get("first_requested")
            ):
                wrong.append("requested")
            if wrong:
                yield f"{what}: the certificate and entry {number} of the ledger differ in {wrong}"
    yield from _other_drops(certificate, entries)
    yield from _other_withdrawals(certificate, entries)
    yield from privacy_contradictions(certificate, entries)
    yield from outside_contradictions(certificate, entries, state, replayed)


def _other_drops(certificate: Mapping[str, Any], entries: Sequence[Entry]) -> Iterator[str]:
    """Where a certificate that names drops whose shards came back names others than the ledger has."""
    if "brought_back" not in certificate:  # nothing came back, or an earlier version made it
        return
    fitted = {one["shard"] for one in certificate["retrained"]}
    if certificate["brought_back"] != brought_back(entries, certificate["request"], fitted):
        yield "the shards that came back, and the samples that they came back without, are not those of the ledger"


def _other_withdrawals(certificate: Mapping[str, Any], entries: Sequence[Entry]) -> Iterator[str]:
    """Where the models that replicas answer with no more are others than the ledger has; a run that was not served has none."""
    before = entries[: certificate["rests_on"]["number"] + 1]
    committed = [
        one.body for one in before if one.kind == "withdrawn" and one.body["request"] == certificate["request"]
    ]
    served = any(one.kind == "served" for one in before)
    if certificate.get("withdrawn") != (committed if served else None):
        yield "the models that are said to be served no more are not those that the ledger has as withdrawn"


def _says(certificate: Mapping[str, Any], step: str) -> dict[str, Any]:
    """The fields that the ledger's entry of a step must have, going by the certificate."""
    if step.startswith("trained shard "):
        (shard,) = (s for s in certificate["retrained"] if step == f"trained shard {s['shard']}")
        return {name: shard[name] for name in ("delta", "generation", "facts")}
    return {
        "requested": {"hashes": certificate["id_hashes"], "mode": certificate["mode"], "owners": certificate["owners"]},
        "dropped": {"deltas": certificate["deltas_removed"]},
        "rewritten": {"manifest": certificate["manifest_after"]},
        "purged": {"manifest": certificate["manifest_after"]},
        "start purged": {},
        "withdrawn": {},  # each is a field of the certificate
    }[step]
