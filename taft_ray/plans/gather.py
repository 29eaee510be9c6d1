"""When a forget with a deadline runs, and which requests go together: a shard is fitted once for all that wait for it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.plans.state import RequestState, RunState

LATEST = 253402214400.0  # unix seconds of the last day of the year 9999: what ISO 8601 can write in any time zone
RESERVE = 0.1  # of the time to the deadline is kept back for retries, whatever the estimate says
ESTIMATES = 3.0  # times the estimated duration is kept back


def runs_at(deadline: float, now: float, seconds: float | None) -> float:
    """When to begin at the latest so that a forget of this estimated duration ends before its deadline (unix seconds).

    Guarantees: now <= the answer <= deadline. UsageError for a deadline that has passed, or lies beyond any calendar.
    """
    if deadline > LATEST:
        raise UsageError("the deadline is later than the year 9999; give one that can come")
    if not deadline > now:
        raise UsageError("the deadline has passed; give a later one, or none to forget at once")
    return max(now, deadline - max(RESERVE * (deadline - now), ESTIMATES * (seconds or 0.0)))


def due(state: RunState, now: float, first: Collection[str] = ()) -> list[str]:
    """The requests to carry out now, in the order they were made.

    Those in ``first``, those that a crash interrupted, and those whose time has come. Also every waiting one that touches a
    shard that is fitted anyway: several requests cost a shard one fit.
    """
    open_ones = [request for request in state.requests.values() if request.forgotten is None]
    taken = {r.request for r in open_ones if r.request in first or not r.waiting or _has_come(r, now)}
    while True:
        shards = {shard for r in open_ones if r.request in taken and r.mode != "drop" for shard in r.shards}
        more = {r.request for r in open_ones if r.request not in taken and shards & set(r.shards)}
        if not more:
            return [r.request for r in open_ones if r.request in taken]
        taken |= more


def together(state: RunState, request: RequestState) -> list[str]:
    """The other waiting requests that a waiting one is carried out with: its shards' first fit takes them along."""
    if not request.waiting:
        return []
    group, shards = {request.request}, set(request.shards)
    while True:
        more = {r.request for r in state.requests.values() if r.waiting and shards & set(r.shards)} - group
        if not more:
            return sorted(group - {request.request})
        group |= more
        shards |= {shard for name in more for shard in state.requests[name].shards}


def planned_start(state: RunState, request: RequestState) -> float | None:
    """When a waiting request will run: its own time, or an earlier one of those it is carried out with."""
    if not request.waiting or request.runs_at is None:
        return None
    others = (state.requests[name].runs_at for name in together(state, request))
    return min([request.runs_at, *(time for time in others if time is not None)])


def promise_of(state: RunState, request: RequestState, samples: int) -> dict[str, Any]:
    """A waiting request for an answer: {"request", "samples": as many as given, "runs_at", "deadline"}, times in ISO 8601."""
    times = {"runs_at": planned_start(state, request), "deadline": request.deadline}
    said = {what: datetime.fromtimestamp(at or 0.0, UTC).isoformat() for what, at in times.items()}
    return {"request": request.request, "samples": samples, **said}


def promises(state: RunState) -> list[dict[str, Any]]:
    """Every request that waits, as `promise_of` tells it, in the order in which they will begin."""
    waiting = [request for request in state.requests.values() if request.waiting]
    waiting.sort(key=lambda request: (planned_start(state, request) or 0.0, request.request))
    return [promise_of(state, request, len(request.hashes)) for request in waiting]


def _has_come(request: RequestState, now: float) -> bool:
    return request.runs_at is not None and request.runs_at <= now
