"""`repair`: what was damaged is made again, from the cache where that is whole and from the source where it is not.

    examine (composer) → source rows of what is missing → the frozen prefix → parts → repaired (commit) → fits → compose

Every step is skipped when nothing needs it; killed at any instant, the same command goes on.
"""

from __future__ import annotations

from typing import Any

from taft_ray.composer.composer import Composer
from taft_ray.errors import TaftError
from taft_ray.log import operation
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import PENDING, RunState
from taft_ray.progress import Report, silent
from taft_ray.run.address import data_address, run_address
from taft_ray.run.secret import secret_of
from taft_ray.run.spec import run_spec
from taft_ray.storage import Store, digest_bytes
from taft_ray.verbs.composer import composer_of
from taft_ray.verbs.forget import fit_again
from taft_ray.verbs.status import status

_TRIES = 5  # of one repair that other writers keep overtaking


@operation("repair")
def repair(run: str, *, data: str | None = None, report: Report = silent) -> dict[str, Any]:
    """Make again what is damaged or missing: `status`'s answer, with "repaired" (shards) and "not_repaired" (why, a line each).

    data: where the source lies now, by default where the run was read from. Without damage nothing happens.
    """
    run = run_address(run)
    spec = run_spec(Store(run))
    from taft_ray.orchestration import session

    with session.connected(report):
        return _repaired(run, spec, data, report)


def _repaired(run: str, spec: RunSpec, data: str | None, report: Report) -> dict[str, Any]:
    """`repair`, on a Ray that is there."""
    from taft_ray.orchestration.actors import worker_for
    from taft_ray.orchestration.prefix_pass import passes
    from taft_ray.prefix.manifest_again import manifest_again

    composer = composer_of(run)
    source = None if data is None else data_address(data)
    if not composer.manifest_is_whole():
        store, state = Store(run), composer.snapshot()
        manifest_again(passes(state.per_lane), store, spec, state, data=source, secret=secret_of(store))
    composer.recover_what_can_be()
    done, problems, found = _shards(run, spec, composer, source, report)
    state: RunState = composer.snapshot()
    if found["linearisation_point"]:
        _linearisation_point(Store(run), spec, state)
    left = [shard for shard in done | _cut_off(state) if state.shards[shard].state == PENDING]
    if left or found["monolith"]:
        worker = worker_for(run, spec, composer.class_count(), state.per_lane)
        for at, shard in enumerate(sorted(left)):
            report("repair", at, len(left))
            fit_again(composer, worker, shard)
        if found["monolith"]:
            composer.finished(worker.fit(composer.monolith_task(), None, "repair"))
        report("repair", len(left), len(left))
    if composer.snapshot().in_tier(spec.two_tiers):
        composer.compose()
    return {**status(run), "repaired": sorted(done), "not_repaired": problems}


def _shards(
    run: str, spec: RunSpec, composer: Composer, source: str | None, report: Report
) -> tuple[set[int], list[str], dict[str, Any]]:
    """Make again what the shards in quarantine lack and commit it: which could be, what is in the way of the others, what was found."""
    from taft_ray.orchestration.places import workers_at_once
    from taft_ray.orchestration.prefix_pass import passes
    from taft_ray.prefix.read_again import made_again

    for _ in range(_TRIES):
        found = composer.examine_everything()
        state: RunState = composer.snapshot()
        if not found["shards"]:
            return set(), [], found
        made, problems = made_again(
            passes(state.per_lane),
            run,
            spec,
            state,
            found,
            data=source,
            classes=composer.class_names(),
            workers=workers_at_once(spec, state.per_lane),
            report=report,
        )
        if not made["shards"] or composer.repaired(made) is not None:
            return set(made["shards"]), problems, found
    raise TaftError(f"other writers changed {run} under {_TRIES} repairs in a row; run the same command again")


def _cut_off(state: RunState) -> set[int]:
    """Shards that had a delta and wait for one: an earlier repair was cut off before its fits."""
    return {shard for shard in state.pending if state.shards[shard].returning}


def _linearisation_point(store: Store, spec: RunSpec, state: RunState) -> None:
    """Write the linearisation point again; TaftError when it is not the one committed."""
    from safetensors.numpy import save

    from taft_ray.run.model import build_tangent

    base = None if state.cached is None else state.cached.base
    assert base is not None  # it was found damaged
    tm, _ = build_tangent(spec, len(state.classes))
    data = save({name: value.cpu().numpy() for name, value in sorted(tm.base.items())})
    if digest_bytes(data) != base.digest:
        raise TaftError(f"{base.key} made again is not the one committed; restore it from a copy")
    store.write(base.key, data)
