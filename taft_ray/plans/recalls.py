"""Which releases hold what was forgotten, which are of the present model, and which are over: functions of the state alone.

The same of servings: which models they may have answered with.

A forget touches a release where its samples were in the released model. They left the sums behind the entry that the release
rests on, and a shard of the release lost some of them. A release of some owners names its samples, and those decide.

Guarantees: while nobody can tell which shards a forget touches, all that it may touch count.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from taft_ray.additive.options import ADDITIVE
from taft_ray.plans.releases import Released, ReleaseState
from taft_ray.plans.serving import ServingState
from taft_ray.plans.state import RequestState, RunState
from taft_ray.storage import digest_json

CURRENT, SUPERSEDED, RECALLED, EXPIRED = "current", "superseded", "recalled", "expired"
ANSWERING, WITHDRAWN, REPLACED, ENDED = "answering", "withdrawn", "replaced", "ended"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A release as it stands. requests: the forgets whose samples it holds, also where it has expired."""

    release: ReleaseState
    status: str
    requests: tuple[str, ...]


def standings(state: RunState, now: float) -> list[Standing]:
    """Every file that was released, in the order of the ledger. now: unix seconds."""
    return [standing(state, one, now) for one in state.releases.values() if one.fact.is_file]


def standing(state: RunState, release: ReleaseState, now: float) -> Standing:
    """How a release stands: expired before anything else, then recalled, then superseded."""
    requests = tuple(holds(state, release.fact))
    if is_over(release.fact, now):
        status = EXPIRED
    elif requests:
        status = RECALLED
    else:
        status = CURRENT if is_present(state, release) else SUPERSEDED
    return Standing(release=release, status=status, requests=requests)


def is_over(fact: Released, now: float) -> bool:
    """Whether whoever has it was to keep it until a time that has passed."""
    return fact.until is not None and fact.until <= now


def holds(state: RunState, fact: Released) -> list[str]:
    """The forgets whose samples a release holds, in the order they were asked. A statement holds none."""
    if not fact.is_model:
        return []
    return [one.request for one in state.requests.values() if _touches(one, fact)]


def _touches(request: RequestState, fact: Released) -> bool:
    if request.waiting or not request.hashes:
        return False
    if has_left(request, fact):
        return False
    if fact.samples:
        return not set(request.hashes).isdisjoint(fact.samples)
    lost = request.shards if request.lost_from is None else request.lost_from
    return not set(lost).isdisjoint(fact.shards)


def has_left(request: RequestState, fact: Released) -> bool:
    """Whether the samples of a forget were out of the released model."""
    if fact.restored:
        return request.request in fact.left
    return request.left_at is not None and request.left_at <= fact.rests_on


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A model that a serving may have answered with. status: answering, withdrawn, replaced or ended. Times are ISO 8601.

    since: when the ledger first had it while the run was served; None where the ledger does not have that.

    until: from when on no replica answered with it; None where it may still be answered with, or nobody had to find out.

    withdrawn_by: the forgets for which it was withdrawn.
    """

    digest: str
    mode: str | None
    status: str
    since: str | None
    until: str | None
    withdrawn_by: tuple[str, ...]


def answered_with(state: RunState, serving: ServingState, noted: Collection[str] = ()) -> list[Answered]:
    """The models that a serving may have answered with, the first one first. noted: digests in the notes of its replicas.

    A model that was withdrawn may come back, as that without a shard does: then it answers again.
    """
    now = {digest: mode for mode in serving.fact.modes if (digest := state.composed_now(mode)) is not None}
    present = set() if serving.fact.ended else {*now, *noted}
    found: list[Answered] = []
    for digest in dict.fromkeys([*serving.models, *sorted(present)]):
        known = serving.models.get(digest)
        withdrawn = [(time, fact.request) for time, fact in serving.withdrawn if fact.digest == digest]
        status, until = (ENDED if serving.fact.ended else REPLACED), serving.ended
        if digest in present:
            status, until = ANSWERING, None
        elif withdrawn:
            status, until = WITHDRAWN, withdrawn[-1][0]
        found.append(
            Answered(
                digest=digest,
                mode=known.mode if known is not None and known.mode is not None else now.get(digest),
                status=status,
                since=None if known is None else known.since,
                until=until,
                withdrawn_by=tuple(dict.fromkeys(request for _, request in withdrawn)),
            )
        )
    return found


def unplaced(state: RunState) -> list[str]:
    """The forgets of which nobody can tell yet which shards, and so which releases, they touch."""
    return [one.request for one in state.requests.values() if one.unplaced and one.left_at is None]


def is_present(state: RunState, release: ReleaseState) -> bool:
    """Whether the model of a release that holds nothing forgotten is the one that the run has now.

    The model of some owners stays the same while the same shards are in, and nothing was added.
    """
    fact = release.fact
    if fact.mode == ADDITIVE and fact.policy != policy_digest(state):
        return False
    if fact.samples:
        there = tuple(shard.shard for shard in state.in_tier(fact.by_records))
        return not fact.restored and there == fact.shards and state.added_at <= fact.rests_on
    return state.members_of(fact.by_records) == fact.members


def policy_digest(state: RunState) -> str | None:
    """The digest of the policy by which the model's settings are chosen; None where there is none."""
    tuned = state.tuned
    return None if tuned is None or tuned.policy is None else digest_json(tuned.policy.to_json())


def outside(state: RunState, request: str, number: int, when: str) -> list[ReleaseState] | None:
    """The files released up to a ledger entry that hold the samples of a request, and had not expired at a time (ISO 8601).

    None where nothing had been released by then.
    """
    now = datetime.fromisoformat(when).timestamp()
    known: Sequence[ReleaseState] = [
        one for one in state.releases.values() if one.fact.is_file and one.number <= number
    ]
    if not known:
        return None
    asked = state.requests[request]
    return [one for one in known if one.fact.is_model and not is_over(one.fact, now) and _touches(asked, one.fact)]
