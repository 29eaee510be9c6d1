"""`audit`: the membership-inference attack on what a run has forgotten, on its warm worker.

Beside it: canaries in a private run's mechanism, and reconstruction from the models before and after a forget.

Nothing is written, unless the outcome is to be recorded in the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taft_ray.data import open_source
from taft_ray.log import operation
from taft_ray.plans.fold import replay
from taft_ray.plans.state import RunState
from taft_ray.progress import Report, silent
from taft_ray.proof.audit import check_state, examine
from taft_ray.run.address import data_address, run_address
from taft_ray.run.outcomes import AUDIT, AUDIT_PRIVACY, AUDIT_RECONSTRUCT, record_outcome
from taft_ray.run.record import Record
from taft_ray.run.spec import run_spec
from taft_ray.storage import Entry, Ledger, Store


@operation("audit")
def audit(
    run: str,
    data: str,
    never_seen: str,
    *,
    ids: Sequence[str] | None = None,
    level: float = 0.01,
    record: bool = False,
    report: Report = silent,
) -> dict[str, Any]:
    """Attack the forgotten samples of ``data`` (those of ``ids``, or all that the run forgot) against ``never_seen`` ones.

    record: keep the answer in the run; "recorded" is its key then.
    """
    run = run_address(run)
    store = Store(run)
    spec = run_spec(store)
    state = replay(entries := Ledger(store).entries())
    check_state(store, spec, state, level)
    data, never_seen = data_address(data), data_address(never_seen)
    for uri in (data, never_seen):
        open_source(uri)  # a wrong path must not take the start of Ray to be told
    from taft_ray.orchestration import session
    from taft_ray.orchestration.actors import worker_for
    from taft_ray.orchestration.prefix_pass import passes

    with session.connected(report):
        worker = worker_for(run, spec, len(state.classes), state.per_lane)
        answer = examine(
            passes(state.per_lane), store, spec, state, worker.sample_values, data=data, never_seen=never_seen, ids=ids, level=level,
            report=report,
        )  # fmt: skip
    return _recorded(store, AUDIT, entries, state, answer) if record else answer


def _recorded(
    store: Store, verb: str, entries: Sequence[Entry], state: RunState, answer: dict[str, Any]
) -> dict[str, Any]:
    """The answer of an audit, kept in the run. entries, state: the ledger that it is of."""
    key = record_outcome(store, verb, entries[-1] if entries else None, answer, state.tombstones)
    return {**answer, "recorded": key}


@operation("audit")
def audit_privacy(
    run: str,
    *,
    level: float = 0.01,
    runs: int | None = None,
    canaries: int | None = None,
    record: bool = False,
    report: Report = silent,
) -> dict[str, Any]:
    """Lower bounds on the ε of a fit, by canaries in fits of the run's recipe, in this process (`proof.privacy_audit`).

    record: as of `audit`.
    """
    from taft_ray.proof import privacy_audit

    run = run_address(run)
    store = Store(run)
    spec, state = run_spec(store), replay(entries := Ledger(store).entries())
    answer = privacy_audit.audit_privacy(run, spec, state, level=level, runs=runs, canaries=canaries, report=report)
    return _recorded(store, AUDIT_PRIVACY, entries, state, answer) if record else answer


@operation("audit")
def audit_reconstruction(
    run: str, *, never_seen: str | None = None, picks: int = 20, record: bool = False, report: Report = silent
) -> dict[str, Any]:
    """Reconstruct samples from the models before and after simulated forgets, in this process (`proof.reconstruction`).

    record: as of `audit`.
    """
    from taft_ray.proof.reconstruction import reconstruct

    run = run_address(run)
    run_spec(Store(run))  # there is a run
    read = Record(run)
    entries = read.ledger.known
    known = None if never_seen is None else data_address(never_seen)
    answer = reconstruct(read, never_seen=known, picks=picks, report=report)
    return _recorded(read.store, AUDIT_RECONSTRUCT, entries, read.state, answer) if record else answer
