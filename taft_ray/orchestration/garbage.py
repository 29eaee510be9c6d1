"""`gc`: remove what nothing refers to. Needs no Ray."""

from __future__ import annotations

from typing import Any

from taft_ray.orchestration.recompose import snapshots_of, sums_of
from taft_ray.orchestration.worker import run_spec
from taft_ray.plans.orphans import orphans
from taft_ray.plans.state import replay
from taft_ray.storage import Ledger, Store, read_manifest


def gc(run: str) -> dict[str, Any]:
    """Remove what nothing refers to: {"removed": [keys], "bytes": n}. Not while a run is training.

    Objects that are no part of a run at all stay: `verify` names them.
    """
    store = Store(run)
    spec = run_spec(store)
    state = replay(Ledger(store).entries())
    found = read_manifest(store)
    parts = {} if found is None else found[1]["meta"]["parts"]
    key = "" if found is None else found[1]["key"]
    listed = {info.key: info.size for info in store.list()}
    held = store.traces()  # also what lies only in older versions: a deleted delta's, say
    left = orphans(held, state, parts, snapshots_of(spec, sums_of(store, state)), key)
    store.erase(left)
    store.sweep()
    return {"removed": left, "bytes": sum(listed.get(name, 0) for name in left)}
