"""`audit`: the membership-inference attack on what a run has forgotten, on its warm worker.

Beside it: canaries in a private run's mechanism, and reconstruction from the models before and after a forget.

Nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taft_ray.data import open_source
from taft_ray.log import operation
from taft_ray.plans.fold import replay
from taft_ray.progress import Report, silent
from taft_ray.proof.audit import check_state, examine
from taft_ray.run.address import data_address, run_address
from taft_ray.run.record import Record
from taft_ray.run.spec import run_spec
from taft_ray.storage import Ledger, Store


@operation("audit")
def audit(
    run: str,
    data: str,
    never_seen: str,
    *,
    ids: Sequence[str] | None = None,
    level: float = 0.01,
    report: Report = silent,
) -> dict[str, Any]:
    """Attack the forgotten samples of ``data`` (those of ``ids``, or all that the run forgot) against ``never_seen`` ones."""
    run = run_address(run)
    store = Store(run)
    spec = run_spec(store)
    state = replay(Ledger(store).entries())
    check_state(store, spec, state, level)
    data, never_seen = data_address(data), data_address(never_seen)
    for uri in (data, never_seen):
        open_source(uri)  # a wrong path must not take the start of Ray to be told
    from taft_ray.orchestration import session
    from taft_ray.orchestration.actors import worker_for
    from taft_ray.orchestration.prefix_pass import passes

    with session.connected(report):
        worker = worker_for(run, spec, len(state.classes), state.per_lane)
        return examine(
            passes(state.per_lane), store, spec, state, worker.sample_values, data=data, never_seen=never_seen, ids=ids, level=level,
            report=report,
        )  # fmt: skip


@operation("audit")
def audit_privacy(
    run: str,
    *,
    level: float = 0.01,
    runs: int | None = None,
    canaries: int | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """Lower bounds on the ε of a fit, by canaries in fits of the run's recipe, in this process (`proof.privacy_audit`)."""
    from taft_ray.proof import privacy_audit

    run = run_address(run)
    store = Store(run)
    spec, state = run_spec(store), replay(Ledger(store).entries())
    return privacy_audit.audit_privacy(run, spec, state, level=level, runs=runs, canaries=canaries, report=report)


@operation("audit")
def audit_reconstruction(
    run: str, *, never_seen: str | None = None, picks: int = 20, report: Report = silent
) -> dict[str, Any]:
    """Reconstruct samples from the models before and after simulated forgets, in this process (`proof.reconstruction`)."""
    from taft_ray.proof.reconstruction import reconstruct

    run = run_address(run)
    run_spec(Store(run))  # there is a run
    return reconstruct(
        Record(run), never_seen=None if never_seen is None else data_address(never_seen), picks=picks, report=report
    )
