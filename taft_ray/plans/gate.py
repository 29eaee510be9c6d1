"""The release gate: it holds back publication of a newer model until enough has been forgotten, and never a forget.

Whoever has the model of before and after a forget learns about what left. The more forgets lie between two models, the less each
shows. So every line of releases is looked at: what its latest release holds of the forgotten must be nothing, or enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from taft_ray.counting import plural
from taft_ray.plans.recalls import holds
from taft_ray.plans.releases import Gate, ReleaseState
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.spending import epsilon_spent
from taft_ray.plans.state import RunState


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Why a newer model is not published now. since: the release beside which it would show too much. forgets: how many it would show."""

    gate: Gate
    since: str
    forgets: int
    until: str

    def told(self) -> str:
        """The reason for whoever asks a serving, without the name of a release."""
        return f"publication of a newer model is held until {self.until}"

    def __str__(self) -> str:
        return (
            f"{self.told()}: the release {self.since} holds the samples of "
            f"{plural(self.forgets, 'forget')}, and the gate asks for {self.gate}"
        )


def hold(state: RunState, spec: RunSpec, now: float, composed: str | None = None) -> Hold | None:
    """Why a newer model may not be published at ``now`` (unix seconds); None where it may. For an export, and for serving.

    composed: the digest of the model. One that was published already shows nothing new, and is not held.
    """
    gate, models = state.gate, [one for one in state.releases.values() if one.fact.is_model]
    if gate is None:
        return None
    if any(one.fact.composed == composed and not holds(state, one.fact) for one in models):
        return None
    latest = {one.line: one for one in models}
    for release in latest.values():
        forgets = len(holds(state, release.fact))
        if forgets and not _is_enough(gate, state, spec, release, forgets, now):
            return Hold(gate=gate, since=release.fact.release, forgets=forgets, until=_until(gate, release, forgets))
    return None


def _is_enough(gate: Gate, state: RunState, spec: RunSpec, release: ReleaseState, forgets: int, now: float) -> bool:
    if gate.forgets is not None:
        return forgets >= gate.forgets
    if gate.seconds is not None:
        return now >= _opens(gate.seconds, release)
    assert gate.epsilon is not None
    return spec.privacy is not None and _spent_since(state, release, spec.privacy.delta) >= gate.epsilon


def _opens(seconds: float, release: ReleaseState) -> float:
    return datetime.fromisoformat(release.time).timestamp() + seconds


def _spent_since(state: RunState, release: ReleaseState, delta: float) -> float:
    """ε of the fits since a release; the dearest shard's."""
    later = (several[release.spent.get(shard, 0) :] for shard, several in state.reservations.items())
    return max((epsilon_spent(several, delta) for several in later if several), default=0.0)


def _until(gate: Gate, release: ReleaseState, forgets: int) -> str:
    if gate.forgets is not None:
        return f"{plural(gate.forgets - forgets, 'more forget')}"
    if gate.seconds is not None:
        return datetime.fromtimestamp(_opens(gate.seconds, release), UTC).isoformat(timespec="seconds")
    return f"the fits since have spent ε = {gate.epsilon:g}"


def publication(state: RunState, spec: RunSpec, when: str, composed: str | None) -> dict[str, Any] | None:
    """A certificate's words on publishing the model after it, at a time (ISO 8601); None in a run without a gate."""
    if state.gate is None:
        return None
    held = hold(state, spec, datetime.fromisoformat(when).timestamp(), composed)
    told = {"gate": str(state.gate), "held": held is not None}
    return told if held is None else {**told, "since": held.since, "forgets": held.forgets, "until": held.until}
