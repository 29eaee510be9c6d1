"""`status`: where a run stands, from its storage; and which of its rows were rejected. Starts nothing."""

from __future__ import annotations

import time
from typing import Any

from taft_ray.composer.composer import Composer
from taft_ray.counting import are, which
from taft_ray.log import operation
from taft_ray.plans.additions import counts_of
from taft_ray.plans.gather import due, planned_start
from taft_ray.plans.kind import kind_of
from taft_ray.plans.spending import spent_by
from taft_ray.plans.state import RunState
from taft_ray.prefix.rejections import rejected as rejected_rows
from taft_ray.run.address import run_address
from taft_ray.run.outcomes import Recorded, latest_outcomes
from taft_ray.run.quarantine import quarantines, way_out, way_out_of_unfitted
from taft_ray.run.record import Record
from taft_ray.run.waiting import waits
from taft_ray.verbs import retention

READ_BYTES = 256 << 20  # of deltas that `status` reads to compare their digests; of more it compares the sizes


@operation("status")
def status(run: str) -> dict[str, Any]:
    """Where a run stands; what a crash or an older copy of the folder left to do is done on the way."""
    run = run_address(run)
    composer = Composer(run)
    in_the_way = composer.recover_what_can_be()
    composer.examine_deltas(READ_BYTES)
    composed = composer.composed_digest()
    composer.snapshot()  # reads on
    told = status_of(composer.record, composed, in_the_way)
    return {**told, "run": run}


def status_of(record: Record, composed: str | None, in_the_way: str | None = None) -> dict[str, Any]:
    """The answer of `status` from a ledger that was read, with nothing done on the way.

    composed: the digest of the composed model. in_the_way: damage that kept a recovery from its end.
    """
    store, spec, state = record.store, record.spec, record.state
    run, ill = store.uri, quarantines(state)
    waiting = [{"by": one.by, "what": one.what, "since": one.since} for one in waits(store, time.time())]
    settings = state.tuned.settings if state.tuned and state.tuned.of == composed else None
    measured = [one for one in state.evaluations if one.composed == composed and one.settings == settings]
    latest = measured[-1] if measured else None
    return {
        "run": run,
        "ok": not ill and in_the_way is None,
        "composed": composed,
        "shards": [
            {
                "shard": shard.shard,
                "generation": shard.generation,
                "samples": shard.samples,
                "state": shard.told,
                "delta": shard.delta.digest if shard.delta else None,
            }
            for _, shard in sorted(state.shards.items())
        ],
        "requests": [
            {
                "request": r.request,
                "mode": r.mode,
                "samples": len(r.hashes),
                "done": r.forgotten is not None,
                "deadline": r.deadline,
                "runs_at": planned_start(state, r),
            }
            for r in state.requests.values()
        ],
        "monolith": None if state.monolith is None else {"purged": state.monolith.delta is None},
        "data": None if state.cached is None else counts_of(state.cached.counts, state.additions),  # as it was read in
        **({"additions": _additions(state)} if state.additions else {}),
        **({} if spec.privacy is None else {"privacy": spent_by(state, spec.privacy)}),
        "samples": sum(shard.samples for shard in state.shards.values()),
        "to_do": _to_do(run, state),
        **({"waiting": waiting} if waiting else {}),
        **({"servings": servings} if (servings := _servings(state)) else {}),
        **({"outcomes": outcomes} if (outcomes := [one.told() for one in outcomes_of(record)]) else {}),
        "quarantined": ill,
        "damaged": in_the_way,
        "kind": kind_of(spec),
        "model": spec.model,
        "classes": list(state.classes),
        "accuracy": latest and latest.accuracy,
        "measured_on": latest and latest.data,
        **({"retention": retention.told(state, time.time())} if state.key_kept_until is not None else {}),
    }


def outcomes_of(record: Record) -> list[Recorded]:
    """The latest recorded outcome of each verb."""
    return latest_outcomes(record.store, record.state.entries, lambda number: record.ledger.since(number)[0].digest)


def _servings(state: RunState) -> list[dict[str, Any]]:
    return [
        {
            "serving": one.fact.serving,
            "modes": list(one.fact.modes),
            "replicas": one.fact.replicas,
            "lease": one.fact.lease,
            "drain": one.fact.drain,
        }
        for one in state.open_servings
    ]


def _additions(state: RunState) -> list[dict[str, Any]]:
    return [
        {
            "data": one.data,
            "shards": list(one.shards),
            "samples": sum(one.samples),
            "samples_now": sum(state.shards[shard].samples for shard in one.shards),
            "known": one.known,
            "forgotten": one.forgotten,
        }
        for one in state.additions
    ]


def rejected(run: str) -> dict[str, Any]:
    """The rejected rows of a run: see `prefix.rejections.rejected`."""
    return rejected_rows(run_address(run))


def _to_do(run: str, state: RunState) -> list[str]:
    """The commands that somebody has to run: for requests that are due or unfinished, and for damage."""
    open_ones = due(state, time.time())
    requests = (
        [f"{which('request', open_ones)} {are(len(open_ones))} to be carried out: taft-ray forget {run} --due"]
        if open_ones
        else []
    )
    reading = (
        [f"{state.adding.data} is not all added: taft-ray train {run} goes on with it"]
        if state.adding is not None
        else []
    )
    ill = [shard.shard for shard in state.quarantined if not shard.unfitted]
    unfitted = [shard.shard for shard in state.quarantined if shard.unfitted]
    lost = (
        [f"the comparison model was damaged: taft-ray repair {run}"]
        if state.monolith is not None and state.monolith.lost
        else []
    )
    return [
        *reading,
        *requests,
        *([way_out(run, ill)] if ill else []),
        *([way_out_of_unfitted(run, unfitted)] if unfitted else []),
        *lost,
        *([retention.way_out(run)] if retention.told(state, time.time())["passed"] else []),
    ]
