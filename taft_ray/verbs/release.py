"""`release`: when a newer model of a run may be published. Starts nothing."""

from __future__ import annotations

import time
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.log import operation
from taft_ray.plans.gate import hold
from taft_ray.plans.releases import Gate, ReleaseGateSet, gate_of
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.run.address import run_address
from taft_ray.run.record import Record


@operation("release")
def release(run: str, after: str | None = None) -> dict[str, Any]:
    """Set the run's release gate where ``after`` is given, and tell it: {"run", "gate", "held", "since", "forgets", "until"}.

    after: 10 (forgets), 30d (days), epsilon=0.5 (of the fits of a private run), or none. The same gate again changes nothing.
    """
    record = Record(run_address(run))
    if after is not None:
        _set(record, gate_of(after))
    return release_of(record.store.uri, record.spec, record.state)


def release_of(run: str, spec: RunSpec, state: RunState) -> dict[str, Any]:
    """The answer of `release` from a state that was read."""
    held = hold(state, spec, time.time())
    return {
        "run": run,
        "gate": None if state.gate is None else str(state.gate),
        "held": held is not None,
        "releases": sum(one.fact.is_model for one in state.releases.values()),
        **({} if held is None else {"since": held.since, "forgets": held.forgets, "until": held.until}),
    }


def _set(record: Record, gate: Gate | None) -> None:
    if gate is not None and gate.epsilon is not None and record.spec.privacy is None:
        raise UsageError(f"--after epsilon={gate.epsilon:g} needs a private run; give forgets (10) or days (30d)")
    while True:
        if record.state.gate == gate:
            return
        number = len(record.state.gates)

        def decide(number: int = number) -> ReleaseGateSet | None:
            return ReleaseGateSet(gate, number) if len(record.state.gates) == number else None

        record.commit(ReleaseGateSet, f"release-gate-set/{number}", decide)
