"""`gc`: remove what nothing refers to. Needs no Ray."""

from __future__ import annotations

import time
from typing import Any

from taft_ray.log import operation
from taft_ray.plans.orphans import orphans
from taft_ray.run.record import Record
from taft_ray.run.sums import snapshots_of, sums_of_tiers
from taft_ray.run.turn import Turns
from taft_ray.run.waiting import stale
from taft_ray.storage.rundir import TURN_KEY


@operation("gc")
def gc(run: str) -> dict[str, Any]:
    """Remove what nothing refers to, and may not be another process at work: {"removed": [keys], "bytes": n}.

    Objects that are no part of a run at all stay: `verify` names them.
    """
    record = Record(run)
    store, spec = record.store, record.spec
    # listed before the ledger is read: what is committed from here on is not among it
    listed = {info.key: info.size for info in store.list()}
    held = store.traces()  # also what lies only in older versions: a deleted delta's, say
    record.refresh()
    record.publish()
    manifest = None if record.state.cached is None else record.current(record.manifest)
    current = record.current(lambda: snapshots_of(spec, sums_of_tiers(store, spec, record.state)))
    parts, keys = (manifest.parts, manifest.keys) if manifest else ({}, ())
    left = orphans(held, record.state, parts, current, keys)
    left = [*left, *stale(store, time.time()), *([TURN_KEY] if Turns(store).left_over() else [])]
    store.erase(left)
    store.sweep()
    return {"removed": left, "bytes": sum(listed.get(name, 0) for name in left)}
