"""The part of a certificate on what is still outside: the releases that hold what was forgotten, and when a newer model is published.

Both are functions of the ledger up to where the certificate rests, and of the time when it was issued. So anybody can make them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from taft_ray.plans.fold import Replayed, replay
from taft_ray.plans.gate import publication
from taft_ray.plans.recalls import outside
from taft_ray.plans.releases import Released, ReleaseGateSet
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.storage import Entry


def outside_told(state: RunState, request: str, number: int, issued: str) -> dict[str, Any]:
    """The field "outside" of a certificate that rests on a ledger entry; none in a run that had released nothing by then."""
    found = outside(state, request, number, issued)
    if found is None:
        return {}
    told = [
        {
            "release": one.fact.release,
            "what": one.fact.what,
            "digest": one.fact.digest,
            "to": one.fact.to,
            "until": one.fact.until,
            "notified": one.notified(number),
        }
        for one in found
    ]
    return {"outside": told}


def publication_told(state: RunState, spec: RunSpec, issued: str, composed: str | None) -> dict[str, Any]:
    """The field "publication" of a certificate, by the state that it rests on; none in a run without a release gate."""
    told = publication(state, spec, issued, composed)
    return {} if told is None else {"publication": told}


def outside_contradictions(
    certificate: Mapping[str, Any], entries: Sequence[Entry], state: RunState | None, replayed: Replayed | None = None
) -> Iterator[str]:
    """Where a certificate leaves out a release that the ledger has, or says of one, or of the gate, what the ledger does not.

    state: the fold of ``entries``, where it is known. replayed: of the same, for several certificates one after the other.
    """
    number, issued = certificate["rests_on"]["number"], certificate["issued"]
    if state is None:
        says = {"outside", "publication"} & certificate.keys()
        if not says and not any(entry.kind in (Released.KIND, ReleaseGateSet.KIND) for entry in entries):
            return
        state = replay(entries)
    told = outside_told(state, certificate["request"], number, issued)
    yield from _differences(certificate.get("outside"), told.get("outside"))
    if state.gates or "publication" in certificate:
        spec = RunSpec.from_json(certificate["environment"]["spec"])
        then = (replayed or Replayed(entries)).after(number)
        if certificate.get("publication") != publication(then, spec, issued, certificate["composed_after"]):
            yield "the publication of the model after it is not held as the ledger's release gate says"


def _differences(told: Any, expected: list[dict[str, Any]] | None) -> Iterator[str]:
    if told == expected:
        return
    named = {one["release"] for one in told or ()}
    wanted = {one["release"] for one in expected or ()}
    if left_out := sorted(wanted - named):
        yield f"it leaves out what is still outside: the ledger has the releases {left_out[:4]}, which hold its samples"
    if made_up := sorted(named - wanted):
        yield f"it names the releases {made_up[:4]} as still outside, and by the ledger they hold none of its samples"
    if named == wanted:
        yield "the releases that are still outside are not as the ledger has them"
