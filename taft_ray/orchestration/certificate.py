"""The certificate of a forget: what was asked, what was removed, what the model is now, and what it does not cover."""

from __future__ import annotations

import platform
import time
from typing import Any

from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import TRAINED, RunState
from taft_ray.storage import Ledger


def certificate_of(
    run: RunState, ledger: Ledger, spec: RunSpec, request: str, after: str | None, retrain_seconds: float | None
) -> dict[str, Any]:
    """What happened in a forget, from the ledger's own facts."""
    state = run.requests[request]
    chain = {
        step: {"number": entry.number, "digest": entry.digest, "time": entry.time}
        for step in ("requested", "dropped", "purged")
        if (entry := ledger.find(f"{request}/{step}")) is not None
    }
    dropped, purged = state.dropped or {}, state.purged or {}
    retrained = [
        {"shard": number, "generation": shard.generation, "delta": shard.delta, "facts": shard.facts}
        for number in state.shards
        if (shard := run.shards[number]).state == TRAINED
    ]
    seconds = {
        "drop": dropped.get("seconds"),
        "purge": purged.get("seconds"),
        "retrain": retrain_seconds,
        "total": time.time() - state.started,
    }
    return {
        "request": request,
        "mode": state.mode,
        "requested": state.time,
        "samples": len(state.hashes),
        "id_hashes": list(state.hashes),
        "shards": list(state.shards),
        "composed_before": state.composed_before,
        "composed_after": after,
        "composition": spec.compose,
        "deltas_removed": dropped.get("deltas", []),
        "objects_removed": purged.get("removed", []),
        "still_listed_after_purge": purged.get("still_listed", []),
        "manifest_after": purged.get("manifest"),
        "retrained": retrained,
        "ledger": chain,
        "seconds": seconds,
        "environment": {"spec": spec.to_json(), "python": platform.python_version()},
        "does_not_cover": [
            "the source data, which belongs to its owner and is not touched",
            "older versions of objects in a versioned bucket, and backups of the run folder",
            "disk blocks and object storage not yet reclaimed: a delete is logical",
            "models that were handed out before the request; publishing a model before and after a drop reveals the shard's delta",
        ],
    }
