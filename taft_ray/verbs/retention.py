"""`retention`: until when the key of a run's id hashes is kept. Starts nothing."""

from __future__ import annotations

import math
import time
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.log import operation
from taft_ray.plans.gather import LATEST
from taft_ray.plans.retention import RetentionSet, key_is_overdue
from taft_ray.plans.state import RunState
from taft_ray.run.address import run_address
from taft_ray.run.record import Record


@operation("retention")
def retention(run: str, until: float | None = None, *, clear: bool = False) -> dict[str, Any]:
    """Set the date where ``until`` (unix seconds) is given, or ``clear`` it, and tell it.

    {"run", "until", "passed", "key_destroyed", "tombstones", "owner_tombstones"}. The same date again changes nothing.

    UsageError for a date that has passed, and for a run whose key is destroyed.
    """
    record = Record(run_address(run))
    if until is not None or clear:
        _set(record, None if clear else until)
    state = record.state
    return {
        "run": record.store.uri,
        **told(state, time.time()),
        "tombstones": len(state.tombstones),
        "owner_tombstones": len(state.owner_tombstones),
    }


def told(state: RunState, now: float) -> dict[str, Any]:
    """The date for an answer: {"until", "passed", "key_destroyed"}. now: unix seconds."""
    return {
        "until": state.key_kept_until,
        "passed": key_is_overdue(state.key_kept_until, state.key_destroyed, now),
        "key_destroyed": state.key_destroyed,
    }


def way_out(run: str) -> str:
    """The sentence for once the date has passed, with its command."""
    return f"the key of the id hashes was to be kept no longer: taft-ray destroy-key {run} --yes"


def _set(record: Record, until: float | None) -> None:
    if record.state.key_destroyed:
        raise UsageError(f"the key of {record.store.uri} is destroyed already; no date is needed any more")
    if until is not None and until == record.state.key_kept_until:
        return
    if until is not None and not (math.isfinite(until) and time.time() < until <= LATEST):
        raise UsageError("--until: expected a date to come, before the year 10000; destroy-key destroys the key now")
    while record.state.key_kept_until != until:
        number = len(record.state.retentions)

        def decide(number: int = number) -> RetentionSet | None:
            return RetentionSet(until, number) if len(record.state.retentions) == number else None

        record.commit(RetentionSet, f"retention-set/{number}", decide)
