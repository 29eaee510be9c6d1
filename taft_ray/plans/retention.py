"""The date until which the key of the id hashes is kept: a hash of an id is personal data while the key is there."""

from __future__ import annotations

from dataclasses import dataclass

from taft_ray.plans.fact import Fact


@dataclass(frozen=True)
class RetentionSet(Fact):
    """From here on the key is kept until this time (unix seconds); None: no date is set. number: how often one was set before."""

    KIND = "retention-set"
    until: float | None
    number: int


def key_is_overdue(until: float | None, key_destroyed: bool, now: float) -> bool:
    """Whether the date has passed, and the key is still there. now: unix seconds."""
    return until is not None and not key_destroyed and until <= now
